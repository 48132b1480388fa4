"""Lifting a torch net: the same logits to the bit, the same parameters, and the net left as it was."""

import copy
import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drmm import errors, lift
from drmm.errors import InputError, LiftError
from drmm.lifting import tracing
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


# --- outputs ---


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.top = function, nn.Linear(4, 3)

    def forward(self, x):
        return self.function(self.top(x.flatten(1)))


class Named(NamedTuple):
    features: object
    logits: object


@dataclass
class Output:
    loss: object
    logits: object


class Mapped(OrderedDict):
    """As in the libraries whose outputs are dictionaries and objects at once."""


OUTPUTS = {
    "dict": (lambda y: {"features": y, "logits": y}, r"returns dict: .* return self\.net\(x\)\['logits'\]"),
    "mapping": (lambda y: Mapped(out=y), r"returns Mapped: .* return self\.net\(x\)\['out'\]"),
    "list": (lambda y: [y], r"returns list: .* return self\.net\(x\)\[0\]"),
    "tuple": (lambda y: (y, y), r"returns tuple: .* return self\.net\(x\)\[0\]"),
    "named tuple": (lambda y: Named(y, y), r"returns Named: .* return self\.net\(x\)\.logits"),
    "object": (lambda y: Output(None, y), r"returns Output: .* return self\.net\(x\)\.logits"),
    "nothing": (lambda y: None, "returns None: let its forward do so"),
    "a number": (lambda y: 3, "returns int"),
    "a constant": (lambda y: torch.ones(2, 3), "that depend on the images"),
    "sizes": (lambda y: y.shape, "one tensor of logits"),
    "parts": (lambda y: y.chunk(3, 1), "one tensor of logits"),
    "one logit each": (lambda y: y[:, 0], "must return logits"),
    "a picture": (lambda y: y[:, :, None], "must return logits"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_net_returns_logits_and_nothing_else(name):
    function, message = OUTPUTS[name]
    with pytest.raises(LiftError, match=message) as caught:
        lift(Returns(function), image_shape=(1, 2, 2))
    assert "strict=False" not in str(caught.value)


def test_a_map_of_logits_is_refused():
    net = nn.Sequential(nn.Conv2d(1, 3, 3))
    with pytest.raises(LiftError, match="mean over places"):
        lift(net, image_shape=(1, 8, 8))


def test_the_error_is_found_where_it_was():
    assert tracing.LiftError is errors.LiftError


# --- copies ---


class Branches(nn.Module):
    """Constants, asides, joins, a buffer and a bare parameter."""

    def __init__(self):
        super().__init__()
        self.conv, self.top, self.scale = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3), torch.tensor(0.3)
        self.register_buffer("mask", torch.rand(4, 1, 1))
        self.shift = nn.Parameter(torch.rand(4))

    def forward(self, x):
        y = F.max_pool2d(self.conv((x - torch.tensor(0.1)) / self.scale).relu(), 2)
        z = torch.cat([y.transpose(2, 3)[:, :2], torch.maximum(y, -y)[:, 2:]], 1) * self.mask
        return self.top((z + self.shift.view(4, 1, 1)).clamp(0, 0.8).mean((2, 3)))


def watched():
    net = make()
    net[0].register_forward_hook(lambda *_: None)  # a net that cannot be pickled
    return net


def reload(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


NETS = {
    "sequence": make,
    "branches": Branches,
    "watched": watched,
    "wrapped": lambda: nn.DataParallel(make()),
    "weight norm": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(make()[0]), *make()[1:]),
    "old weight norm": lambda: nn.Sequential(nn.utils.weight_norm(make()[0]), *make()[1:]),
}
WAYS = {"pickle": lambda model: pickle.loads(pickle.dumps(model)), "deep copy": copy.deepcopy, "file": reload}


# Torch pickles no parametrised module, of a net or of a model.
COPIES = [(name, way) for name in NETS for way in WAYS if (name, way == "deep copy") != ("weight norm", False)]


@pytest.mark.parametrize(("name", "way"), COPIES)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_lifted_model_is_copied_and_saved(name, way, x):
    model = lift(NETS[name]().eval(), image_shape=(2, 12, 12))
    logits = model(x)
    twin = WAYS[way](model)
    assert torch.equal(twin.infer(x).logits, logits)
    step(twin, x)
    assert not torch.equal(twin(x), logits)
    assert torch.equal(model(x), logits)  # a copy trains apart
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x), logits)


# --- names and forwards of any kind ---

NAMES = (
    "render infer forward_ atoms renderings keys_ nodes walk operations constants steps output levels templates "
    "prior noise training_ module function net images _orig_mod given bounds count guided shuts switches inplace p"
)


@pytest.mark.parametrize("name", NAMES.split())
def test_children_and_attributes_of_any_name(name, x):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module(name, nn.Conv2d(2, 4, 3))
            self.rest = nn.Sequential(OrderedDict([(name, nn.ReLU()), ("flat", nn.Flatten())]))
            self.top = nn.Linear(400, 3)

        def forward(self, x):
            return self.top(self.rest(getattr(self, name)(x)))

    net = Named()
    assert torch.equal(lift(net)(x), net(x))


def test_a_patched_forward_is_what_is_lifted(x):
    net = make().eval()
    forward = net.forward
    net[0].forward = lambda x: F.conv2d(x, net[0].weight, padding="same")
    assert torch.equal(lift(net)(x), net(x.clone()))
    net.forward = lambda x: forward(x) * 2
    assert torch.equal(lift(net)(x), net(x.clone()))
    assert torch.equal(lift(net)(x), 2 * forward(x.clone()))


class AsksForSizes(nn.Module):
    """Branches on the size of its images, as nets of Hugging Face do; with `values`, on what they show."""

    def __init__(self, values=False):
        super().__init__()
        self.small, self.large, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3, stride=2), nn.Linear(4, 5)
        self.values = values

    def forward(self, x):
        if x.shape[1] != 3:
            raise ValueError("three channels")
        _, _, h, w = x.size()
        x = self.large(x) if min(x.shape[-2:]) > 8 and h == w else self.small(x)
        if self.values and x.mean() > 0:
            x = -x
        return self.fc(torch.relu(x).mean((2, 3)))


@pytest.mark.parametrize("side", [8, 9])
def test_control_flow_on_the_size_of_images_is_that_of_the_image_shape(side):
    net, x = AsksForSizes().eval(), torch.rand(2, 3, side, side)
    model = lift(net, image_shape=(3, side, side))
    with torch.no_grad():
        assert torch.equal(model(x), net(x))
    with pytest.raises((LiftError, InputError)):
        model(torch.rand(2, 3, 17 - side, 17 - side))  # it goes another way there


def test_control_flow_on_values_is_refused_whatever_the_shape():
    for options in ({}, {"image_shape": (3, 8, 8)}):
        with pytest.raises(LiftError, match="must not branch"):
            lift(AsksForSizes(values=True), **options)
    with pytest.raises(LiftError, match=r"with image_shape=\(C, H, W\)"):
        lift(AsksForSizes())
