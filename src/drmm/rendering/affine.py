"""Renderings without a choice: dictionaries, reshapes, averages. Their transpose is always the same map."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.errors import InputError
from drmm.rendering.base import Switches
from drmm.rendering.convolution import as_channels_last, draw, padding_of
from drmm.rendering.kinds import AffineRendering, Dictionary, is_exporting, pull_back
from drmm.rendering.pooling import parts, window_of, windows

__all__ = ["AdaptiveAvgPool2d", "AvgPool2d", "Choice", "Conv2d", "Flatten", "Identity", "Linear", "SamePad2d"]

Kind = TypeVar("Kind", bound=Dictionary)


@final
class Conv2d(nn.Conv2d, Dictionary):
    """A dictionary Γ shared by all places; takes the arguments of `torch.nn.Conv2d` (zero padding only)."""

    fresh = True

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Correlate with the dictionary: (N, C_in, H, W) to (N, C_out, H', W')."""
        return nn.Conv2d.forward(self, x), Switches(tuple(x.shape[1:]))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Draw every unit's template at its place."""
        return draw(z, self.weight, self, switches.shape)

    def render_scaled(self, z: Tensor, switches: Switches, gain: Tensor) -> Tensor:
        """The templates are scaled, where they are fewer numbers than the features; constants, to a compiler."""
        if not torch.compiler.is_compiling() and self.weight.numel() > z.numel():
            return super().render_scaled(z, switches, gain)
        return draw(z, gain.reshape(-1, 1, 1, 1) * self.weight, self, switches.shape)

    def correlate(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W')."""
        geometry: Any = (self.stride, self.padding, self.dilation, self.groups)
        return F.conv2d(x, weight, None, *geometry)

    def patches(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N · places, C_in · kH · kW)."""
        options: dict[str, Any] = {"dilation": self.dilation, "stride": self.stride}
        patches: Tensor = F.unfold(x, self.kernel_size, padding=padding_of(self), **options)
        return patches.mT.flatten(0, 1)

    @torch.no_grad()
    def with_weight(self, weight: Tensor, bias: Tensor | None) -> Conv2d:
        """A convolution of the same geometry."""
        geometry: Any = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups)
        options: dict[str, Any] = {"bias": bias is not None, "device": weight.device, "dtype": weight.dtype}
        return _filled(Conv2d(weight.shape[1] * self.groups, weight.shape[0], *geometry, **options), weight, bias)


@final
class Linear(nn.Linear, Dictionary):
    """A dictionary without shared places; takes the arguments of `torch.nn.Linear`."""

    fresh = True

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Correlate with the dictionary: (N, ..., D_in) to (N, ..., D_out)."""
        return nn.Linear.forward(self, x), Switches(tuple(x.shape[1:]))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Add up the templates, each times its unit: (N, ..., D_out) to (N, ..., D_in)."""
        del switches
        return z @ self.weight

    def correlate(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, ..., D_in) to (N, ..., D_out)."""
        return F.linear(x, weight)

    def patches(self, x: Tensor) -> Tensor:
        """(N, D_in) as it is."""
        return x.flatten(1)

    @torch.no_grad()
    def with_weight(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """A linear layer."""
        options: dict[str, Any] = {"bias": bias is not None, "device": weight.device, "dtype": weight.dtype}
        return _filled(Linear(weight.shape[1], weight.shape[0], **options), weight, bias)


@final
class Flatten(nn.Flatten, AffineRendering):
    """Forget the places; takes the arguments of `torch.nn.Flatten`, and keeps the batch dimension."""

    increasing = True

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """(N, ...) to (N, D)."""
        return nn.Flatten.forward(self, x), Switches(tuple(x.shape[1:]))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """(N, D) back to (N, *shape)."""
        return z.reshape(z.shape[0], *switches.shape)


@final
class Identity(nn.Identity, AffineRendering):
    """Nothing happens, in both directions."""

    increasing = True

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """X as it is."""
        return x, Switches(tuple(x.shape[1:]))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Z as it is."""
        del switches
        return z


@final
class SamePad2d(AffineRendering):
    """Zeros around the features, so that the convolution above gives ⌈size / stride⌉ places, as in TensorFlow.

    Where an odd number of rows is missing, the last one is below: `nn.Conv2d` cannot pad so.

    Args:
        kernel: of the convolution, in pixels.
        stride: of the convolution.
    """

    increasing = True

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """(N, C, H, W) to (N, C, H + rows, W + columns)."""
        top, bottom = self._around(x.shape[2])
        left, right = self._around(x.shape[3])
        return F.pad(as_channels_last(x), (left, right, top, bottom)), Switches(tuple(x.shape[1:]))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Without what lies outside of the canvas."""
        _, height, width = switches.shape
        top, left = self._around(height)[0], self._around(width)[0]
        return z[..., top : top + height, left : left + width]

    def _around(self, size: int) -> tuple[int, int]:
        missing = max(0, (math.ceil(size / self.stride) - 1) * self.stride + self.kernel - size)
        return missing // 2, missing - missing // 2


@final
class Choice(AffineRendering):
    """Class templates of a net whose logits are features already: class c is logit c, and draws through the net.

    Stands where a `Linear` stands otherwise, with the unit vectors as its weight and no parameters.

    Args:
        classes: how many logits there are.
    """

    increasing = True
    out_features: int
    weight: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.out_features = classes
        self.bias: Tensor | None = None
        self.register_buffer("weight", torch.eye(classes), persistent=False)

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Logits (N, C) as they are.

        Raises:
            InputError: if there are more or fewer than there are classes.
        """
        if x.shape[1:] != (self.out_features,):
            raise InputError(
                f"the net's output is {tuple(x.shape)}, not (N, {self.out_features}): lift it with image_shape"
            )
        return x, Switches(tuple(x.shape[1:]))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Z as it is."""
        del switches
        return z


@final
class AvgPool2d(nn.AvgPool2d, AffineRendering):
    """Average over windows: going down, a unit is spread evenly over its window."""

    increasing = True

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """(N, C, H, W) to (N, C, H', W')."""
        return nn.AvgPool2d.forward(self, x), Switches(tuple(x.shape[1:]))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Spread each unit over its window, divided by the window's area."""
        return _transpose(self, z, switches)

    def reweighted(self, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum over each window, times what has become of the window's share."""
        ones = torch.ones_like(x[:1])
        places = windows(ones, window_of(self), self.forward(ones).shape[-2:], 0.0).sum(-1)
        share = torch.where(places > 0, self.forward(ones) / places, 0.0)
        return windows(x, window_of(self), share.shape[-2:], 0.0).sum(-1) * change(share)


@final
class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d, AffineRendering):
    """Average over as many windows as the output size asks for; (1, 1) is the convnet's global mean."""

    increasing = True

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """(N, C, H, W) to (N, C, *output_size)."""
        return nn.AdaptiveAvgPool2d.forward(self, x), Switches(tuple(x.shape[1:]))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Spread each unit over its window, divided by the window's area."""
        if z.shape[-2:] == (1, 1):
            height, width = switches.shape[-2:]
            return (z / (height * width)).expand(-1, -1, height, width)
        return _transpose(self, z, switches)

    def reweighted(self, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum over each part, times what has become of the part's share."""
        size = self.forward(x[:1]).shape[-2:]
        rows, columns = (parts(n, into).to(x) for n, into in zip(x.shape[-2:], size, strict=True))
        total: Tensor = rows @ x @ columns.T
        return total * change(1 / (rows.sum(1)[:, None] * columns.sum(1)))


def _transpose(average: AffineRendering, z: Tensor, switches: Switches) -> Tensor:
    """Transpose of an average by its vector-Jacobian product; files know no backward pass of torch's averages."""
    blank = z.new_zeros(z.shape[0], *switches.shape)
    function = partial(average.reweighted, change=lambda share: share) if is_exporting() else average
    return pull_back(function, (blank,), z)[0]


def _filled(dictionary: Kind, weight: Tensor, bias: Tensor | None) -> Kind:
    dictionary.weight.copy_(weight)
    if bias is not None and dictionary.bias is not None:
        dictionary.bias.copy_(bias)
    return dictionary
