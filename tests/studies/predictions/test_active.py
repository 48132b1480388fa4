"""T5 on users' nets: what is shut off does not matter, and a net where it does is found out."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import drmm
from drmm.errors import InputError
from drmm.studies.predictions.active import active_paths_matter


class Branches(nn.Module):
    """Skip connection, concatenation, one in-place gate for everything."""

    def __init__(self):
        super().__init__()
        self.stem, self.side = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.gate, self.head = nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Linear(12, 5)

    def forward(self, x):
        x = F.max_pool2d(self.gate(self.stem(x)), 3, stride=2, padding=1)
        x = torch.cat([self.gate(x + self.norm(self.side(x))), x], 1)
        return self.head(self.gate(x).mean((2, 3)))


def chain(gate, *, pool_first=False):
    steps = [gate(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), *(reversed(steps) if pool_first else steps)),
        *(nn.Conv2d(6, 8, 3), gate(), nn.Flatten(), nn.Linear(72, 5)),
    )


NETS = {
    "chain": lambda: chain(nn.ReLU),
    "pools first": lambda: chain(nn.ReLU, pool_first=True),
    "clips": lambda: chain(nn.ReLU6),
    "branches": Branches,
    "fused levels": lambda: drmm.presets.conv_small(5, (2, 12, 12), width=4),
}


@pytest.mark.parametrize("name", NETS)
def test_confirmed(name, float64):
    net, x = NETS[name](), torch.randn(6, 2, 12, 12)
    before = copy.deepcopy(net.state_dict())
    found = active_paths_matter(net, x)
    assert found.without_inactive.max() <= 1e-12
    assert found.verdict("pytest").verdict == "confirmed"
    assert found.without_active.shape == (6, 3)
    assert found.inactive.min() > 0
    assert len(np.unique(found.inactive + found.active)) == 1
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_counts(float64):
    net = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(4, 2))
    found = active_paths_matter(net, torch.tensor([[[[1.0, -1.0], [-2.0, -3.0]]], [[[1.0, 2.0], [3.0, -1.0]]]]))
    np.testing.assert_array_equal(found.inactive, [3, 1])
    np.testing.assert_array_equal(found.active, [1, 3])


def test_refuted(float64):
    # A pool over signed features that no gate follows: where all are negative, a 0 in place of a loser wins.
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(150, 5))
    found = active_paths_matter(net, torch.randn(6, 2, 12, 12))
    assert found.without_inactive.max() > 1e-3
    assert found.verdict("").verdict == "refuted"


def test_what_is_cut_changes_as_said(float64):
    """Cut by hand: a net of one gate."""
    net, x = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(8, 3)), torch.randn(5, 2, 2, 2)
    found = active_paths_matter(net, x, shares=(1.0,))
    few = found.active <= found.inactive
    assert few.any()
    alone = (net[2].bias - net(x)).abs().amax(1) / net(x).abs().amax(1)  # all that were active are gone
    np.testing.assert_allclose(found.without_active[few, 0], alone.detach().numpy()[few])


def test_what_cannot_be_measured():
    x = torch.rand(3, 1, 4, 4)
    with pytest.raises(InputError, match="no inactive paths"):
        active_paths_matter(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), x)
    for shares in ((), (0.0, 1.0), (1.0, 0.5), (2.0,)):
        with pytest.raises(InputError, match="ascend"):
            active_paths_matter(chain(nn.ReLU), x, shares=shares)
