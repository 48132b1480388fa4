"""Where branches meet: renderings of several inputs into one, each with a transpose of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from drmm.errors import InputError
from drmm.rendering.base import Box, NoBoundError, Switches, chosen, constant, masked
from drmm.rendering.kinds import extremes

__all__ = ["Concat", "Join", "Maximum", "Sum", "shapes_of"]


Descent = Callable[[Tensor], tuple[tuple[Tensor, ...], Tensor]]  # as `drmm.rendering.base.Down`, of several inputs


class Join(nn.Module, ABC):
    """Several branches into one: Law 0 holds for all of them together, ⟨Σ_i A_i x_i, z⟩ = Σ_i ⟨x_i, A_iᵀ z⟩.

    Subclasses are final; a `Graph` puts them between renderings. It is the fifth kind, see `drmm.rendering.kinds`.

    Attributes:
        fresh: whether the features that `infer` returns never share memory with its inputs.
        may_overwrite: whether it has an attribute `inplace` that lets `infer` overwrite the first one.
    """

    fresh = False
    may_overwrite = False

    @abstractmethod
    def infer(self, *xs: Tensor) -> tuple[Tensor, Switches]:
        """Bottom-up: the joined features, and the switches; `switches.parts` keeps the shape of each branch."""

    @abstractmethod
    def render(self, z: Tensor, switches: Switches) -> tuple[Tensor, ...]:
        """Top-down: what each branch draws, in the order of `infer`."""

    def forward(self, *xs: Tensor) -> Tensor:
        """The features alone."""
        return self.infer(*xs)[0]

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def given(self, *settings: object) -> Join:
        """This join with what it depends on besides its inputs filled in; see `Step.settings`.

        Raises:
            InputError: if it depends on nothing else.
        """
        if settings:
            raise InputError(f"{self.name} takes no settings")
        return self

    def bounds(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of each output, over all inputs in [lower, upper] and all switches.

        Branches share switches further down; a bound that lets each choose for itself still holds.

        Raises:
            NoBoundError: if nobody knows them.
        """
        del lowers, uppers
        raise NoBoundError(f"no bound for {self.name}: give it bounds (docs/new_rendering.md)")

    def relaxed(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Box, Descent]:
        """Its bounds, and a linear way down, as `Rendering.relaxed`; by default the constant of the bounds."""
        box = self.bounds(lowers, uppers)
        blanks = tuple(torch.zeros_like(lower) for lower in lowers)
        return box, lambda z: (blanks, constant(z, box))

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> tuple[Tensor, ...]:
        """How many paths go down each branch, in the order of `infer`; arguments as for `Rendering.count`.

        Raises:
            InputError: if nobody can count them.
        """
        del paths, switches, every
        raise InputError(f"{self.name} has no paths that can be counted: it mixes several features; give it count")

    def reinfer(self, xs: Sequence[Tensor], switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
        """Infer again, knowing what comes from above: as `Rendering.reinfer`."""
        del switches, z
        return self.infer(*xs)


def shapes_of(xs: Sequence[Tensor]) -> Switches:
    """Switches that hold nothing but the shape of each branch."""
    parts = tuple(Switches(tuple(x.shape[1:])) for x in xs)
    return Switches(parts[0].shape, parts=parts)


class _Linear(Join):
    """A join that is a linear map, whatever the switches."""

    def relaxed(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Box, Descent]:
        """Exact: the way down is `render`."""
        switches = shapes_of(lowers)
        return self.bounds(lowers, uppers), lambda z: (self.render(z, switches), z.new_zeros(len(z)))


@final
class Sum(_Linear):
    """Add branches, each times a weight: a skip connection renders z + Fᵀz (slide "…yields Deep ResNets").

    Args:
        weights: one factor a branch; -1 subtracts.
        inplace: overwrite the first branch, where no gradient is wanted.
    """

    fresh = True
    may_overwrite = True

    def __init__(self, weights: Sequence[float] = (1, 1), *, inplace: bool = False) -> None:
        super().__init__()
        self.weights = tuple(weights)
        self.inplace = inplace

    def infer(self, *xs: Tensor) -> tuple[Tensor, Switches]:
        """Branches (N, ...) of shapes that broadcast."""
        switches = shapes_of(xs)
        overwrite = self.inplace and self.weights[0] == 1 and not torch.is_grad_enabled()
        y = xs[0] if self.weights[0] == 1 else self.weights[0] * xs[0]
        for x, weight in zip(xs[1:], self.weights[1:], strict=True):
            y = y.add_(x, alpha=weight) if overwrite and x.shape == y.shape else torch.add(y, x, alpha=weight)
        return y, switches

    def render(self, z: Tensor, switches: Switches) -> tuple[Tensor, ...]:
        """Each branch gets all of z, summed over what broadcasting had repeated."""
        return tuple(
            _unbroadcast(z if weight == 1 else weight * z, part.shape)
            for weight, part in zip(self.weights, switches.parts, strict=True)
        )

    def bounds(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The sum of the bounds; a branch that is subtracted counts the other way round."""
        ends = zip(lowers, uppers, self.weights, strict=True)
        turned = [(above, below) if weight < 0 else (below, above) for below, above, weight in ends]
        lowers, uppers = zip(*turned, strict=True)
        total = Sum(self.weights)  # never in place: both ends may be the same tensor
        return total(*lowers), total(*uppers)

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> tuple[Tensor, ...]:
        """All paths to each branch whose weight is not 0."""
        del every
        return Sum([float(weight != 0) for weight in self.weights]).render(paths, switches)


@final
class Concat(_Linear):
    """One branch beside the other, as in DenseNets.

    Args:
        dim: the dimension that grows; not the batch's.
    """

    fresh = True

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def infer(self, *xs: Tensor) -> tuple[Tensor, Switches]:
        """Branches (N, ...) that differ in one dimension."""
        return torch.cat(xs, self.dim), shapes_of(xs)

    def render(self, z: Tensor, switches: Switches) -> tuple[Tensor, ...]:
        """Each branch gets its own part of z."""
        axis = self.dim - 1 if self.dim > 0 else self.dim
        parts: tuple[Tensor, ...] = z.split([part.shape[axis] for part in switches.parts], self.dim)
        return parts

    def bounds(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Those of the branches, one beside the other."""
        return self.forward(*lowers), self.forward(*uppers)

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> tuple[Tensor, ...]:
        """Each branch gets its own."""
        del every
        return self.render(paths, switches)


@final
class Maximum(Join):
    """The larger of two branches, unit by unit: a max over "which of them" (maxout).

    Args:
        largest: False takes the smaller one.
    """

    def __init__(self, *, largest: bool = True) -> None:
        super().__init__()
        self.largest = largest

    def infer(self, *xs: Tensor) -> tuple[Tensor, Switches]:
        """Two branches (N, ...) of one shape; a tie goes to the first."""
        first, second = xs
        a = first >= second if self.largest else first <= second
        return torch.where(a, first, second), replace(shapes_of(xs), a=a)

    def render(self, z: Tensor, switches: Switches) -> tuple[Tensor, ...]:
        """Each unit goes down the branch that it came from."""
        a = chosen(switches.a, "a")
        first, second = (part.shape for part in switches.parts)
        return _unbroadcast(masked(z, a), first), _unbroadcast(masked(z, ~a), second)

    def bounds(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The extremes of both."""
        return extremes([*lowers, *uppers])

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> tuple[Tensor, ...]:
        """Down the branch that was chosen, or down both."""
        return Sum().render(paths, switches) if every else self.render(paths, switches)

    def reinfer(self, xs: Sequence[Tensor], switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
        """The branch that is best for z."""
        first, second = xs
        switches = self.infer(first, second)[1]
        a = torch.where(z < 0, first <= second, torch.where(z > 0, first >= second, chosen(switches.a, "a")))
        return torch.where(a, first, second), replace(switches, a=a)


def _unbroadcast(z: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum z (N, ...) over the dimensions that a branch of (N, *shape) does not have or has only one of."""
    return z if z.shape[1:] == shape else z.sum_to_size(z.shape[0], *shape)
