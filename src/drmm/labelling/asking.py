"""Which pictures a person is asked for: functions of features, of the model's posterior, and of the labels so far.

A few labels go furthest where each stands for many pictures (Hacohen et al., "Active learning on a budget", 2022):
all are clustered, into as many clusters as there will be labels, and typical pictures of large clusters are asked
for, each far from those before it and from all labels, so that rare kinds are met and whoever is faster than the
model meets all of them. Once there is a model, pictures weigh by how unsure it is (Zhdanov, "Diverse mini-batch
active learning", 2019), and by how few labels their likely class has.

Every tenth question is drawn at random, from a tenth of all pictures that chance alone has chosen: the model
neither asks for these nor learns them while labels are given, so that its mistakes there tell its error.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn.cluster import AgglomerativeClustering, MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, normalize

from drmm.sorting.audit import drawn, possible, wrong_allowed
from drmm.trust.promise import check_promise

__all__ = [
    "EVERY",
    "Audit",
    "Estimate",
    "chance",
    "estimate",
    "familiarity_of",
    "geometry",
    "in_groups",
    "is_reserved",
    "most_worth",
    "nearest",
    "weights_of",
]

EVERY = 10
"""One question of so many is drawn at random."""

_COMPONENTS = 50
_CLUSTERS = 500  # at most
_STRANGE = 0.05  # p-value of familiarity below which a picture is shown among the strangers
_STRANGERS = 500  # at most
_APART = 1.0  # between directions, 60 degrees: such pictures make two groups

Figures = npt.NDArray[np.float64]
Points = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


# --- by chance -------------------------------------------------------------------------------------------


def chance(digest: str, seed: int = 0) -> float:
    """A number from 0 to 1 that a picture draws, whichever others there are; the order of random questions."""
    drawn_by = blake2b(f"{seed} {digest}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn_by, "big") / 2**64


def is_reserved(digest: str, seed: int = 0) -> bool:
    """Whether a picture is asked for by chance alone, and not learned from when it has been."""
    return chance(digest, seed) < 1 / EVERY


class Estimate(NamedTuple):
    """The error on random pictures.

    Attributes:
        wrong: of them.
        n: how many there are.
        low: end of the exact 95 % interval of the share that is wrong (Clopper and Pearson, 1934).
        high: its other end.
    """

    wrong: int
    n: int
    low: float
    high: float


def estimate(wrong: int, n: int) -> Estimate:
    """What so many mistakes on random pictures say; of none, they say nothing."""
    low, high = binomtest(wrong, n).proportion_ci() if n else (0.0, 1.0)
    return Estimate(wrong, n, float(low), float(high))


# --- by the model ----------------------------------------------------------------------------------------


def geometry(features: npt.ArrayLike) -> Pipeline:
    """Where pictures lie, so that near ones are alike: fitted on some features (N, D), it makes points of any.

    Points are directions among the first 50 principal components of the features' directions, (N, 50) at most.
    """
    x = np.asarray(features, np.float32)
    found = make_pipeline(Normalizer(), PCA(min(_COMPONENTS, *x.shape), svd_solver="full"), Normalizer())
    with np.errstate(invalid="ignore", divide="ignore"):  # one picture, or all the same
        return found.fit(x)


def weights_of(posterior: Figures, counts: npt.ArrayLike) -> Figures:
    """How much a label is worth, (N,): the less sure the model is, and the rarer the labels of the likely classes.

    Args:
        posterior: calibrated probability of each class, (N, C).
        counts: labels of each class, (C,).
    """
    best = np.sort(posterior, 1)
    unsure = 1 - (best[:, -1] - best[:, -2])
    rarity = 1 / (1 + np.asarray(counts, float))
    return np.asarray(unsure * (posterior @ (rarity / rarity.mean())))


def most_worth(
    points: Points, weight: Figures, known: Indices, may_be_asked: Flags, n: int, *, seed: int
) -> list[int]:
    """The pictures to ask for next, the most urgent first: typical ones of heavy clusters far from all labels.

    Args:
        points: as of `geometry`, (N, D).
        weight: how much a label of each picture is worth, (N,).
        known: pictures that have a label.
        may_be_asked: (N,).
        n: how many.
        seed: of the clusters.
    """
    if not may_be_asked.any():
        return []
    k = min(len(known) + n, _CLUSTERS, len(points))
    found = MiniBatchKMeans(k, n_init=3, batch_size=2048, random_state=seed)
    cluster = found.fit_predict(points, sample_weight=weight + 1e-9)
    likeness = (points * normalize(found.cluster_centers_)[cluster]).sum(1)
    worth = np.where(may_be_asked, weight * np.maximum(likeness, 1e-9), -1.0)
    order = np.lexsort((-worth, cluster))  # within each cluster, the most typical first
    first = order[np.unique(cluster[order], return_index=True)[1]]
    first = first[worth[first] >= 0]
    heavy = np.bincount(cluster, weight, k)[cluster[first]]
    chosen = first[_spread(points[first], heavy, points[known], n)].tolist()
    worth[chosen] = -1
    others = np.argsort(-worth, kind="stable")[: min(n - len(chosen), int((worth >= 0).sum()))]
    return [*chosen, *others.tolist()]


def _spread(points: Points, weight: Figures, known: Points, n: int) -> list[int]:
    """Heavy points far from each other and from the known ones, in an order of which any beginning is spread out.

    The next one has the most weight times squared distance, as k-means++ draws (Arthur and Vassilvitskii, 2007).
    """
    far = (2 - 2 * points @ known.T).min(1, initial=4).clip(0)  # between opposite directions it is 4
    chosen: list[int] = []
    for _ in range(min(n, len(points))):
        worth = weight * far
        worth[chosen] = -1
        chosen.append(int(worth.argmax()))
        far = np.minimum(far, (2 - 2 * points @ points[chosen[-1]]).clip(0))
    return chosen


def nearest(points: Points, known: Indices, n: int) -> tuple[Indices, Figures]:
    """The labelled pictures that are nearest to each, itself left out.

    Returns:
        Which, the nearest first, (N, n), -1 where there are no more; and how far the nearest is, (N,).
    """
    which, far = np.full((len(points), n), -1), np.full((len(points), n), np.inf)
    if k := min(n + 1, len(known)):
        neighbours = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points[known])
        distance, place = neighbours.kneighbors(points)
        found = known[place]
        distance[found == np.arange(len(points))[:, None]] = np.inf
        order = np.argsort(distance, 1, kind="stable")[:, :n]
        far[:, : order.shape[1]] = np.take_along_axis(distance, order, 1)
        which[:, : order.shape[1]] = np.take_along_axis(found, order, 1)
    return np.where(np.isinf(far), -1, which), far[:, 0]


def familiarity_of(far: Figures, known: Indices) -> Figures:
    """Share of the labelled pictures that are at least as far from all other labelled ones, (N,): a p-value.

    Args:
        far: how far each picture is from the nearest labelled one, (N,).
        known: pictures that have a label; of one alone nothing is known.
    """
    if len(known) < 2:
        return np.ones(len(far))
    p = (1 + len(known) - np.searchsorted(np.sort(far[known]), far)) / (1 + len(known))
    p[known] = 1
    return np.asarray(p)


def in_groups(points: Points, familiarity: Figures, may_be_asked: Flags) -> list[list[int]]:
    """Unfamiliar pictures, those that are alike together: the largest group first, the strangest first in each."""
    strange = np.flatnonzero(may_be_asked & (familiarity <= max(_STRANGE, familiarity.min())) & (familiarity < 1))
    strange = strange[np.argsort(familiarity[strange], kind="stable")][:_STRANGERS]
    if len(strange) < 2:
        return [[int(i)] for i in strange]
    far = AgglomerativeClustering(n_clusters=None, distance_threshold=_APART, linkage="average")
    group = far.fit_predict(points[strange])
    groups = [strange[group == g].tolist() for g in np.unique(group)]
    return sorted(groups, key=len, reverse=True)


# --- whether a promise is kept ---------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What the pictures that were looked at say of all that were sorted.

    Attributes:
        looked: at so many.
        wrong: of them.
        of: that they were drawn from.
        low: least number of wrong ones among all, at 95 % confidence, however often one looks.
        high: the largest.
        outcome: whether at most as many are wrong as the promise allows.
    """

    looked: int
    wrong: int
    of: int
    low: int
    high: int
    outcome: Literal["proved", "broken", "open"]


