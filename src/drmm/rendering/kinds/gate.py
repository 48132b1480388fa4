"""The kind that chooses one of a few linear pieces for each unit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.rendering.base import Switches
from drmm.rendering.kinds.functions import chord, extremes, picked
from drmm.rendering.kinds.shared import Choosing, check_one_of

__all__ = ["Gate"]


class Gate(Choosing):
    """The kind that chooses one of a few linear pieces for each unit, y = slope · x + offset.

    A class declares the slopes and says which piece a unit is on; `infer` and `render` follow.

    Attributes:
        slopes: of each piece, numbers or tensors that multiply the features (such as (C, 1, 1)).
        offsets: of each piece; empty if all are 0.
    """

    slopes: Sequence[float | Tensor]
    offsets: Sequence[float | Tensor] = ()

    @abstractmethod
    def choose(self, x: Tensor) -> Tensor:
        """Which piece each unit is on: bool for two of them, else integers from 0.

        Args:
            x: (N, ...).

        Returns:
            x's shape, or with dimensions of size 1 where units share a choice, such as (N, C, 1, 1).
        """

    def pieces(self, x: Tensor) -> Sequence[tuple[Any, Any]]:
        """Slope and offset of each piece, such as multiply features x (N, ...)."""
        del x
        slopes: Sequence[Any] = getattr(self, "slopes", ())
        offsets: Sequence[Any] = self.offsets or [0.0] * len(slopes)
        if len(slopes) < 2 or len(offsets) != len(slopes):
            raise InputError(f"{self.name} must declare slopes of two or more pieces, and as many offsets if any")
        return tuple(zip(slopes, offsets, strict=True))

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Each unit on its piece; any shape."""
        choice, pieces = self.choose(x), self.pieces(x)
        sizes = zip(choice.shape[1:], x.shape[1:], strict=False)
        if choice.ndim != x.ndim or choice.shape[0] != x.shape[0] or not all(n in {1, m} for n, m in sizes):
            raise InputError(f"choose of {self.name} returns {tuple(choice.shape)} for features {tuple(x.shape)}")
        if choice.is_floating_point() or not _are_below(choice, len(pieces)):
            raise InputError(f"choose of {self.name} must return bools, or integers below {len(pieces)}")
        if choice.dtype == torch.bool and len(pieces) != 2:
            raise InputError(f"{self.name} has {len(pieces)} pieces: choose must return integers")
        return self._on_piece(x, choice), self._noted(tuple(x.shape[1:]), choice, len(pieces))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Each unit times the slope of its piece: a diagonal map is its own transpose."""
        choice = self._choice(switches)[1]
        return picked(choice, [slope * z for slope, _ in self.pieces(z)])

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The extremes of all pieces at both ends."""
        pieces = self.pieces(lower)
        ends = [[slope * end + offset for slope, offset in pieces] for end in (lower, upper)]
        for end, values in zip((lower, upper), ends, strict=True):
            check_one_of(self, self.infer(end.clone())[0], values)
        return extremes([*ends[0], *ends[1]])

    def line(self, z: Tensor, x: Tensor, lower: Tensor, upper: Tensor, switches: Switches | None) -> Tensor:
        """The chord of the largest piece where z is positive, of the smallest where it is not."""
        pieces = self.pieces(lower)
        first, last = (extremes([slope * end + offset for slope, offset in pieces]) for end in (lower, upper))
        above = chord(x, lower, upper, first[1], last[1])
        if switches is None:
            below = chord(x, lower, upper, first[0], last[0])
        else:
            below = self._on_piece(x, self._choice(switches)[1])
        return z * torch.where(z > 0, above, below)

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
        """A path through each unit whose slope is not 0, or is not 0 on one of its pieces."""
        ones = torch.ones_like(paths)
        if not every:
            return torch.where(self.render(ones, switches) != 0, paths, 0.0)
        return torch.where(extremes([(slope * ones).abs() for slope, _ in self.pieces(paths)])[1] > 0, paths, 0.0)

    def reinfer(self, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
        """The piece that is best for z; what was drawn stays drawn."""
        if switches.kept is not None:
            return self._on_piece(x, switches.kept), switches
        _, fresh = self.infer(x.clone())  # a gate may overwrite its input
        name, choice = self._choice(fresh)
        pieces = [slope * x + offset for slope, offset in self.pieces(x)]
        scores = torch.stack([(z * piece).sum_to_size(choice.shape) for piece in pieces])
        best, where = scores.max(0)
        better = best > scores.gather(0, choice.long()[None])[0]
        choice = torch.where(better, where.to(choice.dtype), choice)
        changed: dict[str, Any] = {name: choice}
        return self._on_piece(x, choice), replace(fresh, **changed)

    def guided(self, z: Tensor, switches: Switches) -> Tensor:
        """Only positive parts, if a unit can be off."""
        return self.render(z.clamp(min=0) if self.shuts else z, switches)

    @property
    def shuts(self) -> bool:
        """Whether a unit can be off: the slope of a piece is 0."""
        slopes = () if self.drawn else getattr(self, "slopes", ())
        return any(bool((torch.as_tensor(slope) == 0).any()) for slope in slopes)

    @property
    def switches_off(self) -> bool:
        """Whether some pieces are weaker than others, so that a unit can be said to be on."""
        slopes = () if self.drawn else getattr(self, "slopes", ())
        strengths = [torch.as_tensor(slope).abs() for slope in slopes]
        return any(bool((strength != strengths[0]).any()) for strength in strengths)

    def shut(self, y: Tensor, switches: Switches) -> Tensor:
        """Units that are off. A saturated one lets no picture through, but adds a constant, as a bias does."""
        return super().shut(y, switches) & (y == 0)

    def open_units(self, y: Tensor, switches: Switches) -> Tensor:
        """0 where a unit is saturated."""
        return torch.where(self.render(torch.ones_like(y), switches) != 0, y, 0.0)

    def on(self, y: Tensor) -> Tensor:
        """Which units are on, from the features, bool."""
        return y != 0 if self.shuts else y > 0

    def _on_piece(self, x: Tensor, choice: Tensor) -> Tensor:
        return picked(choice, [slope * x + offset for slope, offset in self.pieces(x)])


def _are_below(choice: Tensor, pieces: int) -> bool:
    """Whether integers are numbers of pieces; a compiler sees no values."""
    if torch.compiler.is_compiling() or not choice.numel():
        return True
    numbers = choice.long()
    return int(numbers.max()) < pieces and int(numbers.min()) >= 0
