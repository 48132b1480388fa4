"""Renderings that switch units: the max over a (on or off) and over s (the sign)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.rendering.base import Rendering, Switches, chosen, masked

__all__ = ["Abs", "Clip", "Dropout", "Dropout2d", "LeakyReLU", "PReLU", "ReLU"]


@final
class ReLU(nn.ReLU, Rendering):
    """The max over "is this element on": max_a a·u = ReLU(u) (slide "Exercise: solve this optimization").

    A unit at exactly 0 is off, in both directions; this is also where autograd puts its gradient. With `inplace`,
    `infer` overwrites its input too, where no gradient is wanted.
    """

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Keep what is positive; any shape."""
        y = x.relu_() if _overwrites(self) else x.relu()
        return y, Switches(tuple(x.shape[1:]), a=y.detach().bool())

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Keep what was on."""
        return masked(z, chosen(switches.a, "a"))


@final
class LeakyReLU(nn.LeakyReLU, Rendering):
    """A switch between two strengths: a = 1, or the slope when the element is off."""

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Keep what is positive, weaken the rest; any shape."""
        a = x > 0
        return F.leaky_relu(x, self.negative_slope, inplace=_overwrites(self)), Switches(tuple(x.shape[1:]), a=a)

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Keep what was on, weaken the rest."""
        return _weakened(z, z * self.negative_slope, switches)


@final
class PReLU(nn.PReLU, Rendering):
    """A leaky gate whose slope is learned; takes the arguments of `torch.nn.PReLU`."""

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Keep what is positive, weaken the rest; (N, C, ...)."""
        return nn.PReLU.forward(self, x), Switches(tuple(x.shape[1:]), a=x > 0)

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Keep what was on, weaken the rest."""
        return _weakened(z, z * self.slope(z), switches)

    def slope(self, x: Tensor) -> Tensor:
        """The slope of each channel, in a shape that multiplies features x (N, C, ...)."""
        return self.weight if x.ndim < 3 else self.weight.reshape(-1, *[1] * (x.ndim - 2))


@final
class Clip(Rendering):
    """A gate with two ends, as ReLU6: off below, saturated above, and neither draws.

    A saturated unit is a constant that the picture does not change, so its path ends there as in a bias. Max-sum
    inference knows no such end: with clips it is a heuristic.

    Args:
        low: a unit is off at this value and below.
        high: a unit is saturated at this value and above.
        slope: of the function in between.
        function: the function itself; by default x between `low` and `high`.
        inplace: overwrite the input, where no gradient is wanted.
    """

    def __init__(
        self,
        low: float = -math.inf,
        high: float = math.inf,
        *,
        slope: float = 1,
        function: Callable[[Tensor], Tensor] | None = None,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        self.low, self.high, self.slope = low, high, slope
        self.function = function
        self.inplace = inplace

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Keep what lies in between; any shape."""
        if self.function is not None:
            return self.function(x), Switches(tuple(x.shape[1:]), a=(x > self.low) & (x < self.high))
        y = self.forward(x)
        return y, Switches(tuple(x.shape[1:]), a=self._inside(y.detach()))

    def forward(self, x: Tensor) -> Tensor:
        """The features alone."""
        if self.function is not None:
            return self.function(x)
        return x.clamp_(self.low, self.high) if _overwrites(self) else x.clamp(self.low, self.high)

    def _inside(self, y: Tensor) -> Tensor:
        """What is at neither end: on a CPU a product is half the price of two comparisons."""
        above = y if self.low == 0 else y - self.low if self.low > -math.inf else torch.ones_like(y)
        return (above if self.high == math.inf else (self.high - y).mul_(above)).bool()

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Keep what was neither off nor saturated."""
        z = masked(z, chosen(switches.a, "a"))
        return z if self.slope == 1 else z * self.slope


@final
class Abs(Rendering):
    """The max over the sign: max_s s·u = |u|."""

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Absolute value; any shape."""
        return x.abs(), Switches(tuple(x.shape[1:]), s=x >= 0)

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Give each unit the sign that it had."""
        return torch.where(chosen(switches.s, "s"), z, -z)


@final
class Dropout2d(nn.Dropout2d, Rendering):
    """Whole channels missing at random; otherwise as `Dropout`."""

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Draw a mask of channels, the same as torch draws, and apply it; (N, C, H, W)."""
        return _drop(x, self.p if self.training else 0, F.dropout2d)

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Apply the same mask."""
        return _dropped(z, switches)

    def forward(self, x: Tensor) -> Tensor:
        """The features alone."""
        return self.infer(x)[0]


@final
class Dropout(nn.Dropout, Rendering):
    """Features missing at random: one mask that both directions share (slide "…yields DropOut").

    In training a unit is kept with probability 1 - p and scaled by 1 / (1 - p); in evaluation nothing happens.
    """

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Draw the mask, the same as torch draws, and apply it; any shape."""
        return _drop(x, self.p if self.training else 0, F.dropout)

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Apply the same mask: a diagonal map is its own transpose."""
        return _dropped(z, switches)

    def forward(self, x: Tensor) -> Tensor:
        """The features alone."""
        return self.infer(x)[0]


def _overwrites(gate: ReLU | LeakyReLU | Clip) -> bool:
    return gate.inplace and not torch.is_grad_enabled()


def _drop(x: Tensor, p: float, dropout: Callable[[Tensor, float], Tensor]) -> tuple[Tensor, Switches]:
    """Features with some of them dropped, and which were kept."""
    switches = Switches(tuple(x.shape[1:]))
    if p == 0:
        return x, switches
    mask = dropout(torch.ones_like(x), p)
    gain = x.new_tensor(0.0 if p == 1 else 1 / (1 - p))
    return x * mask, replace(switches, kept=mask != 0, gain=gain)


def _dropped(z: Tensor, switches: Switches) -> Tensor:
    if switches.kept is None or switches.gain is None:
        return z
    return masked(z, switches.kept) * switches.gain


def _weakened(on: Tensor, off: Tensor, switches: Switches) -> Tensor:
    a = chosen(switches.a, "a")
    return masked(on, a) + masked(off, ~a)