@dataclass(frozen=True)
class Audit:
    """Pictures as a model sorts them, to be looked at in random order until its promise is proved or broken.

    Attributes:
        sorted: number of the class that each picture was sorted into, by digest.
        promise: share that is right.
        seed: of the order.
    """

    sorted: Mapping[str, int]
    promise: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_promise(self.promise)

    def remaining(self, told: Collection[str]) -> list[str]:
        """Pictures to look at, in order.

        Args:
            told: those that a person has said something of.
        """
        return [picture for picture in self._order if picture not in told]

    def verdict(self, labels: Mapping[str, int], skipped: Collection[str] = ()) -> Verdict:
        """What is known by now; of the random order as far as it was followed.

        Args:
            labels: the person's, by digest.
            skipped: pictures of which the person could not tell: they count as wrong.
        """
        looked = wrong = 0
        for picture in self._order:
            if picture not in labels and picture not in skipped:
                break
            looked += 1
            wrong += labels.get(picture, -1) != self.sorted[picture]
        of = len(self.sorted)
        low, high = possible(wrong, looked, of)
        allowed = wrong_allowed(of, self.promise)
        outcome: Literal["proved", "broken", "open"] = "open"
        if low > allowed:
            outcome = "broken"
        elif high <= allowed:
            outcome = "proved"
        return Verdict(looked, wrong, of, low, high, outcome)

    @property
    def _order(self) -> Sequence[str]:
        return drawn(list(self.sorted), len(self.sorted), self.seed)
