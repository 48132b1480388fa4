"""The architectures of the published tables, and one for vectors.

Every convolution is followed by batch norm and ReLU. See `docs` and the README's table for what they reach.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

from drmm.constraints import make_nonnegative, start_sparse
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

Constraint = Literal["soft", "hard"]
Shape = tuple[int, int, int]


def conv_small(
    n_classes: int = 10, image_shape: Shape = (1, 28, 28), *, constraint: Constraint = "soft", width: int = 32
) -> DRMM:
    """The 5-level net of the MNIST rows.

    32@5×5 full, pool 2 → 64@3×3 valid → 64@3×3 full, pool 2 → 128@3×3 valid → mean → class templates;
    28 pixels become 32→16, 14, 16→8, 6→1.

    Args:
        n_classes: number of class templates.
        image_shape: (C, H, W), at least 8 pixels high and wide.
        constraint: "hard" keeps every template above the pixels non-negative, so that inference is exact.
        width: templates of the first level; the others have 2, 2 and 4 times as many.

    Raises:
        InputError: if the images are too small.
    """
    channels = image_shape[0]
    levels: list[Rendering] = [
        _level(channels, width, 5, padding=4, pool=True),
        _level(width, 2 * width, 3),
        _level(2 * width, 2 * width, 3, padding=2, pool=True),
        _level(2 * width, 4 * width, 3),
    ]
    return _finish("conv_small", levels, Linear(4 * width, n_classes), image_shape, constraint, smallest=8)


def conv_large(
    n_classes: int = 10, image_shape: Shape = (3, 32, 32), *, constraint: Constraint = "soft", width: int = 96
) -> DRMM:
    """The 9-level net of the SVHN and CIFAR-10 rows.

    96@3×3 half, 96 full, 96 full, pool 2 → 192 valid, 192 full, 192 valid, pool 2 → 192 valid, 192@1×1,
    classes@1×1 → mean. The ninth level has one map a class, so the class templates start as the identity.

    Args:
        n_classes: number of class templates.
        image_shape: (C, H, W), at least 12 pixels high and wide.
        constraint: "hard" keeps every template above the pixels non-negative, so that inference is exact.
        width: templates of the first three levels; the next five have twice as many.

    Raises:
        InputError: if the images are too small.
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
    templates = Linear(n_classes, n_classes)
    nn.init.eye_(templates.weight)
    return _finish("conv_large", levels, templates, image_shape, constraint, smallest=12)


def dense(n_classes: int, image_shape: Shape, *, constraint: Constraint = "soft", width: int = 128) -> DRMM:
    """A net without places, for vectors or tiny images: two fully connected levels.

    Args:
        n_classes: number of class templates.
        image_shape: (C, H, W).
        constraint: "hard" keeps every template above the pixels non-negative, so that inference is exact.
        width: templates of each level.
    """
    channels, height, rows = image_shape
    levels = Sequential(
        Flatten(),
        Linear(channels * height * rows, width),
        BatchNorm1d(width),
        ReLU(),
        Linear(width, width),
        BatchNorm1d(width),
        ReLU(),
    )
    model = DRMM(levels, Linear(width, n_classes), image_shape=image_shape)
    return make_nonnegative(start_sparse(model)) if constraint == "hard" else model


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
) -> DRMM:
    """A preset by its name.

    Raises:
        InputError: if there is no such preset or constraint, or the images do not fit it.
    """
    if name not in PRESETS:
        raise InputError(f"no preset {name!r}: choose from {', '.join(PRESETS)}")
    if constraint not in {"soft", "hard"}:
        raise InputError(f"constraint must be 'soft' or 'hard', not {constraint!r}")
    options = {} if width is None else {"width": width}
    return PRESETS[name](n_classes, image_shape, constraint=constraint, **options)


def _level(c_in: int, c_out: int, kernel: int, *, padding: int = 0, pool: bool = False) -> Level:
    dictionary = Conv2d(c_in, c_out, kernel, padding=padding, bias=False)
    return Level(dictionary, BatchNorm2d(c_out), MaxPool2d(2) if pool else None)


def _finish(
    name: str,
    levels: list[Rendering],
    templates: Linear,
    image_shape: Shape,
    constraint: Constraint,
    *,
    smallest: int,
) -> DRMM:
    """Average over places, put the class templates on top, and keep them non-negative if asked."""
    if min(image_shape[1:]) < smallest:
        height, width = image_shape[1:]
        raise InputError(
            f"images of {height}x{width} pixels are smaller than {name}'s receptive field: "
            f"it needs {smallest}x{smallest}; use larger images or preset 'dense'"
        )
    body = Sequential(*levels, AdaptiveAvgPool2d(1), Flatten())
    model = DRMM(body, templates, image_shape=image_shape)
    return make_nonnegative(start_sparse(model)) if constraint == "hard" else model
