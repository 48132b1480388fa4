"""Priors over the switches: frequencies, not surprises."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drmm.model.priors import SwitchPrior
from drmm.rendering import Abs, Conv2d, Level, MaxPool2d, Sequential, Switches, Window


@pytest.fixture
def net():
    return Sequential(Level(Conv2d(1, 2, 3), None, MaxPool2d(2)), Conv2d(2, 3, 2), Abs())


def infer(net, n=7):
    return net.infer(torch.randn(n, 1, 8, 8))[1]


def test_it_starts_uniform(net):
    prior = SwitchPrior(infer(net))
    assert (prior.probability(0, "a") == 0.5).all()
    assert (prior.probability(0, "t") == 0.25).all()
    assert (prior.probability(1, "s") == 0.5).all()
    units = 2 * 9 + 3 * 4
    expected = -units * math.log(2) - 18 * math.log(4)
    torch.testing.assert_close(prior.log_prob(infer(net)), torch.full((7,), expected))


def test_the_first_update_is_the_batchs_frequency_and_later_ones_average(net):
    prior = SwitchPrior(infer(net), momentum=0.02)
    batches = [infer(net) for _ in range(3)]
    for switches in batches:
        prior.update(switches)
    # Until 1 / momentum batches, every batch counts the same.
    mean = torch.stack([next(iter(s.leaves())).a.float().mean(0) for s in batches]).mean(0)
    torch.testing.assert_close(prior.probability(0, "a"), mean)
    position = torch.stack(
        [torch.stack([(next(iter(s.leaves())).t == k).float().mean(0) for k in range(4)]) for s in batches]
    )
    torch.testing.assert_close(prior.probability(0, "t"), position.mean(0))
    torch.testing.assert_close(prior.probability(0, "t").sum(0), torch.ones(2, 3, 3))


def test_the_smallest_weight_of_a_batch_is_the_momentum(net):
    prior = SwitchPrior(infer(net), momentum=0.5)
    switches = [infer(net) for _ in range(3)]
    for s in switches:
        prior.update(s)
    a = [next(iter(s.leaves())).a.float().mean(0) for s in switches]
    torch.testing.assert_close(prior.probability(0, "a"), (a[0] + a[1]) / 4 + a[2] / 2)


@given(
    n=st.sampled_from([1, 3, 255, 256, 600]),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)),
    positions=st.sampled_from([(1, 1), (2, 2), (3, 2), (20, 20)]),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_frequencies_equal_their_slow_twin(n, shape, positions, channels_last, seed):
    generator = torch.Generator().manual_seed(seed)
    window = Window(positions, positions, (0, 0), (1, 1))
    dtype = torch.uint8 if window.positions <= 256 else torch.int32
    a = torch.rand(n, *shape, generator=generator) < torch.rand(shape, generator=generator)
    t = torch.randint(min(window.positions, 5), (n, *shape), generator=generator).to(dtype)
    if channels_last:
        a, t = (v.contiguous(memory_format=torch.channels_last) for v in (a, t))
    switches = Switches((1, 8, 8), a=a, t=t, window=window)
    prior = SwitchPrior(switches)
    prior.update(switches)
    torch.testing.assert_close(prior.probability(0, "a"), a.float().mean(0), rtol=0, atol=1e-6)
    for k in range(min(5, window.positions)):
        torch.testing.assert_close(prior.probability(0, "t")[k], (t == k).float().mean(0), rtol=0, atol=1e-6)


def test_sampling_keeps_types_shapes_and_certainties(net):
    like = infer(net, 1)
    prior = SwitchPrior(like)
    prior.probability(0, "a").fill_(1.0)
    prior.probability(0, "t").copy_(torch.eye(4)[2].reshape(4, 1, 1, 1).expand(4, 2, 3, 3))
    prior.probability(1, "s").fill_(0.0)
    drawn = prior.sample(torch.zeros(50), like)
    first, second = drawn.leaves()
    assert first.a.dtype == torch.bool
    assert first.a.shape == (50, 2, 3, 3)
    assert first.t.dtype == torch.uint8
    assert first.a.all()
    assert (first.t == 2).all()
    assert not second.s.any()
    assert net.render(torch.randn(50, 3, 2, 2), drawn).shape == (50, 1, 8, 8)


def test_a_generator_decides(net):
    like = infer(net, 1)
    prior = SwitchPrior(like)
    draws = [prior.sample(torch.zeros(5), like, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    one, same, other = (next(iter(d.leaves())).a for d in draws)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_switch_never_seen_is_improbable_not_impossible(net):
    switches = infer(net)
    prior = SwitchPrior(switches)
    prior.probability(0, "a").fill_(0.0)
    assert prior.log_prob(switches).isfinite().all()
    some = next(iter(switches.leaves())).a.flatten(1).sum(1)
    assert (prior.log_prob(switches)[some > 0] < -13).all()


def test_priors_are_saved(net):
    switches = infer(net)
    prior, other = SwitchPrior(switches), SwitchPrior(switches)
    prior.update(switches)
    other.load_state_dict(prior.state_dict())
    torch.testing.assert_close(other.log_prob(switches), prior.log_prob(switches))


def test_what_is_fixed_is_worked_out_once(net, monkeypatch):
    prior, switches, asked = SwitchPrior(infer(net)), infer(net), []
    prior.update(infer(net))
    expected, floored = prior.log_prob(switches), prior.floored
    monkeypatch.setattr(prior, "floored", lambda *which: asked.append(which) or floored(*which))
    prior.fix()
    for _ in range(2):
        assert torch.equal(prior.log_prob(switches), expected)
    assert asked.count((0, "a")) == asked.count((1, "s")) == 1
    prior.update(infer(net))
    assert not torch.equal(prior.log_prob(switches), expected), "control: nothing is kept beyond a change"


def test_positions_need_a_window():
    with pytest.raises(ValueError, match="without a window"):
        SwitchPrior(Switches((1, 2, 2), t=torch.zeros(1, 1, 1, 1, dtype=torch.uint8)))
