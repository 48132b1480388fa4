"""EfficientNet-Lite as a DRMM: every operation of it is a rendering.

Tan and Le, 2019, without squeeze-and-excitation and with ReLU6 ("Lite"). Its weights, learned from ImageNet, come
by pip (`drmm.model.pretrained`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from drmm.errors import InputError
from drmm.model.deep import DRMM
from drmm.rendering import (
    AdaptiveAvgPool2d,
    Affine,
    Clip,
    Conv2d,
    Flatten,
    FrozenBatchNorm2d,
    Graph,
    Linear,
    Rendering,
    SamePad2d,
    Sequential,
    Step,
    Sum,
)

__all__ = ["EFFICIENTNETS", "LEAST_SIDE", "efficientnet_lite", "in_colour", "whitened"]

_BLACK, _RANGE = 127 / 255, 128 / 255  # it was trained on (level - 127) / 128, levels being 0 to 255
_EPS = 1e-3
_STEM, _TOP = 32, 1280
# Stages of EfficientNet-B0: blocks, kernel, stride, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
LEAST_SIDE = 32
"""Pixels: five strides of two leave one place."""


@dataclass(frozen=True)
class Scale:
    """How a net of the family differs from the smallest.

    Attributes:
        width: factor of the channels.
        depth: factor of the blocks, but for the first and the last stage.
    """

    width: float = 1.0
    depth: float = 1.0


EFFICIENTNETS = {
    "efficientnet_lite0": Scale(),
    "efficientnet_lite1": Scale(depth=1.1),
    "efficientnet_lite2": Scale(width=1.1, depth=1.2),
}


def efficientnet_lite(name: str, n_classes: int, image_shape: tuple[int, int, int]) -> DRMM:
    """A net of the family, for grey or colour images in [0, 1]; what it was trained on is its first rendering.

    Args:
        name: one of `EFFICIENTNETS`.
        n_classes: number of class templates.
        image_shape: (C, H, W), C being 1 or 3; from 32 pixels a side on.

    Raises:
        InputError: if the images are smaller, or have other channels.
    """
    channels, *sides = image_shape
    if channels not in {1, 3} or min(sides) < LEAST_SIDE:
        shown = "x".join(map(str, image_shape))
        raise InputError(
            f"{name} takes grey or colour images from {LEAST_SIDE}x{LEAST_SIDE} pixels on, not {shown}"
        )
    levels: list[Rendering] = [Affine(in_colour, increasing=True)] if channels == 1 else []
    levels += [whitened(3, [_BLACK], [_RANGE]), *_convolved(3, _STEM, 3, stride=2), _relu6()]
    levels += _blocks(EFFICIENTNETS[name])
    levels += [*_convolved(_round(_STAGES[-1][-1] * EFFICIENTNETS[name].width), _TOP), _relu6()]
    body = Sequential(*levels, AdaptiveAvgPool2d(1), Flatten())
    return DRMM(body, Linear(_TOP, n_classes), image_shape=image_shape)


def in_colour(x: torch.Tensor) -> torch.Tensor:
    """A grey image in three channels."""
    return x.expand(-1, 3, -1, -1)


def whitened(channels: int, mean: Sequence[float], std: Sequence[float]) -> FrozenBatchNorm2d:
    """A preprocessing: a norm by the statistics that a net was trained with, of each channel or of all."""
    norm = FrozenBatchNorm2d(channels, eps=0, affine=False)
    norm.running_mean.copy_(torch.tensor(mean))
    norm.running_var.copy_(torch.tensor(std).square())
    return norm


def _convolved(below: int, above: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[Rendering]:
    """A convolution that keeps ⌈size / stride⌉ places, and its norm."""
    padding = [SamePad2d(kernel, stride)] if stride > 1 else []
    convolution = Conv2d(below, above, kernel, stride, 0 if padding else kernel // 2, groups=groups, bias=False)
    return [*padding, convolution, FrozenBatchNorm2d(above, _EPS)]


def _relu6() -> Clip:
    """Above a norm, whose features nothing else reads."""
    return Clip(0, 6, inplace=True)


def _blocks(scale: Scale) -> Iterator[Rendering]:
    below = _STEM
    for number, (blocks, kernel, stride, expansion, channels) in enumerate(_STAGES):
        inner = 0 < number < len(_STAGES) - 1
        for block in range(math.ceil(blocks * scale.depth) if inner else blocks):
            above = _round(channels * scale.width)
            yield _block(below, above, kernel, stride if block == 0 else 1, expansion)
            below = above


def _block(below: int, above: int, kernel: int, stride: int, expansion: int) -> Rendering:
    """An inverted residual: more channels, a convolution in each, fewer channels; beside it the image as it is."""
    wide = below * expansion
    expand = [*_convolved(below, wide), _relu6()] if expansion > 1 else []
    depthwise = [*_convolved(wide, wide, kernel, stride, groups=wide), _relu6()]
    body = Sequential(*expand, *depthwise, *_convolved(wide, above))
    if stride > 1 or below != above:
        return body
    return Graph({"body": body, "sum": Sum()}, [Step("body", (0,)), Step("sum", (1, 0))], 2)


def _round(channels: float) -> int:
    """To a multiple of eight, and by no more than a tenth down."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
