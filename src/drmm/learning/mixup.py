"""Two images in one, and the posterior that this is to have."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["mixed"]


def mixed(x: Tensor, q: Tensor, *, translation: int = 0, cutmix: float = 0.0) -> tuple[Tensor, Tensor]:
    """Each image with another one of the batch, and their posteriors in the same shares.

    Either all pixels are mixed in one proportion, half to all of them the image's own (Zhang et al., 2018), or a
    rectangle of up to half the area comes from the other image (Yun et al., 2019). The share of an image in such a
    cutmix is not its area: it is its part of what stands out there, of all that differs from an image's median.

    Args:
        x: images (N, C, H, W).
        q: posteriors (N, classes).
        translation: images are moved by up to so many pixels each way first.
        cutmix: share of the images that are pasted, not mixed, from 0 to 1.
    """
    x = _moved(x, translation) if translation else x
    partner = torch.randperm(len(x), device=x.device)
    share = 0.5 + 0.5 * torch.rand(len(x), 1, device=x.device, dtype=x.dtype)
    weight = share[:, :, None, None]
    if cutmix:
        pasted = torch.rand(len(x), 1, device=x.device) < cutmix
        own = _outside(1 - share, x.shape[2], x.shape[3])
        weight = torch.where(pasted[:, :, None, None], own, weight)
        share = torch.where(pasted, _visible(x, x[partner], own, share), share)
    return x[partner].lerp(x, weight), q[partner].lerp(q, share)


def _outside(area: Tensor, height: int, width: int) -> Tensor:
    """1 outside a rectangle at a random place with a share (N, 1) of the area, 0 inside: (N, 1, height, width)."""
    inside = []
    for length in (height, width):
        side = (area.sqrt() * length).round()
        start = (torch.rand_like(side) * (length - side + 1)).floor()
        index = torch.arange(length, device=area.device)
        inside.append((index >= start) & (index < start + side))
    return (~(inside[0][:, None, :, None] & inside[1][:, None, None, :])).to(area.dtype)


def _visible(x: Tensor, other: Tensor, own: Tensor, otherwise: Tensor) -> Tensor:
    """Of what stands out in a cutmix, the share (N, 1) that is in x's part of it; `otherwise` if nothing does."""
    mine, theirs = (
        (part * (image - image.flatten(2).median(2).values[:, :, None, None]).abs()).sum((1, 2, 3))
        for part, image in ((own, x), (1 - own, other))
    )
    both = (mine + theirs)[:, None]
    return torch.where(both > 0, mine[:, None] / both, otherwise)


def _moved(x: Tensor, most: int) -> Tensor:
    """Each image (N, C, H, W) by whole pixels of its own, from -most to most; what comes in repeats the edge."""
    n, channels, height, width = x.shape
    down, right = torch.randint(2 * most + 1, (2, n, 1), device=x.device)
    rows = (down + torch.arange(height, device=x.device))[:, None, :, None]
    columns = (right + torch.arange(width, device=x.device))[:, None, None, :]
    of = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[:, None, None]
    return F.pad(x, (most,) * 4, mode="replicate")[of, channel, rows, columns]
