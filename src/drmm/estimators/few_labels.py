"""Few labels inside scikit-learn, for which -1 in y is one more class: scores, splits, and who must not see it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.utils import _safe_indexing, check_consistent_length

from drmm.data.labels import UNLABELLED, known_labels
from drmm.errors import InputError, UnlabelledWarning

__all__ = ["FewLabelsMixin", "SemiSupervisedKFold", "check_nobody_counts_unlabelled"]

Array = npt.NDArray[Any]

_told: set[tuple[str, int]] = set()  # lines of callers; each training makes Python's own record void


class SemiSupervisedKFold(StratifiedKFold):  # type: ignore[misc]
    """Folds for `cv=`, of the images that have a label; the others are in every training part and in no test part.

    The labelled images are split as by `sklearn.model_selection.StratifiedKFold`, so that every scorer is right,
    "accuracy" and "neg_log_loss" too, and the model learns from all the images that it would have.

    Args:
        n_splits: folds, at least 2, and no more than there are labelled images of the most frequent class.
        shuffle: whether to shuffle the labelled images of each class first.
        random_state: seed of the shuffling.
    """

    def __init__(
        self, n_splits: int = 5, *, shuffle: bool = False, random_state: int | np.random.RandomState | None = None
    ) -> None:
        super().__init__(n_splits, shuffle=shuffle, random_state=random_state)

    def split(self, X: object, y: object, groups: object = None) -> Iterator[tuple[Array, Array]]:
        """Indices of the images to learn from and to test on, for each fold.

        Args:
            X: images; only their number counts.
            y: labels (N,); -1 means unlabelled.
            groups: ignored.

        Raises:
            InputError: if y holds no labels.
        """
        del groups
        known, labels = known_labels(y, len(X))  # type: ignore[arg-type]
        if not known.any():
            raise InputError("no image has a label to test on (y is -1): label some")
        labelled, unlabelled = np.flatnonzero(known), np.flatnonzero(~known)
        for train, test in super().split(labelled, np.unique(labels, return_inverse=True)[1]):
            yield np.sort(np.concatenate([labelled[train], unlabelled])), labelled[test]


class FewLabelsMixin(ClassifierMixin):  # type: ignore[misc]
    """A classifier whose score counts the images that have a label."""

    def score(self, X: object, y: object, sample_weight: object = None) -> float:
        """Accuracy on the images that have a label, from 0 to 1.

        Args:
            X: images.
            y: labels (N,); -1 means unlabelled, and such images are left out.
            sample_weight: how much each image counts, (N,); None is all alike.

        Raises:
            InputError: if y holds no labels.

        Warns:
            UnlabelledWarning: Some images have no label.
        """
        known, labels = known_labels(y, len(X))  # type: ignore[arg-type]
        check_consistent_length(known, sample_weight)
        if not known.any():
            raise InputError("no image has a label to compare with (y is -1): label some")
        if not known.all():
            _say_once("images without a label (y is -1) do not count in score: split by drmm.SemiSupervisedKFold")
        rows = np.flatnonzero(known)
        weight = None if sample_weight is None else _safe_indexing(sample_weight, rows)
        return float(accuracy_score(labels, self.predict(_safe_indexing(X, rows)), sample_weight=weight))


def check_nobody_counts_unlabelled() -> None:
    """Refuse to learn or predict for one of scikit-learn's functions that has taken -1 for a class.

    `CalibratedClassifierCV`, `StackingClassifier`, `VotingClassifier`, `cross_val_predict` and others make classes
    of y before they fit, number them anew, and pass on what -1 has become, or add a class to what comes out. A
    scorer by name compares what is predicted with -1. Only they know: they are found among the callers.

    Raises:
        InputError: if one is between the caller and here.
    """
    for frame in _callers():
        if _package(frame) == "sklearn":
            _check_caller(frame)


def _check_caller(frame: FrameType) -> None:
    if UNLABELLED in np.ravel(frame.f_locals.get("y_true", ())).tolist():
        raise InputError("a scorer takes -1 in y for a class: pass cv=drmm.SemiSupervisedKFold(), or no scoring")
    for owner in frame.f_locals.values():
        classes = getattr(owner, "classes_", None) if isinstance(owner, BaseEstimator) else None
        if isinstance(classes, np.ndarray) and UNLABELLED in classes.tolist():
            raise InputError(
                f"{type(owner).__name__} (in {frame.f_code.co_name}) takes -1 in y for a class: fit the "
                "classifier first, and pass sklearn.frozen.FrozenEstimator(classifier) with labelled images alone"
            )


def _say_once(message: str) -> None:
    """Warn where people called scikit-learn or this package, once for each such line and not for each fold."""
    caller = next(frame for frame in _callers() if _package(frame) not in {"drmm", "sklearn", "joblib"})
    place = caller.f_code.co_filename, caller.f_lineno
    if place not in _told:
        _told.add(place)
        warnings.warn_explicit(message, UnlabelledWarning, *place)


def _callers() -> Iterator[FrameType]:
    """From the innermost to the outermost."""
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]
