"""What is wrong with pictures and labels before anything is learned: copies, wrong labels, strangers, blanks.

Plain arrays in, findings out: which pictures, in the order in which a person should look at them, and why.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from drmm.data.duplicates import blank, groups_of, near_pairs

__all__ = ["Finding", "Found", "Pictures", "doubt", "examine", "look_features", "outlyingness", "suspicion"]

_ODD = 4.0  # times the median side
_FEW = 3  # labels
_TOLD_APART = 0.7  # share of labels that neighbours must confirm, before they are believed to refute others
_FAR = 5.0  # robust deviations of the logarithm of the distance
_COMPONENTS, _REFERENCE, _CHUNK = 30, 5000, 5000
_NEIGHBOURS, _FOLDS = 10, 5
_NEAR = 5  # the neighbour to whom the distance of an outlier counts: copies are not company

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Figures = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pictures:
    """N pictures to examine.

    Attributes:
        looks: levels, uint8 (N, C, 32, 32).
        labels: indices into `classes`, (N,); -1 means unlabelled.
        classes: names.
        is_test: whether they are to test with, (N,).
        digests: of what their files hold, (N,).
        sizes: height and width before they were made small, (N, 2).
        features: what tells pictures apart, (N, D); such as `look_features`, or a model's.
        posterior: probability of each class by nets that did not know the picture's label, (N, C); NaN where there
            is none. Without it, labels are judged by the features.
    """

    looks: npt.NDArray[np.uint8]
    labels: Indices
    classes: Sequence[str]
    is_test: Flags
    digests: Sequence[str]
    sizes: Indices
    features: Figures
    posterior: Figures | None = None


@dataclass(frozen=True)
class Found:
    """A picture of a finding.

    Attributes:
        index: of the picture.
        note: what is to be known of it.
        group: number of the group of copies that it belongs to; None where there are no groups.
    """

    index: int
    note: str = ""
    group: int | None = None


@dataclass(frozen=True)
class Finding:
    """One kind of trouble.

    Attributes:
        kind: one word.
        title: what was looked for.
        remedy: what it does, and what to do about it.
        found: the pictures, the most urgent first; none where all is well.
        unknown: why it could not be looked for; empty where it could.
    """

    kind: str
    title: str
    remedy: str
    found: tuple[Found, ...]
    unknown: str = ""


def examine(pictures: Pictures) -> tuple[Finding, ...]:
    """Everything that is looked for, the most urgent first."""
    grey = pictures.looks.mean(1, dtype=np.float32).round().astype(np.uint8)
    empty = blank(grey)
    exact, alike = _groups(grey, empty, pictures.digests)
    return (
        _shared(pictures, alike),
        _contradictions(pictures, alike),
        _wrong_labels(pictures, alike),
        _copies(pictures, exact),
        _near_copies(pictures, exact, alike),
        _blanks(empty),
        _outliers(pictures, empty),
        _odd_sizes(pictures.sizes),
    )


def look_features(looks: npt.NDArray[np.uint8]) -> Figures:
    """Principal components of pictures (N, C, H, W) at half their size, (N, D): where no model has any better."""
    n, channels, height, width = looks.shape
    parts = [
        part.reshape(len(part), channels, height // 2, 2, width // 2, 2)
        .mean((3, 5), dtype=np.float32)
        .reshape(len(part), -1)
        for part in np.split(looks, range(_CHUNK, n, _CHUNK))
    ]
    some = np.random.default_rng(0).permutation(n)[:_REFERENCE]
    reference = np.concatenate(parts)[some] if len(parts) > 1 else parts[0][some]
    components = PCA(min(_COMPONENTS, *reference.shape), svd_solver="full")
    with np.errstate(invalid="ignore"):  # pictures that are all the same
        components.fit(reference)
    return np.concatenate([components.transform(part) for part in parts])


def suspicion(features: Figures, labels: Indices, groups: Indices) -> tuple[Figures, Indices, float]:
    """`doubt` by those pictures that look alike.

    The posterior of each picture is that of its nearest neighbours in the other folds of a cross-validation, and
    copies are in one fold: they would speak for each other.

    Args:
        features: (M, D).
        labels: of the pictures, (M,), each class twice or more.
        groups: of copies, (M,).
    """
    codes = np.unique(labels, return_inverse=True)[1]
    folds = min(_FOLDS, int(np.bincount(codes).min()), len(np.unique(groups)))
    if folds < 2:  # all are copies of one picture
        return np.zeros(len(codes)), labels, 0.0
    neighbours = KNeighborsClassifier(min(_NEIGHBOURS, len(codes) // (2 * folds)), weights="distance")
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    with warnings.catch_warnings(action="ignore"):  # of a fold without some class, which then has probability 0
        posterior = cross_val_predict(neighbours, features, codes, groups=groups, cv=split, method="predict_proba")
    return doubt(posterior, labels)


def doubt(posterior: Figures, labels: Indices) -> tuple[Figures, Indices, float]:
    """How little labels are believed, by what is said of pictures by those who do not know them.

    Args:
        posterior: probability of each class that occurs, in the order of their indices, (M, C).
        labels: of the pictures, (M,).

    Returns:
        Suspicion (M,): probability of the best other class less that of the label, and less 1 where the other
            class is not as probable as among its own pictures: positive where the label is refuted (confident
            learning; Northcutt et al., 2021). And that class, (M,); and how many labels are as the posterior says,
            as a share.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    rows = np.arange(len(codes))
    own = posterior[rows, codes]
    usual = np.array([own[codes == c].mean() for c in range(len(classes))])
    others = posterior.copy()
    others[rows, codes] = -1
    other = others.argmax(1)
    lead, refuted = others[rows, other] - own, others[rows, other] >= usual[other]
    return np.where(refuted, lead, lead - 1), classes[other], float((lead < 0).mean())


