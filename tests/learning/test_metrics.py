"""Clusters get the names of classes, and are judged by them."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from drmm.errors import InputError
from drmm.learning.metrics import cluster_accuracy, name_clusters

CLUSTERS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 5])
CLASSES = np.array([7, 7, 3, 3, 3, 7, 7, 7, 3, 4])


def test_a_cluster_is_what_most_of_its_images_are():
    assert name_clusters(CLUSTERS, CLASSES) == {0: 7, 1: 3, 2: 7, 5: 4}


def test_one_to_one_every_class_names_one_cluster():
    assert name_clusters(CLUSTERS, CLASSES, one_to_one=True) == {1: 3, 2: 7, 5: 4}


def test_one_to_one_is_the_best_assignment_not_the_greedy_one():
    clusters = np.array([0] * 10 + [1] * 9)
    classes = np.array([0] * 6 + [1] * 4 + [0] * 8 + [1])
    assert name_clusters(clusters, classes, one_to_one=True) == {0: 1, 1: 0}  # 12 of 19; the other way round 7
    assert name_clusters(clusters, classes) == {0: 0, 1: 0}


def test_images_without_a_label_name_nothing():
    hidden = np.where(np.arange(10) < 5, CLASSES, -1)
    assert name_clusters(CLUSTERS, hidden) == {0: 7, 1: 3}
    with pytest.raises(InputError, match="no image has a label"):
        name_clusters(CLUSTERS, np.full(10, -1))


def test_accuracy_is_the_share_of_images_with_the_right_name():
    names = {0: 7, 1: 3, 2: 7, 5: 4}
    assert cluster_accuracy(CLUSTERS, CLASSES, names) == 80.0
    named = [names[c] for c in CLUSTERS]
    assert cluster_accuracy(CLUSTERS, CLASSES, names) == 100 * accuracy_score(CLASSES, named)


def test_a_cluster_without_a_name_is_wrong():
    assert cluster_accuracy(CLUSTERS, CLASSES, {0: 7, 2: 7}) == 50.0
    assert cluster_accuracy(CLUSTERS, CLASSES, {}) == 0.0


def test_images_without_a_label_do_not_count():
    hidden = np.where(np.arange(10) < 4, CLASSES, -1)
    assert cluster_accuracy(CLUSTERS, hidden, {0: 7, 1: 3}) == 75.0
    assert cluster_accuracy(CLUSTERS, hidden, {0: 7}) == 50.0  # -1 is not a name to agree with


def test_perfect_clusters_in_any_order():
    y = np.arange(30) % 3
    permuted = np.array([2, 0, 1])[y]
    for one_to_one in (False, True):
        names = name_clusters(permuted, y, one_to_one=one_to_one)
        assert cluster_accuracy(permuted, y, names) == 100.0
    assert cluster_accuracy(permuted, y, {0: 0, 1: 1, 2: 2}) == 0.0  # the control
