"""The kind that scales each unit by a gain, which is frozen on the way down."""

from __future__ import annotations

import torch
from torch import Tensor

from drmm.rendering.base import NoBoundError, Switches
from drmm.rendering.kinds.shared import Linear

__all__ = ["Norm"]


class Norm(Linear):
    """The kind that scales each unit by a gain, y = gain · x + offset, whose gain is frozen on the way down."""

    @property
    def uses_batch(self) -> bool:
        """Whether its gain now comes from the batch, so that no image has a bound of its own."""
        return self.training

    def measure(self, x: Tensor) -> None:
        """Take the running statistics from features x (N, C, ...), if it keeps any."""

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Its values at both ends, in order.

        Raises:
            NoBoundError: if its gain changes with its input.
        """
        one, before = self.infer(lower)
        if lower is upper:
            return one, one
        other, after = self.infer(upper)
        gains = before.gain, after.gain
        if gains[0] is None or gains[1] is None or not torch.equal(gains[0], gains[1]):
            raise NoBoundError(
                f"no bound for {self.name}: its gain must be in its switches, and the same for all inputs"
            )
        return torch.minimum(one, other), torch.maximum(one, other)

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
        """A path through each unit whose gain is not 0."""
        del every
        return torch.where(self.render(torch.ones_like(paths), switches) != 0, paths, 0.0)
