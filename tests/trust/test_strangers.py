"""Pictures that are not like the labelled ones are seen, and only where there are any."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from drmm import DRMMClassifier
from drmm.data import load, mask_labels, stratified_labels
from drmm.trust.assessment import Assessment
from drmm.trust.strangers import strangers_share

CLASSES, POOL, LABELS = 7, 1000, 70
PULL = np.linspace(-0.5, 0.5, CLASSES)  # some classes are harder than others


def shares(strange: float, pool_of: np.ndarray, draws: int, away: float = 2.0) -> Iterator[float]:
    """By a net whose log-odds are normal, and lower by so many deviations for strangers; labels are balanced."""
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        label = np.repeat(np.arange(CLASSES), LABELS // CLASSES)
        of_pool = rng.choice(CLASSES, POOL, p=pool_of / pool_of.sum())
        lower = away * (rng.random(POOL) < strange)
        pool = rng.normal(2 + 4 * PULL[of_pool] - lower)
        held_out = rng.normal(2 + 4 * PULL[label])
        rank = np.searchsorted(np.sort(pool), held_out) / POOL
        yield strangers_share(rank, probability(held_out, label), label, probability(pool, of_pool).mean(0), POOL)


def probability(odds: np.ndarray, taken_for: np.ndarray) -> np.ndarray:
    best = 1 / (1 + np.exp(-odds))
    rest = np.tile(((1 - best) / (CLASSES - 1))[:, None], CLASSES)
    rest[np.arange(len(odds)), taken_for] = best
    return rest


@pytest.mark.parametrize("often", [np.ones(CLASSES), 3.0 ** -np.arange(CLASSES), 3.0 ** np.arange(CLASSES)])
def test_no_false_alarm_however_frequent_the_classes_are(often: np.ndarray) -> None:
    assert np.mean([share > 0 for share in shares(0, often, 400)]) <= 0.02


def test_strangers_are_seen_and_never_more_than_there_are() -> None:
    for strange in (0.3, 0.5):
        found = np.array(list(shares(strange, np.ones(CLASSES), 100, away=6.0)))
        assert (found > 0).mean() > 0.9
        assert (found > strange).mean() <= 0.02


def test_few_labels_and_few_pictures_say_nothing() -> None:
    for n, size in ((1, 1), (2, 1000), (10, 5)):
        some = np.full((n, 2), 0.5)
        assert strangers_share(np.ones(n), some, np.arange(n) % 2, np.full(2, 0.5), size) == 0


@pytest.mark.parametrize("n", [100, 1000])
def test_a_class_that_is_never_held_out_does_no_harm(n: int) -> None:
    some = np.tile([0.6, 0.3, 0.1], (n, 1))
    assert strangers_share(np.linspace(0, 1, n), some, np.zeros(n, int), some[0], 1000) == 0


DATA = load("digits")
QUICK = {"epochs": 3, "model": {"width": 8}, "training": {"min_steps": 150}, "random_state": 0, "calibrate": True}


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


def test_control_where_all_classes_have_labels_nothing_is_said() -> None:
    known = fitted(10)
    assert known.strangers == 0
    assert known.surest(0.3).promised
