"""What a run says of its classes: shares that the labels do not have, classes of few labels, recall by class."""

import numpy as np
import pytest
import torch

from drmm.data.base import Dataset
from drmm.learning.class_prior import Shares
from drmm.runs.classes import kept_shares, told
from drmm.runs.experiment import Experiment
from drmm.runs.fit import _test_errors
from drmm.runs.parts import Parts, parts_of

NAMES = ("cat", "dog")


def parts(of_cats, of_dogs):
    labels = torch.tensor([0] * of_cats + [1] * of_dogs + [-1] * 20)
    return Parts(torch.zeros(len(labels), 1, 4, 4), labels, np.arange(of_cats + of_dogs), None)


RARE_DOGS = Shares(np.array([0.9, 0.1]), np.array([0.8, 0.05]), np.array([0.95, 0.2]), np.array([0.88, 0.12]))


def test_labels_that_are_refuted_are_told_of():
    (line,) = told(RARE_DOGS, parts(5, 5), NAMES, "labels")
    assert "dog 10% (5% to 20%; labels 50%)" in line
    assert "--prior estimate" in line
    assert not list(told(RARE_DOGS, parts(9, 1), NAMES, "labels")), "control: labels that agree"
    assert not list(told(None, parts(5, 5), NAMES, "labels")), "nothing is known"
    (line,) = told(RARE_DOGS, parts(9, 1), NAMES, "estimate")
    assert line.startswith("estimated shares")


def test_the_figures_are_kept_by_class():
    assert kept_shares(None, NAMES) is None
    assert kept_shares(RARE_DOGS, NAMES)["dog"] == {"estimate": 0.1, "low": 0.05, "high": 0.2, "bbse": 0.12}


def dataset(counts):
    y = np.repeat([0, 1, -1], [*counts, 4])
    x = np.zeros((len(y), 1, 4, 4), np.uint8)
    return Dataset("made", x, y, x[:0], y[:0], NAMES)


def test_a_class_of_few_labels_is_named_with_what_happens():
    with pytest.warns(UserWarning, match="fewer than 3 labels: dog has 2; .* label 3 or more"):
        parts_of(Experiment(), dataset((5, 2)))
    parts_of(Experiment(), dataset((5, 3)))  # control: a warning would be an error


class FirstPixel(torch.nn.Module):
    """A net that sees class 1 where the first pixel is white."""

    def forward(self, x):
        return torch.stack([1 - x[:, 0, 0, 0], x[:, 0, 0, 0]], 1)


def test_the_error_of_each_class_counts_alike_in_the_balanced_one():
    x = np.zeros((10, 1, 2, 2), np.uint8)
    y = np.array([0] * 8 + [1] * 2)
    x[8] = 255  # one of the two is found
    data = Dataset("made", x, y, x, y, (*NAMES, "cow"))
    errors = _test_errors(FirstPixel(), data)
    assert errors["test_error"] == 10
    assert errors["recall"] == {"cat": 100, "dog": 50, "cow": None}
    assert errors["balanced_error"] == 25