def outlyingness(features: Figures) -> Figures:
    """How far each picture is from all others, (N,): robust deviations of the logarithm of a neighbour's distance.

    Neighbours are sought among 5,000 pictures at most, drawn at random.
    """
    n = len(features)
    reference = features[np.sort(np.random.default_rng(0).permutation(n)[:_REFERENCE])]
    neighbours = NearestNeighbors(n_neighbors=min(_NEAR + 1, len(reference))).fit(reference)
    distance = np.log(neighbours.kneighbors(features)[0][:, -1].clip(np.finfo(float).tiny))
    middle = np.median(distance)
    spread = 1.4826 * np.median(np.abs(distance - middle))
    return np.asarray((distance - middle) / max(float(spread), 0.1))


def _groups(grey: npt.NDArray[np.uint8], empty: Flags, digests: Sequence[str]) -> tuple[Indices, Indices]:
    """The group of each picture: of exact copies, and of all that is nearly the same."""
    _, first, exact = np.unique(digests, return_index=True, return_inverse=True)
    compared = first[~empty[first]]  # one of each content
    same = np.stack([first[exact], np.arange(len(exact))], 1)
    return exact, groups_of(len(exact), same, compared[near_pairs(grey[compared])])


def _shared(pictures: Pictures, alike: Indices) -> Finding:
    both = np.intersect1d(alike[pictures.is_test], alike[~pictures.is_test])
    found = _members(pictures, alike, both)
    remedy = "the test error is better than it should be: keep each picture in one part"
    return Finding("leak", "the same picture in train/ and in test/", remedy, found)


def _contradictions(pictures: Pictures, alike: Indices) -> Finding:
    known = pictures.labels >= 0
    pairs = np.unique(np.stack([alike[known], pictures.labels[known]], 1), axis=0)
    groups, counts = np.unique(pairs[:, 0], return_counts=True)
    found = _members(pictures, alike, groups[counts > 1])
    return Finding("contradiction", "the same picture with two labels", "one of them is wrong: correct it", found)


