"""T21: fields are the arithmetic of kernels and strides, and verdicts on depth follow from the figures."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import drmm
from drmm.errors import InputError
from drmm.studies.predictions.fields import DepthStudy, arithmetic, receptive_fields


def tower(*layers):
    inputs, found = 1, []
    for layer in layers:
        found.append(layer(inputs) if callable(layer) and not isinstance(layer, nn.Module) else layer)
        inputs = getattr(found[-1], "out_channels", inputs)
    return nn.Sequential(*found, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 3)).eval()


def conv(kernel, stride=1, dilation=1):
    padding = (kernel - 1) * dilation // 2
    return lambda inputs: nn.Conv2d(inputs, 4, kernel, stride, padding, dilation)


TOWERS = {
    "plain": lambda: (conv(3), nn.ReLU(), conv(3), nn.ReLU(), conv(5), nn.ReLU()),
    "pools": lambda: (
        conv(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        conv(3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    ),
    "strides": lambda: (conv(3, 2), nn.ReLU(), conv(3, 2), nn.ReLU(), conv(3)),
    "dilations": lambda: (conv(3, dilation=2), nn.ReLU(), nn.AvgPool2d(2), conv(3, dilation=3), nn.ReLU6()),
}


@pytest.mark.parametrize("name", TOWERS)
def test_support_is_the_arithmetic_of_the_recursion_variable(name, float64):
    layers = TOWERS[name]()
    net = tower(*layers)
    found = receptive_fields(net, torch.rand(3, 1, 40, 40))
    expected = arithmetic(net[: len(layers)])
    assert found.support[:-1].tolist() == expected
    assert np.all(np.diff(found.support) >= 0)
    assert found.support[-1] == 40, "a mean over all sees all"
    assert np.all(found.active <= found.support)
    seen = np.isfinite(found.effective)
    assert np.all((found.effective <= 3**0.5 * found.support)[seen])
    wrong = [
        nn.Conv2d(1, 4, 3, dilation=layer.dilation[0] + 1) if isinstance(layer, nn.Conv2d) else layer
        for layer in net
    ]
    assert arithmetic(wrong[: len(expected)]) != expected, "control: other dilations"


@pytest.mark.parametrize("row", [30, 32])
def test_a_unit_sees_no_farther_than_the_arithmetic_says(row, float64):
    net = tower(*TOWERS["plain"]())[:5]
    side = arithmetic(net)[-1]
    for layer in net[::2]:
        nn.init.ones_(layer.bias)  # on everywhere
    x = torch.rand(1, 1, 64, 64, requires_grad=True)
    net(x)[0, :, row, row].sum().backward()
    touched = x.grad[0, 0].nonzero()
    assert (touched.amax(0) - touched.amin(0) + 1).tolist() == [side, side]


def test_fused_levels_and_the_picture_s_border(float64):
    model = drmm.presets.conv_small(3, (1, 28, 28), width=4)
    sides = np.minimum(arithmetic(model.levels), 28)
    found = receptive_fields(model, torch.rand(2, 1, 28, 28))
    assert found.support[:4].tolist() == sides[:4].tolist() == [6, 10, 16, 24]


def test_a_uniform_kernel_is_as_wide_as_it_is(float64):
    net = tower(conv(7), nn.ReLU())
    nn.init.constant_(net[0].weight, 1.0)
    nn.init.zeros_(net[0].bias)
    found = receptive_fields(net, torch.rand(2, 1, 32, 32) + 0.1)
    np.testing.assert_allclose(found.effective[:, :2], 7, rtol=1e-12)
    net[0].weight.data[..., 0] = 0  # control: one column less
    assert np.all(receptive_fields(net, torch.rand(2, 1, 32, 32) + 0.1).effective[:, 0] < 7)


def test_effective_fields_of_deep_nets_are_smaller_than_theoretical_ones(float64):
    net = tower(*[conv(3), nn.ReLU()] * 6)
    found = receptive_fields(net, torch.rand(4, 1, 32, 32))
    assert found.support[-2] == 13
    assert np.nanmax(found.effective[:, -2]) < 13


def test_units_that_are_off_see_nothing(float64):
    net = tower(conv(3), nn.ReLU())
    nn.init.constant_(net[0].bias, -100.0)
    found = receptive_fields(net, torch.rand(2, 1, 16, 16))
    assert np.all(found.active[:, 1] == 0)
    assert np.isnan(found.effective[:, 1]).all()
    assert found.support[1] == 3


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.side, self.head = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Conv2d(4, 4, 5, padding=2),
            nn.Linear(4, 3),
        )

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.head(F.relu(x + self.side(x)).mean((2, 3)))


def test_branches(float64):
    found = receptive_fields(Skip(), torch.rand(2, 1, 20, 20))
    assert 7 in found.support, "the widest branch"
    with pytest.raises(InputError, match="branches"):
        arithmetic(drmm.lift(Skip()).levels)


def test_what_has_no_field():
    with pytest.raises(InputError, match="rows and columns"):
        receptive_fields(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.rand(2, 1, 4, 4))
    with pytest.raises(InputError, match="square"):
        arithmetic([nn.Conv2d(1, 1, (3, 5))])


LITTLE = ([0.50, 0.52, 0.51, 0.51, 0.50], [0.50, 0.523, 0.511, 0.508, 0.502])
NO_MATTER = ([0.50, 0.52, 0.51, 0.51, 0.50], [0.40, 0.83, 0.49, 0.50, 0.52])
MUCH = ([0.5] * 5, [0.7, 0.8, 0.9, 0.8, 0.7])


@pytest.mark.parametrize(
    ("depth", "field", "outcome"),
    [
        (LITTLE, MUCH, "confirmed"),
        (MUCH, MUCH, "refuted"),
        (LITTLE, MUCH[::-1], "refuted"),
        (LITTLE, LITTLE, "refuted"),
        (NO_MATTER, MUCH, "inconclusive"),
        (LITTLE, NO_MATTER, "inconclusive"),
    ],
)
def test_verdicts_on_depth(depth, field, outcome):
    by_depth, by_field = dict(zip((1, 6), depth, strict=True)), dict(zip((7, 19), field, strict=True))
    verdict = DepthStudy(by_depth, by_field, fitted=0.99).verdict("pytest")
    assert verdict.verdict == outcome
    assert "19" in verdict.says
    few = [{name: seeds[:4] for name, seeds in each.items()} for each in (by_depth, by_field)]
    for study in (DepthStudy(by_depth, by_field, fitted=0.9), DepthStudy(*few, fitted=0.99)):
        assert study.verdict("").verdict == "inconclusive", "control: nets that underfit, or too few"


def test_studies_need_pairs():
    with pytest.raises(InputError, match="same seeds"):
        DepthStudy({1: [0.5] * 3, 2: [0.5] * 4}, {1: [0.5] * 3, 2: [0.5] * 3}, 1.0).gains()
    with pytest.raises(InputError, match="two or more nets"):
        DepthStudy({1: [0.5] * 3}, {1: [0.5] * 3}, 1.0).gains()
