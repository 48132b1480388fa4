"""The architectures of the published tables, and one for vectors.

Every convolution is followed by batch norm and ReLU. See `docs` and the README's table for what they reach.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, cast, get_args

from torch import nn

from drmm.constraints import make_nonnegative, start_sparse, weight_normalise
from drmm.errors import InputError
from drmm.model import DRMM
from drmm.rendering import (
    AdaptiveAvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Level,
    Linear,
    MaxPool2d,
    ReLU,
    Rendering,
    Sequential,
)

__all__ = ["PRESETS", "Constraint", "Shape", "build", "conv_large", "conv_small", "dense", "resolve"]

Constraint = Literal["soft", "hard", "weight_norm"]
Shape = tuple[int, int, int]


def conv_small(
    n_classes: int = 10,
    image_shape: Shape = (1, 28, 28),
    *,
    constraint: Constraint = "soft",
    width: int = 32,
    depth: int = 4,
) -> DRMM:
    """The 5-level net of the MNIST rows.

    32@5×5 full, pool 2 → 64@3×3 valid → 64@3×3 full, pool 2 → 128@3×3 valid → mean → class templates;
    28 pixels become 32→16, 14, 16→8, 6→1.

    Args:
        n_classes: number of class templates.
        image_shape: (C, H, W), at least 8 pixels high and wide.
        constraint: "hard" keeps every template above the pixels non-negative, so that inference is exact;
            "weight_norm" writes every template as amplitude times direction.
        width: templates of the first level; the others have 2, 2 and 4 times as many.
        depth: how many of the four levels, from the pixels up.

    Raises:
        InputError: if the images are too small, or there is no such depth.
    """
    channels = image_shape[0]
    levels: list[Rendering] = [
        _level(channels, width, 5, padding=4, pool=True),
        _level(width, 2 * width, 3),
        _level(2 * width, 2 * width, 3, padding=2, pool=True),
        _level(2 * width, 4 * width, 3),
    ]
    levels = _lowest(levels, depth)
    templates = Linear(_templates(levels[-1]), n_classes)
    return _finish("conv_small", levels, templates, image_shape, constraint, smallest=8)


def conv_large(
    n_classes: int = 10,
    image_shape: Shape = (3, 32, 32),
    *,
    constraint: Constraint = "soft",
    width: int = 96,
    depth: int = 9,
) -> DRMM:
    """The 9-level net of the SVHN and CIFAR-10 rows.

    96@3×3 half, 96 full, 96 full, pool 2 → 192 valid, 192 full, 192 valid, pool 2 → 192 valid, 192@1×1,
    classes@1×1 → mean. The ninth level has one map a class, so the class templates start as the identity.

    Args:
        n_classes: number of class templates.
        image_shape: (C, H, W), at least 12 pixels high and wide.
        constraint: as for `conv_small`.
        width: templates of the first three levels; the next five have twice as many.
        depth: how many of the nine levels, from the pixels up.

    Raises:
        InputError: if the images are too small, or there is no such depth.
    """
    levels: list[Rendering] = [
        _level(image_shape[0], width, 3, padding=1),
        _level(width, width, 3, padding=2),
        _level(width, width, 3, padding=2, pool=True),
        _level(width, 2 * width, 3),
        _level(2 * width, 2 * width, 3, padding=2),
        _level(2 * width, 2 * width, 3, pool=True),
        _level(2 * width, 2 * width, 3),
        _level(2 * width, 2 * width, 1),
        _level(2 * width, n_classes, 1),
    ]
    levels = _lowest(levels, depth)
    templates = Linear(_templates(levels[-1]), n_classes)
    if templates.in_features == n_classes:
        nn.init.eye_(templates.weight)
    return _finish("conv_large", levels, templates, image_shape, constraint, smallest=12)


def dense(
    n_classes: int,
    image_shape: Shape,
    *,
    constraint: Constraint = "soft",
    width: int = 128,
    depth: int = 2,
) -> DRMM:
    """A net without places, for vectors or tiny images: fully connected levels.

    Args:
        n_classes: number of class templates.
        image_shape: (C, H, W).
        constraint: as for `conv_small`.
        width: templates of each level.
        depth: how many levels.

    Raises:
        InputError: if there is no such depth.
    """
    channels, height, rows = image_shape
    if depth < 1:
        raise InputError(f"a net of depth {depth} has no level: use 1 or more")
    sizes = [channels * height * rows, *[width] * depth]
    levels: list[Rendering] = [Flatten()]
    for below, above in pairwise(sizes):
        levels += [Linear(below, above), BatchNorm1d(above), ReLU()]
    return _constrained(DRMM(Sequential(*levels), Linear(width, n_classes), image_shape=image_shape), constraint)


PRESETS: dict[str, Callable[..., DRMM]] = {"conv_small": conv_small, "conv_large": conv_large, "dense": dense}


def resolve(name: str, image_shape: Shape) -> str:
    """The preset that "auto" stands for: conv_small from 8×8 pixels on, dense below; other names as they are."""
    if name != "auto":
        return name
    return "conv_small" if min(image_shape[1:]) >= 8 else "dense"


def build(
    name: str,
    n_classes: int,
    image_shape: Shape,
    *,
    constraint: Constraint = "soft",
    width: int | None = None,
    depth: int | None = None,
) -> DRMM:
    """A preset by its name; None is the preset's own width or depth.

    Raises:
        InputError: if there is no such preset, constraint or depth, or the images do not fit it.
    """
    if name not in PRESETS:
        raise InputError(f"no preset {name!r}: choose from {', '.join(PRESETS)}")
    if constraint not in get_args(Constraint):
        raise InputError(f"no constraint {constraint!r}: choose from {', '.join(get_args(Constraint))}")
    chosen = {key: value for key, value in {"width": width, "depth": depth}.items() if value is not None}
    return PRESETS[name](n_classes, image_shape, constraint=constraint, **chosen)


def _level(c_in: int, c_out: int, kernel: int, *, padding: int = 0, pool: bool = False) -> Level:
    dictionary = Conv2d(c_in, c_out, kernel, padding=padding, bias=False)
    return Level(dictionary, BatchNorm2d(c_out), MaxPool2d(2) if pool else None)


def _lowest(levels: list[Rendering], depth: int) -> list[Rendering]:
    if not 1 <= depth <= len(levels):
        raise InputError(f"this preset has no depth {depth}: choose from 1 to {len(levels)} levels")
    return levels[:depth]


def _templates(level: Rendering) -> int:
    return cast("Level", level).dictionary.out_channels


def _constrained(model: DRMM, constraint: Constraint) -> DRMM:
    if constraint == "hard":
        return make_nonnegative(start_sparse(model))
    return weight_normalise(model) if constraint == "weight_norm" else model


def _finish(
    name: str,
    levels: list[Rendering],
    templates: Linear,
    image_shape: Shape,
    constraint: Constraint,
    *,
    smallest: int,
) -> DRMM:
    """Average over places, put the class templates on top, and constrain them if asked."""
    if min(image_shape[1:]) < smallest:
        height, width = image_shape[1:]
        raise InputError(
            f"images of {height}x{width} pixels are smaller than {name}'s receptive field: "
            f"it needs {smallest}x{smallest}; use larger images or preset 'dense'"
        )
    body = Sequential(*levels, AdaptiveAvgPool2d(1), Flatten())
    return _constrained(DRMM(body, templates, image_shape=image_shape), constraint)
