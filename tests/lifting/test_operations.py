"""Nets as users write them: functions, methods, branches, odd layers. Each is lifted and checked against torch."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from drmm import lift
from drmm.errors import InputError
from drmm.lifting import translation
from drmm.lifting.tracing import LiftError
from drmm.rendering import Choice, Conv2d, Flatten, Graph, Linear, ReLU


@pytest.fixture(autouse=True)
def _double(float64):
    """See tests/conftest.py."""


class Net(nn.Module):
    """A forward function, and the modules, parameters and buffers that it uses."""

    def __init__(self, function, **own):
        super().__init__()
        self.function = function
        for name, value in own.items():
            if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x):
        return self.function(self, x)


def conv(out=8, **options):
    return nn.Conv2d(3, out, 3, **options)


def random(*shape):
    return nn.Parameter(torch.randn(shape))


def top(features, out=4):
    return nn.Linear(features, out)


def mnist(self, x):
    x = F.max_pool2d(F.relu(self.second(F.relu(self.first(x)))), 2)
    x = torch.flatten(F.dropout(x, 0.25, self.training), 1)
    return self.top(F.dropout(F.relu(self.hidden(x)), training=self.training))


def shuffle(self, x):
    y = self.conv(x)
    n, c, h, w = y.size()
    y = y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
    one, other = y.chunk(2, dim=1)
    return self.top(torch.cat([one.relu(), other], 1).mean((2, 3)))


def gates(self, x):
    y = self.conv(x)
    parts = [F.relu6(y * 4).clamp(0.5, 5), F.hardtanh(y), F.threshold(y, 0.1, 0.3), self.prelu(y), y.abs()]
    parts += [F.leaky_relu(y, 0.2), torch.clamp(y, min=0), self.six(2 * y), self.clip(y), -y.relu()]
    return self.top(sum(parts).flatten(1))


def arithmetic(self, x):
    one, other = self.conv(x), self.other(x)
    y = 2 * one - other * 0.5 + torch.add(one, other, alpha=0.3) - torch.sub(1.5, one) / 3 + self.shift
    return self.top((y + y).relu().mean((2, 3)))


def unet(self, x):
    skip = self.conv(x).relu()
    up = F.interpolate(self.deep(F.max_pool2d(skip, 2, ceil_mode=True)), size=skip.shape[2:], mode="nearest")
    up = torch.cat([up, self.grow(F.max_pool2d(skip, 2))], 1)
    return self.top(up).mean((2, 3))


def in_place(self, x):
    y = self.conv(x)
    z = self.relu(y)  # in place: what follows reads y after the gate
    z = z + self.other(y)
    z += y
    F.relu_(z)
    return self.top(z.mean([2, 3]))


def standardised(self, x):
    weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
    return self.top(F.conv2d(x, weight / weight.std(), self.bias, stride=2).relu().flatten(1))


class Renamed(nn.Conv2d):
    pass


class Centred(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


class Hidden(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Renormed(nn.BatchNorm2d):
    pass


def old_style(register):
    layer = conv(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        register(layer)
    return nn.Sequential(nn.Sequential(layer), nn.ReLU(), nn.Flatten(), top(400))


EXACT = {
    "mnist example": lambda: Net(mnist, first=conv(), second=nn.Conv2d(8, 8, 3), hidden=top(128, 16), top=top(16)),
    "channel shuffle": lambda: Net(shuffle, conv=conv(), top=top(8)),
    "gates": lambda: Net(
        gates, conv=conv(), prelu=nn.PReLU(8), six=nn.ReLU6(True), clip=nn.Hardtanh(-0.2, 0.7), top=top(800)
    ),
    "arithmetic": lambda: Net(arithmetic, conv=conv(), other=conv(), shift=random(8, 1, 1), top=top(8)),
    "u-net": lambda: Net(
        unet,
        conv=conv(padding=1),
        deep=nn.Conv2d(8, 8, 3, padding=1),
        grow=nn.ConvTranspose2d(8, 4, 2, 2),
        top=nn.Conv2d(12, 4, 1),
    ),
    "view(-1)": lambda: Net(lambda s, x: s.top(s.conv(x).relu().view(-1, 800)), conv=conv(), top=top(800)),
    "view(size)": lambda: Net(lambda s, x: s.top(s.conv(x).view(x.size(0), -1)), conv=conv(), top=top(800)),
    "reshape(shape)": lambda: Net(
        lambda s, x: s.top(s.conv(x).reshape((x.shape[0], -1))), conv=conv(), top=top(800)
    ),
    "pool of its own size": lambda: Net(
        lambda s, x: s.top(F.avg_pool2d(s.conv(x), s.conv(x).size()[2:]).flatten(1)), conv=conv(), top=top(8)
    ),
    "no linear layer": lambda: Net(
        lambda s, x: s.top(s.conv(x).relu()).mean((2, 3)), conv=conv(), top=nn.Conv2d(8, 4, 1)
    ),
    "weight standardisation": lambda: Net(standardised, weight=random(4, 3, 3, 3), bias=random(4), top=top(100)),
    "maxout": lambda: Net(
        lambda s, x: s.top(torch.maximum(s.conv(x), s.other(x)).amax((2, 3))),
        conv=conv(),
        other=conv(),
        top=top(8),
    ),
    "minimum": lambda: Net(
        lambda s, x: s.top(torch.minimum(s.conv(x), s.other(x)).amax(dim=(-1, -2), keepdim=True).flatten(1)),
        conv=conv(),
        other=conv(),
        top=top(8),
    ),
    "max over a dimension": lambda: Net(
        lambda s, x: s.top(s.conv(x).flatten(2).max(dim=2)[0] + s.conv(x).flatten(2).max(2).values),
        conv=conv(),
        top=top(8),
    ),
    "adaptive max-pool": lambda: Net(
        lambda s, x: s.top(F.adaptive_max_pool2d(s.conv(x), 3).flatten(1)), conv=conv(), top=top(72)
    ),
    "sum and stack": lambda: Net(
        lambda s, x: s.top(
            (sum([s.conv(x), s.other(x)]) + torch.stack([s.conv(x), s.other(x)], 1).sum(1)).mean((2, 3))
        ),
        conv=conv(),
        other=conv(),
        top=top(8),
    ),
    "split": lambda: Net(
        lambda s, x: s.top((torch.split(s.conv(x), [3, 5], 1)[1] + s.conv(x).split(5, dim=1)[0]).mean((2, 3))),
        conv=conv(),
        top=top(5),
    ),
    "crop": lambda: Net(lambda s, x: s.top(s.conv(x)[:, :, 2:-2, 1:].mean(dim=(-1, -2))), conv=conv(), top=top(8)),
    "padding of every kind": lambda: nn.Sequential(
        nn.ReflectionPad2d(1),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.ZeroPad2d(1),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.PixelUnshuffle(2),
        nn.Conv2d(16, 4, 3, stride=3, groups=2),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        top(16),
    ),
    "subclasses": lambda: nn.Sequential(
        Renamed(3, 4, 3),
        Renormed(4),
        nn.ReLU(),
        Centred(4, 4, 3),
        nn.ReLU(),
        Hidden(4, 4, 3),
        nn.Flatten(),
        top(144),
    ),
    "constants": lambda: Net(
        lambda s, x: s.top(((x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / s.scale).flatten(1)),
        scale=1 + torch.rand(3, 1, 1),
        top=top(432),
    ),
    "class token": lambda: Net(
        lambda s, x: s.top(torch.cat([s.conv(x).flatten(2), s.token.expand(x.shape[0], -1, -1)], 2).mean(2)),
        conv=conv(),
        token=random(1, 8, 1),
        top=top(8),
    ),
    "parametrised weight norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(conv(4)), nn.ReLU(), nn.Flatten(), top(400)
    ),
    "weight norm": lambda: old_style(nn.utils.weight_norm),
    "spectral norm": lambda: old_style(nn.utils.spectral_norm),
    "pruned": lambda: old_style(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
    "ends with a gate": lambda: nn.Sequential(nn.Flatten(), top(432), nn.ReLU()),
    "keywords": lambda: Net(
        lambda s, x: s.top(torch.flatten(F.max_pool2d(input=s.conv(x), kernel_size=2, stride=1), start_dim=1)),
        conv=conv(),
        top=top(648),
    ),
    "dropout of channels": lambda: nn.Sequential(
        nn.Dropout2d(), conv(4), nn.Dropout(inplace=True), nn.Flatten(), top(400)
    ),
}


def gradient(net, x, label):
    images = x.clone().requires_grad_()
    return torch.autograd.grad(net(images.clone()).gather(1, label[:, None]).sum(), images)[0]


def check(net, x, **options):
    net.eval()
    logits = net(x.clone())  # with a gradient as below: attention takes another path without one
    parameters = {id(p) for p in net.parameters()}
    model = lift(net, **options)
    latents = model.infer(x)
    assert torch.equal(model(x), logits)
    assert torch.equal(latents.logits, logits)
    assert {id(p) for p in model.parameters()} == parameters
    picture = model.render(latents)
    torch.testing.assert_close(picture, gradient(net, x, latents.label), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(model.render(latents.select(slice(1, 3))), picture[1:3])
    assert (latents.gap >= -1e-9).all()
    return model


@pytest.mark.parametrize("name", EXACT)
def test_exact(name):
    model = check(EXACT[name](), torch.randn(4, 3, 12, 12))
    assert model.approximations == ()


def test_in_place_writes_reach_those_who_read_later():
    """Torch itself cannot differentiate this net; its twin without in-place writes can."""
    net = Net(in_place, conv=conv(padding=1), other=nn.Conv2d(8, 8, 1), relu=nn.ReLU(inplace=True), top=top(8))
    x = torch.randn(3, 3, 12, 12)

    def pure(self, x):
        y = self.conv(x).relu()
        return self.top((y + self.other(y) + y).relu().mean([2, 3]))

    twin = Net(pure, **dict(net.named_children()))
    model = lift(net)
    latents = model.infer(x)
    assert torch.equal(latents.logits, twin(x))
    assert torch.equal(latents.logits, net(x))
    torch.testing.assert_close(model.render(latents), gradient(twin, x, latents.label))


class StochasticDepth(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        if self.training and torch.rand(1) < 0.5:
            return x
        return x + F.relu(self.conv(x))


def test_stochastic_depth():
    net = nn.Sequential(conv(), StochasticDepth(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), top(8))
    model = check(net, torch.randn(4, 3, 12, 12))
    model.train()
    with pytest.raises(InputError, match="another graph in training"):
        model(torch.randn(2, 3, 12, 12))
    assert not net.training


def test_dropout_in_training_draws_what_the_net_draws():
    net = EXACT["mnist example"]().train()
    model = lift(net)
    x = torch.randn(4, 3, 12, 12)
    logits = []
    for function in (net, model, lambda images: model.infer(images).logits):
        torch.manual_seed(1)
        logits.append(function(x))
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    assert not torch.equal(net(x), logits[0])  # the control: it is random


def test_structure():
    model = lift(EXACT["view(size)"]().eval())
    assert [type(level) for level in model.levels] == [Conv2d, Flatten]
    assert type(model.templates) is Linear
    assert type(lift(EXACT["no linear layer"]().eval()).templates) is Choice
    assert [type(level) for level in lift(EXACT["channel shuffle"]().eval()).levels][:2] == [Conv2d, Graph]
    assert [type(m) for m in lift(nn.Linear(7, 3)).levels] == []


def test_a_lifted_graph_can_be_copied_and_saved():
    net = EXACT["weight standardisation"]().eval()
    model, x = lift(net), torch.randn(2, 3, 12, 12)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), net(x))
    with torch.no_grad():
        net.weight.mul_(torch.randn(4, 1, 1, 1))
    assert not torch.equal(twin(x), net(x))
    assert torch.equal(model(x), net(x))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x), net(x))


def test_the_number_of_classes_may_need_an_image():
    net = Net(lambda s, x: F.linear(x.flatten(1), s.weight), weight=random(5, 432)).eval()
    with pytest.raises(LiftError, match="image_shape"):
        lift(net)
    assert lift(net, image_shape=(3, 12, 12)).n_classes == 5
    wide = Net(lambda s, x: s.conv(x).flatten(1), conv=conv(2)).eval()
    with pytest.raises(InputError, match="lift it with image_shape"):
        lift(wide)(torch.randn(1, 3, 12, 12))


def test_samples_and_log_joint_of_a_graph():
    net = EXACT["u-net"]().eval()
    model = lift(net, image_shape=(3, 12, 12))
    x = torch.rand(6, 3, 12, 12)
    model.settle([x])
    latents = model.infer(x)
    assert model.log_joint(x, latents).isfinite().all()
    assert model.sample(5, label=2).shape == (5, 3, 12, 12)


# --- approximations ---


class Attention(nn.Module):
    def __init__(self, width=16, heads=2):
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x):
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * width**-0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, tokens, width))


class ViT(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.patches, self.position, self.attention = nn.Conv2d(3, 16, 4, 4), random(1, 9, 16), attention
        self.norm, self.top = nn.LayerNorm(16), nn.Linear(16, 5)
        self.mlp = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        y = self.norm(x)
        if isinstance(self.attention, nn.MultiheadAttention):
            x = x + self.attention(y, y, y, need_weights=False)[0]
        else:
            x = x + self.attention(y)
        return self.top((x + self.mlp(x)).mean(1))


def excite(self, x):
    y = F.silu(self.conv(x))
    return self.top((y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))).mean((2, 3)))


APPROXIMATE = {
    "vision transformer": (lambda: ViT(Attention()), "attention"),
    "multi-head attention": (lambda: ViT(nn.MultiheadAttention(16, 2, batch_first=True)), "norm"),
    "squeeze and excitation": (lambda: Net(excite, conv=conv(), gate=nn.Conv2d(8, 8, 1), top=top(8)), "silu"),
    "norms and smooth gates": (
        lambda: nn.Sequential(
            conv(),
            nn.GroupNorm(2, 8),
            nn.GELU(),
            nn.LocalResponseNorm(3),
            nn.InstanceNorm2d(8),
            nn.Softplus(),
            nn.Flatten(),
            top(800),
        ),
        "2",
    ),
    "log-softmax": (lambda: Net(lambda s, x: F.log_softmax(s.top(x.flatten(1)), 1), top=top(432)), "log_softmax"),
}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_approximate(name):
    make, named = APPROXIMATE[name]
    net = make()
    with pytest.raises(LiftError, match="strict=False"):
        lift(net)
    model = check(net, torch.randn(4, 3, 12, 12), strict=False)
    assert any(named in level for level in model.approximations)
    assert model.infer(torch.randn(2, 3, 12, 12)).upper_bound.isinf().all()


def test_one_more_trace_does_for_all_attention_blocks(monkeypatch):
    traced = []
    trace = translation.trace
    monkeypatch.setattr(translation, "trace", lambda *args: traced.append(args) or trace(*args))
    blocks = [Attention() for _ in range(4)]
    net = Net(lambda s, x: s.top(s.blocks(s.patches(x).flatten(2).transpose(1, 2)).mean(1)), top=top(16))
    net.patches, net.blocks = nn.Conv2d(3, 16, 4, 4), nn.Sequential(*blocks)
    model = check(net, torch.randn(4, 3, 12, 12), strict=False)
    assert len(model.approximations) == len(blocks)
    assert len(traced) == 2


# --- refusals ---


def assigns(self, x):
    y = self.conv(x)
    F.relu_(y[:, 0])
    return self.top(y.flatten(1))


REFUSED = {
    "gelu": (lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.GELU())), r"'0\.1' \(GELU\).*slope"),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 3)), r"'0' \(LayerNorm\).*scale"),
    "product": (lambda: Net(lambda s, x: s.top((x * x).flatten(1)), top=top(432)), r"'mul'.*features by features"),
    "quotient": (lambda: Net(lambda s, x: s.top((1 / x).flatten(1)), top=top(432)), r"'truediv'"),
    "log-softmax": (lambda: Net(lambda s, x: F.log_softmax(s.top(x), 1), top=top(12)), "return the logits"),
    "control flow": (lambda: Net(lambda s, x: x if x.sum() > 0 else -x), "must not branch"),
    "an error in forward": (lambda: Net(lambda s, x: s.missing(x)), "Net cannot be traced .*missing"),
    "two inputs": (
        type("Two", (nn.Module,), {"forward": lambda s, x, y: x + y}),
        r"more than images \(y\)",
    ),
    "two outputs": (lambda: Net(lambda s, x: (x.relu(), x)), "one tensor of logits"),
    "places": (lambda: Net(lambda s, x: x.max(1)[1]), "gives places"),
    "products": (lambda: Net(lambda s, x: x.cumprod(1)), r"'cumprod'.*knows no rendering"),
    "all at once": (lambda: Net(lambda s, x: x.chunk(3, 1)), "'chunk'.*index them"),
    "mixes images": (lambda: Net(lambda s, x: x.transpose(0, 1).relu()), r"'transpose'.*mixes images"),
    "mean of all": (lambda: Net(lambda s, x: x - x.mean()), r"'mean'.*mixes images"),
    "stacked images": (lambda: Net(lambda s, x: torch.cat([x, x])), r"'cat'.*mixes images"),
    "flattened images": (lambda: nn.Sequential(nn.Flatten(0), nn.Linear(4, 2)), r"'0' \(Flatten\)"),
    "dropout for ever": (lambda: Net(lambda s, x: F.dropout(x).relu()), "'dropout'.*at random in evaluation"),
    "a view is written": (lambda: Net(assigns, conv=conv(), top=top(800)), r"'relu_'.*clone it first"),
    "pool with places": (lambda: nn.Sequential(nn.MaxPool2d(2, return_indices=True)), r"'0' \(MaxPool2d\)"),
    "empty": (nn.Sequential, "one tensor of logits"),
    "no module": (lambda: 3, r"takes an nn\.Module, got int"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    make, message = REFUSED[name]
    with pytest.raises(LiftError, match=message):
        lift(make())


def test_images_must_stay_in_the_first_dimension():
    net = Net(
        lambda s, x: s.top((s.conv(x).view(-1, 4, 10, 10) + 1).relu().view(-1, 800)), conv=conv(), top=top(800)
    )
    model = lift(net.eval())
    with pytest.raises(InputError, match="first dimension"):
        model.infer(torch.randn(2, 3, 12, 12))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own imports
def test_data_parallel_and_compiled_nets_are_unwrapped():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert lift(nn.DataParallel(net)).templates.weight is net[1].weight
    assert lift(torch.compile(net)).templates.weight is net[1].weight


def test_a_layer_used_twice_is_one_operation():
    gate = ReLU()
    net = Net(
        lambda s, x: s.top(s.gate(s.conv(s.gate(x))).flatten(1)), conv=conv(), gate=gate, top=top(800)
    ).eval()
    model = lift(net)
    assert model.levels[0] is model.levels[2] is gate
