"""Renderings that switch units: the max over a (on or off) and over s (the sign)."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from drmm.rendering.base import Rendering, Switches

__all__ = ["Abs", "Dropout", "LeakyReLU", "ReLU"]


@final
class ReLU(nn.ReLU, Rendering):
    """The max over "is this element on": max_a a·u = ReLU(u) (slide "Exercise: solve this optimization").

    A unit at exactly 0 is off, in both directions; this is also where autograd puts its gradient.
    """

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Keep what is positive; any shape."""
        return x.relu(), Switches(tuple(x.shape[1:]), a=x > 0)

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Keep what was on."""
        return z * _of(switches.a, "a")


@final
class LeakyReLU(nn.LeakyReLU, Rendering):
    """A switch between two strengths: a = 1, or the slope when the element is off."""

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Keep what is positive, weaken the rest; any shape."""
        a = x > 0
        return torch.where(a, x, x * self.negative_slope), Switches(tuple(x.shape[1:]), a=a)

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Keep what was on, weaken the rest."""
        return torch.where(_of(switches.a, "a"), z, z * self.negative_slope)


@final
class Abs(Rendering):
    """The max over the sign: max_s s·u = |u|."""

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Absolute value; any shape."""
        return x.abs(), Switches(tuple(x.shape[1:]), s=x >= 0)

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Give each unit the sign that it had."""
        return torch.where(_of(switches.s, "s"), z, -z)


@final
class Dropout(nn.Dropout, Rendering):
    """Features missing at random: one mask that both directions share (slide "…yields DropOut").

    In training a unit is kept with probability 1 - p and scaled by 1 / (1 - p); in evaluation nothing happens.
    """

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Draw the mask and apply it; any shape."""
        switches = Switches(tuple(x.shape[1:]))
        if self.training and self.p > 0:
            kept = torch.rand_like(x) >= self.p
            gain = x.new_tensor(0.0 if self.p == 1 else 1 / (1 - self.p))
            switches = replace(switches, kept=kept, gain=gain)
        return self.render(x, switches), switches

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Apply the same mask: a diagonal map is its own transpose."""
        if switches.kept is None or switches.gain is None:
            return z
        return z * switches.kept * switches.gain

    def forward(self, x: Tensor) -> Tensor:
        """The features alone."""
        return self.infer(x)[0]


def _of(choice: Tensor | None, name: str) -> Tensor:
    if choice is None:
        raise ValueError(f"these switches hold no {name}: pass the ones that this rendering's infer returned")
    return choice
