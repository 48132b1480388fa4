"""The architectures of the published tables, and one for vectors.

Every convolution is followed by batch norm and ReLU. See `docs` and the README's table for what they reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

from torch import nn

from drmm.errors import InputError
from drmm.model.constraints import make_nonnegative, start_sparse, weight_normalise
from drmm.model.deep import DRMM
from drmm.model.efficientnet import EFFICIENTNETS, efficientnet_lite
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
    channels: Sequence[int] | None = None,
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
        channels: templates of each of those levels, in place of `width`: what pruning leaves.

    Raises:
        InputError: if the images are too small, there is no such depth, or `channels` does not fit it.
    """
    sizes = _sizes([width, 2 * width, 2 * width, 4 * width], depth, channels)
    shapes: list[dict[str, Any]] = [
        {"kernel": 5, "padding": 4, "pool": True},
        {"kernel": 3},
        {"kernel": 3, "padding": 2, "pool": True},
        {"kernel": 3},
    ]
    levels = _levels(image_shape[0], sizes, shapes)
    templates = Linear(sizes[-1], n_classes)
    return _finish("conv_small", levels, templates, image_shape, constraint, smallest=8)


def conv_large(
    n_classes: int = 10,
    image_shape: Shape = (3, 32, 32),
    *,
    constraint: Constraint = "soft",
    width: int = 96,
    depth: int = 9,
    channels: Sequence[int] | None = None,
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
        channels: as for `conv_small`.

    Raises:
        InputError: as for `conv_small`.
    """
    sizes = _sizes([width] * 3 + [2 * width] * 5 + [n_classes], depth, channels)
    shapes: list[dict[str, Any]] = [
        {"kernel": 3, "padding": 1},
        {"kernel": 3, "padding": 2},
        {"kernel": 3, "padding": 2, "pool": True},
        {"kernel": 3},
        {"kernel": 3, "padding": 2},
        {"kernel": 3, "pool": True},
        {"kernel": 3},
        {"kernel": 1},
        {"kernel": 1},
    ]
    levels = _levels(image_shape[0], sizes, shapes)
    templates = Linear(sizes[-1], n_classes)
    if len(sizes) == len(shapes) and sizes[-1] == n_classes:
        nn.init.eye_(templates.weight)
    return _finish("conv_large", levels, templates, image_shape, constraint, smallest=12)


def dense(
    n_classes: int,
    image_shape: Shape,
    *,
    constraint: Constraint = "soft",
    width: int = 128,
    depth: int = 2,
    channels: Sequence[int] | None = None,
) -> DRMM:
    """A net without places, for vectors or tiny images: fully connected levels.

    Args:
        n_classes: number of class templates.
        image_shape: (C, H, W).
        constraint: as for `conv_small`.
        width: templates of each level.
        depth: how many levels.
        channels: as for `conv_small`.

    Raises:
        InputError: if there is no such depth, or `channels` does not fit it.
    """
    if depth < 1:
        raise InputError(f"a net of depth {depth} has no level: use 1 or more")
    sizes = _sizes([width] * depth, depth, channels)
    levels: list[Rendering] = [Flatten()]
    for below, above in pairwise([math.prod(image_shape), *sizes]):
        levels += [Linear(below, above), BatchNorm1d(above), ReLU()]
    model = DRMM(Sequential(*levels), Linear(sizes[-1], n_classes), image_shape=image_shape)
    return _constrained(model, constraint)


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
    channels: Sequence[int] | None = None,
) -> DRMM:
    """A preset by its name; None is the preset's own width, depth or number of templates in each level.

    Raises:
        InputError: if there is no such preset, constraint or depth, or images or channels do not fit it.
    """
    if name in EFFICIENTNETS:
        if constraint != "soft" or any((width, depth, channels)):
            raise InputError(f"preset {name} is of one form: leave out constraint, width, depth and channels")
        return efficientnet_lite(name, n_classes, image_shape)
    if name not in PRESETS:
        raise InputError(f"no preset {name!r}: choose from {', '.join([*PRESETS, *EFFICIENTNETS])}")
    if constraint not in get_args(Constraint):
        raise InputError(f"no constraint {constraint!r}: choose from {', '.join(get_args(Constraint))}")
    options = {"width": width, "depth": depth, "channels": channels}
    chosen = {key: value for key, value in options.items() if value is not None}
    return PRESETS[name](n_classes, image_shape, constraint=constraint, **chosen)


def _level(c_in: int, c_out: int, *, kernel: int, padding: int = 0, pool: bool = False) -> Level:
    dictionary = Conv2d(c_in, c_out, kernel, padding=padding, bias=False)
    return Level(dictionary, BatchNorm2d(c_out), MaxPool2d(2) if pool else None)


def _sizes(widths: Sequence[int], depth: int, channels: Sequence[int] | None) -> list[int]:
    """How many templates each level has, from the pixels up to `depth`."""
    if not 1 <= depth <= len(widths):
        raise InputError(f"this preset has no depth {depth}: choose from 1 to {len(widths)} levels")
    if min(widths) < 1:
        raise InputError(f"a level needs 1 template or more: got a width of {min(widths)}")
    if channels is None:
        return list(widths[:depth])
    if len(channels) != depth or any(n < 1 for n in channels):
        raise InputError(f"channels must be {depth} numbers of 1 or more, one a level: got {list(channels)}")
    return list(channels)


def _levels(pixels: int, sizes: Sequence[int], shapes: Sequence[dict[str, Any]]) -> list[Rendering]:
    """As many of the shapes as there are sizes, on images of so many channels."""
    below = [pixels, *sizes]
    return [_level(*pair, **shape) for pair, shape in zip(pairwise(below), shapes[: len(sizes)], strict=True)]


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
