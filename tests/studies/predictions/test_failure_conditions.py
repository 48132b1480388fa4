"""Hard conditions are told from easy ones, and signs that foretell errors from those that do not."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from drmm.errors import InputError
from drmm.studies.predictions.failure_conditions import difficulty, foretells, signs, wrong


def test_what_a_net_misses():
    net = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.eye(3))
    x = torch.eye(3)[[0, 1, 2, 2]]
    assert wrong(net, x, torch.tensor([0, 1, 2, 0])).tolist() == [0, 0, 0, 1]
    with pytest.raises(InputError, match="a label for each image"):
        wrong(net, x, torch.tensor([0, 1]))


def test_harder_easier_and_the_same():
    rng = np.random.default_rng(0)
    ordinary = (rng.random(400) < 0.3).astype(float)
    harder = np.maximum(ordinary, rng.random(400) < 0.2)
    found = difficulty(harder, ordinary)
    assert found.outcome == "confirmed"
    assert found.more.low <= harder.mean() - ordinary.mean() <= found.more.high
    assert difficulty(ordinary, harder).outcome == "refuted"
    assert difficulty(rng.permutation(ordinary), ordinary).outcome == "inconclusive"
    with pytest.raises(InputError, match="pair by pair"):
        difficulty(harder[:3], ordinary)


def test_pairs_decide_what_means_alone_would_not():
    rng = np.random.default_rng(1)
    ordinary = (rng.random(300) < 0.5).astype(float)
    harder = np.maximum(ordinary, rng.random(300) < 0.1)
    assert difficulty(harder, ordinary).outcome == "confirmed"
    assert difficulty(rng.permutation(harder), ordinary).outcome == "inconclusive", "control: pairs torn apart"


def test_the_area_is_scikit_learns_and_its_interval_covers():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        missed = (rng.random(150) < 0.3).astype(float)
        values = rng.standard_normal(150) - missed  # P(N(-1) < N(0)) = Φ(1/√2)
        found = foretells(values, missed)
        assert found.mean == pytest.approx(roc_auc_score(missed, -values))
        covered.append(found.low <= 0.7602 <= found.high)
    assert 0.9 <= np.mean(covered) <= 0.99


def test_ties_count_half():
    assert foretells(np.zeros(6), np.array([1, 1, 0, 0, 0, 0.0])).mean == 0.5
    assert foretells(np.array([0, 0, 1, 1.0]), np.array([1, 1, 0, 0.0])).mean == 1


def test_groups_take_out_what_only_tells_groups_apart():
    rng = np.random.default_rng(0)
    hard = np.arange(600) < 300
    missed = (rng.random(600) < np.where(hard, 0.6, 0.1)).astype(float)
    values = rng.standard_normal(600) - 3 * hard  # says which group, and nothing else
    inside = foretells(values, missed, {"hard": hard, "easy": ~hard})
    assert inside.low < 0.5 < inside.high
    assert foretells(values, missed).low > 0.6, "control: without groups it seems to foretell errors"
    lonely = np.zeros(600, bool)
    assert foretells(values, missed, {"hard": hard, "easy": ~hard, "none": lonely}).mean == inside.mean
    with pytest.raises(InputError, match="nothing to foretell"):
        foretells(values, np.zeros(600))


@pytest.fixture
def halves():
    """Two classes that each look at one half of the picture."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        left = torch.tensor([1.0, 1, 0, 0]).repeat(4)
        net[3].weight.copy_(torch.stack([left, 1 - left]))
    return net.eval()


def test_signs_by_hand(halves):
    x = torch.zeros(2, 1, 4, 4)
    x[0, 0, :, 0] = 1.0  # four bright pixels for the first class
    x[1, 0, 0, :3] = 1.0  # two for the first, one for the second
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2, 0] = True
    masks[1, 0, :3] = True
    found = signs(halves, x, masks)
    assert found["margin"].tolist() == [4.0, 1.0]
    assert found["object's pixels"].tolist() == [2.0, 3.0]
    assert found["evidence of the object"].tolist() == [2.0, 1.0]
    assert found["paths on the object"].tolist() == [0.5, 1.0]
    np.testing.assert_allclose(10 ** found["active paths"], [4, 2])
    np.testing.assert_allclose(found["certificate"], 0, atol=1e-6)  # no weight is negative: a proof
    with pytest.raises(InputError, match="masks must be bool"):
        signs(halves, x, masks.float())


def test_signed_weights_leave_no_certificate(halves):
    with torch.no_grad():
        halves[3].weight.mul_(-1)
        halves[0].weight.mul_(-1)
    found = signs(halves, torch.rand(3, 1, 4, 4) - 0.5, torch.ones(3, 4, 4, dtype=torch.bool))
    assert (found["certificate"] < -1e-3).all()


def test_signs_without_a_path(halves):
    found = signs(halves, torch.zeros(1, 1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool))
    assert all(np.isfinite(values).all() for values in found.values())
    assert found["active paths"].tolist() == [0.0]
