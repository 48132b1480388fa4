"""Other views of a picture that show the same: cut a little, flipped, turned, brighter or darker."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["N_VIEWS", "View", "named_views", "random_views", "several_views", "viewed"]

View = Literal["affine", "brightness", "crop", "flip", "usual"]
"""What may differ between views: "affine" turns, shears, scales and moves a picture, "flip" mirrors it; "usual" is
what leaves the class of most pictures: all of it in colour, "affine" and "brightness" in grey, as letters are."""

_LEAST = 0.7  # of a picture's sides that is left
_BRIGHTER, _LIGHTER = 0.3, 0.08  # at most: a share of each level, and of white
_TURN, _SCALE, _SHEAR, _SHIFT = math.radians(15), 0.1, 0.2, 0.14  # at most; of a picture's half side
_DRAWS = 11  # numbers that decide a view
_WHOLE = 0.5  # of random views
N_VIEWS = 4
"""Of `several_views`, at the most."""


def named_views(kinds: Collection[View], shape: Sequence[int]) -> tuple[View, ...]:
    """The kinds, with the usual ones of pictures (C, H, W) in place of "usual": for rows of numbers none."""
    usual: tuple[View, ...] = (
        ("affine", "brightness") if shape[0] == 1 else ("affine", "brightness", "crop", "flip")
    )
    usual = usual if min(shape[1:]) > 1 else ()
    named = tuple(kind for kind in kinds if kind != "usual")
    return named if len(named) == len(kinds) else (*usual, *(kind for kind in named if kind not in usual))


def random_views(x: Tensor, kinds: Collection[View]) -> Tensor:
    """Random views of pictures (N, C, H, W), by torch's own generator; about half are no more than mirrored.

    A net that learns from changed pictures alone forgets the others, with which its views are to agree.
    """
    draws, is_whole = torch.rand(len(x), _DRAWS), torch.rand(len(x), 1, 1, 1) < _WHOLE
    whole = viewed(x, draws, [kind for kind in kinds if kind == "flip"])
    return torch.where(is_whole.to(x.device), whole, viewed(x, draws, kinds))


def several_views(x: Tensor, kinds: Collection[View], generator: torch.Generator) -> list[Tensor]:
    """Pictures (N, C, H, W) as they are, mirrored if they may be, and two random views of each."""
    if not kinds:
        return [x]
    whole = [x, x.flip(3)] if "flip" in kinds else [x]
    draws = (torch.rand(len(x), _DRAWS, generator=generator) for _ in range(N_VIEWS // 2))
    return [*whole, *(viewed(x, draw, kinds) for draw in draws)]


def viewed(x: Tensor, draws: Tensor, kinds: Collection[View]) -> Tensor:
    """One view of each picture, (N, C, H, W).

    Args:
        x: pictures (N, C, H, W), float in [0, 1].
        draws: eleven numbers in [0, 1] that decide each view, (N, 11).
        kinds: in what views may differ.
    """
    draws = draws.to(x)
    side, right, down, mirror, factor, offset = draws[:, :6].unbind(1)
    seen = x
    if not set(kinds).isdisjoint({"affine", "crop", "flip"}):
        where = _identity(x)
        if "affine" in kinds:
            where = _affine(2 * draws[:, 6:] - 1, x)
        if "crop" in kinds:
            side = _LEAST + (1 - _LEAST) * side
            at = (2 * torch.stack([right, down], 1) - 1) * (1 - side)[:, None]
            where = torch.cat([where[:, :, :2] * side[:, None, None], where[:, :, 2:] + at[:, :, None]], 2)
        if "flip" in kinds:
            where = torch.cat(
                [where[:, :, :1] * torch.where(mirror < 0.5, -1, 1)[:, None, None], where[:, :, 1:]], 2
            )
        grid = F.affine_grid(where, list(x.shape), align_corners=False)
        seen = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    if "brightness" in kinds:
        light = 1 + _BRIGHTER * (2 * factor - 1), _LIGHTER * (2 * offset - 1)
        seen = (seen * light[0][:, None, None, None] + light[1][:, None, None, None]).clamp(0, 1)
    return seen


def _identity(x: Tensor) -> Tensor:
    """Where each place of a view lies in its picture, (N, 2, 3), from -1 to 1 across it: where it is."""
    return torch.eye(2, 3, dtype=x.dtype, device=x.device).repeat(len(x), 1, 1)


def _affine(draws: Tensor, x: Tensor) -> Tensor:
    """The same where pictures are turned, scaled, sheared and moved, by five numbers from -1 to 1 each, (N, 5)."""
    turn, scale, shear = _TURN * draws[:, 0], 1 + _SCALE * draws[:, 1], _SHEAR * draws[:, 2]
    cos, sin = scale * turn.cos(), scale * turn.sin()
    height, width = x.shape[2:]
    where = _identity(x)
    where[:, 0, 0], where[:, 0, 1] = cos, (cos * shear - sin) * height / width
    where[:, 1, 0], where[:, 1, 1] = sin * width / height, sin * shear + cos
    where[:, :, 2] = _SHIFT * draws[:, 3:]
    return where
