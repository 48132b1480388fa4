"""What a look at some of the sorted pictures says about all of them."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Sequence

from scipy.stats import betabinom, hypergeom

from drmm.errors import InputError

__all__ = ["drawn", "most_wrong", "pictures_needed", "possible", "wrong_allowed"]

_RISK = 0.05  # that more are wrong than is said
# Beta distributions of the share of wrong ones that `possible` expects, 1 % or any, and their weights.
_EXPECTED = ((0.8, 1, 100), (0.2, 1, 1))


def drawn(pictures: Sequence[str], n: int, seed: int) -> list[str]:
    """Some pictures, at random without replacement; fewer with the same seed are the first of more.

    Args:
        pictures: all, in any order.
        n: how many, or all if there are fewer.
        seed: of the draw.
    """
    order = sorted(pictures)
    random.Random(seed).shuffle(order)  # noqa: S311  (no secret)
    return order[:n]


def wrong_allowed(of: int, promise: float) -> int:
    """How many of so many pictures may be wrong."""
    return math.floor((1 - promise) * of + 1e-9)


def most_wrong(wrong: int, n: int, of: int) -> int:
    """How many pictures are wrong at most, at 95 % confidence: exact, as they are drawn without replacement.

    It is the largest number of which as few as `wrong` would be seen with a probability of more than 5 %.

    Args:
        wrong: of those that were looked at.
        n: that were looked at.
        of: that they were drawn from.

    Raises:
        InputError: if there are more wrong ones than pictures.
    """
    if not 0 <= wrong <= n <= of:
        raise InputError(f"{wrong} wrong ones of {n} of {of} pictures: count again")
    return wrong + bisect_left(
        range(wrong + 1, of - n + wrong + 1),
        True,  # noqa: FBT003
        key=lambda number: bool(hypergeom.cdf(wrong, of, number, n) <= _RISK * (1 + 1e-9)),
    )


def possible(wrong: int, n: int, of: int) -> tuple[int, int]:
    """How many pictures are wrong at least and at most, at 95 % confidence, though one looks after every picture.

    The range leaves out each number under which what was seen is 20 times less likely than by a mixture of beta
    distributions: their ratio is a martingale (Waudby-Smith and Ramdas, "Confidence sequences for sampling without
    replacement", 2020).

    Args:
        wrong: of those that were looked at.
        n: that were looked at, drawn at random without replacement.
        of: that they were drawn from.
    """
    least = _RISK * sum(weight * betabinom.pmf(wrong, n, a, b) for weight, a, b in _EXPECTED)
    numbers = range(wrong, of - n + wrong + 1)
    best = min(max(wrong * of // max(n, 1), numbers.start), numbers.stop - 1)

    def is_out(number: int) -> bool:
        return bool(hypergeom.pmf(wrong, of, number, n) <= least)

    low = bisect_left(range(wrong, best), True, key=lambda number: not is_out(number))  # noqa: FBT003
    high = bisect_left(range(best + 1, numbers.stop), True, key=is_out)  # noqa: FBT003
    return wrong + low, best + high


def pictures_needed(wrong: int, of: int, promise: float) -> int | None:
    """How many pictures to look at, if so many are found to be wrong, to show that a promise holds.

    Args:
        wrong: of those that are looked at.
        of: that they are drawn from.
        promise: share that is right.

    Returns:
        The number; None if the promise is broken already.
    """
    allowed = wrong_allowed(of, promise)
    if wrong > allowed:
        return None
    return wrong + bisect_left(
        range(wrong, of),
        True,  # noqa: FBT003
        key=lambda n: most_wrong(wrong, n, of) <= allowed,
    )
