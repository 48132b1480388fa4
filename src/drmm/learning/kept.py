"""What levels that stay as they are make of pictures and of views of them: computed once, and kept on the disk."""

from __future__ import annotations

from collections.abc import Collection
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drmm.data.base import digest_of
from drmm.data.images import pixels
from drmm.errors import RunError
from drmm.learning.metrics import at_once
from drmm.learning.views import View, several_views
from drmm.model.folding import folded
from drmm.progress import track
from drmm.rendering import Sequential

__all__ = ["features_of_views"]

_LARGE = 1000.0  # features from there on are kept in 32 bits: 16 end at 65,504
_KEPT: dict[str, Tensor] = {}  # the last ones: cross-fitting asks for the same again, fold by fold


@torch.no_grad()
def features_of_views(levels: Sequential, x: Tensor, kinds: Collection[View], *, progress: bool) -> Tensor:
    """Features of each picture as it is, and of views of it, float (N, V, ...); they lie in a temporary file.

    Args:
        levels: lower ones, which are asked in evaluation mode.
        x: pictures (N, C, H, W), float in [0, 1] or uint8, on the CPU.
        kinds: in what views differ.
        progress: show a progress bar.

    Raises:
        RunError: if the file cannot be written.
    """
    weights = (tensor.numpy().tobytes() for tensor in levels.state_dict().values())
    form = f"{levels} {tuple(x.shape)} {x.dtype} {sorted(kinds)}"
    key = digest_of([form.encode(), *weights, np.ascontiguousarray(x.numpy()).data])
    if key not in _KEPT:
        _KEPT.clear()
        _KEPT[key] = _computed(levels, x, kinds, progress=progress)
    return _KEPT[key]


def _computed(levels: Sequential, x: Tensor, kinds: Collection[View], *, progress: bool) -> Tensor:
    quick, generator, parts = folded(levels), torch.Generator().manual_seed(0), x.split(at_once(x))
    kind: type[np.floating[Any]] = np.float16
    shape: tuple[int, ...] = ()
    try:
        with TemporaryFile() as file:
            for part in track(parts, "computing views") if progress else parts:
                views = torch.stack([quick(view) for view in several_views(pixels(part), kinds, generator)], 1)
                if not shape:
                    shape = (len(x), *views.shape[1:])
                    kind = np.float32 if float(views.abs().max()) > _LARGE else np.float16
                file.write(views.numpy().astype(kind).tobytes())
            file.flush()
            return torch.from_numpy(np.memmap(file, kind, "c", shape=shape))
    except OSError as error:
        raise RunError(
            f"cannot keep views of the pictures ({error.strerror}): free space for temporary files"
        ) from error
