"""Draws: in the right shares, where their generator lives, and undisturbed by other threads."""

from threading import Barrier, Thread

import pytest
import torch
from torch.overrides import TorchFunctionMode

from drmm.model.patch_prior import borrow
from drmm.model.presets import conv_small
from drmm.model.randomness import categorical, normal, seeded, uniform
from drmm.model.shallow import RMM
from drmm.storage.models import Recipe

SHAPE = (1, 12, 12)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_categories_come_in_their_shares(float64, shape):
    odds = torch.rand(*shape, 5)
    odds[..., 1] = odds[..., 4] = 0
    n = 20_000
    drawn = categorical(odds, n, torch.Generator().manual_seed(0))
    assert drawn.shape == (*shape, n)
    share = torch.nn.functional.one_hot(drawn, 5).double().mean(-2)
    expected = odds / odds.sum(-1, keepdim=True)
    assert ((share - expected).abs() <= 5 * (expected * (1 - expected) / n).sqrt()).all()
    assert (share[..., [1, 4]] == 0).all()


def test_rounding_never_draws_what_is_impossible(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(shape, dtype=torch.float64))
    assert categorical(torch.tensor([0.2, 0.8, 0.0]), 3).tolist() == [1, 1, 1]


class Strict(TorchFunctionMode):
    """A machine on which a generator draws on its own device alone, as CUDA's and the CPU's do."""

    def __init__(self):
        super().__init__()
        self.draws = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if generator is not None:
            self.draws += 1
            devices = {value.device for value in args if isinstance(value, torch.Tensor)}
            devices |= {torch.device(kwargs["device"])} if kwargs.get("device") is not None else set()
            if not devices:
                devices = {torch.get_default_device()}
            if devices != {generator.device}:
                raise RuntimeError(f"Expected a {devices} device type for generator but found {generator.device}")
        return function(*args, **kwargs)


def deep():
    model = conv_small(3, SHAPE, width=2).eval().to("meta")
    return model, lambda generator: model.sample(4, generator=generator)


def patchwise():
    model = conv_small(3, SHAPE, width=2).eval()
    prior = borrow(model, torch.rand(6, *SHAPE), torch.tensor([0, 1, 2] * 2), neighbours=2, backoff=0.2)
    return model, lambda generator: model.sample(4, 1, generator, prior)


def shallow():
    model = RMM(3, SHAPE, elements=2).to("meta")
    return model, lambda generator: model.sample(4, generator)[0]


@pytest.mark.parametrize("case", [deep, patchwise, shallow])
def test_a_generator_of_the_cpu_draws_for_a_model_anywhere(case):
    model, sample = case()
    device = next(model.parameters()).device
    with Strict() as machine:
        drawn = sample(torch.Generator().manual_seed(0))
    assert drawn.device == device
    assert drawn.shape == (4, *SHAPE)
    assert machine.draws >= 3


@pytest.mark.parametrize("draw", [uniform, normal])
def test_control_the_machine_is_strict(draw):
    like, generator = torch.empty(2, device="meta"), torch.Generator()
    with Strict() as machine:
        assert draw((3, 2), like, generator).device == like.device
        with pytest.raises(RuntimeError, match="device type for generator"):
            torch.rand(3, generator=generator, device="meta")
        with pytest.raises(RuntimeError, match="device type for generator"):
            torch.multinomial(torch.ones(3, device="meta"), 1, generator=generator)
    assert machine.draws == 3


def test_the_same_seed_draws_the_same():
    model = conv_small(3, SHAPE, width=2).eval()
    one, same, other = (model.sample(4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_seeded_stream_leaves_the_shared_one_alone():
    before = torch.get_rng_state()
    with seeded(3):
        one = torch.rand(4)
    with seeded(3):
        assert torch.equal(torch.rand(4), one)
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_that_build_at_once_build_the_same():
    recipe = Recipe("conv_small", SHAPE, ("a", "b"), width=4)
    alone = recipe.build(seed=5).state_dict()
    barrier, built = Barrier(4), []

    def build():
        barrier.wait()
        built.extend(recipe.build(seed=5).state_dict() for _ in range(20))

    threads = [Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 80
    assert all(torch.equal(state[name], value) for state in built for name, value in alone.items())
