"""T8. Backpropagation is the G-step of hard EM: of the match without biases, of the whole score with them.

Slide "Learning via Backpropagation: A Hard EM Interpretation": the E-step finds ĉ, ĝ; the G-step takes a gradient
step on the parameters with ĉ, ĝ held fixed. Where nothing is added on the way up, neither by a bias nor by a norm
that shifts, the gradient of the match ⟨μ_ĉĝ(θ), I⟩, drawn top-down through frozen switches, is what autograd
computes for the convnet's score through its max-pools and ReLUs, for every parameter (ties have probability 0).

With biases b^(ℓ) (of a norm: β - m γ/σ) the score is that match and the paths that end in a bias,

    s = ⟨μ_ĉĝ(θ), I⟩ + Σ_ℓ ⟨z^(ℓ)↓(θ), b^(ℓ)⟩ + b_ĉ,

where z^(ℓ)↓ is the template that comes down to the output of level ℓ: a match with an image of one more pixel,
which is always 1. Backprop is the G-step of this sum, for every parameter. The match alone has the same gradient
for the pixel dictionary, through which no path to a bias leads, and for no other.

Controls: switches of another image; the match alone where there are biases, also in a trained net.
"""

import pytest
import torch
from torch import nn

from drmm import DRMM, DRMMClassifier, lift
from drmm.data import load, mask_labels, stratified_labels
from drmm.model.presets import conv_large, conv_small
from drmm.rendering import Level, ReLU, Sequential
from drmm.testing import random_net

LAW = 1e-10
APART = 0.01  # relative distance, from which on two gradients are not the same by any measure


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


def torch_net(bias=False):
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=bias),
        nn.LeakyReLU(0.1),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(6, 8, 3, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(8 * 4, 10, bias=bias),
        nn.ReLU(),
        nn.Linear(10, 4, bias=bias),
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


# --- with biases and norms that shift ---


@torch.no_grad()
def with_shifts(model):
    """Norms as of a trained net: means, variances, γ of either sign and β."""
    without_bias(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.bias)
    return model


def trained():
    """A small net that has learned digits."""
    data = load("digits")
    few = mask_labels(data.y_train, stratified_labels(data.y_train, 30, seed=0))
    learner = DRMMClassifier(model={"width": 4}, training={"min_steps": 30}, epochs=1, random_state=0)
    return learner.fit(data.x_train, few).model_.double(), torch.from_numpy(data.x_test[:40]).double() / 255


SHIFTED = {
    "torch_net": lambda: torch_net(bias=True),
    "conv_small": lambda: (with_shifts(conv_small(width=3)), torch.randn(4, 1, 28, 28)),
    "conv_large": lambda: (with_shifts(conv_large(width=3)), torch.randn(4, 3, 16, 16)),
    "trained": trained,
}


def opened(model):
    """The same net with the parts of its levels one by one, so that what comes down can be seen at each."""
    parts = []
    for level in model.levels:
        fused = isinstance(level, Level)
        parts += [level.dictionary, level.norm, level.pool, ReLU()] if fused else [level]
    return DRMM(Sequential(*(part for part in parts if part is not None)), model.templates).eval()


def match_and_bias_paths(model, x, label):
    """⟨μ_ĉĝ(θ), I⟩ and Σ_ℓ ⟨z^(ℓ)↓(θ), b^(ℓ)⟩ + b_ĉ, drawn through frozen switches."""
    with torch.no_grad():
        latents, features = model.infer(x, label), [x]
        for part in model.levels:
            features.append(part.infer(features[-1])[0])
    z, biases = model.templates.weight[label], model.templates.bias[label].sum()
    steps = zip(model.levels, latents.switches.parts, features[:-1], features[1:], strict=True)
    for part, switches, below, above in reversed(list(steps)):
        z = z.reshape(above.shape)
        if next(part.parameters(), None) is not None:
            added, _ = part.infer(torch.zeros_like(below))  # what it adds to nothing: its bias, or its shift
            biases = biases + (z * added).sum()
        z = part.render(z, switches)
    return (z * x).sum(), biases


def relative(one, other):
    return ((one - other).norm() / one.norm()).item()


@pytest.mark.parametrize("name", SHIFTED)
def test_with_biases_backprop_is_the_g_step_of_the_whole_score(name):
    shifted, x = SHIFTED[name]()
    model, label = opened(shifted), torch.arange(len(x)) % shifted.n_classes
    names, parameters = zip(*model.named_parameters(), strict=True)
    score = model(x).gather(1, label[:, None]).sum()
    backward = torch.autograd.grad(score, parameters)
    match, biases = match_and_bias_paths(model, x, label)
    torch.testing.assert_close(match + biases, score)
    whole = torch.autograd.grad(match + biases, parameters, retain_graph=True)
    assert max(map(relative, backward, whole)) <= LAW

    alone = torch.autograd.grad(match, parameters, allow_unused=True)
    apart = {
        name: relative(mine, own)
        for name, mine, own in zip(names, backward, alone, strict=True)
        if own is not None  # biases are no part of the match
    }
    assert apart.pop("levels.0.weight") <= LAW, "no path to a bias leads through the pixel dictionary"
    assert min(apart.values()) > APART, "control: the match alone is not what backprop follows"


@pytest.mark.parametrize("name", CASES)
def test_control_switches_of_another_image_fail(name):
    model, x = CASES[name]()
    label = torch.arange(len(x)) % model.n_classes
    assert distance(backprop(model, x, label), g_step(model, x, label, stranger=1)) > 1e-3
