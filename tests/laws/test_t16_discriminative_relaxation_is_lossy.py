"""T16. The discriminative relaxation is lossy.

Slide "Key Limitations & Challenges": "Discriminative relaxation is lossy operation i.e. more than one generative
model/classifier might be consistent with same discriminative classifier" (Ng & Jordan 2002, Mitchell Ch. 3). A
convnet keeps p(c|I) and forgets p(I). Three ways to change every image's p(I) and no posterior:

- a template added to all classes, where the class prior makes up for their lengths;
- another background: what the classes have in common, in a net with switches and an orthonormal dictionary;
- another contrast: templates times k in k times the noise, where the switch priors make up for it. Here even the
  posterior of the switches stays.

p(c|I) and p(I) are exact, summed over all classes and switches at amplitude 1. Controls: equal parameters differ
by 0; a class template moved alone, or a shift that no prior makes up for, is seen by the same test.
"""

import itertools
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from drmm import DRMM, Latents
from drmm.learning.initialisation import initialise
from drmm.rendering import Flatten, Linear, ReLU, Sequential

LAW = 1e-10
SHAPE = (1, 2, 4)
PIXELS, UNITS, CLASSES = 8, 4, 3


def log_joints(model, x):
    """log p(I, c, g) for every class and every state of the gates, (N, C, G)."""
    gates = any(True for _ in model.blank_switches().leaves())
    masks = list(itertools.product([False, True], repeat=UNITS)) if gates else [()]
    classes = range(model.n_classes)
    images, label, mask = zip(*itertools.product(x, classes, masks), strict=True)
    label, mask, nothing = torch.tensor(label), torch.tensor(mask), torch.zeros(len(label))
    switches = model.blank_switches().map_leaves(lambda leaf: replace(leaf, a=mask))
    latents = Latents.without_score(label, nothing + 1, switches, 1)
    return model.log_joint(torch.stack(images), latents).reshape(len(x), len(classes), len(masks))


def evidence(model, x):
    """log p(I), (N,), in nats."""
    return log_joints(model, x).flatten(1).logsumexp(1)


def posterior(model, x):
    """p(c|I), (N, C)."""
    return log_joints(model, x).logsumexp(2).softmax(1)


def shallow(seed):
    """Gaussians around templates: no levels, nothing but a class."""
    torch.manual_seed(seed)
    levels, templates = Sequential(Flatten()), Linear(PIXELS, CLASSES)
    model = DRMM(levels, templates, image_shape=SHAPE, class_prior=torch.rand(CLASSES) + 0.1)
    return randomised(model, torch.randn(CLASSES, PIXELS))


def deep(seed, templates):
    """An orthonormal dictionary, each of whose elements is on or off."""
    torch.manual_seed(seed)
    levels = Sequential(Flatten(), Linear(PIXELS, UNITS, bias=False), ReLU())
    top = Linear(UNITS, CLASSES)
    model = DRMM(levels, top, image_shape=SHAPE, class_prior=torch.rand(CLASSES) + 0.1)
    initialise(model, "orthonormal", seed=seed)
    model.prior.a0.uniform_(0.2, 0.8)
    return randomised(model, templates())


@torch.no_grad()
def randomised(model, templates):
    model.templates.weight.copy_(templates)
    model.noise.uniform_(0.5, 2)
    return model.eval()


@torch.no_grad()
def shifted(model, *, compensated=True):
    """One template more in every class."""
    twin = deepcopy(model)
    before = model.templates.weight
    twin.templates.weight += 2 * torch.randn(before.shape[1])
    longer = twin.templates.weight.square().sum(1) - before.square().sum(1)
    if compensated:
        twin.class_prior.copy_((model.class_prior.log() + 0.5 * longer / model.noise).softmax(0))
    return twin


