"""What a run says of its classes: shares that the labels do not have, classes of few labels, recall by class."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from drmm.data.base import Dataset
from drmm.learning.class_prior import Shares
from drmm.runs.classes import kept_shares, told
from drmm.runs.experiment import Experiment
from drmm.runs.fit import _test_errors
from drmm.runs.parts import Parts, parts_of, warn_of_leaks

NAMES = ("cat", "dog")


def parts(of_cats, of_dogs, unlabelled=20):
    labels = torch.tensor([0] * of_cats + [1] * of_dogs + [-1] * unlabelled)
    return Parts(torch.zeros(len(labels), 1, 4, 4), labels, np.arange(of_cats + of_dogs), None)


RARE_DOGS = Shares(
    em=np.array([0.9, 0.1]),
    low=np.array([0.8, 0.05]),
    high=np.array([0.95, 0.2]),
    bbse=np.array([0.88, 0.12]),
    refuted=np.array([True, True]),
)


def test_labels_that_are_refuted_are_told_of():
    (line,) = told(RARE_DOGS, parts(25, 25), NAMES, "labels")
    assert "dog: 10% (5% to 20%; labels 50%)" in line
    assert "--prior estimate" in line
    (line,) = told(RARE_DOGS, parts(25, 25), NAMES, "auto")
    assert line.endswith("use --prior labels if these were drawn at random")
    (line,) = told(RARE_DOGS, parts(4, 40), NAMES, "auto")
    assert line.endswith("label 5 of each class, or use --prior estimate"), "so few refute nothing"
    assert not list(told(RARE_DOGS, parts(9, 1), NAMES, "labels")), "control: labels that agree"
    assert not list(told(RARE_DOGS, parts(5, 5), NAMES, "labels")), "as many by chance"
    assert not list(told(None, parts(25, 25), NAMES, "labels")), "nothing is known"
    unknown = replace(RARE_DOGS, refuted=np.array([False, False]))
    assert not list(told(unknown, parts(25, 25), NAMES, "labels")), "a classifier that finds no dog anywhere"
    assert not list(told(RARE_DOGS, parts(25, 25, unlabelled=9), NAMES, "labels")), "so few refute nothing"
    (line,) = told(RARE_DOGS, parts(9, 1), NAMES, "estimate")
    assert line.startswith("estimated shares")


@pytest.mark.parametrize(("rare", "alarms"), [(0.1, range(6)), (0.02, range(95, 101))])
def test_labels_that_were_drawn_at_random_are_seldom_refuted(rare, alarms):
    generator, names = np.random.default_rng(0), tuple("abcdefghij")
    of_labels = np.full(10, 0.1)
    truth = np.array([1 - 9 * rare] + [rare] * 9)
    shares = Shares(truth, 0.8 * truth, np.minimum(1.2 * truth, 1), truth, np.full(10, True))
    heard = 0
    for _ in range(100):
        drawn = torch.from_numpy(np.repeat(np.arange(10), generator.multinomial(60, of_labels)))
        labels = torch.cat([drawn, torch.full((100,), -1)])
        known = Parts(torch.zeros(len(labels), 1, 4, 4), labels, np.arange(60), None)
        heard += len(list(told(shares, known, names, "labels")))
    assert heard in alarms


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


# --- copies ---------------------------------------------------------------------------------------------------


def pictures(n, seed=0):
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (n, 1, 6, 6)).astype(np.uint8)
    return np.kron(coarse, np.ones((1, 1, 4, 4), np.uint8))


def of_files(x, y, x_test, y_test):
    return Dataset("made", x, y, x_test, y_test, NAMES, tuple(f"{row}.png" for row in range(len(x))))


@pytest.mark.filterwarnings("ignore:every image is labelled")
def test_copies_of_held_out_pictures_are_not_learned_from():
    x, y = pictures(40), np.arange(40) % 2
    x[20:] = x[:20]  # each twice, in one class
    data = of_files(x, y, x[:0], y[:0])
    experiment = Experiment().changed("data", validation=6)
    with pytest.warns(UserWarning, match=r"\d pictures are nearly the same as held-out ones"):
        split = parts_of(experiment, data)
    learned = {image.tobytes() for image in split.images.numpy()}
    assert not learned & {image.tobytes() for image in split.validation[0].numpy()}
    assert set(split.known) <= set(range(40))
    sound = of_files(pictures(40), y, x[:0], y[:0])
    assert len(parts_of(experiment, sound).images) == 34, "control: nothing is left out"


def test_pictures_of_both_parts_are_counted():
    x, y = pictures(20), np.arange(20) % 2
    with pytest.warns(UserWarning, match="2 of 3 pictures to test with are nearly the same as some to learn from"):
        warn_of_leaks(of_files(x, y, np.concatenate([x[:2], pictures(1, seed=1)]), y[:3]))
    warn_of_leaks(of_files(x, y, pictures(3, seed=1), y[:3]))  # control: a warning would be an error
    warn_of_leaks(Dataset("made", x, y, x, y, NAMES))  # arrays are as their makers split them
