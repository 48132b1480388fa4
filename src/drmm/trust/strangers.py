"""Whether the pictures without a label are like those with one: what is of another kind has no class to go to.

A net does not say: taught to be sure of all pictures, it is as sure of strangers. Their pixels may. If labels were
drawn at random, a labelled picture is as near to the other labelled ones as an unlabelled one is. Where too few
labelled pictures are among the farthest, others must fill these ranks: pictures of no labelled class, as a rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import beta
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.preprocessing import normalize

from drmm.learning.class_prior import bbse_prior

__all__ = ["strangers_share"]

Figures = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_RISK = 0.01  # that strangers are seen where there are none
_FARTHEST = np.array([[0.1], [0.2], [0.4]])  # shares of the pool that are looked at
_NOTHING = 1e-9


def strangers_share(
    pictures: npt.ArrayLike, label: Indices, pool: npt.ArrayLike, folds: Sequence[Indices]
) -> float:
    """The share of the pool that is not like labelled pictures, at the least, at 99 % confidence.

    The direction of a picture of a fold, or of the pool, is compared with that of the nearest picture outside the
    fold. With t of the pool farther than some distance, and q of the folds' pictures, it is (t - q) / (1 - q), by
    the exact upper bound of q (Clopper and Pearson, 1934), for all of some t together (Bonferroni). Classes may
    have other shares in the pool: the nearest neighbours' labels tell them, the folds' pictures are weighted, and
    their effective number counts.

    Args:
        pictures: labelled, (n, D).
        label: their classes, (n,).
        pool: pictures without a label, (M, D).
        folds: indices of some of the labelled pictures, each fold at a time.

    Returns:
        0 where nothing is seen.
    """
    known, others = (normalize(np.asarray(some, np.float32)) for some in (pictures, pool))
    held_out = np.concatenate(folds)
    rank, guess, guess_pool = [], [], []
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(known)), fold)
        (like, far), (like_pool, far_pool) = (
            pairwise_distances_argmin_min(some, known[rest]) for some in (known[fold], others)
        )
        rank.append(np.searchsorted(np.sort(-far_pool), -far) / len(others))
        guess.append(label[rest][like])
        guess_pool.append(label[rest][like_pool])
    weight = _weights(label[held_out], np.concatenate(guess), np.concatenate(guess_pool))
    n = 1 / (np.square(weight).sum() + 1 / len(others))  # the pool is a sample as well
    q = n * (weight * (np.concatenate(rank) < _FARTHEST)).sum(1)
    t = _FARTHEST[:, 0]
    most = np.minimum(t, beta.ppf(1 - _RISK / len(t), q + 1, (n - q).clip(min=_NOTHING)))
    return float(((t - most) / (1 - most)).max())


def _weights(label: Indices, guess: Indices, guess_pool: Indices) -> Figures:
    """Of pictures (n,), so that their classes are as frequent as in the pool; the sum is 1."""
    classes, code = np.unique(label, return_inverse=True)
    held_out, pool = (_NOTHING + (some[:, None] == classes) for some in (guess, guess_pool))
    shares = bbse_prior(held_out, code, pool)
    return np.asarray((shares / np.bincount(code))[code])