def _wrong_labels(pictures: Pictures, alike: Indices) -> Finding:
    told = pictures.posterior
    known = (pictures.labels >= 0) & (True if told is None else ~np.isnan(told).any(1))
    others = f"nets that did not know it found another ({known.sum():,} labels were put to them)"
    others = "pictures that look alike have another label" if told is None else others
    remedy = f"look at them, the most suspicious first; {others}"
    finding = partial(Finding, "label", "labels that may be wrong", remedy)
    counts = np.bincount(pictures.labels[known], minlength=len(pictures.classes))
    enough = np.flatnonzero(counts >= _FEW)
    if len(enough) < 2:
        return finding((), f"it takes two classes of {_FEW} labels")
    judged = np.flatnonzero(known & np.isin(pictures.labels, enough))
    labels = pictures.labels[judged]
    if told is None:
        suspect, other, agreement = suspicion(pictures.features[judged], labels, alike[judged])
    else:
        suspect, other, agreement = doubt(told[judged][:, enough], labels)
    if agreement < _TOLD_APART:
        why = f"look-alikes share a label {agreement:.0%} of the time; a model may tell them apart"
        return finding((), why if told is None else f"the model confirms {agreement:.0%} of the labels, too few")
    found = []
    for row in np.argsort(-suspect, kind="stable")[: np.count_nonzero(suspect > 0)].tolist():
        given, better = (pictures.classes[c] for c in (labels[row], other[row]))
        found.append(Found(int(judged[row]), f"labelled {given}, looks like {better}"))
    return finding(tuple(found))


def _copies(pictures: Pictures, exact: Indices) -> Finding:
    remedy = "a picture that is there twice counts twice: keep one"
    return Finding("copy", "exact copies", remedy, _members(pictures, exact, _repeated(exact)))


def _near_copies(pictures: Pictures, exact: Indices, alike: Indices) -> Finding:
    """Groups that hold more than the copies of one file."""
    contents = np.unique(np.stack([alike, exact], 1), axis=0)[:, 0]
    remedy = "the same picture in another size, format or light: keep the best"
    return Finding("near copy", "nearly the same", remedy, _members(pictures, alike, _repeated(contents)))


def _blanks(empty: Flags) -> Finding:
    found = tuple(Found(row) for row in np.flatnonzero(empty).tolist())
    return Finding("blank", "blank pictures", "there is nothing to learn from: remove them", found)


def _outliers(pictures: Pictures, empty: Flags) -> Finding:
    there = np.flatnonzero(~empty)
    far = outlyingness(pictures.features[there]) if len(there) > _NEAR else np.zeros(len(there))
    order = np.argsort(-far, kind="stable")[: np.count_nonzero(far > _FAR)]
    found = tuple(Found(int(there[row]), f"{far[row]:.1f} deviations from the others") for row in order.tolist())
    return Finding("outlier", "unlike all others", "do they belong here? if not, remove them", found)


def _odd_sizes(sizes: Indices) -> Finding:
    """A side much longer or shorter than usual, which resizing distorts or blurs."""
    ratio = np.exp(np.abs(np.log(sizes / np.median(sizes, axis=0)))).max(1)
    order = np.argsort(-ratio, kind="stable")[: np.count_nonzero(ratio > _ODD)]
    found = tuple(Found(row, f"{sizes[row, 0]} x {sizes[row, 1]} pixels") for row in order.tolist())
    height, width = np.median(sizes, axis=0)
    usual = f"{_ODD:.0f} times the usual {height:.0f} x {width:.0f}, or under 1/{_ODD:.0f} of it"
    remedy = f"a side is over {usual}: crop or remove them"
    return Finding("size", "odd sizes", remedy, found)


def _repeated(values: Indices) -> Indices:
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[counts > 1]


def _members(pictures: Pictures, groups: Indices, wanted: Indices) -> tuple[Found, ...]:
    """The pictures of some groups, group by group, the largest first, with where each lies."""
    rows = np.flatnonzero(np.isin(groups, wanted))
    counts = Counter(groups[rows].tolist())
    number = {group: i for i, (group, _) in enumerate(counts.most_common(), 1)}
    ordered = sorted(rows.tolist(), key=lambda row: number[int(groups[row])])
    return tuple(Found(row, _place(pictures, row), number[int(groups[row])]) for row in ordered)


def _place(pictures: Pictures, row: int) -> str:
    label = pictures.labels[row]
    named = "no label" if label < 0 else str(pictures.classes[label])
    return f"{named}, to test with" if pictures.is_test[row] else named
