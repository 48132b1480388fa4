"""T3. The traceback is the gradient: μ_ĉĝ = ∇_x score, and ⟨μ_ĉĝ, x⟩ = score.

Rendering the class template through the switches that inference chose draws exactly what backpropagation to
the pixels computes, whatever the signs: top-down rendering, gradient saliency and the active paths are one
thing. Where the net has no biases the picture explains the whole score, ⟨μ_ĉĝ, x⟩ = score; with biases the
rest is what the paths that end in a bias contribute (completeness). Checked on hand-written torch nets,
lifted, and on the presets. Controls: the switches of another image, or another class, give another picture.
"""

import pytest
import torch
from torch import nn

from drmm import lift
from drmm.model.presets import conv_large, conv_small
from drmm.testing import random_net

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def plain(*, bias):
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, bias=bias), nn.LeakyReLU(0.1)),
        nn.AvgPool2d(2, ceil_mode=True, padding=1),
        nn.Conv2d(8, 8, 1, groups=4, bias=bias),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(8 * 4, 5, bias=bias),
    )


def normed():
    net = nn.Sequential(
        nn.Conv2d(2, 6, 5, padding="same"),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(6, 8, 3, dilation=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 5),
    )
    return seen(net).eval()


@torch.no_grad()
def seen(net):
    """Running statistics, and γ of either sign, as after some training."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return net


def gradient(net, x, label):
    x = x.clone().requires_grad_()
    score = net(x).gather(1, label[:, None]).sum()
    return torch.autograd.grad(score, x)[0]


def test_without_biases_the_picture_explains_the_score():
    net = plain(bias=False)
    model, x = lift(net), torch.randn(6, 2, 11, 11)
    latents = model.infer(x)
    template = model.render(latents)
    torch.testing.assert_close(template, gradient(net, x, latents.label), **TIGHT)
    torch.testing.assert_close((template * x).flatten(1).sum(1), latents.score, **TIGHT)
    torch.testing.assert_close(model.sum_over_paths(x, latents).bias, torch.zeros(6), **TIGHT)


@pytest.mark.parametrize("seed", range(20))
def test_small_nets_of_any_sign(seed):
    generator = torch.Generator().manual_seed(seed)
    model = random_net(generator, signed=(True, True, True, True), bias=False)
    x = torch.randn(5, *model.image_shape, generator=generator)
    latents = model.infer(x)
    template = model.render(latents)
    torch.testing.assert_close(template, gradient(model, x, latents.label), **TIGHT)
    torch.testing.assert_close((template * x).flatten(1).sum(1), latents.score, **TIGHT)


NETS = {
    "plain": (lambda: plain(bias=True), (2, 11, 11)),
    "normed": (normed, (2, 13, 12)),
    "conv_small": (lambda: seen(conv_small(width=3)).eval(), (1, 28, 28)),
    "conv_large": (lambda: seen(conv_large(width=3)).eval(), (3, 32, 32)),
}


@pytest.mark.parametrize("name", NETS)
def test_with_biases_the_bias_paths_are_the_rest(name):
    make, shape = NETS[name]
    net, x = make(), torch.randn(3, *shape)
    model = lift(net) if isinstance(net, nn.Sequential) else net
    label = torch.tensor([1, 0, 3])
    latents = model.infer(x, label)
    torch.testing.assert_close(model.render(latents), gradient(net, x, label), **TIGHT)
    paths = model.sum_over_paths(x, latents)
    torch.testing.assert_close(paths.pixels.flatten(1).sum(1) + paths.bias, latents.score, **TIGHT)
    assert (paths.bias.abs() > 1e-3).all()  # biases matter here


def test_bias_paths_are_the_biases_times_their_templates():
    net = plain(bias=True)
    model, x = lift(net), torch.randn(1, 2, 11, 11)
    latents = model.infer(x)
    biases = [p for name, p in net.named_parameters() if name.endswith("bias")]
    templates = torch.autograd.grad(net(x).max(), biases)
    total = sum((b * z).sum() for b, z in zip(biases, templates, strict=True))
    torch.testing.assert_close(model.sum_over_paths(x, latents).bias, total[None], **TIGHT)


def test_control_other_switches_draw_another_picture():
    net = plain(bias=False)
    model, x = lift(net), torch.randn(6, 2, 11, 11)
    latents = model.infer(x)
    stranger = model.infer(x.roll(1, 0), label=latents.label)
    gap = model.render(stranger) - gradient(net, x, latents.label)
    assert (gap.flatten(1).norm(dim=1) > 0.1 * model.render(latents).flatten(1).norm(dim=1)).all()
    other_class = model.render(model.infer(x, label=(latents.label + 1) % 5))
    assert ((other_class * x).flatten(1).sum(1) < latents.score).all()
