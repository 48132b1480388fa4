"""Other views of a picture that show the same: cut a little, mirrored, brighter or darker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["viewed"]

_LEAST = 0.7  # of a picture's sides that is left
_BRIGHTER, _LIGHTER = 0.3, 0.08  # at most: a share of each level, and of white


def viewed(x: Tensor, seeds: Sequence[bytes], *, may_mirror: bool) -> Tensor:
    """One view of each picture, (N, C, H, W), as its seed draws it, whatever other pictures there are.

    Args:
        x: pictures (N, C, H, W), float in [0, 1].
        seeds: one for each.
        may_mirror: whether half of them are mirrored.
    """
    draws = np.stack([np.random.default_rng(list(seed)).random(6) for seed in seeds])
    side, right, down, mirror, factor, offset = torch.from_numpy(draws).to(x.dtype).unbind(1)
    side = _LEAST + (1 - _LEAST) * side
    grid = torch.zeros(len(x), 2, 3, dtype=x.dtype)  # from -1 to 1 across the picture
    grid[:, 0, 0] = side * torch.where((mirror < 0.5) & may_mirror, -1, 1)
    grid[:, 1, 1] = side
    grid[:, :, 2] = (2 * torch.stack([right, down], 1) - 1) * (1 - side)[:, None]
    sampling = F.affine_grid(grid, list(x.shape), align_corners=False)
    cut = F.grid_sample(x, sampling, padding_mode="border", align_corners=False)
    light = 1 + _BRIGHTER * (2 * factor - 1), _LIGHTER * (2 * offset - 1)
    return (cut * light[0][:, None, None, None] + light[1][:, None, None, None]).clamp(0, 1)
