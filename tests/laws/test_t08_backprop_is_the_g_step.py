"""T8. Backpropagation is the G-step of hard EM.

Slide "Learning via Backpropagation: A Hard EM Interpretation": the E-step finds ĉ, ĝ; the G-step takes a
gradient step on the parameters with ĉ, ĝ held fixed. For the match ⟨μ_ĉĝ(θ), I⟩, drawn top-down through
frozen switches, that gradient is what autograd computes for the convnet's score through its max-pools and
ReLUs, for every parameter (ties have probability 0). Biases get theirs from the paths that end in them.
Control: switches of another image give another gradient.
"""

import pytest
import torch
from torch import nn

from drmm import lift
from drmm.model.presets import conv_large, conv_small
from drmm.testing import random_net

LAW = 1e-10


def dictionaries(model):
    """Every parameter that draws: weights and scales, not biases."""
    return [p for name, p in model.named_parameters() if not name.endswith("bias")]


def backprop(model, x, label):
    """The convnet's view: θ-gradient of the score, through max and ReLU."""
    score = model(x).gather(1, label[:, None]).sum()
    return torch.autograd.grad(score, dictionaries(model))


def g_step(model, x, label, stranger=0):
    """The generative view: θ-gradient of ⟨μ_ĉĝ(θ), I⟩, switches frozen before anything is differentiated."""
    with torch.no_grad():
        latents = model.infer(x.roll(stranger, 0), label)  # the E-step
    match = (model.render(latents) * x).sum()
    return torch.autograd.grad(match, dictionaries(model))


def distance(one, other):
    """Largest difference of two gradients, relative to each parameter's norm."""
    gaps = [(a - b).abs().max() / torch.maximum(a.norm(), b.norm()) for a, b in zip(one, other, strict=True)]
    return torch.stack(gaps).nan_to_num(0).max().item()  # 0/0: a dictionary that both leave alone


def torch_net():
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False),
        nn.LeakyReLU(0.1),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(6, 8, 3, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(8 * 4, 10, bias=False),
        nn.ReLU(),
        nn.Linear(10, 4, bias=False),
    )
    return lift(net), torch.randn(6, 1, 10, 10)


@torch.no_grad()
def without_bias(model):
    """A preset whose norms scale (by γ of either sign) and shift nothing, as one with means and β of 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
    return model.eval()


CASES = {
    "torch_net": torch_net,
    "conv_small": lambda: (without_bias(conv_small(width=3)), torch.randn(4, 1, 28, 28)),
    "conv_large": lambda: (without_bias(conv_large(width=3)), torch.randn(4, 3, 16, 16)),
}


@pytest.mark.parametrize("name", CASES)
def test_backprop_equals_the_g_step(name):
    model, x = CASES[name]()
    label = torch.arange(len(x)) % model.n_classes
    assert distance(backprop(model, x, label), g_step(model, x, label)) <= LAW


@pytest.mark.parametrize("seed", range(20))
def test_on_small_nets_at_the_best_class(seed):
    generator = torch.Generator().manual_seed(seed)
    model = random_net(generator, signed=(True, True, True, True), bias=False)
    x = torch.randn(6, *model.image_shape, generator=generator)
    label = model.infer(x).label
    assert distance(backprop(model, x, label), g_step(model, x, label)) <= LAW


def test_a_bias_learns_from_the_template_that_reaches_it():
    # ∂ score / ∂ b^(ℓ) is z^(ℓ)↓ at the dictionary's output, added up over places: the weight of its paths.
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    model, x = lift(net), torch.randn(5, 1, 8, 8)
    latents = model.infer(x, label=1)
    templates = model.levels.render_levels(model.templates.weight[latents.label], latents.switches)
    score = net(x)[:, 1].sum()
    for layer in (0, 3):
        expected = torch.autograd.grad(score, net[layer].bias, retain_graph=True)[0]
        torch.testing.assert_close(templates[layer + 1].sum((0, 2, 3)), expected, rtol=LAW, atol=LAW)


@pytest.mark.parametrize("name", CASES)
def test_control_switches_of_another_image_fail(name):
    model, x = CASES[name]()
    label = torch.arange(len(x)) % model.n_classes
    assert distance(backprop(model, x, label), g_step(model, x, label, stranger=1)) > 1e-3
