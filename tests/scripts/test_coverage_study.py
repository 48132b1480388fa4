import numpy as np
from sklearn.datasets import make_blobs

from drmm.labelling.asking import geometry
from scripts.coverage import MOST, Drawn, asked, at_random


def drawn(sizes, spread):
    x, y = make_blobs(sizes, 20, cluster_std=spread, center_box=(-3, 3), random_state=0)
    return Drawn(geometry(x).transform(x.astype(np.float32)), y)


def test_labels_are_counted_until_every_class_has_been_seen():
    told = drawn([1, 60], 0.3)
    assert at_random(told, 0) == 1 + max(
        np.flatnonzero(told.y[np.random.default_rng(0).permutation(61)] == 0)[0], 1
    )
    assert asked(drawn([30, 30], 0.3), 0) < 5


def test_rare_classes_that_lie_apart_are_met_sooner_than_by_chance():
    rare = drawn([100, 100, 100, 4, 4], 0.5)
    met = [asked(rare, seed) for seed in range(3)]
    assert max(met) < 30 < MOST
    assert np.mean([at_random(rare, seed) for seed in range(20)]) > 60, "control"
