"""The label boundary: −1 is unlabelled, everything else is a class, and nothing is guessed."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.exceptions import DataConversionWarning

from drmm.data.labels import check_labels, known_labels, warn_if_all_labelled
from drmm.errors import InputError


@given(st.lists(st.integers(-1, 5), min_size=3).filter(lambda y: -1 in y and len(set(y) - {-1}) > 1))
def test_decoding_gives_the_labels_back(y):
    for kind in (np.array(y), np.array(y, float), np.array(y, object), y, torch.tensor(y), pd.Series(y)):
        classes, encoded = check_labels(kind, len(y))
        assert encoded.dtype == np.int64
        assert list(classes) == sorted(set(y) - {-1})
        assert [-1 if code < 0 else classes[code] for code in encoded] == y


def test_string_classes_in_an_object_array():
    y = np.array(["dog", -1, "cat", "dog"], dtype=object)
    for labels in (y, pd.Series(y)):
        classes, encoded = check_labels(labels, 4)
        assert list(classes) == ["cat", "dog"]
        assert list(encoded) == [1, -1, 0, 1]


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.array([True, False, -1], object), [False, True]),
        (pd.Series([2.0, 1.0, -1.0]), [1.0, 2.0]),
        (pd.Series(["b", "a", "b"], dtype="category"), ["a", "b"]),
        (np.ma.array([1, 0, -1]), [0, 1]),
        (np.array(["Nanette", "nones", "-12"]), ["-12", "Nanette", "nones"]),  # control: what only begins so
    ],
)
def test_what_is_a_label(y, classes):
    assert list(check_labels(y, 3)[0]) == classes


def test_known_labels_need_no_second_class():
    known, labels = known_labels([3, -1, 3], 3)
    assert (known.tolist(), labels.tolist()) == ([True, False, True], [3, 3])
    assert not known_labels(np.full((2, 1), -1).ravel(), 2)[0].any()
    with pytest.raises(InputError, match="2 images but 3 labels"):
        known_labels([3, -1, 3], 2)


def test_classes_fix_the_order():
    classes, encoded = check_labels([3, 1, -1, 2], 4, classes=[2, 3, 1])
    assert list(classes) == [2, 3, 1]
    assert list(encoded) == [1, 2, -1, 0]


def test_one_label_each_of_many_classes_is_no_regression():
    y = np.full(100, -1)
    y[:30] = range(30)
    assert len(check_labels(y, 100)[0]) == 30


@pytest.mark.parametrize(
    "y", [[0, 1, 1], np.array(["a", "b", "b"]), np.array([False, True, True]), np.uint8([0, 255, 7])]
)
def test_warns_if_nothing_is_unlabelled(y):
    _, encoded = check_labels(y, 3)
    with pytest.warns(UserWarning, match="every image is labelled"):
        warn_if_all_labelled(encoded)
    assert min(encoded) == 0
    warn_if_all_labelled(np.array([0, 1, -1]))  # control: a warning would be an error


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1], "3 images but 2 labels: inconsistent numbers of samples"),
        ([-1, -1, -1], "all images are unlabelled"),
        ([1, -1, 1], r"only one class, 1 \(-1 means unlabelled\)"),
        ([0.0, np.nan, 1.0], r"NaN \(label 1 is nan\): use -1"),
        (np.array(["a", None, "b"], object), r"NaN \(label 1 is None\)"),
        (pd.Series(["a", pd.NA, "b"]), r"NaN \(label 1"),
        (np.array([0, np.float32("nan"), 1], object), r"NaN \(label 1"),
        ([0.0, np.inf, 1.0], "infinity"),
        ([0.5, 0.1, -1.0], "Unknown label type: "),
        (np.array([0.5, 0.1, -1], object), "Unknown label type: "),
        (["cat", -1, "dog"], "labels are strings and contain '-1'.*object array with the integer -1"),
        (np.array(["cat", "-1", "dog"], object), "labels are strings and contain '-1'"),
        (["cat", "", "dog"], "labels are strings and contain ''.*object array with the integer -1"),
        (["cat", " Unlabelled", "dog"], "contain ' Unlabelled'.*a class needs another name"),
        (["cat", np.nan, "dog"], "contain 'nan'"),
        (np.array([0, "UNLABELED", 1], object), "contain 'UNLABELED'"),
        (np.array(["cat", "dog", ""], np.dtypes.StringDType()), "contain ''"),
        (pd.Series(["cat", None, "dog"]).astype(str), "contain 'None'|NaN"),
        (pd.Series([0, pd.NA, 1], dtype="Int64"), r"NaN \(label 1"),
        (pd.Series([True, pd.NA, False], dtype="boolean"), r"NaN \(label 1"),
        (pd.Series(["a", None, "b"], dtype="category"), r"NaN \(label 1"),
        (np.ma.array([0, 1, 1], mask=[0, 0, 1]), r"masked labels: use -1 for unlabelled, as in y.filled\(-1\)"),
        (np.array(["2020", "2021", "NaT"], "M8[Y]"), "Unknown label type: datetime64"),
        (np.array(["cat", 3, -1], object), "y mixes strings and numbers"),
        (np.array([b"cat", b"dog", b"dog"]), "bytes"),
        ([[0, 1], [1, 0], [0, 0]], "y must hold one label per image"),
        (np.array([{}, [], -1], object), "Unknown label type: dict"),
        (0, "y must hold one label per image"),
    ],
)
def test_labels_that_cannot_be_used(y, message):
    with pytest.raises(InputError, match=message) as raised:
        check_labels(y, 3)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([0, 1, 2], "class 2 has no label"),
        ([0, 3], "label 1 is not among the classes 0, 3"),
        ([0, 1, 1], "names a class twice"),
    ],
)
def test_classes_that_do_not_fit(classes, message):
    with pytest.raises(InputError, match=message):
        check_labels([0, 1, -1], 3, classes=classes)


def test_column_vector_is_flattened_as_scikit_learn_does():
    with pytest.warns(DataConversionWarning):
        assert list(check_labels([[0], [1], [-1]], 3)[1]) == [0, 1, -1]
