import numpy as np
import pytest
from scipy.stats import chisquare
from sklearn.datasets import make_blobs

from drmm.data.base import digest
from drmm.errors import InputError
from drmm.labelling.answering import doubtful
from drmm.labelling.asking import (
    Audit,
    chance,
    estimate,
    familiarity_of,
    geometry,
    in_groups,
    is_reserved,
    most_worth,
    nearest,
    weights_of,
)
from drmm.sorting.audit import possible, wrong_allowed

DIGESTS = [digest(str(i).encode()).hex() for i in range(400)]


def clusters(sizes, *, seed=0, spread=0.3):
    """Points of some clusters, (N, 50) at most, and the cluster of each."""
    x, y = make_blobs(sizes, 20, cluster_std=spread, center_box=(-3, 3), random_state=seed)
    return geometry(x).transform(x.astype(np.float32)), y


# --- by chance ---


def test_who_is_reserved_is_chance_alone_and_uniform():
    draws = np.array([[chance(one, seed) for one in DIGESTS] for seed in range(50)])
    counts = np.histogram(draws, np.linspace(0, 1, 11))[0]
    assert chisquare(counts).pvalue > 0.01
    firsts = np.bincount(draws.argmin(1) // 40, minlength=10)  # the first random question of each seed
    assert chisquare(firsts).pvalue > 0.01
    assert chisquare(np.bincount(np.full(50, 3), minlength=10)).pvalue < 1e-6, "control"
    share = np.mean([is_reserved(one, seed) for one in DIGESTS for seed in range(50)])
    assert share == pytest.approx(0.1, abs=0.01)


def test_the_interval_is_the_exact_one():
    assert estimate(0, 0) == (0, 0, 0.0, 1.0)
    wrong, n, low, high = estimate(3, 30)
    assert (wrong, n) == (3, 30)
    assert (low, high) == pytest.approx((0.0211, 0.2653), abs=1e-4)


# --- by the model ---


def test_the_first_questions_are_of_different_kinds_the_most_frequent_first():
    points, kind = clusters([40, 30, 20, 10])
    asked = most_worth(points, np.ones(100), np.zeros(0, int), np.ones(100, bool), 4, seed=0)
    assert sorted(kind[asked]) == [0, 1, 2, 3]
    assert kind[asked[0]] == 0
    by_chance = np.random.default_rng(0).permutation(100)[:4]
    assert len(set(kind[by_chance])) < 4, "control"


def test_kinds_that_the_model_is_sure_of_without_knowing_them_are_met_soon():
    points, kind = clusters([150, 150, 150, 150, 10, 10], spread=0.6)
    known = np.concatenate([np.flatnonzero(kind == c)[:2] for c in range(4)])
    weight = np.where(kind < 4, 0.3, 0.1)  # it takes them for others, and is surer of that
    asked = most_worth(points, weight, known, ~np.isin(np.arange(620), known), 50, seed=0)
    first = [int(np.flatnonzero(kind[asked] == c)[0]) for c in (4, 5)]
    assert max(first) < 10, "before there are new answers"
    heaviest = np.argsort(-np.bincount(kind, weight))
    assert set(heaviest[-2:]) == {4, 5}, "control: by weight alone they are the last"


def test_any_beginning_of_what_is_asked_for_is_spread_out():
    points, kind = clusters([60] * 8, spread=0.6)
    asked = most_worth(points, np.ones(480), np.zeros(0, int), np.ones(480, bool), 50, seed=0)
    assert len(set(kind[asked[:8]])) == 8, "though there are many clusters of each kind"


def test_a_kind_that_has_a_label_is_not_asked_for_before_others():
    points, kind = clusters([40, 30, 20])
    known = np.flatnonzero(kind == 0)[:1]
    asked = most_worth(points, np.ones(90), known, np.ones(90, bool), 2, seed=0)
    assert sorted(kind[asked]) == [1, 2]


def test_only_what_may_be_asked_is_and_each_once():
    points, _ = clusters([30, 30])
    may = np.arange(60) % 3 == 0
    for n in (1, 5, 20, 60):
        asked = most_worth(points, np.ones(60), np.array([1, 2]), may, n, seed=n)
        assert len(set(asked)) == len(asked) == min(n, 20)
        assert may[asked].all()
    assert most_worth(points, np.ones(60), np.zeros(0, int), np.zeros(60, bool), 3, seed=0) == []


def test_pictures_that_are_all_the_same_can_be_asked_for():
    points = geometry(np.ones((20, 5))).transform(np.ones((20, 5), np.float32))
    asked = most_worth(points, np.ones(20), np.zeros(0, int), np.ones(20, bool), 3, seed=0)
    assert len(set(asked)) == 3


def test_what_the_model_is_unsure_of_and_what_is_rare_weighs_more():
    posterior = np.array([[0.98, 0.01, 0.01], [0.5, 0.45, 0.05], [0.05, 0.45, 0.5]])
    sure, unsure, rare = weights_of(posterior, [5, 5, 0])
    assert sure < unsure < rare
    assert weights_of(posterior, [5, 5, 5])[1] == pytest.approx(weights_of(posterior, [5, 5, 5])[2])


def test_strangers_come_in_groups_of_their_kind():
    points, kind = clusters([60, 15, 8])
    known = np.flatnonzero(kind == 0)[:40]
    near, far = nearest(points, known, 3)
    assert (kind[near[kind == 0]] == 0).all()
    assert not (near == np.arange(83)[:, None]).any(), "itself is no neighbour"
    familiarity = familiarity_of(far, known)
    assert familiarity[kind == 0].mean() > 0.4
    assert familiarity[kind > 0].max() < 0.05
    groups = in_groups(points, familiarity, ~np.isin(np.arange(83), known))
    assert [set(kind[group]) for group in groups[:2]] == [{1}, {2}]
    near, far = nearest(points, known[:1], 3)
    assert (familiarity_of(far, known[:1]) == 1).all(), "of one label nothing is known"
    assert (near[:, 1:] == -1).all()
    assert (nearest(points, known[:0], 3)[0] == -1).all()
    assert in_groups(points, np.ones(83), np.ones(83, bool)) == []


def test_wrong_labels_are_doubted():
    label = np.repeat([0, 1], 10)
    posterior = np.where(label[:, None] == [0, 1], 0.9, 0.1)
    told = label.copy()
    told[3] = 1
    assert doubtful(posterior, told) == [(3, 0)]
    assert doubtful(posterior, label) == []


# --- whether a promise is kept ---


def test_an_audit_ends_when_its_promise_is_proved_or_broken():
    sorted_so = dict.fromkeys(DIGESTS, 0)
    audit = Audit(sorted_so, 0.9)
    assert sorted(audit.remaining(())) == sorted(DIGESTS)
    assert audit.verdict({}).outcome == "open"
    order = audit.remaining(())
    good = audit.verdict(dict.fromkeys(order[:60], 0))
    assert (good.outcome, good.looked, good.wrong) == ("proved", 60, 0)
    assert audit.verdict(dict.fromkeys(order[:10], 0)).outcome == "open", "control: too few"
    bad = audit.verdict({picture: i % 2 for i, picture in enumerate(order[:40])})
    assert bad.outcome == "broken"
    assert audit.verdict({order[5]: 0}).looked == 0, "what was chosen otherwise does not count"
    assert audit.verdict({}, skipped=order[:3]).wrong == 3
    assert audit.remaining(order[:398]) == order[398:]
    with pytest.raises(InputError, match="promise"):
        Audit(sorted_so, 1.5)


def test_whoever_looks_after_every_picture_is_not_misled():
    of, promise = 300, 0.95
    n_wrong = wrong_allowed(of, promise) + 1  # the promise is broken, just so
    generator = np.random.default_rng(0)
    misled = [0, 0]
    for _ in range(60):
        seen = np.cumsum(generator.permutation(np.arange(of) < n_wrong))
        looks = range(20, 200, 6)
        misled[0] += any(possible(int(seen[n - 1]), n, of)[1] < n_wrong for n in looks)
        misled[1] += any(seen[n - 1] / n < 0.02 for n in looks)
    assert misled[0] <= 6  # 5 % at most: with a probability of 98 %
    assert misled[1] > 20, "control: the share that was seen, taken for that of all"


def test_all_seen_is_all_known():
    assert possible(3, 7, 7) == (3, 3)
    assert possible(0, 0, 9) == (0, 9)
    low, high = possible(10, 100, 1000)
    assert low < 100 < high
