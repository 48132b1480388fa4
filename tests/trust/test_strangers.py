"""Pictures that are not like the labelled ones are seen, and only where there are any."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from drmm import DRMMClassifier
from drmm.data import load, mask_labels, stratified_labels
from drmm.data.splits import label_folds
from drmm.trust.assessment import Assessment
from drmm.trust.strangers import strangers_share

DATA = load("digits")
PIXELS = DATA.x_train.reshape(len(DATA.x_train), -1)


def shares(unlabelled: int, often: np.ndarray, draws: int, per_class: int = 15) -> Iterator[float]:
    """Of digits, of which so many classes have no label; labels are balanced, pictures are not."""
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        kept = rng.random(len(PIXELS)) < (often / often.max())[DATA.y_train]
        of_known = np.where(DATA.y_train < unlabelled, -1, DATA.y_train)
        labelled = stratified_labels(of_known, per_class, seed=draw)
        labels = mask_labels(of_known, labelled)
        folds = [np.searchsorted(labelled, fold) for fold in label_folds(labels, 5, seed=draw)]
        yield strangers_share(PIXELS[labelled], labels[labelled], PIXELS[kept & (labels < 0)], folds)


@pytest.mark.parametrize("often", [np.ones(10), 1.3 ** -np.arange(10), 1.3 ** np.arange(10)])
def test_no_false_alarm_however_frequent_the_classes_are(often: np.ndarray) -> None:
    assert sum(share > 0 for share in shares(0, often, 20)) <= 1


def test_strangers_are_seen_and_never_more_than_there_are() -> None:
    for unlabelled in (3, 5):
        found = np.array(list(shares(unlabelled, np.ones(10), 20)))
        assert (found > 0).mean() > 0.8
        assert found.max() < unlabelled / 10 + 0.03


def test_few_labels_and_few_pictures_say_nothing() -> None:
    rng = np.random.default_rng(0)
    for n, size in ((2, 1), (2, 1000), (10, 5)):
        folds = [np.arange(0, n, 2), np.arange(1, n, 2)]
        pictures, pool = np.eye(8)[np.zeros(n, int)], rng.normal(size=(size, 8))
        assert strangers_share(pictures, np.arange(n) % 2, pool, folds) == 0


@pytest.mark.parametrize("levels", [np.zeros((40, 6)), np.full((40, 6), 9.0)])
def test_pictures_without_a_direction_or_all_alike_do_no_harm(levels: np.ndarray) -> None:
    folds = [np.arange(20), np.arange(20, 40)]
    assert strangers_share(levels, np.arange(40) % 2, levels, folds) == 0
    assert strangers_share(levels, np.zeros(40, int), levels, folds[:1]) == 0


def test_a_class_that_is_never_held_out_does_no_harm() -> None:
    """All of the pool is taken for it."""
    pictures = np.eye(3)[[0] * 10 + [1] * 10 + [2]]
    folds = [np.arange(0, 20, 2), np.arange(1, 20, 2)]
    share = strangers_share(pictures, np.repeat([0, 1, 2], [10, 10, 1]), np.eye(3)[[2] * 50], folds)
    assert 0 <= share <= 1


QUICK = {"epochs": 1, "model": {"width": 4}, "training": {"min_steps": 10}, "random_state": 0, "calibrate": True}


def fitted(known: int) -> Assessment:
    """By 15 labels of each of the first classes."""
    of_known = np.where(DATA.y_train < known, DATA.y_train, -1)
    labels = mask_labels(of_known, stratified_labels(of_known, 15, seed=0))
    net = DRMMClassifier(**QUICK).fit(DATA.x_train, labels)
    assert net.assessment_ is not None
    return net.assessment_


def test_classes_without_labels_are_told_of() -> None:
    with pytest.warns(UserWarning, match="not like the labelled ones"):
        known = fitted(5)
    assert 0 < known.strangers < 0.5
    assert not any(known.surest(promise).promised for promise in (0.3, 0.9, 0.98))
    assert known.summary()["strangers_at_least"] == round(known.strangers, 4)
    again = Assessment.of_tensors({name: torch.clone(tensor) for name, tensor in known.tensors().items()})
    assert again.strangers == known.strangers


@pytest.mark.filterwarnings("ignore:nets that learn from pictures without a label")
def test_control_where_all_classes_have_labels_nothing_is_said() -> None:
    known = fitted(10)
    assert known.strangers == 0
    assert known.surest(0.3).promised
