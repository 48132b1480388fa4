"""T24. Samples follow the priors.

Slide "Deep Rendering Mixture Model (DRMM)": c ~ Cat(π), a and t ~ their priors, each unit by itself. In
20,000 draws of a net small enough to list every configuration, the frequency of every class, switch and
position lies within 4 standard errors of its prior, the log-probabilities of all configurations add up to 1,
and a configuration of higher log-probability is drawn more often. Control: the frequencies do not fit the
uniform prior.
"""

import itertools
from dataclasses import replace

import pytest
import torch

from drmm import DRMM
from drmm.rendering import Conv2d, Flatten, Level, Linear, MaxPool2d, Sequential

N = 20_000


@pytest.fixture
def model():
    """Two units with 2×2 positions, one unit above: 2²·4²·2·3 = 384 configurations."""
    levels = Sequential(Level(Conv2d(1, 2, 2), None, MaxPool2d(2)), Level(Conv2d(2, 1, 1)), Flatten())
    model = DRMM(levels, Linear(1, 3), image_shape=(1, 3, 3), class_prior=torch.tensor([0.6, 0.3, 0.1])).eval()
    prior = model.prior
    prior.probability(0, "a").copy_(torch.tensor([0.7, 0.4])[:, None, None])
    prior.probability(0, "t").copy_(torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.3, 0.5]]).T[..., None, None])
    prior.probability(1, "a").fill_(0.8)
    return model


@pytest.fixture
def latents(model):
    return model.sample_latents(N, generator=torch.Generator().manual_seed(1))


def within(count, probability, errors=4.0):
    probability = torch.as_tensor(probability)
    error = (probability * (1 - probability) / N).sqrt()
    return ((count.double() / N - probability).abs() <= errors * error).all()


def counts_of(latents):
    first, second = latents.switches.leaves()
    position = torch.stack([(first.t == k).sum(0) for k in range(4)])
    return latents.label.bincount(minlength=3), first.a.sum(0), position, second.a.sum(0)


def test_frequencies_match_the_priors(model, latents):
    label, a, t, top = counts_of(latents)
    assert within(label, model.class_prior)
    assert within(a, model.prior.probability(0, "a"))
    assert within(t, model.prior.probability(0, "t"))
    assert within(top, model.prior.probability(1, "a"))


def test_control_they_do_not_match_uniform_priors(latents):
    label, a, t, top = counts_of(latents)
    for count, probability in ((label, 1 / 3), (a, 0.5), (t, 0.25), (top, 0.5)):
        assert not within(count, probability)


def every_configuration(model):
    """Each class and each g, as latents of one batch, and a number by which to recognise it."""
    table = torch.tensor(list(itertools.product(range(3), (0, 1), (0, 1), range(4), range(4), (0, 1))))
    c, a, t, top = table[:, 0], table[:, 1:3], table[:, 3:5], table[:, 5:]
    blank = model.blank_switches()
    choices = iter(
        [{"a": a[..., None, None].bool(), "t": t[..., None, None].byte()}, {"a": top[..., None, None].bool()}]
    )
    switches = blank.map_leaves(lambda leaf: replace(leaf, **next(choices)))
    return c, switches


def number(c, switches):
    first, second = switches.leaves()
    digits = (c, *first.a.flatten(1).T, *first.t.flatten(1).T, second.a.flatten())
    value = torch.zeros_like(c)
    for digit, base in zip(digits, (3, 2, 2, 4, 4, 2), strict=True):
        value = value * base + digit.long()
    return value


def test_all_configurations_add_up_to_one(model):
    c, switches = every_configuration(model)
    log_p = model.class_prior.log()[c] + model.prior.log_prob(switches)
    assert log_p.exp().sum().item() == pytest.approx(1.0, abs=1e-9)
    assert number(c, switches).unique().numel() == len(c) == 384


def test_the_more_probable_the_more_often(model, latents):
    c, switches = every_configuration(model)
    log_p = model.class_prior.log()[c] + model.prior.log_prob(switches)
    seen = number(latents.label, latents.switches).bincount(minlength=384)[number(c, switches)]
    assert within(seen, log_p.exp(), errors=5.0)  # 384 tests at once
    groups = seen.double()[log_p.argsort()].reshape(12, 32).mean(1)
    assert (groups.diff() > 0).all()


def test_samples_are_the_rendering_and_noise(model):
    model.noise.fill_(0.25)
    model.amplitude.fill_(2.0)
    x = model.sample(N, label=1, generator=torch.Generator().manual_seed(2))
    latents = model.sample_latents(N, label=1, generator=torch.Generator().manual_seed(2))
    noise = x - 2 * model.render(latents)
    assert noise.var().item() == pytest.approx(0.25, rel=0.02)
    assert (latents.label == 1).all()
    # The first pixel is drawn only by a unit that is on and in the upper left position.
    first = latents.switches.parts[0]
    drawn = (first.a & (first.t == 0)).squeeze(-1).squeeze(-1).any(1) & latents.switches.parts[1].a.flatten()
    assert ((model.render(latents)[:, 0, 0, 0] != 0) == drawn).all()
