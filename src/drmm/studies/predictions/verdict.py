"""Verdicts: what a prediction says, what was measured, and whether that confirms it, computed and not written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

from drmm.errors import InputError

__all__ = ["Interval", "Outcome", "Verdict", "interval", "judge"]

Outcome = Literal["confirmed", "refuted", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and where it lies with 95 % confidence.

    Attributes:
        mean: of the values.
        low: lower end.
        high: upper end.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


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
    """

    claim: str
    slide: str
    law: str
    verdict: Outcome
    says: str
    command: str


def interval(values: Sequence[float] | npt.NDArray[np.float64], *, seed: int = 0) -> Interval:
    """95 % confidence interval of the mean of independent values, by the bias-corrected bootstrap.

    Args:
        values: one for each independent unit, such as an image or a net, (N,).
        seed: of the resampling.

    Raises:
        InputError: if there are fewer than three values, or some are not finite.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or len(data) < 3 or not np.isfinite(data).all():
        raise InputError(f"an interval needs three or more finite values, got {data.shape}: measure more")
    mean = float(data.mean())
    if np.ptp(data) == 0:
        return Interval(mean, mean, mean)
    bounds = bootstrap((data,), np.mean, n_resamples=2000, rng=np.random.default_rng(seed)).confidence_interval
    return Interval(mean, float(bounds.low), float(bounds.high))


def judge(effect: Interval, threshold: float = 0.0) -> Outcome:
    """Confirmed if the whole interval lies above the threshold, refuted if below, inconclusive otherwise."""
    if effect.low > threshold:
        return "confirmed"
    return "refuted" if effect.high < threshold else "inconclusive"
