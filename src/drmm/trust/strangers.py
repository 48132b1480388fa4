"""Whether the pictures without a label are like those with one: what is of another kind has no class to go to.

To a net that has not learned its label, a labelled picture is one like the others. If labels were drawn at random,
the nets of a cross-fit are therefore as sure of held-out pictures as of the unlabelled ones. Where too few
held-out pictures are among the least sure, others must fill these ranks: pictures of no labelled class, as a rule.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from drmm.learning.class_prior import bbse_prior

__all__ = ["strangers_share"]

Figures = npt.NDArray[np.float64]

_RISK = 0.01  # that strangers are seen where there are none
_LEAST_SURE = np.array([[0.1], [0.2], [0.4]])  # shares of the pool that are looked at
_NOTHING = 1e-9


def strangers_share(
    rank: Figures, probability: Figures, label: npt.NDArray[np.int64], pool: Figures, size: int
) -> float:
    """The share of the pool that is not like the held-out pictures, at the least, at 99 % confidence.

    With t of the pool below a rank, and q of the held-out pictures, it is (t - q) / (1 - q), by the exact upper
    bound of q (Clopper and Pearson, 1934), for all of some ranks together (Bonferroni). Classes may have other
    shares in the pool: held-out pictures are weighted, and their effective number counts.

    Args:
        rank: of held-out pictures: the share of the pool of which the net is less sure, (n,).
        probability: of each class, (n, C), calibrated.
        label: their classes, (n,).
        pool: mean probability of each class in the pool, (C,).
        size: pictures in the pool.

    Returns:
        0 where nothing is seen.
    """
    classes, code = np.unique(label, return_inverse=True)
    shares = bbse_prior(probability[:, classes], code, pool[None, classes])
    weight = (shares / np.bincount(code))[code]
    n = 1 / (np.square(weight).sum() + 1 / size)  # the pool is a sample as well
    q = n * (weight * (rank < _LEAST_SURE)).sum(1)
    t = _LEAST_SURE[:, 0]
    most = np.minimum(t, beta.ppf(1 - _RISK / len(t), q + 1, (n - q).clip(min=_NOTHING)))
    return float(((t - most) / (1 - most)).max())
