"""Splits: stratified, nested, and the same everywhere for ever."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drmm.data import holdout, mask_labels, stratified_labels
from drmm.errors import InputError

Y = np.repeat([0, 1, 2, -1], [40, 30, 20, 10])
FROZEN_LABELS = [7, 10, 11, 15, 18, 23]
FROZEN_HOLDOUT = [4, 14, 23, 24, 25, 27]


@given(st.integers(1, 20), st.integers(0, 2**32))
def test_draw_is_stratified_sorted_and_nested(per_class, seed):
    drawn = stratified_labels(Y, per_class, seed=seed)
    assert drawn.dtype == np.int64
    assert np.all(np.diff(drawn) > 0)
    assert list(np.bincount(Y[drawn])) == [per_class] * 3
    assert set(drawn) <= set(stratified_labels(Y, 20, seed=seed))


def test_draws_never_change():
    assert list(stratified_labels(np.arange(30) % 3, 2, seed=0)) == FROZEN_LABELS
    assert list(holdout(np.arange(30) % 3, 6, seed=0)) == FROZEN_HOLDOUT
    assert list(stratified_labels(np.arange(30) % 3, 2, seed=1)) != FROZEN_LABELS


@given(st.lists(st.integers(-1, 3), min_size=12).map(lambda y: [*y, 0, 1]), st.data())
def test_holdout_is_proportional(y, data):
    y = np.array(y)
    counts = np.array([(y == label).sum() for label in np.unique(y[y >= 0])])
    size = data.draw(st.integers(1, max(1, counts.sum() - len(counts))))
    if size > counts.sum() - len(counts):
        return
    drawn = holdout(y, size, seed=3)
    assert len(set(drawn)) == size
    assert np.all(np.diff(drawn) > 0)
    taken = np.array([(y[drawn] == label).sum() for label in np.unique(y[y >= 0])])
    assert taken.sum() == size  # none unlabelled
    assert np.all(taken < counts)
    # Keeping one of each class displaces at most one image of each other class.
    assert np.all(np.abs(taken - counts * size / counts.sum()) < 1 + len(counts))


def test_holdout_takes_fractions():
    assert list(np.bincount(Y[holdout(Y, 0.1, seed=0)])) == [4, 3, 2]
    assert list(np.bincount(Y[holdout(Y, 10, seed=0)])) == [5, 3, 2]


def test_mask_hides_all_other_labels():
    y = np.array([3, 1, 4, 1])
    assert list(mask_labels(y, np.array([0, 2]))) == [3, -1, 4, -1]
    assert list(mask_labels(y, np.array([], np.int64))) == [-1] * 4
    assert list(y) == [3, 1, 4, 1]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: stratified_labels(Y, 0, seed=0), "per_class must be at least 1"),
        (lambda: stratified_labels(Y, 21, seed=0), "class 2 has 20 images, fewer than per_class=21"),
        (lambda: stratified_labels(Y, 1, seed=-1), "seed must be at least 0"),
        (lambda: stratified_labels([-1, -1], 1, seed=0), "no labels to draw from"),
        (lambda: holdout(Y, 0, seed=0), "of 0 images is impossible: choose 1 to 87 of the 90"),
        (lambda: holdout(Y, 88, seed=0), "of 88 images is impossible"),
        (lambda: holdout([0, 1], 1, seed=0), "label more than the 2 labelled images, so that each of 2 cl"),
        (lambda: holdout(Y, 1.0, seed=0), "of 90 images is impossible"),
    ],
)
def test_impossible_draws(draw, message):
    with pytest.raises(InputError, match=message):
        draw()
