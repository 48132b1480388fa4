import numpy as np
import pytest
from sklearn.datasets import make_blobs

from drmm.labelling.asking import geometry
from scripts import asking
from scripts.asking import AT_ONCE, OURS, RANDOM, RULES, Pool, curve, needed, table


@pytest.fixture(scope="module")
def pool():
    x, y = make_blobs([60, 30, 30, 40], 10, center_box=(-4, 4), random_state=0)
    return Pool(geometry(x).transform(x.astype(np.float32)), y, 120)


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_asks_for_pictures_without_a_label_once_each(pool, rule):
    known = np.random.default_rng(1).permutation(pool.n)[:12]
    asked = RULES[rule](pool, known, AT_ONCE, 0)
    assert len(set(asked)) == AT_ONCE
    assert not set(asked) & set(known)
    assert max(asked) < pool.n


def test_one_of_ten_is_random(pool):
    reserved = [asking.chance(str(i), 3) < 0.1 for i in range(pool.n)]
    asked = asking.ours(pool, np.zeros(0, np.int64), AT_ONCE, 3)
    assert sum(reserved[i] for i in asked) == 1


def test_labels_needed_lie_between_the_numbers_that_were_tried():
    labels = [10, 20, 30]
    assert needed(labels, np.array([30.0, 20.0, 10.0]), 15) == 25
    assert needed(labels, np.array([30.0, 20.0, 10.0]), 40) == 10
    assert needed(labels, np.array([30.0, 20.0, 10.0]), 5) is None


def test_a_table_says_what_was_found(pool, monkeypatch):
    monkeypatch.setattr(asking, "MOST", 20)
    curves = {rule: [curve(pool, rule, seed)["errors"] for seed in (0, 1)] for rule in (OURS, RANDOM)}
    assert all(len(errors) == 2 for one in curves.values() for errors in one)
    shown = table({"labels": [50, 100], "sets": {"blobs": curves}})
    assert shown.count("| blobs |") == 2
    assert asking.figure({"labels": [50, 100], "sets": {"blobs": curves}}).axes
