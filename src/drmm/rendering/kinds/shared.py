"""What several kinds have in common: works by channel, is one affine map, or chooses."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.rendering.base import Box, Channels, Down, NoBoundError, Rendering, Switches, Window, chosen
from drmm.rendering.kinds.functions import pull_back, tensors_of

__all__ = ["Channelwise", "Choosing", "Linear", "check_one_of"]


class Channelwise(Rendering):
    """What works on every channel alone, unless its class says otherwise."""

    def narrowed(self, kept: Channels) -> Rendering:
        """A copy, which fits where nothing in it belongs to a channel.

        Raises:
            InputError: if it holds tensors, which may belong to channels.
        """
        del kept
        if any(True for _ in tensors_of(self)):
            raise InputError(
                f"a model with {self.name} cannot be pruned: it holds tensors, so give it narrowed (a copy for "
                "some of the channels)"
            )
        return copy.deepcopy(self)


class Linear(Channelwise):
    """What is one affine map whatever the switches: the way down of its bound is `render`."""

    def relaxed(self, lower: Tensor, upper: Tensor, switches: Switches | None = None) -> tuple[Box, Down]:
        """Exact."""
        box = self.bounds(lower, upper)
        y, switches = self.infer(lower)

        def down(z: Tensor) -> tuple[Tensor, Tensor]:
            w = self.render(z, switches)
            return w, (z * y).flatten(1).sum(1) - (w * lower).flatten(1).sum(1)

        return box, down


class Choosing(Channelwise):
    """A gate or a pool: its choice goes into the switches, where priors, samples and the traceback find it.

    Attributes:
        drawn: whether the choice is drawn at random, so that it has no prior and nothing is inferred again.
        largest: whether it is always the largest of what there is to choose from, and never falls when an input
            grows: whatever it has chosen then is a bound from below for other inputs.
    """

    drawn: bool = False
    largest: bool = False
    _usual = "a"  # name of the switch that holds it

    @abstractmethod
    def line(self, z: Tensor, x: Tensor, lower: Tensor, upper: Tensor, switches: Switches | None) -> Tensor:
        """What is nowhere below z · y, unit by unit, and linear in x; arguments as for `relaxed`, z as y.

        With switches, units where z is not positive keep their choice.
        """

    def relaxed(self, lower: Tensor, upper: Tensor, switches: Switches | None = None) -> tuple[Box, Down]:
        """By `line`."""
        box = self.bounds(lower, upper)
        if switches is not None and self.largest:
            box = self.infer(lower.clone())[0], box[1]
        own = switches if self.largest else None
        blank = torch.zeros_like(lower)

        def down(z: Tensor) -> tuple[Tensor, Tensor]:
            def line(x: Tensor) -> Tensor:
                return self.line(z, x, lower, upper, own)

            return pull_back(line, (blank,), torch.ones_like(z))[0], line(blank).flatten(1).sum(1)

        return box, down

    def _noted(self, shape: tuple[int, ...], choice: Tensor, options: int) -> Switches:
        """Switches that hold a choice: `a` if it is on or off, `t` if it is one of several, `kept` if drawn."""
        switches = Switches(shape)
        if choice.dtype != torch.bool:
            choice = choice.to(torch.uint8 if options <= 256 else torch.int32)
        if self.drawn:
            return replace(switches, kept=choice)
        if choice.dtype == torch.bool:
            return replace(switches, a=choice)
        return replace(switches, t=choice, window=Window((1, options), (0, 0), (0, 0), (1, 1)))

    def _choice(self, switches: Switches) -> tuple[str, Tensor]:
        """The choice, and where the switches hold it."""
        if switches.kept is not None:
            return "kept", switches.kept
        name, choice = next(switches.choices(), (self._usual, None))
        return name, chosen(choice, name)


def check_one_of(rendering: Rendering, y: Tensor, values: Sequence[Tensor]) -> None:
    """Refuse a gate or a pool whose own `infer` does not do what its class declares."""
    if torch.compiler.is_compiling():
        return
    rounding = 1e2 * torch.finfo(y.dtype).eps * (1 + y.abs())
    matches = torch.stack([(y - value).abs() <= rounding for value in torch.broadcast_tensors(y, *values)[1:]])
    if not bool(matches.any(0).all()):
        raise NoBoundError(f"no bound for {rendering.name}: its infer gives values that it does not declare")
