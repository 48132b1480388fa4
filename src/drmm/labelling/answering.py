"""What the labels so far say of all pictures: logistic regression on where they lie. Of the learner's process."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from drmm.data.splits import label_folds
from drmm.errors import InputError
from drmm.labelling.asking import familiarity_of, in_groups, is_reserved, most_worth, nearest, weights_of
from drmm.labelling.features import Seen
from drmm.labelling.learner import Answers
from drmm.labelling.store import State
from drmm.trust.calibration import Calibration, fit_calibration
from drmm.trust.health import doubt

__all__ = ["Learned", "answer_of", "answers_of", "doubtful", "learned"]

_QUEUE = 50  # pictures that are proposed at once
_NEAREST = 3
_FOLDS = 5
_STRENGTH = 50.0  # of logistic regression on directions; scikit-learn's C

Figures = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class Learned(NamedTuple):
    """What logistic regression says, calibrated by what it says of pictures whose label it has not learned.

    Attributes:
        probability: of each class, (M, C).
        held_out: places of labelled pictures whose label was held out once, (m,).
        held_out_probability: of each class, (m, C).
    """

    probability: Figures
    held_out: Indices
    held_out_probability: Figures


def learned(points: npt.ArrayLike, y: Indices, *, groups: Indices | None = None, seed: int = 0) -> Learned:
    """Logistic regression.

    Args:
        points: directions (M, D), as of `drmm.labelling.asking.geometry`.
        y: class indices (M,), -1 where there is no label; each class has one.
        groups: as of `drmm.data.splits.label_folds`.
        seed: of the folds.
    """
    x = np.asarray(points, np.float32)
    folds = label_folds(y, _FOLDS, seed=seed, groups=groups)
    held_out = np.concatenate([np.zeros(0, np.int64), *folds])
    logits = [np.zeros((0, int(y.max()) + 1))]
    for fold in folds:
        known = np.setdiff1d(np.flatnonzero(y >= 0), fold)
        logits.append(_regressed(x[known], y[known], int(y.max()) + 1, x[fold]))
    calibration = fit_calibration(np.concatenate(logits), y[held_out]) if len(held_out) else Calibration()
    known = np.flatnonzero(y >= 0)
    own = calibration.log_probability(_regressed(x[known], y[known], int(y.max()) + 1, x))
    return Learned(np.exp(own), held_out, np.exp(calibration.log_probability(np.concatenate(logits))))


def _regressed(x: npt.NDArray[np.float32], y: Indices, n: int, others: npt.NDArray[np.float32]) -> Figures:
    """Log-probability of each of n classes of other pictures, (M, n): next to none of those without a label."""
    logits = np.full((len(others), n), np.log(1e-6))
    classes = np.unique(y)
    if len(classes) == 1:
        logits[:, classes] = 0.0
        return logits
    with warnings.catch_warnings(action="ignore"):  # after so many steps it is good enough
        found = LogisticRegression(C=_STRENGTH, max_iter=100).fit(x, y)
    logits[:, classes] = found.predict_log_proba(others)
    return logits


def answer_of(content: bytes, seen: Seen, state: State) -> dict[int, float]:
    """The calibrated probability of each class, by its number, of a picture that is not in the folder.

    Another thread may look at more of the folder meanwhile.

    Args:
        content: of its file.
        seen: the folder.
        state: the labels.

    Raises:
        RunError: if it cannot be read.
        InputError: if there are no two classes with a label, or nothing can be told of it.
    """
    number = seen.number  # first: there are points of all of these
    classes, y = _taught([seen.digests[i] for i in number.tolist()], state)
    if len(classes) < 2:
        raise InputError("nothing is learned yet: label pictures of two classes first")
    known = np.flatnonzero(y >= 0)
    points = np.concatenate([seen.points[known], seen.point_of(content)])
    return dict(
        zip(classes.tolist(), learned(points, np.append(y[known], -1)).probability[-1].tolist(), strict=True)
    )


def _taught(digests: Sequence[str], state: State) -> tuple[Indices, Indices]:
    """Numbers of the classes that are learned, (C,), and the index of each picture's among them, (M,), or -1."""
    label = np.array(
        [state.labels.get(digest, -1) if digest not in state.drawn else -1 for digest in digests], int
    )
    classes = np.unique(label[label >= 0])
    return classes, np.where(label >= 0, np.searchsorted(classes, label), -1)


def answers_of(seen: Seen, state: State) -> Answers:
    """What the labels so far say of all pictures."""
    here = [seen.digests[i] for i in seen.number.tolist()]
    classes, y = _taught(here, state)
    groups = seen.groups[seen.number]
    told = np.isin(groups, groups[[digest in state.labels or digest in state.skipped for digest in here]])
    first = np.zeros(len(groups), bool)
    first[np.unique(groups, return_index=True)[1]] = True
    may = first & ~told & ~np.array([is_reserved(digest) for digest in here], bool)
    known = np.flatnonzero(y >= 0)
    weight, why, doubts = np.ones(len(here)), "spread", list[tuple[int, int]]()
    probability = np.zeros((len(here), 0))
    if len(classes) > 1:
        found = learned(seen.points, y, groups=groups)
        probability, why = found.probability, "unsure"
        weight = weights_of(probability, np.bincount(y[known]))
        doubts = _doubts(found, y, seen.number, classes)
    near, far = nearest(seen.points, known, _NEAREST)
    familiarity = familiarity_of(far, known)
    queue = most_worth(seen.points, weight, known, may, _QUEUE, seed=state.version)
    return Answers(
        state.version,
        len(here),
        tuple(classes.tolist()) if len(classes) > 1 else (),
        _spread_out(probability, seen, np.nan),
        _spread_out(familiarity, seen, 1),
        _spread_out(np.where(near < 0, -1, seen.number[near]), seen, -1).astype(np.int32),
        seen.groups,
        tuple((int(seen.number[i]), why) for i in queue),
        tuple(tuple(seen.number[group].tolist()) for group in in_groups(seen.points, familiarity, may)),
        tuple(doubts),
    )


def _doubts(found: Learned, y: Indices, number: Indices, classes: Indices) -> list[tuple[int, int]]:
    """Labels that are probably wrong, by picture and the class that it looks like."""
    there, code = np.unique(y[found.held_out], return_inverse=True)
    if len(there) < 2:
        return []
    posterior = found.held_out_probability[:, there]
    return [
        (int(number[found.held_out[i]]), int(classes[there[c]]))
        for i, c in doubtful(posterior / posterior.sum(1, keepdims=True), code)
    ]


def doubtful(held_out: Figures, label: Indices) -> list[tuple[int, int]]:
    """Labels that are probably wrong, the most suspicious first: which, and what it looks like.

    Args:
        held_out: probability of each class by models that had not learned the picture's label, (n, C).
        label: class indices, (n,); each class occurs.
    """
    suspect, other, _ = doubt(held_out, label)
    order = np.argsort(-suspect, kind="stable")[: np.count_nonzero(suspect > 0)]
    return [(int(i), int(other[i])) for i in order]


def _spread_out(values: npt.NDArray[np.generic], seen: Seen, nothing: float) -> npt.NDArray[np.float32]:
    """Numbers of pictures that were seen, (M, ...), as those of all, (N, ...)."""
    whole = np.full((len(seen.files), *values.shape[1:]), nothing, np.float32)
    whole[seen.number] = values
    return whole[seen.copies]
