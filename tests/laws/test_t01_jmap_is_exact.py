"""T1. The bottom-up pass is exact JMAP inference, if every template above the pixels is non-negative.

Slide "Inference in the DRMM yields Deep Convnets": ĉ, ĝ = argmax_{c,g} ⟨μ_cg, I⟩ is solved by pushing the max
to the right, level by level: correlate, ReLU (max over a), max-pool (max over t), choose. Checked against
trying every configuration of a thousand random nets of 2 or 3 levels. The pixel dictionary Γ^(1) may have
both signs, and biases do no harm if they scale with the template (b·z·a).

Controls, measured on these draws:
- Γ^(2) of both signs: the bottom-up class agrees in 0.77 of the images; everything signed: 0.56 (chance: 0.33).
- The Gaussian objective -½‖I - μ_cg‖²: 0.31 to 0.34. The slides drop ½‖μ_cg‖²: JMAP is exact for the inner
  product, not for the Gaussian.
"""

import pytest
import torch
from torch import nn

from drmm import DRMM
from drmm.rendering import Abs, AvgPool2d, Conv2d, Flatten, LeakyReLU, Linear, MaxPool2d, ReLU, Sequential
from drmm.testing import enumerate_configurations, random_net


def draw(seed, **options):
    generator = torch.Generator().manual_seed(seed)
    model = random_net(generator, **options)
    return model, torch.randn(2, *model.image_shape, generator=generator)


@torch.no_grad()
def agreement(nets, objective="max-sum", **options):
    """Share of images whose class is the brute-force one, and the largest relative error of any class's score."""
    same, worst = [], 0.0
    for seed in range(nets):
        model, x = draw(seed, **options)
        truth = enumerate_configurations(model, x, objective)
        assert truth.configurations <= 100_000
        logits = model(x)
        same.append(logits.argmax(1) == truth.label)
        error = (logits - truth.score).abs() / (1 + truth.score.abs())
        worst = max(worst, float(error.max()))
    return float(torch.cat(same).double().mean()), worst


@pytest.mark.parametrize(
    ("nets", "signed", "bias"),
    [
        (300, (False, False, False), True),
        (200, (False, False, False), False),
        (250, (True, False, False), True),
        (250, (True, False, False, False), True),
    ],
)
def test_bottom_up_pass_is_the_joint_map(nets, signed, bias):
    share, error = agreement(nets, signed=signed, bias=bias)
    assert share == 1.0
    assert error <= 1e-9


def test_every_class_is_solved_by_the_same_switches():
    # "Push the max to the right": g is chosen before the class is known, so conditioning changes nothing below.
    model, x = draw(3, signed=(True, False, False, False))
    truth = enumerate_configurations(model, x).score
    for c in range(model.n_classes):
        torch.testing.assert_close(model.infer(x, label=c).score, truth[:, c])


def other_choices():
    """Choices that `random_net` does not draw: a sign, two strengths, a pooling before its gate, an average."""
    yield Sequential(Conv2d(1, 2, 2), Abs(), MaxPool2d((1, 2)), Conv2d(2, 2, (2, 1)), LeakyReLU(0.2), Flatten()), 2
    yield Sequential(Conv2d(1, 2, 2), MaxPool2d(2), LeakyReLU(0.1), Flatten(), Linear(2, 3), ReLU()), 3
    yield Sequential(Conv2d(1, 2, 2), ReLU(), AvgPool2d((2, 1)), MaxPool2d((1, 2)), Flatten()), 2
    yield Sequential(Conv2d(1, 1, 2), ReLU(), MaxPool2d(2, 1, 1), Flatten()), 9


@pytest.mark.parametrize("case", range(4))
def test_other_choices_are_maximised_too(case):
    levels, features = list(other_choices())[case]
    model = DRMM(levels, Linear(features, 3), image_shape=(1, 3, 3))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            nn.init.normal_(parameter)
            if name.endswith("weight") and name != "levels.0.weight":
                parameter.abs_()
    x = torch.randn(4, 1, 3, 3)
    truth = enumerate_configurations(model, x, limit=2_000_000)
    torch.testing.assert_close(model(x).detach(), truth.score, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("signed", [(True, True, False), (True, True, True)])
def test_control_signed_upper_dictionary(signed):
    share, _ = agreement(150, signed=signed)
    assert 0.3 < share < 0.9


@pytest.mark.parametrize("bias", [False, True])
def test_control_gaussian_objective(bias):
    share, _ = agreement(100, "gaussian", signed=(True, False, False), bias=bias)
    assert share < 0.95
