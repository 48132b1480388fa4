"""The hard NN-DRMM is certified exact; the soft and the signed one are not.

Slide "Inference in the DRMM yields Deep Convnets": JMAP inference is exact in the NN-DRMM. With
`constraint="hard"` every dictionary above the pixels is non-negative by its parametrisation, so that the two-
message bound equals the score (the gap is 0, to rounding) for every image, before, during and after training.
Control: the same net without the constraint has a gap that certifies nothing.
"""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from drmm import Objective
from drmm.model.constraints import make_nonnegative
from drmm.model.presets import conv_large, conv_small, dense

NETS = {
    "conv_small": lambda constraint: (conv_small(4, width=3, constraint=constraint), (1, 28, 28)),
    "conv_large": lambda constraint: (conv_large(4, (3, 16, 16), width=3, constraint=constraint), (3, 16, 16)),
    "dense": lambda constraint: (dense(4, (1, 6, 6), width=12, constraint=constraint), (1, 6, 6)),
}


@torch.no_grad()
def randomize(model, x):
    """Weights far from any initialisation, through the parametrisation, and the norms centred on such images."""
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    settle(model, x)


@torch.no_grad()
def settle(model, x):
    """Running statistics as after long training: without them nearly every unit would be on."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(x)
    model.eval()


def learn(model, x, steps=3):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    y = torch.arange(len(x)) % model.n_classes
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        Objective()(model, x, y)["loss"].backward()
        optimizer.step()
    settle(model, x)


@torch.no_grad()
def relative_gap(model, x):
    latents = model.eval().infer(x)
    return (latents.gap.abs() / (1 + latents.score.abs())).max().item()


@pytest.mark.parametrize("name", NETS)
def test_random_weights_are_certified(name):
    model, shape = NETS[name]("hard")
    x = torch.randn(16, *shape)
    randomize(model, x)
    assert relative_gap(model, x) <= 1e-12
    latents = model.infer(x)
    assert latents.certified(1e-12).all()
    for leaf in latents.switches.leaves():  # there was something to choose
        assert 0.05 < leaf.a.double().mean() < 0.99


@pytest.mark.parametrize("name", NETS)
def test_still_certified_after_learning(name):
    model, shape = NETS[name]("hard")
    x = torch.randn(16, *shape)
    before = [p.detach().clone() for p in model.parameters()]
    learn(model, x)
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert relative_gap(model, x) <= 1e-12
    assert relative_gap(model, torch.randn(16, *shape)) <= 1e-12  # images it has not seen
    assert model.infer(x).score.std() > 1e-3


def test_every_template_above_the_pixels_is_nonnegative():
    model, _ = NETS["conv_small"]("hard")
    x = torch.randn(3, 1, 28, 28)
    randomize(model, x)
    latents = model.infer(x)
    _, *templates = model.levels.render_levels(model.templates.weight[latents.label], latents.switches)
    assert all((z >= 0).all() for z in templates)
    assert (model.render(latents) < 0).any()  # the pixel dictionary keeps both signs


def test_biases_and_the_pixel_dictionary_keep_their_signs():
    model, _ = NETS["conv_small"]("hard")
    bound = {name for name, module in model.named_modules() if parametrize.is_parametrized(module)}
    assert "levels.0.dictionary" not in bound
    assert "levels.0.norm" not in bound
    assert {"levels.1.dictionary", "levels.1.norm", "levels.3.dictionary", "templates"} <= bound
    assert all(not parametrize.is_parametrized(module, "bias") for module in model.modules())


def test_the_certificate_is_computed_without_rounding():
    """Score and bound add up the same numbers in the same order: the gap is 0, not just small."""
    model, _ = NETS["conv_small"]("hard")
    x = torch.randn(16, 1, 28, 28)
    learn(model, x)
    gap = model.float().eval().infer(x.float()).gap
    assert gap.dtype == torch.float32
    assert (gap == 0).all()


def test_constraining_keeps_the_mode():
    model = make_nonnegative(NETS["conv_small"]("soft")[0].eval())
    assert not any(module.training for module in model.modules())
    assert model.infer(torch.randn(2, 1, 28, 28)).certified(1e-12).all()


@pytest.mark.parametrize("name", NETS)
def test_control_a_soft_net_is_not_certified(name):
    model, shape = NETS[name]("soft")
    x = torch.randn(16, *shape)
    assert relative_gap(model, x) > 1e-2
    assert not model.infer(x).certified().any()
    learn(model, x)
    assert not model.infer(x).certified().any()
