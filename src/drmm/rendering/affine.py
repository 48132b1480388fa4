"""Renderings without a choice: dictionaries, reshapes, averages. Their transpose is always the same map."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from drmm.errors import InputError
from drmm.rendering.base import Rendering, Switches
from drmm.rendering.convolution import draw

__all__ = ["AdaptiveAvgPool2d", "AvgPool2d", "Choice", "Conv2d", "Flatten", "Identity", "Linear"]


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
class Choice(Rendering):
    """Class templates of a net whose logits are features already: class c is logit c, and draws through the net.

    Stands where a `Linear` stands otherwise, with the unit vectors as its weight and no parameters.

    Args:
        classes: how many logits there are.
    """

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
    pull_back = torch.func.vjp(average, blank)[1]
    (canvas,) = pull_back(z)
    return canvas  # type: ignore[no-any-return]
