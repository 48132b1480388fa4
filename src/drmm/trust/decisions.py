"""What may be promised of sorted pictures, from a few labels: thresholds by exact tests.

Thresholds are shares of the unlabelled pictures, the surest first: they depend on no label, and mean the same to
nets that are sure to a different degree. They are tested from the strictest on that has enough labels to pass,
until one fails (fixed-sequence testing): the largest that passed is wrong for more than was promised with a
probability of 5 % at most (Angelopoulos et al., "Learn then Test", 2021), if the labelled pictures were drawn at
random.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from drmm.trust.promise import check_promise

__all__ = [
    "UNFAMILIAR",
    "Decision",
    "decisions",
    "labels_needed",
    "promised_share",
]

Decision = Literal["sorted", "unsure", "unfamiliar"]

UNFAMILIAR = 0.01
"""A picture is unfamiliar if fewer than this share of the training pictures are as strange."""

_RISK = 0.05  # that a promise is broken
_STEPS = 20  # thresholds from no picture to all
_MOST = 100_000  # labels: who has more needs no advice


def promised_share(certainty: npt.ArrayLike, wrong: npt.ArrayLike, promise: float) -> float:
    """The largest share of pictures, the surest first, of which as many are right as promised, at 95 % confidence.

    Args:
        certainty: of labelled pictures by a net that did not learn their label: the share of the unlabelled ones
            of which that net is less sure, from 0 to 1, (N,).
        wrong: whether it was wrong of them, (N,).
        promise: share that is to be right.

    Returns:
        From 0, where nothing can be promised, to 1.

    Raises:
        InputError: if the promise is none.
    """
    check_promise(promise)
    rank, mistaken = np.asarray(certainty, float), np.asarray(wrong, bool)
    fewest, passed = labels_needed(promise) or _MOST, 0.0
    for step in range(1, _STEPS + 1):
        share = step / _STEPS
        among = rank >= 1 - share
        if among.sum() < min(len(rank), fewest + 2 * math.sqrt(fewest)):
            continue  # too few labels to pass, but by luck
        if binom.cdf(mistaken[among].sum(), among.sum(), 1 - promise) > _RISK:
            break
        passed = share
    return passed


@cache
def labels_needed(promise: float, wrong_share: float = 0.0) -> int | None:
    """How many labelled pictures among those to be sorted show that a promise holds; None if no number does.

    Args:
        promise: share that is to be right.
        wrong_share: of them that is found to be wrong.

    Raises:
        InputError: if the promise is none.
    """
    check_promise(promise)
    n = np.arange(1, _MOST + 1)
    enough = binom.cdf(np.ceil(wrong_share * n), n, 1 - promise) <= _RISK
    return int(n[enough.argmax()]) if enough.any() else None


def decisions(certain: npt.NDArray[np.bool_], familiarity: npt.NDArray[np.float64] | None) -> npt.NDArray[np.str_]:
    """What to do with each picture, (N,): a `Decision`.

    Args:
        certain: whether it is among those that may be sorted, (N,).
        familiarity: p-values (N,); None where the model has none.
    """
    decided = np.where(certain, "sorted", "unsure")
    return decided if familiarity is None else np.where(familiarity < UNFAMILIAR, "unfamiliar", decided)
