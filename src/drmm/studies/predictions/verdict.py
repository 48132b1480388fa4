"""Verdicts: what a prediction says, what was measured, and whether that confirms it, computed and not written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from drmm.errors import InputError

__all__ = ["LEAST", "MARGINS", "Interval", "Kind", "Outcome", "Verdict", "interval", "judge", "together"]

Outcome = Literal["confirmed", "refuted", "inconclusive"]
Kind = Literal["algebra", "experiment"]

LEAST = 5  # nets, below which nothing is decided; a verdict on one net alone is over its images
MARGINS: Mapping[str, float] = MappingProxyType(
    {  # what an effect has to exceed, by what it is measured in; fixed before the figures that they decide
        "share": 0.01,  # accuracy, error, IoU, area under a curve: ten of a thousand test images
        "points": 1.0,  # the same in percent
        "points of 10,000": 0.1,  # and on MNIST's whole test set
        "as published": -0.1,  # points of error that may be lacking to a published figure
        "information": 0.05,  # skill from which on something is known of a nuisance
        "as good as features": -0.05,  # skill that switches may lack
        "templates": 0.05,  # of a class's energy: less is no mixture worth the name
        "a hundred times": 2.0,  # decimal logarithms
        "a closed gap": 3.0,  # the score over the certificate's gap
    }
)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and where it lies with 95 % confidence.

    Attributes:
        mean: of the values.
        low: lower end.
        high: upper end.
        n: how many values, of nets where there were several.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"

    @classmethod
    def around(cls, mean: float, half: float, n: int) -> Interval:
        """From the mean and half the width."""
        return cls(mean, mean - half, mean + half, n)

    @classmethod
    def of(cls, mean: float, sd: float, n: int) -> Interval:
        """Student's t, from the mean and the standard deviation of n values; without end for one."""
        return cls.around(mean, float(student.ppf(0.975, n - 1)) * sd / math.sqrt(n) if n > 1 else math.inf, n)

    def __neg__(self) -> Interval:
        return Interval(-self.mean, -self.high, -self.low, self.n)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A prediction of the slides, and what came of it.

    Attributes:
        claim: what the slides predict, one sentence.
        slide: title of the slide.
        law: name of the law, such as "T6".
        verdict: confirmed, refuted or inconclusive.
        says: one sentence with the figures.
        command: what measures it again.
        kind: "algebra" if it holds to rounding or not at all, for any weights; "experiment" otherwise.
    """

    claim: str
    slide: str
    law: str
    verdict: Outcome
    says: str
    command: str
    kind: Kind = "experiment"


def interval(values: Sequence[float] | npt.NDArray[np.float64]) -> Interval:
    """95 % confidence interval of the mean, Student's t.

    Args:
        values: one for each net, or for each image of one net, (M,); or of M nets and N images, both drawn,
            (M, N): half the width is then the root of the sum of both squares, over nets and over images.

    Raises:
        InputError: if there are fewer than two values along an axis, or some are not finite.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim not in {1, 2} or min(data.shape) < 2 or not np.isfinite(data).all():
        raise InputError(f"an interval needs two or more finite values, got {data.shape}: measure more")
    sides = [data] if data.ndim == 1 else [data.mean(1), data.mean(0)]
    found = [Interval.of(float(data.mean()), float(side.std(ddof=1)), len(side)) for side in sides]
    return Interval.around(found[0].mean, math.hypot(*(one.high - one.mean for one in found)), len(data))


def judge(effect: Interval, margin: float) -> Outcome:
    """Whether an effect exceeds a margin, in three ways.

    Confirmed if the whole interval lies above the margin, refuted if it lies below; inconclusive otherwise, and
    for fewer than `LEAST` values.

    Args:
        effect: what was measured.
        margin: one of `MARGINS`, fixed before the measurement.
    """
    if effect.n < LEAST or effect.low <= margin <= effect.high:
        return "inconclusive"
    return "confirmed" if effect.low > margin else "refuted"


def together(outcomes: Iterable[Outcome]) -> Outcome:
    """Of a claim that asks for several effects: refuted if one is, confirmed if all are; or else inconclusive."""
    found = set(outcomes)
    if "refuted" in found:
        return "refuted"
    return "confirmed" if found == {"confirmed"} else "inconclusive"
