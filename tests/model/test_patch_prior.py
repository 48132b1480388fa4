"""The patch prior: any net, any choice, one line for every mistake. What they are for is law T20."""

import pytest
import torch
from torch import nn

from drmm import DRMM, lift
from drmm.errors import InputError
from drmm.model.patch_prior import PatchPrior, borrow
from drmm.model.presets import dense
from drmm.rendering import Abs, Conv2d, Flatten, Level, Linear, MaxPool2d, ReLU, Sequential

SHAPE = (1, 8, 8)


def signed():
    """Signs, positions and on/off, each in a rendering of its own."""
    levels = Sequential(
        Conv2d(1, 3, 3), Abs(), MaxPool2d(2), Conv2d(3, 4, 2), ReLU(), Flatten(), Linear(16, 5), ReLU()
    )
    return DRMM(levels, Linear(5, 3), image_shape=SHAPE)


def branching():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.top = nn.Linear(3 * 64, 3)

        def forward(self, x):
            y = self.first(x).relu()
            return self.top((y + self.second(y).relu()).flatten(1))

    return lift(Block(), image_shape=SHAPE)


NETS = {
    "signed": signed,
    "branching": branching,
    "dense": lambda: dense(3, SHAPE, width=6),
    "level": lambda: DRMM(
        Sequential(Level(Conv2d(1, 4, 3), None, MaxPool2d(2)), Flatten()), Linear(36, 3), image_shape=SHAPE
    ),
}


@pytest.fixture(params=NETS)
def model(request):
    return NETS[request.param]().eval()


def same(one, other):
    pairs = zip(one.leaves(), other.leaves(), strict=True)
    return all(
        torch.equal(a, b) for p, q in pairs for (_, a), (_, b) in zip(p.choices(), q.choices(), strict=True)
    )


def test_one_neighbour_gives_back_a_training_image(model):
    x = torch.randn(1, *SHAPE)
    prior = borrow(model, x, torch.tensor([2]), neighbours=1)
    latents = model.sample_latents(4, 2, prior=prior)
    assert same(latents.switches, model.infer(x.expand(4, -1, -1, -1)).switches)
    torch.testing.assert_close(prior.log_prob(latents.switches, latents.label), torch.zeros(4), atol=1e-4, rtol=0)
    assert model.render(latents).shape == (4, *SHAPE)


def test_what_is_drawn_is_possible_and_other_images_are_less_probable(model):
    x, y = torch.randn(60, *SHAPE), torch.arange(60) % 3
    prior = borrow(model, x, y, neighbours=4, backoff=0.05)
    drawn = model.sample_latents(30, prior=prior)
    others = model.infer(torch.randn(30, *SHAPE), drawn.label)
    own, foreign = (prior.log_prob(latents.switches, latents.label) for latents in (drawn, others))
    assert own.isfinite().all()
    assert foreign.isfinite().all()
    assert own.mean() > foreign.mean()
    noise = torch.zeros(30, *SHAPE)
    expected = model.log_likelihood(noise, drawn) + model.class_prior.log()[drawn.label] + own
    torch.testing.assert_close(model.log_joint(noise, drawn, prior), expected)


def test_a_generator_decides(model):
    prior = borrow(model, torch.randn(60, *SHAPE), torch.arange(60) % 3, backoff=0.1)
    draws = [
        model.sample_latents(9, torch.arange(9) % 3, torch.Generator().manual_seed(seed), prior).switches
        for seed in (1, 1, 2)
    ]
    assert same(draws[0], draws[1])
    assert not same(draws[0], draws[2])


def test_batches_are_joined_and_the_mode_is_restored(model):
    x, y = torch.randn(450, *SHAPE), torch.arange(450) % 3
    model.train()
    prior = borrow(model, x, y, neighbours=1)
    assert model.training
    whole = PatchPrior(model.eval().infer(x).switches, y, neighbours=1)
    draws = [model.sample_latents(6, 1, torch.Generator().manual_seed(0), p).switches for p in (prior, whole)]
    assert same(*draws)


def test_images_without_a_label_lend_to_the_class_that_they_are_taken_for(model):
    x = torch.randn(90, *SHAPE)
    guess = model.infer(x).label
    given = torch.full((90,), -1)
    given[:30] = 0
    expected = torch.where(given >= 0, given, guess)
    label = expected[-3:]
    mine, theirs = (borrow(model, x, y, neighbours=1) for y in (given, expected))
    draws = [model.sample_latents(3, label, torch.Generator().manual_seed(0), p).switches for p in (mine, theirs)]
    assert same(*draws)


def test_units_that_are_off_differ_in_nothing():
    # Two images that differ only where nobody sees it are both nearest, though one neighbour is asked for.
    model = NETS["level"]().eval()
    switches = model.infer(torch.randn(2, *SHAPE)).switches
    first = next(iter(switches.leaves()))
    first.a.zero_()
    first.t[0], first.t[1] = 0, 3
    prior = PatchPrior(switches, torch.zeros(2, dtype=torch.long), neighbours=1)
    drawn = next(iter(model.sample_latents(200, 0, prior=prior).switches.leaves())).t
    assert ((drawn == 0) | (drawn == 3)).all()
    assert (drawn.float().mean((0, 1)) - 1.5).abs().max() < 1


def test_settings_are_changed_without_the_images_being_read_again(model):
    prior = borrow(model, torch.randn(30, *SHAPE), torch.arange(30) % 3, neighbours=3)
    other = prior.tuned(neighbours=7, backoff=0.5)
    assert (other.neighbours, other.backoff) == (7, 0.5)
    assert (prior.neighbours, prior.backoff) == (3, 0.0)
    assert (other.tuned().neighbours, other.tuned().backoff) == (7, 0.5)


def test_mistakes_are_told(model):
    x, y = torch.randn(6, *SHAPE), torch.tensor([0, 0, 0, 1, 1, 1])
    for wrong in ({"neighbours": 0}, {"backoff": 1.5}, {"backoff": -0.1}):
        with pytest.raises(InputError, match="neighbours must be 1 or more"):
            borrow(model, x, y, **wrong)
    prior = borrow(model, x, y)
    with pytest.raises(InputError, match="no training image of class 2"):
        model.sample(3, 2, prior=prior)
    with pytest.raises(InputError, match="depend on the class"):
        prior.log_prob(model.infer(x).switches)
    with pytest.raises(InputError, match="no image to borrow"):
        PatchPrior(model.infer(x).switches.select(slice(0)), y[:0])
