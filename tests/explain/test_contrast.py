"""Why this class and not that one: what is left without the shared evidence is the margin, exactly."""

import pytest
import torch
from torch import nn

import drmm
from drmm import explain
from drmm.errors import InputError

EXACT = {"rtol": 1e-9, "atol": 1e-9}
pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 5)).eval()


@pytest.fixture
def x(net):
    return torch.rand(4, 2, 10, 10)


def test_maps_and_biases_are_the_margin(net, x):
    found = explain.contrast(net, x)
    best, beaten = net(x).topk(2).indices.T
    assert torch.equal(found.label, best)
    assert torch.equal(found.other, beaten)
    margin = net(x).topk(2).values
    torch.testing.assert_close(found.margin, margin[:, 0] - margin[:, 1], **EXACT)
    torch.testing.assert_close(found.maps.sum((1, 2)) + found.bias, found.margin, **EXACT)


def test_nothing_is_left_that_speaks_for_both(net, x):
    found = explain.contrast(net, x, 3, torch.tensor([0, 1, 2, 4]))
    evidence, against = x * found.template, x * found.other_template
    assert not ((found.own * found.others) > 0).any()
    assert ((evidence * against) > 0).any(), "control: before, many pixels do"
    for left, whole in ((found.own, evidence), (found.others, against)):
        assert (left.abs() <= whole.abs() + 1e-12).all()
        assert ((left * whole) >= 0).all(), "what is taken out never turns evidence round"
    disagree = evidence * against <= 0
    torch.testing.assert_close(found.own[disagree], evidence[disagree], **EXACT)


def test_templates_are_the_gradients_of_the_two_scores(net, x):
    found = explain.contrast(net, x, 1, 2)
    images = x.clone().requires_grad_()
    for label, template in ((1, found.template), (2, found.other_template)):
        (slope,) = torch.autograd.grad(net(images)[:, label].sum(), images)
        torch.testing.assert_close(template, slope, **EXACT)


def test_asked_the_other_way_round_the_margin_turns(net, x):
    one, other = explain.contrast(net, x, 1, 2), explain.contrast(net, x, 2, 1)
    torch.testing.assert_close(one.maps, -other.maps, **EXACT)
    torch.testing.assert_close(one.own, other.others, **EXACT)


def test_a_class_against_itself_is_no_question(net, x):
    with pytest.raises(InputError, match="same class"):
        explain.contrast(net, x, 2, torch.tensor([0, 1, 2, 3]))
    with pytest.raises(InputError, match="class indices"):
        explain.contrast(net, x, 2, 5)


def test_one_class_has_no_other():
    with pytest.raises(InputError, match="one class"):
        explain.contrast(nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), torch.rand(2, 1, 2, 2))


def test_of_a_model_too():
    model = drmm.presets.conv_small(width=4).double()
    found = explain.contrast(model, torch.rand(2, 1, 28, 28))
    torch.testing.assert_close(found.maps.sum((1, 2)) + found.bias, found.margin, **EXACT)
    assert model.training
