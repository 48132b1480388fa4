"""Renderings that switch units: the max over a (on or off) and over s (the sign)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.rendering.base import Channels, NoBoundError, Switches, chosen, masked
from drmm.rendering.kinds import Gate

__all__ = ["Abs", "Clip", "Dropout", "Dropout2d", "LeakyReLU", "PReLU", "ReLU"]


@final
class ReLU(nn.ReLU, Gate):
    """The max over "is this element on": max_a a·u = ReLU(u) (slide "Exercise: solve this optimization").

    A unit at exactly 0 is off, in both directions; this is also where autograd puts its gradient. With `inplace`,
    `infer` overwrites its input too, where no gradient is wanted.
    """

    may_overwrite = True
    slopes = (0.0, 1.0)
    largest = True

    def choose(self, x: Tensor) -> Tensor:
        """On where positive."""
        return x > 0

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the unit, and 0: what is off."""
        return lower.clamp(max=0), upper.clamp(min=0)

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Keep what is positive; any shape."""
        y = x.relu_() if _overwrites(self) else x.relu()
        return y, Switches(tuple(x.shape[1:]), a=y.detach().bool())

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Keep what was on."""
        return masked(z, chosen(switches.a, "a"))


@final
class LeakyReLU(nn.LeakyReLU, Gate):
    """A switch between two strengths: a = 1, or the slope when the element is off."""

    may_overwrite = True

    @property
    def slopes(self) -> tuple[float, float]:  # type: ignore[override]
        """The slope, and 1."""
        return self.negative_slope, 1.0

    @property
    def largest(self) -> bool:  # type: ignore[override]
        """Where it neither falls nor rises more steeply when it is off."""
        return 0 <= self.negative_slope <= 1

    def choose(self, x: Tensor) -> Tensor:
        """On where positive."""
        return x > 0

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Keep what is positive, weaken the rest; any shape."""
        a = x > 0
        return F.leaky_relu(x, self.negative_slope, inplace=_overwrites(self)), Switches(tuple(x.shape[1:]), a=a)

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Keep what was on, weaken the rest."""
        return _weakened(z, z * self.negative_slope, switches)


@final
class PReLU(nn.PReLU, Gate):
    """A leaky gate whose slope is learned; takes the arguments of `torch.nn.PReLU`."""

    def choose(self, x: Tensor) -> Tensor:
        """On where positive."""
        return x > 0

    @property
    def slopes(self) -> tuple[Tensor, float]:  # type: ignore[override]
        """The slopes of all channels, and 1."""
        return self.weight, 1.0

    @property
    def largest(self) -> bool:  # type: ignore[override]
        """Where no channel falls, or rises more steeply when it is off."""
        return bool(((self.weight >= 0) & (self.weight <= 1)).all())

    def pieces(self, x: Tensor) -> Sequence[tuple[Any, Any]]:
        """The slope of each channel, and 1."""
        return (self.slope(x), 0.0), (1.0, 0.0)

    @torch.no_grad()
    def narrowed(self, kept: Channels) -> PReLU:
        """With the slopes of some channels, unless one slope is shared by all."""
        if self.num_parameters == 1:
            return copy.deepcopy(self)
        index = kept.among(self.num_parameters)
        gate = PReLU(len(index)).to(self.weight)
        gate.weight.copy_(self.weight[index])
        return gate

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
class Clip(Gate):
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

    may_overwrite = True

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
            return self.function(x), Switches(tuple(x.shape[1:]), a=self.choose(x))
        y = self.forward(x)
        return y, Switches(tuple(x.shape[1:]), a=self._inside(y.detach()))

    def forward(self, x: Tensor) -> Tensor:
        """The features alone."""
        if self.function is not None:
            return self.function(x)
        return x.clamp_(self.low, self.high) if _overwrites(self) else x.clamp(self.low, self.high)

    @property
    def slopes(self) -> tuple[float, float]:  # type: ignore[override]
        """Of both ends, and in between."""
        return 0.0, self.slope

    def choose(self, x: Tensor) -> Tensor:
        """Whether a unit is in between."""
        return (x > self.low) & (x < self.high)

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """None: max-sum inference knows no ends."""
        del lower, upper
        raise NoBoundError("no bound for Clip: a saturated unit is no maximum over switches")

    def reinfer(self, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
        """The convnet's choice: an end is no maximum over switches."""
        del switches, z
        return self.infer(x)

    def on(self, y: Tensor) -> Tensor:
        """Positive features, saturated ones too."""
        return y > 0

    def _inside(self, y: Tensor) -> Tensor:
        """What is at neither end: on a CPU a product is half the price of two comparisons."""
        above = y if self.low == 0 else y - self.low if self.low > -math.inf else torch.ones_like(y)
        return (above if self.high == math.inf else (self.high - y).mul_(above)).bool()

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Keep what was neither off nor saturated."""
        z = masked(z, chosen(switches.a, "a"))
        return z if self.slope == 1 else z * self.slope


@final
class Abs(Gate):
    """The max over the sign: max_s s·u = |u|."""

    slopes = (-1.0, 1.0)

    def choose(self, x: Tensor) -> Tensor:
        """Positive or negative."""
        return x >= 0

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Absolute value; any shape."""
        return x.abs(), Switches(tuple(x.shape[1:]), s=self.choose(x))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Give each unit the sign that it had."""
        return torch.where(chosen(switches.s, "s"), z, -z)


class _Missing(Gate):
    """Units missing at random: no choice, so no prior, and in evaluation nothing is missing."""

    drawn = True
    p: float

    @property
    def slopes(self) -> tuple[float, ...]:  # type: ignore[override]
        """Missing, and kept."""
        if not self.training or self.p == 0:
            return 1.0, 1.0
        return 0.0, 0.0 if self.p == 1 else 1 / (1 - self.p)

    def choose(self, x: Tensor) -> Tensor:
        """Draw what is kept."""
        return torch.rand_like(x) >= (self.p if self.training else 0)

    def reinfer(self, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
        """The same units stay missing; a mask is its own transpose."""
        del z
        return self.render(x, switches), switches

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """In evaluation mode, as they are."""
        return super().bounds(lower, upper) if self.training and self.p else (lower, upper)


@final
class Dropout2d(nn.Dropout2d, _Missing):
    """Whole channels missing at random; otherwise as `Dropout`."""

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Draw a mask of channels, the same as torch draws, and apply it; (N, C, H, W)."""
        return _drop(x, self.p if self.training else 0, _drop_channels)

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Apply the same mask."""
        return _dropped(z, switches)

    def forward(self, x: Tensor) -> Tensor:
        """The features alone."""
        return self.infer(x)[0]


@final
class Dropout(nn.Dropout, _Missing):
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


def _drop_channels(x: Tensor, p: float) -> Tensor:
    """`F.dropout2d`, of features of any shape (N, C, ...)."""
    return torch.feature_dropout(x, p, train=True)


def _dropped(z: Tensor, switches: Switches) -> Tensor:
    if switches.kept is None or switches.gain is None:
        return z
    return masked(z, switches.kept) * switches.gain


def _weakened(on: Tensor, off: Tensor, switches: Switches) -> Tensor:
    a = chosen(switches.a, "a")
    return masked(on, a) + masked(off, ~a)