def agreeing():
    """Templates that agree on half of the units."""
    templates = torch.randn(CLASSES, UNITS)
    templates[:, : UNITS // 2] = templates[0, : UNITS // 2]
    return templates


@torch.no_grad()
def other_background(model):
    twin = deepcopy(model)
    twin.templates.weight[:, : UNITS // 2] += 4 + torch.rand(UNITS // 2)
    twin.prior.a0[: UNITS // 2] = 0.999  # nearly always there
    return twin


def opposite():
    """Templates that differ in signs only."""
    signs = torch.where(torch.rand(CLASSES, UNITS) < 0.5, -1.0, 1.0)
    return signs * (0.5 + torch.rand(UNITS))


@torch.no_grad()
def other_contrast(model, k=4.0):
    twin = deepcopy(model)
    twin.templates.weight *= k
    twin.noise *= k
    longer = model.templates.weight[0].square() * (k - 1) / model.noise
    twin.prior.a0.copy_((model.prior.a0.logit() + 0.5 * longer).sigmoid())
    return twin


FAMILIES = {
    "shift": (shallow, shifted),
    "background": (lambda seed: deep(seed, agreeing), other_background),
    "contrast": (lambda seed: deep(seed, opposite), other_contrast),
}


def differences(model, twin, x):
    """How far apart the two are: largest difference of p(c|I), and mean difference of log p(I) in nats."""
    apart = (posterior(model, x) - posterior(twin, x)).abs().max()
    return apart.item(), (evidence(model, x) - evidence(twin, x)).abs().mean().item()


@pytest.mark.parametrize("family", FAMILIES)
def test_one_classifier_and_two_models_of_the_images(family):
    make, change = FAMILIES[family]
    for seed in range(50):
        model = make(seed)
        x = torch.cat([model.sample(8), 3 * torch.randn(8, *SHAPE)])  # likely images, and any images
        apart, nats = differences(model, change(model), x)
        assert apart <= LAW
        assert nats > 1


def test_the_convnet_is_what_is_left():
    """Its logits, log π_c - ½‖μ_c‖² + ⟨μ_c, I⟩ at σ² = 1, give the posterior of both."""
    model = shallow(0)
    model.noise.fill_(1)
    twin, x = shifted(model), torch.randn(16, *SHAPE)
    for one in (model, twin):
        with torch.no_grad():
            one.templates.bias.copy_(one.class_prior.log() - 0.5 * one.templates.weight.square().sum(1))
    assert (model(x).softmax(1) - twin(x).softmax(1)).abs().max() <= LAW
    assert (model(x).softmax(1) - posterior(twin, x)).abs().max() <= LAW
    assert (model.templates.weight - twin.templates.weight).norm() > 1


def test_other_contrast_keeps_the_switches_posterior_too():
    model = deep(0, opposite)
    x = model.sample(16)
    one, other = (log_joints(m, x).flatten(1).softmax(1) for m in (model, other_contrast(model)))
    assert (one - other).abs().max() <= LAW


def test_log_p_is_a_density():
    """Summed over switches and integrated over all images (of one pixel) it is 1."""
    model = DRMM(
        Sequential(Flatten(), Linear(1, UNITS, bias=False), ReLU()), Linear(UNITS, 3), image_shape=(1, 1, 1)
    )
    model.eval().prior.a0.uniform_(0.2, 0.8)
    pixel = torch.linspace(-20, 20, 2001)
    density = evidence(model, pixel[:, None, None, None]).exp()
    assert abs(torch.trapezoid(density, pixel).item() - 1) <= LAW


@pytest.mark.parametrize("family", FAMILIES)
def test_control_equal_parameters_differ_by_nothing(family):
    model = FAMILIES[family][0](0)
    assert differences(model, deepcopy(model), model.sample(8)) == (0, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_control_other_classifiers_are_told_apart(family):
    for seed in range(50):
        model = FAMILIES[family][0](seed)
        other = deepcopy(model)
        with torch.no_grad():
            other.templates.weight[0] += 0.5 * torch.randn(other.templates.in_features)
        assert differences(model, other, model.sample(16))[0] > 1e-3


def test_control_a_shift_that_no_prior_makes_up_for():
    for seed in range(50):
        model = shallow(seed)
        assert differences(model, shifted(model, compensated=False), model.sample(16))[0] > 1e-3
