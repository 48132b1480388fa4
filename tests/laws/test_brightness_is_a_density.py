"""With a prior of brightness log p(I, c, g) is a density, and what `sample` draws has it.

p(I) = Σ_{c,g} π_c p(g | c) ∫ p(α) N(I; α μ_cg, σ²) dα with α ≥ 0 normal about a mean: the integral is a
Gaussian's and a Φ, in closed form. Its mass is 1, by quadrature over images of one and of two pixels, with
switches summed over as well. Control: with the brightness that suits each image best it is more than 1.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from drmm import DRMM
from drmm.model.brightness import BestFit, BrightnessPrior
from drmm.model.deep import Latents
from drmm.rendering import Flatten, Linear, ReLU, Sequential

PRIORS = {
    "half-normal": BrightnessPrior(0.0, 1.5),
    "about a mean": BrightnessPrior(1.0, 0.7),
    "far from 0": BrightnessPrior(2.0, 0.1),
    "one for all": BrightnessPrior(1.3, 0.0),
}
STEP, SIDE = 0.1, 12


def tiny(pixels):
    """Two classes and a switch for each of two units, σ = 1/2."""
    model = DRMM(
        Sequential(Flatten(), Linear(pixels, 2, bias=False), ReLU()),
        Linear(2, 2, bias=False),
        image_shape=(1, 1, pixels),
        class_prior=torch.tensor([0.7, 0.3]),
    )
    torch.manual_seed(pixels)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    model.noise.fill_(0.25)
    model.prior.probability(0, "a").copy_(torch.tensor([0.8, 0.4]))
    return model.requires_grad_(False).eval()


def every_configuration(model, n):
    """Each class with each choice of the switches, for n images."""
    blank = model.blank_switches().select([0] * n)
    for c, *on in itertools.product(range(2), (False, True), (False, True)):
        switches = blank.map_leaves(lambda leaf, on=on: replace(leaf, a=torch.tensor(on).expand(n, 2)))
        yield Latents.without_score(torch.full((n,), c), torch.ones(n), switches, 2)


def log_p(model, x, brightness):
    """Log Σ_{c,g} p(I, c, g), (N,)."""
    joints = [model.log_joint(x, each, brightness=brightness) for each in every_configuration(model, len(x))]
    return torch.stack(joints).logsumexp(0)


def mass(model, brightness):
    """∫ p(I) dI over the box [-12, 12]^D."""
    pixels = model.image_shape[2]
    axis = torch.arange(-SIDE, SIDE + STEP / 2, STEP)
    x = torch.cartesian_prod(*[axis] * pixels).reshape(-1, 1, 1, pixels)
    return log_p(model, x, brightness).exp().sum().item() * STEP**pixels


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("pixels", [1, 2])
def test_its_mass_is_one(pixels, name):
    assert mass(tiny(pixels), PRIORS[name]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("pixels", [1, 2])
def test_control_with_the_best_fit_it_is_more(pixels):
    assert mass(tiny(pixels), BestFit()) > 1.2


@pytest.mark.parametrize("name", PRIORS)
def test_samples_have_this_density(name):
    # Which share of samples lies in each of 24 bins, and which should.
    model, n = tiny(1), 20_000
    x = model.sample(n, generator=torch.Generator().manual_seed(0), brightness=PRIORS[name]).flatten()
    fine = torch.arange(-SIDE, SIDE, 0.01) + 0.005
    share = log_p(model, fine.reshape(-1, 1, 1, 1), PRIORS[name]).exp().reshape(24, -1).sum(1) * 0.01
    found = torch.histc(x, 24, -SIDE, SIDE) / n
    error = (share * (1 - share) / n).sqrt() + 1e-9
    assert ((found - share).abs() <= 4.5 * error).all()
    # Control: those of another prior have not.
    other = model.sample(n, generator=torch.Generator().manual_seed(0), brightness=BrightnessPrior(3.0, 0.1))
    assert ((torch.histc(other.flatten(), 24, -SIDE, SIDE) / n - share).abs() > 4.5 * error).any()
