"""Features are computed once, whatever happens in between."""

import sqlite3

import numpy as np
import pytest
import torch
from torch import nn

from drmm.data.caches import database
from drmm.learning import features
from drmm.learning.features import features_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("drmm.data.caches.cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(features, "at_once", lambda x: 4)
    return tmp_path / "cache" / "features"


class Counts(list):
    """One list for a net and its copies."""

    def __deepcopy__(self, memo):
        return self


class Net(nn.Module):
    """Counts the pictures that it sees; wears out after so many."""

    def __init__(self, seed=0, most=10**6):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Dropout())
        self.seen, self.most = Counts(), most

    def forward(self, x):
        self.seen.append(len(x))
        if sum(self.seen) > self.most:
            raise KeyboardInterrupt
        return self.layers(x)


def pictures(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, 2, 2), dtype=np.uint8))


def test_they_are_those_of_the_net_in_evaluation_mode_and_computed_once():
    net, x = Net().train(), pictures(10)
    first = features_of(net, x, progress=False)
    torch.testing.assert_close(first, net.eval()(x.float() / 255))
    seen = len(net.seen)
    assert torch.equal(features_of(net, x.flip(0), progress=False).flip(0), first)
    assert net.seen[seen:] == [1], "one picture, for the number of features"


def test_after_a_stop_only_what_is_missing_is_computed():
    x, net = pictures(10), Net(most=9)
    with pytest.raises(KeyboardInterrupt):
        features_of(net, x, progress=False)
    again = Net()
    features_of(again, x, progress=False)
    assert again.seen == [1, 2]


def test_another_net_or_form_has_features_of_its_own(own_cache):
    x = pictures(3)
    one, other = (features_of(Net(seed), x, progress=False) for seed in (0, 1))
    assert not torch.equal(one, other)
    features_of(Net(), x.float() / 255, progress=False)
    assert len(list(own_cache.iterdir())) == 3


@pytest.mark.parametrize("damage", [b"no database", None])
def test_what_is_damaged_is_made_again(own_cache, damage):
    x = pictures(300)
    first = features_of(Net(), x, progress=False)
    [file] = own_cache.iterdir()
    content = file.read_bytes()
    file.write_bytes(damage or content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    assert torch.equal(features_of(Net(), x, progress=False), first)


def test_without_a_place_to_keep_them_they_are_computed(own_cache):
    own_cache.parent.mkdir()
    own_cache.write_text("a file")
    x = pictures(6)
    assert features_of(Net(), x, progress=False).shape == (6, 5)


def test_a_full_disk_is_no_loss(monkeypatch):
    class Full:
        def __init__(self, connection):
            self.connection = connection

        def __getattr__(self, name):
            return getattr(self.connection, name)

        def __enter__(self):
            return self.connection.__enter__()

        def __exit__(self, *error):
            return self.connection.__exit__(*error)

        def executemany(self, *_):
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(features, "database", lambda *given: Full(database(*given)))
    net, x = Net(), pictures(6)
    torch.testing.assert_close(features_of(net, x, progress=False), net.eval()(x.float() / 255))


def test_another_way_through_the_same_weights_has_features_of_its_own(own_cache):
    class Backwards(Net):
        def forward(self, x):
            return super().forward(x.flip(3))

        def __repr__(self):
            return repr(net)

    net, x = Net(), pictures(6)
    own = features_of(net, x, progress=False)
    again = Net()
    assert torch.equal(features_of(again, x, progress=False), own)
    assert again.seen == [1], "control: nothing was computed but the picture by which it is known again"
    others = features_of(Backwards(), x, progress=False)
    assert not torch.allclose(others, own)
    torch.testing.assert_close(others, net.layers.eval()(x.flip(3).float() / 255), rtol=1e-5, atol=1e-6)
