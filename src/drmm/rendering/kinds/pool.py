"""The kind that chooses one of several places for each unit."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.rendering.base import Switches, chosen
from drmm.rendering.kinds.functions import chord, pull_back
from drmm.rendering.kinds.shared import Choosing, check_one_of

__all__ = ["Pool"]


class Pool(Choosing):
    """The kind that chooses one of several places for each unit.

    A class lists the places; `infer` and `render` follow.
    """

    _usual = "t"

    @abstractmethod
    def candidates(self, x: Tensor) -> Tensor:
        """What each unit chooses from: entries of x as they are, and -inf for a place outside of the picture.

        Args:
            x: (N, ...).

        Returns:
            (N, *output, K): K candidates of each unit.
        """

    def choose(self, candidates: Tensor) -> Tensor:
        """Which candidate each unit takes, (N, *output) integers: the largest; the first one in a tie."""
        return candidates.argmax(-1)

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """The chosen one of each unit's candidates."""
        candidates = self.candidates(x)
        if candidates.ndim < 2 or candidates.shape[0] != x.shape[0]:
            raise InputError(f"candidates of {self.name} must be (N, ..., K), got {tuple(candidates.shape)}")
        choice = self.choose(candidates)
        if choice.shape != candidates.shape[:-1]:
            raise InputError(f"choose of {self.name} returns {tuple(choice.shape)}: drop the last dimension alone")
        y = candidates.gather(-1, choice[..., None]).squeeze(-1)
        return y, self._noted(tuple(x.shape[1:]), choice, candidates.shape[-1])

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Put each unit at its place; what falls on one place adds up."""
        choice = self._choice(switches)[1].long().reshape(z.shape)
        blank = z.new_zeros(z.shape[0], *switches.shape)
        options = self.candidates(blank[:1]).shape[-1]
        spread = z.new_zeros(*z.shape, options).scatter(-1, choice[..., None], z[..., None])
        return pull_back(self.candidates, (blank,), spread)[0]

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest of all candidates."""
        self._check_places(tuple(lower.shape[1:]))
        below, above = self.candidates(lower), self.candidates(upper)
        check_one_of(self, self.infer(upper)[0], above.unbind(-1))
        return torch.where(above == -math.inf, math.inf, below).amin(-1), above.amax(-1)

    def line(self, z: Tensor, x: Tensor, lower: Tensor, upper: Tensor, switches: Switches | None) -> Tensor:
        """By the candidate that may be the best for z: its chord above the best that the others may be."""
        candidates, low, high = self.candidates(x), self.candidates(lower), self.candidates(upper)
        outside = high == -math.inf
        above = _best(candidates, low, high)
        if switches is None:
            negative = [torch.where(outside, -math.inf, -values) for values in (candidates, high, low)]
            below = -_best(*negative)
        else:
            place = self._choice(switches)[1].long().reshape(above.shape)
            below = candidates.gather(-1, place[..., None])[..., 0]
        return z * torch.where(z > 0, above.reshape(z.shape), below.reshape(z.shape))

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
        """To the chosen candidate, or to all of them."""
        self._check_places(switches.shape)
        if not every:
            return self.render(paths, switches)
        blank = paths.new_zeros(len(paths), *switches.shape)
        options = self.candidates(blank[:1])
        spread = paths.reshape(len(paths), *options.shape[1:-1], 1).expand(-1, *options.shape[1:])
        return pull_back(self.candidates, (blank,), spread)[0]

    def reinfer(self, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
        """The largest candidate where z is positive, the smallest where it is negative; what was drawn stays."""
        candidates = self.candidates(x)
        if switches.kept is not None:
            choice, fresh = switches.kept.long(), switches
        else:
            _, fresh = self.infer(x)
            smallest = torch.where(candidates == -math.inf, math.inf, candidates).argmin(-1)
            usual = chosen(fresh.t, "t").long().reshape(smallest.shape)
            z = z.reshape(smallest.shape)
            choice = torch.where(z < 0, smallest, torch.where(z > 0, candidates.argmax(-1), usual))
            fresh = replace(fresh, t=choice.to(chosen(fresh.t, "t").dtype).reshape(chosen(fresh.t, "t").shape))
        return candidates.gather(-1, choice.reshape(*candidates.shape[:-1], 1)).squeeze(-1), fresh

    @property
    def shuts(self) -> bool:
        """It does: the candidates that are not chosen."""
        return True

    def _check_places(self, shape: tuple[int, ...]) -> None:
        """Refuse candidates that are not the inputs themselves, by an image of distinct numbers."""
        if torch.compiler.is_compiling():
            return
        image = 1 + torch.rand(1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        listed = self.candidates(image)
        known = torch.isin(listed, image) | (listed == -math.inf)
        if not bool(known.all()):
            raise InputError(
                f"candidates of {self.name} must be entries of its input (-inf outside): scale or add in a layer "
                "of its own, such as an AffineRendering below it"
            )


def _best(x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Of K candidates (N, ..., K) that which may be the largest, (N, ...): its chord above what others may be."""
    most, place = upper.max(-1, keepdim=True)
    others = upper.scatter(-1, place, -math.inf).amax(-1, keepdim=True)
    least, chosen = lower.gather(-1, place), x.gather(-1, place)
    return chord(chosen, least, most, torch.maximum(least, others), most)[..., 0]
