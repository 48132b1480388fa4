"""The learned prior over switches: a distribution, the independent one at first, and what it learns."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import drmm
from drmm.errors import InputError
from drmm.learning.learned_prior import LearnedPrior, learn_prior
from drmm.model.priors import SwitchPrior
from drmm.rendering import Switches, Window

pytestmark = pytest.mark.usefixtures("float64")

WINDOW = Window((1, 2), (1, 2), (0, 0), (1, 1))


def tiny(n=1):
    """Two levels: gates and places of 1 x 2 units, 1 channel; above it gates and signs of 2 flat units."""
    below = Switches(
        (1, 2, 4), a=torch.zeros(n, 1, 2, 1).bool(), t=torch.zeros(n, 1, 2, 1, dtype=torch.uint8), window=WINDOW
    )
    above = Switches((2,), a=torch.zeros(n, 2).bool(), s=torch.zeros(n, 2).bool())
    return Switches((1, 2, 4), parts=(below, above))


def every():
    """All 256 configurations."""
    rows = torch.tensor(list(itertools.product((0, 1), repeat=8)))
    below, above = tiny(len(rows)).parts
    below = replace(
        below, a=rows[:, :2].bool().reshape(-1, 1, 2, 1), t=rows[:, 2:4].to(torch.uint8).reshape(-1, 1, 2, 1)
    )
    above = replace(above, a=rows[:, 4:6].bool(), s=rows[:, 6:].bool())
    return replace(tiny(), parts=(below, above))


def independent(seed=0):
    prior = SwitchPrior(tiny())
    generator = torch.Generator().manual_seed(seed)
    number = torch.randint(256, (40,), generator=generator)
    prior.update(every().select(number))
    return prior


def random_prior(seed=0, scale=1.0):
    prior = LearnedPrior(independent(seed), tiny(), 2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in prior.parameters():
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return prior.requires_grad_(False)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_all_configurations_have_a_mass_of_one(seed, label):
    log_p = random_prior(seed).log_prob(every(), torch.full((256,), label))
    torch.testing.assert_close(log_p.exp().sum(), torch.tensor(1.0))
    assert log_p.exp().max() > 0.01


def test_control_units_that_look_at_each_other_have_not():
    prior = random_prior()
    for level in prior.levels:
        level.drawn.fill_(1)
    mass = prior.log_prob(every(), torch.zeros(256, dtype=torch.long)).exp().sum()
    assert abs(float(mass) - 1) > 0.1


def test_with_weights_of_zero_it_is_the_independent_prior():
    frequencies, label = independent(), torch.zeros(256, dtype=torch.long)
    expected = frequencies.log_prob(every())
    fresh = LearnedPrior(frequencies, tiny(), 2).requires_grad_(False)
    torch.testing.assert_close(fresh.log_prob(every(), label), expected)
    moved = random_prior(scale=0.1).log_prob(every(), label)
    assert (moved - expected).abs().max() > 0.1, "control"


def test_samples_have_its_probabilities_and_its_entropy():
    prior, n = random_prior(), 20_000
    label = torch.arange(n) % 2
    drawn = prior.sample(label, tiny(), torch.Generator().manual_seed(0))
    found = -prior.log_prob(drawn, label)
    log_p = torch.stack([prior.log_prob(every(), torch.full((256,), c)) for c in (0, 1)])
    entropy = -(log_p.exp() * log_p).sum(1).mean()
    assert abs(found.mean() - entropy) < 4 * found.std() / math.sqrt(n)
    code = torch.cat([choice.flatten(1).long() for leaf in drawn.leaves() for _, choice in leaf.choices()], 1)
    counts = torch.bincount(code @ (2 ** torch.arange(7, -1, -1)), minlength=256) / n
    expected = log_p.exp().mean(0)
    often = expected * n > 20  # of the others a normal distribution says little
    error = (expected * (1 - expected) / n).sqrt()
    assert ((counts - expected).abs() < 5 * error)[often].all()
    assert often.sum() > 50
    assert ((counts - independent().log_prob(every()).exp()).abs() > 5 * error)[often].any(), "control"


def test_samples_fit_any_model_and_keep_its_scales():
    model = drmm.presets.conv_small(3, (1, 12, 12), width=3).eval()
    x = torch.rand(30, 1, 12, 12)
    prior = learn_prior(model, x, torch.arange(30) % 3, epochs=1)
    label = torch.arange(6) % 3
    one, other = (model.sample_latents(6, label, torch.Generator().manual_seed(s), prior) for s in (1, 1))
    assert torch.equal(model.picture(one), model.picture(other))
    log_p = model.log_prior(one, prior)
    assert log_p.isfinite().all()
    for leaf, like in zip(one.switches.leaves(), model.blank_switches().leaves(), strict=True):
        for (_, choice), (_, blank) in zip(leaf.choices(), like.choices(), strict=True):
            assert (choice.dtype, choice.shape[1:]) == (blank.dtype, blank.shape[1:])


def test_a_level_without_positions_and_a_chain_of_one():
    model = drmm.presets.dense(3, (1, 4, 4), width=5).eval()
    prior = learn_prior(model, torch.rand(20, 1, 4, 4), epochs=1)
    assert model.sample(3, prior=prior).shape == (3, 1, 4, 4)


def test_an_image_is_judged_by_itself():
    prior, label = random_prior(), torch.arange(256) % 2
    whole = prior.log_prob(every(), label)
    torch.testing.assert_close(prior.log_prob(every().select(slice(5, 9)), label[5:9]), whole[5:9])


def structured(n, seed):
    """Random bars, which lie in one class and stand in the other."""
    generator = torch.Generator().manual_seed(seed)
    bars = (torch.rand(n, 1, 8, 1, generator=generator) < 0.5).double().expand(n, 1, 8, 8)
    label = torch.arange(n) % 2
    return torch.where(label[:, None, None, None] == 1, bars.mT, bars), label


def test_it_learns_what_hangs_together_and_the_independent_prior_does_not():
    model = drmm.presets.conv_small(2, (1, 8, 8), width=3).eval()
    x, label = structured(120, 0)
    others, classes = structured(60, 1)
    latents = model.infer(others, classes)
    prior = learn_prior(model, x, label, epochs=15)
    alone = SwitchPrior(latents.switches)
    alone.update(model.infer(x, label).switches)
    learned, independent_ = (p.log_prob(latents.switches, classes).mean() for p in (prior, alone))
    assert learned > 0.8 * independent_
    swapped = prior.log_prob(latents.switches, 1 - classes).mean()
    assert swapped < learned - 1, "control: the class matters"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda model, x: learn_prior(model, x[:5]), "20 images or more, got 5"),
        (lambda model, x: learn_prior(model, x).log_prob(model.infer(x).switches), "pass labels"),
    ],
)
def test_what_cannot_be_learned_or_judged_is_one_line(wrong, says):
    model = drmm.presets.dense(3, (1, 4, 4), width=2).eval()
    with pytest.raises(InputError, match=says) as error:
        wrong(model, torch.rand(20, 1, 4, 4))
    assert "\n" not in str(error.value)


def test_a_model_that_draws_only_what_it_saw_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.GELU(), nn.Linear(4, 3)).eval()
    model = drmm.lift(net, image_shape=(1, 4, 4), strict=False)
    with pytest.raises(InputError, match="explain and reconstruct pictures"):
        learn_prior(model, torch.rand(20, 1, 4, 4))


def test_unknown_labels_are_guessed():
    model = drmm.presets.dense(3, (1, 4, 4), width=4).eval()
    x = torch.rand(24, 1, 4, 4)
    guess = model(x).argmax(1)
    one, other, third = (
        learn_prior(model, x, y, epochs=2).state_dict()
        for y in (None, torch.where(torch.arange(24) % 2 == 0, guess, -1), (guess + 1) % 3)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not all(torch.equal(one[key], third[key]) for key in one), "control"
