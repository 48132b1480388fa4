"""Semirings: what a dynamic program does with its hypotheses, ⊕ to decide among them and ⊗ to extend one.

The same recursion finds shortest paths with (min, +), counts paths with (+, ×) and infers a convnet's switches
with (max, +). All that it needs is that ⊗ distributes over ⊕: "push the max to the right" (slide "Inference in the
DRMM yields Deep Convnets"). Goodman, "Semiring parsing", Computational Linguistics 25, 1999.
"""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Generic, TypeVar, final

from drmm.errors import InputError

__all__ = [
    "SEMIRINGS",
    "Boolean",
    "Counting",
    "KBest",
    "LogSumExp",
    "MaxProduct",
    "MaxSum",
    "MinSum",
    "Semiring",
    "SumProduct",
]

V = TypeVar("V")


class Semiring(ABC, Generic[V]):
    """(V, ⊕, ⊗, 0̄, 1̄): both operations commute and associate, ⊗ distributes over ⊕, and 0̄ annihilates.

    Attributes:
        name: as the command line has it.
        zero: 0̄, the value of what cannot be reached.
        one: 1̄, the value of the empty path.
        heading: what a table calls a value.
    """

    name: ClassVar[str]
    heading: ClassVar[str] = "value"
    zero: V
    one: V

    @abstractmethod
    def lift(self, weight: float) -> V:
        """The value of an edge.

        Raises:
            InputError: if this semiring has no such value.
        """

    @abstractmethod
    def plus(self, left: V, right: V) -> V:
        """⊕: decide between two hypotheses about the same node, or pool them."""

    @abstractmethod
    def times(self, left: V, right: V) -> V:
        """⊗: extend a hypothesis, or combine two about different nodes."""

    def total(self, values: Iterable[V]) -> V:
        """⊕ of all values, 0̄ of none."""
        result = self.zero
        for value in values:
            result = self.plus(result, value)
        return result

    def winner(self, values: Sequence[V]) -> int | None:
        """Which of the values ⊕ picks, the first among equals; None if it picks none but pools them."""
        del values
        return None

    def scale(self, value: V, gain: float) -> V:
        """A value times a number; gain 1 leaves it as it is.

        Raises:
            InputError: if this semiring cannot do it.
        """
        if gain != 1:
            raise InputError(f"{self.name} has no gains: use max-sum or min-sum for a network, or gains of 1")
        return value

    def distributes(self, gain: float) -> bool:
        """Whether scaling by the gain commutes with ⊕ and ⊗, so that the recursion stays exact."""
        return gain == 1


class _Sum(Semiring[float]):
    """⊗ is the sum."""

    one = 0.0

    def lift(self, weight: float) -> float:
        return weight

    @final
    def times(self, left: float, right: float) -> float:
        return left + right


class _Product(Semiring[float]):
    """⊗ is the product."""

    one = 1.0
    zero = 0.0

    def lift(self, weight: float) -> float:
        return weight

    @final
    def times(self, left: float, right: float) -> float:
        return left * right


class _Best(Semiring[float]):
    """⊕ picks the best of its arguments, so that there is a winner to trace back."""

    best: ClassVar[Any]  # min or max

    @final
    def plus(self, left: float, right: float) -> float:
        return float(self.best(left, right))

    @final
    def total(self, values: Iterable[float]) -> float:
        return float(self.best(values, default=self.zero))

    @final
    def winner(self, values: Sequence[float]) -> int:
        return values.index(self.best(values))


class _Tropical(_Best, _Sum):
    """w·max(a, b) = max(wa, wb) for w > 0 alone: a negative gain turns the best into the worst."""

    @final
    def scale(self, value: float, gain: float) -> float:
        return value if value == self.zero else value * gain

    @final
    def distributes(self, gain: float) -> bool:
        return gain > 0


@final
class MinSum(_Tropical):
    """(min, +): shortest paths."""

    name = "min-sum"
    heading = "dist"
    zero = math.inf
    best = min


@final
class MaxSum(_Tropical):
    """(max, +): longest paths, and the best configuration of a network."""

    name = "max-sum"
    zero = -math.inf
    best = max


@final
class MaxProduct(_Best, _Product):
    """(max, ×) on numbers ≥ 0: the likeliest path."""

    name = "max-product"
    best = max

    def lift(self, weight: float) -> float:
        """The weight itself, which must be at least 0: times a negative number, max is min."""
        if weight < 0:
            raise InputError(f"max-product needs weights of at least 0, got {weight}: use max-sum of logarithms")
        return weight


@final
class SumProduct(_Product):
    """(+, ×): the sum over all paths of the product of their weights."""

    name = "sum-product"

    def plus(self, left: float, right: float) -> float:
        """The sum."""
        return left + right


@final
class LogSumExp(_Sum):
    """(log(eᵃ + eᵇ), +): sum-product of weights that are logarithms."""

    name = "log-sum-exp"
    zero = -math.inf

    def plus(self, left: float, right: float) -> float:
        """log(eᵃ + eᵇ), without overflow."""
        high, low = max(left, right), min(left, right)
        return high if low == -math.inf else high + math.log1p(math.exp(low - high))


@final
class Counting(Semiring[int]):
    """(+, ×) with every edge 1: how many paths there are, whatever they weigh."""

    name = "counting"
    zero = 0
    one = 1

    def lift(self, weight: float) -> int:
        """1, whatever the weight."""
        del weight
        return 1

    def plus(self, left: int, right: int) -> int:
        """The sum."""
        return left + right

    def times(self, left: int, right: int) -> int:
        """The product."""
        return left * right


@final
class Boolean(Semiring[bool]):
    """(or, and): whether there is a path at all, whatever it weighs."""

    name = "boolean"
    zero = False
    one = True

    def lift(self, weight: float) -> bool:
        """True, whatever the weight."""
        del weight
        return True

    def plus(self, left: bool, right: bool) -> bool:  # noqa: FBT001
        """Either."""
        return left or right

    def times(self, left: bool, right: bool) -> bool:  # noqa: FBT001
        """Both."""
        return left and right

    def winner(self, values: Sequence[bool]) -> int:
        """The first that is true."""
        return values.index(max(values))


@final
class KBest(Semiring[tuple[float, ...]]):
    """The lengths of the k shortest paths, in order: min-sum with runners-up.

    Raises:
        InputError: if k is below 1.
    """

    name = "k-best"
    zero = ()
    one = (0.0,)

    def __init__(self, k: int) -> None:
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        self.k = k

    def lift(self, weight: float) -> tuple[float, ...]:
        """One path."""
        return (weight,)

    def plus(self, left: tuple[float, ...], right: tuple[float, ...]) -> tuple[float, ...]:
        """The k shortest of both."""
        return tuple(sorted(left + right)[: self.k])

    def times(self, left: tuple[float, ...], right: tuple[float, ...]) -> tuple[float, ...]:
        """The k shortest of all pairs."""
        return tuple(heapq.nsmallest(self.k, (a + b for a in left for b in right)))


SEMIRINGS: dict[str, Semiring[Any]] = {
    semiring.name: semiring
    for semiring in (MinSum(), MaxSum(), MaxProduct(), SumProduct(), LogSumExp(), Counting(), Boolean())
}
