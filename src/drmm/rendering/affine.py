"""Renderings without a choice: dictionaries, reshapes and averages. Their transpose is always the same map."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.rendering.base import Rendering, Switches

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "Conv2d",
    "Flatten",
    "Identity",
    "Linear",
    "draw",
    "feature_size",
]


def draw(z: Tensor, weight: Tensor, conv: nn.Conv2d, shape: tuple[int, ...]) -> Tensor:
    """Transpose of a 2-d convolution: add each unit's template to the canvas at the unit's place.

    Args:
        z: (N, C_out, H', W').
        weight: the dictionary to draw with, (C_out, C_in / groups, kH, kW).
        conv: where stride, padding, dilation and groups come from.
        shape: (C_in, H, W) of the canvas.
    """
    stride, dilation, before = _pair(conv.stride), _pair(conv.dilation), _padding(conv)
    drawn = [
        (z.shape[2 + i] - 1) * stride[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1 - 2 * before[i]
        for i in (0, 1)
    ]
    # A stride that does not divide leaves rows that no template reaches; an even kernel with "same" padding
    # draws one row too many, which the crop takes away.
    blank = (max(0, shape[1] - drawn[0]), max(0, shape[2] - drawn[1]))
    canvas = F.conv_transpose2d(z, weight, None, stride, before, blank, conv.groups, dilation)
    return canvas if canvas.shape[2:] == shape[1:] else canvas[..., : shape[1], : shape[2]]


def feature_size(conv: nn.Conv2d, size: tuple[int, int]) -> tuple[int, int]:
    """(H', W') of the features that a dictionary finds on a canvas of (H, W)."""
    if conv.padding == "same":
        return size
    before, stride, dilation = _padding(conv), _pair(conv.stride), _pair(conv.dilation)
    height, width = (
        (size[i] + 2 * before[i] - dilation[i] * (conv.kernel_size[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    )
    return height, width


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    return value[0], value[1]


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    """Padding before the first row and column, as torch applies it."""
    if conv.padding_mode != "zeros":
        raise ValueError(f"padding_mode {conv.padding_mode!r} has no rendering here: use zero padding")
    if conv.padding == "valid":
        return 0, 0
    if conv.padding == "same":
        return _pair(tuple(d * (k - 1) // 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)))
    return _pair(conv.padding)  # type: ignore[arg-type]


@final
class Conv2d(nn.Conv2d, Rendering):
    """A dictionary Γ shared by all places; takes the arguments of `torch.nn.Conv2d` (zero padding only)."""

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Correlate with the dictionary: (N, C_in, H, W) to (N, C_out, H', W')."""
        return nn.Conv2d.forward(self, x), Switches(tuple(x.shape[1:]))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Draw every unit's template at its place."""
        return draw(z, self.weight, self, switches.shape)


@final
class Linear(nn.Linear, Rendering):
    """A dictionary without shared places; takes the arguments of `torch.nn.Linear`."""

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Correlate with the dictionary: (N, ..., D_in) to (N, ..., D_out)."""
        return nn.Linear.forward(self, x), Switches(tuple(x.shape[1:]))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Add up the templates, each times its unit: (N, ..., D_out) to (N, ..., D_in)."""
        del switches
        return z @ self.weight


@final
class Flatten(nn.Flatten, Rendering):
    """Forget the places; takes the arguments of `torch.nn.Flatten`, and keeps the batch dimension."""

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """(N, ...) to (N, D)."""
        return nn.Flatten.forward(self, x), Switches(tuple(x.shape[1:]))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """(N, D) back to (N, *shape)."""
        return z.reshape(z.shape[0], *switches.shape)


@final
class Identity(nn.Identity, Rendering):
    """Nothing happens, in both directions."""

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """X as it is."""
        return x, Switches(tuple(x.shape[1:]))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Z as it is."""
        del switches
        return z


@final
class AvgPool2d(nn.AvgPool2d, Rendering):
    """Average over windows: going down, a unit is spread evenly over its window."""

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """(N, C, H, W) to (N, C, H', W')."""
        return nn.AvgPool2d.forward(self, x), Switches(tuple(x.shape[1:]))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Spread each unit over its window, divided by the window's area."""
        return _transpose(self, z, switches)


@final
class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d, Rendering):
    """Average over as many windows as the output size asks for; (1, 1) is the convnet's global mean."""

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """(N, C, H, W) to (N, C, *output_size)."""
        return nn.AdaptiveAvgPool2d.forward(self, x), Switches(tuple(x.shape[1:]))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Spread each unit over its window, divided by the window's area."""
        if z.shape[-2:] == (1, 1):
            height, width = switches.shape[-2:]
            return (z / (height * width)).expand(-1, -1, height, width)
        return _transpose(self, z, switches)


def _transpose(average: nn.Module, z: Tensor, switches: Switches) -> Tensor:
    """Transpose of a linear module by its vector-Jacobian product, which is differentiable in z."""
    blank = z.new_zeros(z.shape[0], *switches.shape)
    _, pull_back = torch.func.vjp(average, blank)
    (canvas,) = pull_back(z)
    return canvas  # type: ignore[no-any-return]
