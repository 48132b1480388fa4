"""One function in many spellings: keywords, methods, sizes of every type, tuples, masks; exact, or refused."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drmm import lift
from drmm.errors import InputError
from drmm.lifting import functions
from drmm.lifting.tracing import LiftError


@pytest.fixture(autouse=True)
def _double(float64):
    """See tests/conftest.py."""


class Net(nn.Module):
    """Logits of what a function makes of two convolutions (N, 8, 6, 6), with constants to do it with."""

    def __init__(self, function, layer=None):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.layer = function, layer
        self.one, self.two, self.top = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Identity()
        self.slope, self.weight = nn.Parameter(torch.rand(8)), nn.Parameter(torch.randn(6, 5))
        self.kernel = nn.Parameter(torch.randn(4, 8, 3, 3))
        self.register_buffer("mask", torch.rand(8, 6, 6) > 0.4)
        self.register_buffer("mean", torch.randn(8, 1, 1))
        self.register_buffer("std", 1 + torch.rand(8, 1, 1))
        self.register_buffer("order", torch.randperm(8))
        self.sizes, self.two_by_two = (np.int64(2), 2), torch.tensor(2)

    def forward(self, x):
        return self.top(self.function(self, self.one(x), self.two(x)).flatten(1))


def make(function, layer=None):
    net = Net(function, layer).eval()
    net.top = nn.Linear(net(torch.zeros(2, 3, 8, 8)).shape[1], 4)
    return net


def gradient(net, x, label):
    images = x.clone().requires_grad_()
    return torch.autograd.grad(net(images).gather(1, label[:, None]).sum(), images)[0]


def check(net):
    """The same logits to the bit, the gradient as the picture, and no score above the bound."""
    x = torch.randn(4, 3, 8, 8)
    model = lift(net)
    assert model.approximations == ()
    latents = model.infer(x)
    assert torch.equal(model(x), net(x))
    assert torch.equal(latents.logits, net(x))
    torch.testing.assert_close(model.render(latents), gradient(net, x, latents.label), rtol=1e-8, atol=1e-8)
    assert (latents.gap >= -1e-9).all()
    return latents


def starred(s, a, b):
    first, *rest = a.chunk(4, 1)
    return first + rest[0] + rest[2]


def loop(s, a, b):
    total = 0
    for part in a.chunk(2, dim=1):
        total = total + part.relu()
    return total


def resized(s, a, b):
    _, _, h, w = a.shape
    return F.interpolate(a, size=(int(h) * 2, int(w * 1.5)))


def unpacked(s, a, b):
    return a.view(*a.shape[:2], -1)


def swapped(s, a, b):
    one, other = a.chunk(2, 1)
    return torch.cat([other, one], 1).relu_()


def unpooled(s, a, b):
    y, places = F.max_pool2d(a, 2, return_indices=True)
    return F.max_unpool2d(y, places, 2)


# With a bound: an increasing map, a gate or a pool of its own class.
BOUNDED = {
    "relu(input=)": lambda s, a, b: torch.relu(input=a),
    "relu(x, True)": lambda s, a, b: F.relu(a, True),
    "relu_": lambda s, a, b: torch.relu_(a),
    "abs(input=)": lambda s, a, b: torch.abs(input=a),
    "abs()": lambda s, a, b: abs(a),
    "clamp(input=, min=0)": lambda s, a, b: torch.clamp(input=a, min=0),
    "clamp_min(0)": lambda s, a, b: a.clamp_min(0),
    "leaky_relu_": lambda s, a, b: F.leaky_relu_(a + 0, 0.1),
    "rrelu": lambda s, a, b: F.rrelu(a, 0.1, 0.2, training=s.training),
    "-x": lambda s, a, b: a.neg().relu() + torch.negative(input=b),
    "maximum(input=, other=)": lambda s, a, b: torch.maximum(input=a, other=b),
    "minimum": lambda s, a, b: torch.minimum(a, b),
    "min(a, b)": lambda s, a, b: torch.min(a, b),
    "max(other=)": lambda s, a, b: a.max(other=b),
    "leaky by max": lambda s, a, b: torch.maximum(a, 0.1 * a),
    "max of chunks": lambda s, a, b: torch.max(*a.chunk(2, 1)),
    "amax(axis=)": lambda s, a, b: a.amax((2, 3)) + torch.amax(b, axis=(2, 3)),
    "amin": lambda s, a, b: a.amin(dim=(2, 3), keepdim=True) - torch.amin(b, 1, True),
    "min(dim).values": lambda s, a, b: a.min(1).values + torch.min(b, dim=1, keepdim=False)[0],
    "max(dim)[0]": lambda s, a, b: a.flatten(2).max(-1)[0],
    "max_pool2d(input=)": lambda s, a, b: F.max_pool2d(input=a, kernel_size=2),
    "pools of numpy": lambda s, a, b: F.max_pool2d(a, s.sizes) + F.avg_pool2d(b, np.int64(2)),
    "pools of torch.Size": lambda s, a, b: F.max_pool2d(a, torch.Size([2, 2])) + F.avg_pool2d(b, [2], (2,)),
    "pools of a tensor": lambda s, a, b: F.avg_pool2d(a, torch.tensor(2)),
    "adaptive pools": lambda s, a, b: (
        F.adaptive_avg_pool2d(output_size=torch.Size([2, 3]), input=a) + F.adaptive_max_pool2d(b, [2, 3])
    ),
    "adaptive pool of a shape": lambda s, a, b: F.adaptive_avg_pool2d(a, (b.shape[2] // 2, np.int32(3))),
    "global mean": lambda s, a, b: F.avg_pool2d(a, a.shape[-2:]),
    "add(input=, other=)": lambda s, a, b: torch.add(input=a, other=b),
    "add(alpha=)": lambda s, a, b: torch.add(a, b, alpha=0.5) - torch.sub(a, b, alpha=2),
    "add(constant, alpha=)": lambda s, a, b: torch.add(s.mean, a, alpha=-0.5),
    "subtract": lambda s, a, b: torch.subtract(a, b),
    "sum([...])": lambda s, a, b: sum([a, b, a]),
    "x + 1": lambda s, a, b: a + 1 + (1 - b) / 255.0,
    "normalised": lambda s, a, b: (a - s.mean) / s.std,
    "mul(input=)": lambda s, a, b: torch.div(input=torch.mul(input=a, other=2), other=s.std),
    "mask": lambda s, a, b: a * s.mask + a.mul(s.mask.to(a.dtype)),
    "where(mask, x, 0)": lambda s, a, b: (
        torch.where(s.mask, a, 0.0) + torch.where(~s.mask, torch.zeros_like(a), a)
    ),
    "where(condition=)": lambda s, a, b: torch.where(condition=s.mask, input=a, other=b),
    "like itself": lambda s, a, b: a.type_as(a).view_as(a) + b.expand_as(b).to(b),
    "x.where": lambda s, a, b: a.where(s.mask, b),
    "masked_fill": lambda s, a, b: a.masked_fill(s.mask, 0) + torch.masked_fill(input=b, mask=s.mask, value=-1.0),
    "masked_fill_": lambda s, a, b: (a + 0).masked_fill_(s.mask, 0.0),
    "cat(tensors=)": lambda s, a, b: torch.cat(tensors=[a, b], dim=1),
    "cat(axis=)": lambda s, a, b: torch.concat((a, b), axis=-1),
    "zeros_like": lambda s, a, b: torch.cat([a, torch.zeros_like(a)], 1),
    "new_zeros": lambda s, a, b: torch.cat([a, a.new_zeros(a.shape), a.new_ones((a.size(0), 2, 6, 6))], 1),
    "torch.zeros": lambda s, a, b: torch.cat([a, torch.zeros(a.shape[0], 4, a.shape[2], a.shape[3])], 1),
    "torch.full": lambda s, a, b: torch.cat((a, b, torch.full((len(a), 1, 6, 6), 0.5)), 1),
    "types of Python": lambda s, a, b: (
        a + torch.ones(1, dtype=float) * isinstance(a.new_ones(1, dtype=float), object)
    ),
    "full_like": lambda s, a, b: a - torch.full_like(b, 0.3) + torch.ones_like(input=a),
    "stacked with zeros": lambda s, a, b: torch.stack((a, b, torch.zeros_like(a)), 2),
    "stack and reduce": lambda s, a, b: torch.stack([a, b]).sum(0) + torch.stack([a, b, a], dim=0).mean(dim=0),
    "coordinates": lambda s, a, b: torch.cat(
        [a, torch.linspace(-1, 1, a.shape[3]).expand(a.shape[0], 1, a.shape[2], -1)], 1
    ),
    "pad": lambda s, a, b: F.pad(a, (0, 0, 0, 0, 0, 4)) + F.pad(b, [0, 0, np.int64(0), 0, 2, 2], value=0.5),
    "pad by a size": lambda s, a, b: F.pad(a, (0, a.shape[3] - 4)),
    "interpolate(size=shape)": lambda s, a, b: F.interpolate(F.avg_pool2d(a, 2), size=b.shape[2:]),
    "interpolate(size=ints)": resized,
    "interpolate(size=numpy)": lambda s, a, b: F.interpolate(a, size=(np.int64(9), 7)),
    "interpolate bicubic": lambda s, a, b: F.interpolate(a, scale_factor=2, mode="bicubic"),
    "interpolate area": lambda s, a, b: F.interpolate(a, [4, 5], mode="area"),
    "interpolate antialias": lambda s, a, b: F.interpolate(a, size=4, mode="bilinear", antialias=True),
    "expand": lambda s, a, b: a[:, :1].expand(a.shape) + a.mean(1, keepdim=True).expand_as(b),
    "reshape(torch.Size)": lambda s, a, b: a.reshape((*a.shape[:2], -1)),
    "view(*shape)": unpacked,
    "view(len(x))": lambda s, a, b: a.view(len(a), -1) + b.reshape(b.size()[0], b.numel() // b.shape[0]),
    "view(int(size))": lambda s, a, b: a.view(int(a.shape[0]), int(a.size(dim=1)), -1),
    "view by products": lambda s, a, b: (
        a.view(-1, int(np.prod(a.size()[1:]))) + b.view(len(b), math.prod(b.shape[1:]))
    ),
    "first dimension as it is": lambda s, a, b: a[0:, 1:].permute(-4, -2, -1, -3),
    "view by a weight's size": lambda s, a, b: a.view(-1, s.kernel.shape[1], 36)[:, : len(s.weight)],
    "flatten(input=)": lambda s, a, b: torch.flatten(input=a, start_dim=1),
    "chunk": lambda s, a, b: torch.chunk(a, 2, 1)[0] + b.tensor_split((4,), dim=1)[1],
    "slices of split": lambda s, a, b: torch.cat(a.split(2, 1)[:2], 1),
    "reversed chunks": lambda s, a, b: torch.cat(a.chunk(2, 1)[::-1], 1),
    "chunks and others": lambda s, a, b: torch.cat(a.chunk(2, 1) + (b,) + b.chunk(4, 1)[1:], 1),  # noqa: RUF005
    "chunks in a list": lambda s, a, b: torch.cat([*map(F.relu, a.chunk(2, 1)), b], 1),
    "first, *rest": starred,
    "loop over chunks": loop,
    "swapped": swapped,
    "sum of chunks": lambda s, a, b: sum(a.chunk(4, 1)) + torch.add(*b.hsplit(4)[:2]),
    "stack of unbind": lambda s, a, b: torch.stack(a.unbind(1), 2),
    "as many as a list": lambda s, a, b: torch.cat([a, b] * len([a, b]), 1),
    "constants of the features' size": lambda s, a, b: a * s.mean.expand_as(a) + s.std.expand(len(a), 8, 1, 1),
    "slices": lambda s, a, b: a[:, ::2, ..., 1:] + torch.narrow(b, 1, 2, 4)[..., 1:],
    "permuted channels": lambda s, a, b: a[:, s.order] + b.index_select(1, s.order) + a.flip(-1).roll(1, 2),
    "mean(axis=)": lambda s, a, b: a.mean([2, 3]) + torch.mean(input=b, dim=(2, 3)),
    "squeeze": lambda s, a, b: F.adaptive_avg_pool2d(a, 1).squeeze(-1).squeeze(-1),
    "x @ w": lambda s, a, b: a @ s.weight + torch.einsum("nchw,wk->nchk", b, s.weight),
    "linear(input=)": lambda s, a, b: F.linear(input=a, weight=s.weight.t(), bias=None),
    "addmm": lambda s, a, b: torch.addmm(s.weight[0], a.mean((1, 2)), s.weight, beta=0.5),
    "bmm": lambda s, a, b: torch.bmm(a.mean(1), s.weight.expand(len(a), 6, 5)),
    "conv2d(weight=)": lambda s, a, b: F.conv2d(weight=s.kernel, input=a, padding=1),
    "batch_norm": lambda s, a, b: F.batch_norm(a, s.mean.flatten(), s.std.flatten(), training=s.training),
    "addcmul": lambda s, a, b: torch.addcmul(a, s.mean, s.std, value=0.5),
    "dropouts": lambda s, a, b: (
        F.alpha_dropout(a, 0.5, s.training)
        + F.feature_alpha_dropout(a, training=s.training)
        + F.dropout3d(a.unsqueeze(2), 0.5, s.training).squeeze(2)
        + torch.dropout(a, 0.5, s.training)
    ),
}
# Without: affine in several features, saturated, or of pieces that their features tell.
EXACT = {
    "lerp": lambda s, a, b: torch.lerp(a, b, 0.3) + a.lerp(b, s.mean),
    "addcmul of two": lambda s, a, b: torch.addcmul(a, b, s.std) + torch.addcdiv(a, b, s.std),
    "clamp(max=)": lambda s, a, b: torch.clamp(a, max=0.3) + torch.clip(b, -0.1, 0.5),
    "clamp_max_": lambda s, a, b: (a + 0).clamp_max_(0.3),
    "clamp by tensors": lambda s, a, b: a.clamp(min=s.mean, max=s.mean + 1) + torch.maximum(b, s.mean),
    "fmin": lambda s, a, b: torch.fmax(a, b) + torch.fmin(a, s.mean),
    "aminmax": lambda s, a, b: torch.aminmax(a, dim=1).max - a.aminmax(dim=1)[0],
    "prelu": lambda s, a, b: F.prelu(a, s.slope) + torch.prelu(input=b, weight=s.slope[:1]),
    "hardtanh": lambda s, a, b: F.hardtanh(a, max_val=0.2) + F.hardtanh_(b + 0, -0.2, 0.3),
    "shrink": lambda s, a, b: F.softshrink(a, 0.1) + b.hardshrink(0.2),
    "relu by max": lambda s, a, b: torch.max(a, torch.zeros_like(a)) + torch.max(b, torch.tensor(0.0)),
    "relu by where": lambda s, a, b: torch.where(a > 0, a, 0) + torch.where(b > 0, b, torch.zeros_like(b)),
    "relu by mask": lambda s, a, b: a * (a > 0) + b * b.gt(0).to(b.dtype) + a.masked_fill(a < 0, 0),
    "leaky by where": lambda s, a, b: torch.where(a >= 0, a, a * s.slope.view(-1, 1, 1)),
    "max by where": lambda s, a, b: torch.where(a > b, a, b),
    "clip by where": lambda s, a, b: torch.where(~(a < 0) & (a < 1), a, 0.5),
    "abs by sign": lambda s, a, b: a.sign() * a,
    "max by argmax": lambda s, a, b: a.gather(1, a.argmax(1, keepdim=True)) + b.gather(1, a.sort(1)[1]),
    "global max": lambda s, a, b: F.max_pool2d(a, a.shape[2:]) + F.max_pool2d(b, kernel_size=b.size()[2:]),
    "max pool of a tensor": lambda s, a, b: F.max_pool2d(a, s.two_by_two),
    "sort": lambda s, a, b: a.sort(1)[0][:, :2] + b.topk(2, dim=1).values,
    "median": lambda s, a, b: a.median(dim=1)[0] + b.kthvalue(2, dim=1).values,
    "max_pool1d": lambda s, a, b: F.max_pool1d(a.flatten(2), 2),
    "maxout by stack": lambda s, a, b: (
        torch.stack([a, b]).max(0)[0] + torch.stack(a.chunk(2, 1)).amax(0).repeat(1, 2, 1, 1)
    ),
    "unpooled": unpooled,
    "one hot": lambda s, a, b: torch.zeros_like(a).scatter_(1, a.argmax(1, keepdim=True), 1.0) * b,
}
LAYERS = {
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(8),
    "AlphaDropout": nn.AlphaDropout,
    "FeatureAlphaDropout": nn.FeatureAlphaDropout,
    "Dropout1d": lambda: nn.Sequential(nn.Flatten(2), nn.Dropout1d()),
    "Dropout3d": lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Dropout3d(), nn.Flatten(1, 2)),
    "RReLU": lambda: nn.RReLU(0.1, 0.3, inplace=True),
    "Hardtanh": lambda: nn.Hardtanh(-0.1, 0.2, inplace=True),
    "Softshrink": lambda: nn.Softshrink(0.1),
    "MaxPool1d": lambda: nn.Sequential(nn.Flatten(2), nn.MaxPool1d(2)),
    "sizes of numpy": lambda: nn.Sequential(nn.MaxPool2d(np.int64(2)), nn.AdaptiveAvgPool2d((np.int64(2), None))),
    "sizes in lists": lambda: nn.Sequential(nn.MaxPool2d([2]), nn.AvgPool2d([2], stride=(np.int64(1),))),
    "size of a tensor": lambda: nn.MaxPool2d(torch.tensor(2)),
    "linear": lambda: nn.Sequential(nn.Flatten(2), nn.Upsample(scale_factor=2, mode="linear")),
    "trilinear": lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Upsample(scale_factor=2, mode="trilinear")),
} | {
    mode: lambda mode=mode: nn.Upsample(scale_factor=2, mode=mode)
    for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
}  # fmt: skip


@pytest.mark.parametrize("name", BOUNDED)
def test_with_a_bound(name):
    assert check(make(BOUNDED[name])).upper_bound.isfinite().all()


@pytest.mark.parametrize("name", EXACT)
def test_without_a_bound(name):
    check(make(EXACT[name]))


@pytest.mark.parametrize("name", ["global max", "max_pool1d", "relu by where", "maxout by stack", "aminmax"])
def test_copies_and_pickles(name):
    x = torch.randn(2, 3, 8, 8)
    model = lift(make(EXACT[name]))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    check(make(lambda s, a, b: s.layer(a), LAYERS[name]()))


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_layers():
    layers = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    check(make(lambda s, a, b: s.layer(a), layers))


def test_a_wrong_translation_is_noticed(monkeypatch):
    net = make(BOUNDED["minimum"])
    check(net)
    monkeypatch.setitem(functions._BUILDERS, "minimum", functions._maximum)
    with pytest.raises((AssertionError, LiftError)):
        check(net)


def test_a_bound_that_is_too_low_is_noticed(monkeypatch):
    net = make(BOUNDED["subtract"])
    monkeypatch.setattr(
        "drmm.rendering.joins.Sum.bounds", lambda self, lowers, uppers: (self(*lowers), -self(*uppers))
    )
    with pytest.raises(AssertionError):
        check(net)


@pytest.mark.parametrize("layer", [nn.RReLU, nn.AlphaDropout])
def test_what_is_drawn_in_training_alone_is_refused_there(layer):
    model = lift(make(lambda s, a, b: s.layer(a), layer()))
    with pytest.raises(InputError, match="another graph in training"):
        model.train()(torch.randn(2, 3, 8, 8))


def test_dropout_of_any_shape_draws_what_the_net_draws():
    net = make(lambda s, a, b: s.layer(a), LAYERS["Dropout3d"]()).train()
    logits = []
    for function in (net, lift(net)):
        torch.manual_seed(1)
        logits.append(function(torch.ones(4, 3, 8, 8)))
    assert torch.equal(*logits)


REFUSED = {
    "product": (lambda s, a, b: torch.mul(input=a, other=b), "'mul'.*features by features"),
    "weight of a blend": (lambda s, a, b: torch.lerp(a, b, b), "'lerp'.*multiplies or divides by features"),
    "quotient": (lambda s, a, b: a / a, "'truediv'.*divides by features"),
    "slope that is a feature": (lambda s, a, b: F.prelu(a, b[0, :, 0, 0]), "'getitem'.*mixes images"),
    "places": (lambda s, a, b: a.max(1)[1], "gives places"),
    "mask": (lambda s, a, b: (a > 0).to(a.dtype), "'gt'.*no picture flows"),
    "rounded": (lambda s, a, b: torch.div(a, 2, rounding_mode="floor"), "'div'.*no picture flows"),
    "several": (lambda s, a, b: a.chunk(2, 1), "'chunk'.*several outputs"),
    "loop over an unknown number": (lambda s, a, b: sum(p for p in a.split(2, 1)), "as many parts as there are"),
    "loop over a size": (lambda s, a, b: sum(a[:, i] for i in range(a.shape[1])), "must not branch or loop"),
    "a mean and more": (lambda s, a, b: torch.var_mean(a, dim=1)[1], "'var_mean'.*knows no rendering"),
    "control flow": (lambda s, a, b: a if a.sum() > 0 else b, "must not branch"),
    "drawn": (lambda s, a, b: a + torch.randn_like(a), "'randn_like'.*at random in evaluation"),
    "drawn by size": (lambda s, a, b: a * torch.rand(a.shape[0], 1, 1, 1), "'rand'.*at random in evaluation"),
    "dropout": (lambda s, a, b: F.alpha_dropout(a, 0.5, True), "'alpha_dropout'.*training=self.training"),
    "rrelu": (lambda s, a, b: F.rrelu(a, training=True), "'rrelu'.*training=self.training"),
    "batch norm of the batch": (
        lambda s, a, b: F.batch_norm(a, None, None, training=True),
        "'batch_norm'.*the batch",
    ),
    "copied": (lambda s, a, b: torch.zeros_like(a).copy_(a), "'copy_'.*in place"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    function, message = REFUSED[name]
    with pytest.raises(LiftError, match=message):
        lift(Net(function).eval())


MIXING = {
    "roll": lambda a: a.roll(1, 0),
    "roll of all": lambda a: torch.roll(a, 1),
    "roll(dims=)": lambda a: torch.roll(input=a, shifts=1, dims=(0,)),
    "flip": lambda a: a.flip(1, 0),
    "cumsum(axis=)": lambda a: torch.cumsum(a, axis=0),
    "mean of all": lambda a: a - a.mean(),
    "mean(input=, dim=)": lambda a: a - torch.mean(input=a, dim=0),
    "sum(axis=)": lambda a: a.sum(axis=(0, 2)),
    "largest of all": lambda a: a / a.max(),
    "largest image": lambda a: a.max(0)[0],
    "amax": lambda a: a.amax(),
    "index": lambda a: a[torch.tensor([1, 0])],
    "slice": lambda a: a[1:],
    "new axis": lambda a: a[None],
    "index_select": lambda a: torch.index_select(input=a, dim=0, index=torch.tensor([1, 0])),
    "sort": lambda a: a.sort(0)[0],
    "transpose": lambda a: torch.transpose(input=a, dim0=1, dim1=0),
    "permute": lambda a: torch.permute(input=a, dims=(1, 0, 2, 3)),
    "moveaxis": lambda a: a.moveaxis(0, 1),
    "T": lambda a: a.mean((2, 3)).T,
    "flatten": torch.flatten,
    "cat": lambda a: torch.cat(tensors=[a, a]),
    "vstack": lambda a: torch.vstack([a, a]),
    "split": lambda a: a.split(1)[0],
    "rot90": lambda a: a.rot90(),
    "repeat_interleave": lambda a: a.repeat_interleave(2),
    "a stack that stays": lambda a: torch.stack([a, a]).relu(),
    "softmax": lambda a: F.softmax(a, 0),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_takes_the_first_dimension_is_named(name):
    with pytest.raises(LiftError, match="mixes images or moves them: keep them in the first dimension"):
        lift(Net(lambda s, a, b, of=MIXING[name]: of(a)).eval())
