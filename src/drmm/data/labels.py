"""The boundary through which all labels pass: −1 means unlabelled, everything else is a class."""

__all__ = ["NO_CLASSES", "UNLABELLED", "check_labels", "known_labels", "warn_if_all_labelled"]

import warnings
from collections.abc import Sequence
from numbers import Number
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from drmm.errors import InputError

UNLABELLED = -1

NO_CLASSES = {"", "-1", "-1.0", "nan", "<na>", "none", "unlabelled", "unlabeled"}
"""Strings by which others say that there is no label, and what -1 and NaN become among strings."""

Array = npt.NDArray[Any]


def check_labels(
    y: object, n_images: int, *, classes: Sequence[Any] | Array | None = None
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Check labels and encode them.

    Args:
        y: Labels (n_images,). The integer −1 means unlabelled. Names of classes may be strings; with
            unlabelled images among them that takes an array of dtype object.
        n_images: How many images there are.
        classes: The classes expected, in the order to encode them; by default those that occur, sorted.

    Returns:
        Classes (K,), and for each image the index of its class in them, or −1: int64 (n_images,).

    Raises:
        InputError: Labels missing, too few classes, or no classification labels at all.
    """
    known, labels = known_labels(y, n_images)
    if not known.any():
        raise InputError("all images are unlabelled (y is -1): label at least one image of each class")
    distinct, codes = np.unique(labels, return_inverse=True)
    if classes is not None:
        distinct, codes = _recoded(np.asarray(classes), distinct, codes)
    if len(distinct) < 2:
        raise InputError(f"y has only one class, {distinct[0]} (-1 means unlabelled): label a second class")
    encoded = np.full(n_images, UNLABELLED, np.int64)
    encoded[known] = codes
    return distinct, encoded


def warn_if_all_labelled(labels: npt.NDArray[Any]) -> None:
    """Warn where no image is left without a label, of codes (N,) that have -1 for none."""
    if (labels != UNLABELLED).all():
        warnings.warn("every image is labelled: unlabelled ones help", UserWarning, stacklevel=3)


def known_labels(y: object, n_images: int) -> tuple[npt.NDArray[np.bool_], Array]:
    """Which images have a label, (n_images,), and the labels that they have, in order.

    Raises:
        InputError: Labels missing, or no classification labels.
    """
    labels = _vector(y)
    if len(labels) != n_images:
        raise InputError(f"{n_images} images but {len(labels)} labels: inconsistent numbers of samples")
    _reject_missing(labels)
    known = ~_unlabelled(labels)
    return known, _one_kind(labels[known])


def _vector(y: object) -> Array:
    if np.ma.is_masked(y):
        raise InputError("y has masked labels: use -1 for unlabelled, as in y.filled(-1)")
    try:
        labels = np.asarray(y)
        return np.asarray(column_or_1d(labels.astype(object) if labels.dtype.kind == "T" else labels, warn=True))
    except (TypeError, ValueError) as error:
        raise InputError(f"y must hold one label per image: {str(error).splitlines()[0]}") from None


def _reject_missing(labels: Array) -> None:
    if labels.dtype.kind == "O":
        missing = np.array([_is_missing(label) for label in labels], dtype=bool)
    elif labels.dtype.kind in "fc":
        missing = np.isnan(labels)
    else:
        return
    if missing.any():
        index = int(np.argmax(missing))
        raise InputError(f"Input y contains NaN (label {index} is {labels[index]}): use -1 for unlabelled")


def _is_missing(label: object) -> bool:
    is_nan = isinstance(label, float | np.floating) and bool(np.isnan(label))
    return label is None or is_nan or type(label).__name__ in {"NAType", "NaTType"}  # pandas's NA and NaT


def _unlabelled(labels: Array) -> npt.NDArray[np.bool_]:
    if labels.dtype.kind not in "UO":
        return np.asarray(labels == UNLABELLED)
    strings = [label for label in labels if isinstance(label, str)]
    odd = [label for label in strings if label.strip().lower() in NO_CLASSES]
    if odd:
        raise InputError(
            f"labels are strings and contain {str(odd[0])!r}: to mark unlabelled images, use an object array with "
            "the integer -1, as in np.array(['cat', -1], dtype=object); a class needs another name"
        )
    return np.array([not isinstance(label, str) and label == UNLABELLED for label in labels], dtype=bool)


def _one_kind(known: Array) -> Array:
    """Labels that are all strings or all whole numbers; an object array of numbers becomes numeric."""
    if known.dtype.kind == "U":
        return known
    if known.dtype.kind in "mM":
        raise InputError(f"Unknown label type: {known.dtype}: use whole numbers or strings")
    if known.dtype.kind == "O":
        strings = sum(isinstance(label, str) for label in known)
        if strings == len(known):
            return known
        if strings:
            raise InputError("y mixes strings and numbers: make all classes the one or the other")
        strange = [label for label in known if not isinstance(label, Number | np.bool_)]
        if strange:
            raise InputError(f"Unknown label type: {type(strange[0]).__name__}: use whole numbers or strings")
    try:
        known = np.array(known.tolist()) if known.dtype.kind == "O" else known
        if known.dtype.kind == "f" and np.isinf(known).any():
            raise InputError("Input y contains infinity: use -1 for unlabelled")
        # Each distinct value twice: scikit-learn warns of many classes for few labels, our usual case.
        check_classification_targets(np.repeat(np.unique(known), 2))
    except (TypeError, ValueError) as error:
        raise InputError(str(error).splitlines()[0]) from None
    return known


def _recoded(classes: Array, distinct: Array, codes: npt.NDArray[np.intp]) -> tuple[Array, npt.NDArray[np.int64]]:
    index_of = {label: index for index, label in enumerate(classes.tolist())}
    if len(index_of) != len(classes):
        raise InputError(f"classes names a class twice: {', '.join(map(str, classes))}")
    strangers = [label for label in distinct.tolist() if label not in index_of]
    if strangers:
        raise InputError(f"label {strangers[0]!r} is not among the classes {', '.join(map(str, classes))}")
    absent = [label for label in index_of if label not in set(distinct.tolist())]
    if absent:
        raise InputError(f"class {absent[0]!r} has no label: label at least one image of it")
    return classes, np.array([index_of[label] for label in distinct.tolist()], np.int64)[codes]
