"""EG. A training step of the EG algorithm is an E-step and a G-step.

Slide "Hard EM Interpretation yields New Derivative-Free M-step", algorithm 1 ("Hard EM and EG Algorithms"): the
G-step is Δ Λ̂^(ℓ) ∝ ∇ ℓ_DRMM(θ), a step on the complete-data log-likelihood with ĉ, ĝ held fixed. `Objective`
resolved for "eg" keeps two terms. 𝓛_RC is the log-likelihood's: with D pixels and amplitude 1

    ∇ 𝓛_RC = -(2 σ² / D) ∇ mean_n log N(I_n; μ_ĉĝ(θ), σ²),

no matter how the switches of the batch were found, and what autograd sees of the search for them. 𝓛_H is the
labels', whose gradient is backprop (law T8). Controls: switches of other images give another gradient, and so does
the objective of "sgd", which has more terms.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

from drmm import Objective, lift
from drmm.learning.em import g_step
from drmm.learning.initialisation import initialise
from drmm.learning.objective import cross_entropy
from drmm.model.deep import Latents
from drmm.model.presets import build

LAW = 1e-10
EG = Objective().resolved("soft", "eg")


def lifted():
    first = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(0.1), nn.MaxPool2d(2)
    second = nn.Conv2d(4, 5, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(20, 4)
    return lift(nn.Sequential(*first, *second), image_shape=(1, 12, 12))


MODELS = {
    "conv_small": lambda: build("conv_small", 4, (1, 12, 12), width=3),
    "conv_large": lambda: build("conv_large", 4, (1, 12, 12), width=3),
    "dense": lambda: build("dense", 4, (1, 12, 12), width=6),
    "weight_norm": lambda: build("conv_small", 4, (1, 12, 12), width=3, constraint="weight_norm"),
    "hard": lambda: build("conv_small", 4, (1, 12, 12), width=3, constraint="hard"),
    "lifted": lifted,
}


def batch(name, seed=0):
    """A net in training mode, whose norms take the statistics of the batch; images, and labels of some."""
    torch.manual_seed(seed)
    model, x, y = MODELS[name](), torch.rand(10, 1, 12, 12), torch.arange(10) % 5 - 1
    return initialise(model, "default", seed=seed).train(), x, y


def gradients(model, loss):
    """By name; parameters that the loss does not touch are left out."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


@torch.no_grad()
def latents_of(model, x, y, stranger=0):
    """The E-step at amplitude 1: switches of the batch (rolled on by `stranger` images), known labels or ĉ."""
    features, switches = model.levels.infer(x.roll(stranger, 0))
    label = torch.where(y >= 0, y, model.templates(features).argmax(1))
    return Latents.without_score(label, torch.ones(len(x)), switches, model.n_classes)


def as_reconstruction(model, x, g):
    """The gradient of the log-likelihood as one of 𝓛_RC."""
    return -2 * model.noise / x[0].numel() * g


def distance(one, other):
    """The largest difference of two gradients, relative to each parameter's norm; both have the same names."""
    assert {n for n, g in one.items() if g.any()} == {n for n, g in other.items() if g.any()}
    gaps = [(one[n] - other[n]).norm() / one[n].norm() for n in one if one[n].any()]
    return torch.stack(gaps).max().item()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", MODELS)
def test_the_reconstruction_part_is_the_g_step(name, seed):
    model, x, y = batch(name, seed)
    latents = latents_of(model, x, y)
    expected = {n: as_reconstruction(model, x, g) for n, g in g_step(model, x, latents).items()}
    found = gradients(model, EG(model, x, y)["reconstruction"])
    assert distance(found, expected) <= LAW
    assert max(g.norm() for g in found.values()) > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_step_adds_the_labels(name):
    model, x, y = batch(name)
    latents = latents_of(model, x, y)
    found = gradients(model, EG(model, x, y)["loss"])
    labels = gradients(model, cross_entropy(model(x), y))
    pictures = g_step(model, x, latents)
    expected = dict(labels)
    for key, g in pictures.items():
        expected[key] = expected.get(key, 0) + as_reconstruction(model, x, g)
    assert found.keys() == expected.keys()
    for key, g in found.items():
        torch.testing.assert_close(g, expected[key], rtol=1e-8, atol=1e-10)


def test_a_small_step_raises_the_likelihood_of_frozen_latents():
    model, x, y = batch("conv_small")
    latents = latents_of(model, x, y)
    before = model.log_likelihood(x, latents).mean()
    with torch.no_grad():
        for key, g in g_step(model, x, latents).items():
            model.get_parameter(key).add_(1e-4 * g)
    assert model.log_likelihood(x, latents).mean() > before


@pytest.mark.parametrize("name", ["conv_small", "conv_large", "dense", "lifted"])
def test_control_switches_of_other_images(name):
    model, x, y = batch(name)
    stranger = replace(latents_of(model, x, y, stranger=1), label=latents_of(model, x, y).label)
    expected = {n: as_reconstruction(model, x, g) for n, g in g_step(model, x, stranger).items()}
    assert distance(gradients(model, EG(model, x, y)["reconstruction"]), expected) > 1e-3


def test_control_the_discriminative_objective_has_more_terms():
    model, x, y = batch("conv_small")
    sgd, eg = (gradients(model, objective(model, x, y)["loss"]) for objective in (Objective(), EG))
    assert distance(sgd, eg) > 1e-2
