"""After lifting and checking, the net is as it was: attributes, containers, buffers, modes, random numbers."""

import copy
import pickle
import random
from collections import Counter, OrderedDict, defaultdict, deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from drmm import lift
from drmm.errors import LiftError
from drmm.lifting.untouched import untouched


class Memory:
    """An object of the user's own."""

    def __init__(self):
        self.held, self.calls = [], 0


HISTORY = []


class Keeper(nn.Module):
    """Keeps features wherever a net can, and counts its calls in every way."""

    shared: list = []  # noqa: RUF012
    total = 0

    def __init__(self):
        super().__init__()
        self.conv, self.top = nn.Conv2d(1, 4, 3), nn.Linear(144, 3)
        self.last, self.calls, self.history = None, 0, []
        self.nested = {"a": [{"b": deque(maxlen=2)}], "set": {"z"}}
        self.space, self.ordered = SimpleNamespace(calls=0, seen=[]), OrderedDict(z=1, a=2)
        self.counter, self.lists = Counter(), defaultdict(list)
        self.register_buffer("count", torch.zeros(()))
        self.plain, self.memory = torch.zeros(2), Memory()

    def forward(self, x):
        y = self.conv(x).relu()
        self.last = self.new = self.conv.feature = y
        self.calls += 1
        self.history.append(y)
        self.nested["a"][0]["b"].append(y)
        self.nested["set"].add("q")
        self.space.calls += 1
        self.space.seen.append(y)
        self.ordered["m"] = self.ordered.pop("z", None)
        self.counter["calls"] += 1
        self.lists["seen"].append(y)
        self.count += 1
        self.plain.add_(1)
        self.memory.held.append(y)
        self.memory.calls += 1
        self.register_buffer("late", torch.ones(1))
        self.shared.append(y)
        HISTORY.append(y)
        type(self).total += 1
        type(self).newest = y
        return self.top(y.flatten(1))


def told(value):
    """All that a thing holds, as lists of numbers and names."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return [(key, told(each)) for key, each in value.items()]
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, list | tuple | deque):
        return [told(each) for each in value]
    if isinstance(value, nn.Module | SimpleNamespace | Memory):
        return [told(vars(value)), vars(type(value)).get("total"), hasattr(value, "newest")]
    return str(value)


@pytest.fixture
def net():
    Keeper.shared.clear()
    HISTORY.clear()
    Keeper.total = 0
    if hasattr(Keeper, "newest"):
        del Keeper.newest
    return nn.Sequential(Keeper()).train()


def test_a_net_keeps_nothing_of_being_lifted(net):
    before, x = told(net), torch.rand(2, 1, 8, 8)
    model = lift(net)
    assert told(net) == before
    model.eval().infer(x)
    assert told(net) == before
    assert Keeper.shared == HISTORY == []
    assert torch.equal(model(x), copy.deepcopy(net)(x))
    pickle.dumps(net)
    net(x)
    assert told(net) != before  # the control


def test_nor_of_an_error(net):
    net.append(nn.GELU())
    before = told(net)
    with pytest.raises(LiftError, match="GELU"):
        lift(net)
    assert told(net) == before
    net[1] = nn.Identity()
    net[0].register_forward_hook(lambda _, __, y: 2 * y)
    before = told(net)
    with pytest.raises(LiftError, match="hook on layer '0'"):
        lift(net)
    assert told(net) == before


def test_what_is_made_on_the_first_call_is_made_again(net):
    class Grid(nn.Module):
        def __init__(self):
            super().__init__()
            self.grid, self.top = None, nn.Linear(64, 3)

        def forward(self, x):
            if self.grid is None:
                self.grid = torch.linspace(0, 1, 8)
            return self.top((x + self.grid).relu().flatten(1))

    net = Grid()
    model, x = lift(net), torch.rand(2, 1, 8, 8)
    assert net.grid is None
    assert torch.equal(model(x), net(x))


def numbers():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


def test_modes_statistics_and_random_numbers():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3)
    ).train()
    net[1].eval()
    modes, state = [module.training for module in net.modules()], copy.deepcopy(net.state_dict())
    before = numbers()
    model = lift(net)
    model.infer(torch.rand(2, 1, 8, 8, generator=torch.Generator()), generator=torch.Generator().manual_seed(1))
    assert [module.training for module in net.modules()] == modes
    assert all(
        torch.equal(one, other) for one, other in zip(state.values(), net.state_dict().values(), strict=True)
    )
    assert numbers() == before


def test_it_knows_whether_anything_was_drawn():
    before = numbers()
    for draw in (torch.rand, np.random.rand, random.getrandbits):
        with untouched(nn.Module(), training=False) as drawn:
            draw(1)
        assert drawn()
        assert numbers() == before
    with untouched(nn.Module(), training=False) as drawn:
        pass
    assert not drawn()


def test_own_train_is_not_called():
    class Frozen(nn.Sequential):
        def train(self, mode=True):
            raise AssertionError(mode)

    net = Frozen(nn.Flatten(), nn.Linear(4, 2))
    with untouched(net, training=False):
        assert not net[1].training
    assert net[1].training
    assert lift(net).training
