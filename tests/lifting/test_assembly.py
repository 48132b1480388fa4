"""Lifting a torch net: the same logits to the bit, the same parameters, and the net left as it was."""

import copy

import pytest
import torch
from torch import nn

from drmm import lift
from drmm.rendering import Conv2d, ReLU


def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding="same"),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Sequential(
            nn.Conv2d(4, 6, 3, stride=2), nn.LeakyReLU(0.1, inplace=True), nn.Sequential(nn.Dropout(0.4))
        ),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Identity(),
        nn.Flatten(),
        nn.Linear(6, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


@pytest.fixture
def x():
    return torch.randn(5, 2, 12, 12)


@pytest.mark.parametrize("training", [False, True])
def test_logits_are_identical_to_the_bit(x, training):
    net = make().train(training)
    twin = copy.deepcopy(net)
    model = lift(net)
    for answer in (model, lambda images: model.infer(images).logits):
        logits = []
        for net in (answer, twin):  # dropout draws the same mask
            torch.manual_seed(1)
            logits.append(net(x.clone()))
        assert torch.equal(*logits)


def test_the_first_layer_may_work_in_place(x):
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(288, 3))
    model = lift(net)
    latents = model.infer(x)
    assert torch.equal(latents.logits, net(x.clone()))
    assert (x < 0).any()  # inference does not touch the images


def step(trained, x):
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    trained(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("which", [0, 1])
def test_training_either_trains_both(x, which):
    net = make()
    model = lift(net)
    before = [p.detach().clone() for p in net.parameters()]
    step((net, model)[which], x)
    mine, theirs = {id(p) for p in model.parameters()}, {id(p) for p in net.parameters()}
    assert mine == theirs
    assert all(not torch.equal(p, q) for p, q in zip(net[9].parameters(), before[-6:-4], strict=True))
    net.eval()
    model.eval()
    assert torch.equal(model(x.clone()), net(x.clone()))  # running statistics are shared too


def test_a_replaced_parameter_is_replaced_in_both(x):
    net = make().eval()
    model = lift(net)
    net[12].weight = nn.Parameter(torch.zeros(3, 8))
    assert torch.equal(model(x)[0], net[12].bias)


def test_hooks_stay_on_the_net(x):
    net = make().eval()
    calls = []
    net[0].register_forward_hook(lambda *_: calls.append("forward"))
    net[9].register_forward_pre_hook(lambda *_: calls.append("pre"))
    model = lift(net)
    model.infer(x)
    model(x)
    assert calls == []
    net(x.clone())
    assert calls == ["forward", "pre"]


def test_modes_are_taken_over_and_left():
    net = make().train()
    net[1].eval()
    before = [module.training for module in net.modules()]
    model = lift(net)
    assert [module.training for module in net.modules()] == before
    assert model.training
    assert not model.levels[1].training
    assert model.levels[0].training
    assert not lift(make().eval()).training


def test_the_net_is_left_as_it_was():
    net = make()
    keys = list(net.state_dict())
    lift(net)
    assert list(net.state_dict()) == keys
    assert type(net[0]) is nn.Conv2d


def test_a_reused_layer(x):
    gate = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(2, 2, 3), gate, nn.Conv2d(2, 2, 3), gate, nn.Flatten(), nn.Linear(128, 3))
    model = lift(net)
    latents = model.infer(x)
    images = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(images).gather(1, latents.label[:, None]).sum(), images)
    torch.testing.assert_close(model.render(latents), gradient)


def test_renderings_may_be_among_the_layers(x):
    own = ReLU()
    model = lift(nn.Sequential(Conv2d(2, 3, 3), own, nn.Flatten(), nn.Linear(300, 3)))
    assert model.levels[1] is own
    assert model.infer(x).score.shape == (5,)


def test_the_image_shape_gives_a_prior(x):
    model = lift(make().eval(), image_shape=(2, 12, 12))
    assert model.sample(2).shape == (2, 2, 12, 12)
    assert model.log_joint(x, model.infer(x)).isfinite().all()
