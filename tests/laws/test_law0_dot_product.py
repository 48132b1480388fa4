"""Law 0. Inference and rendering are the same linear map and its transpose.

For frozen switches g a level infers x ↦ A_g x + b_g and renders z ↦ A_gᵀ z = Λ_g z, so that for every x, z:

    ⟨A_g x, z⟩ = ⟨x, A_gᵀ z⟩.

Checked for every rendering of the library, over its geometries, by `drmm.testing.dot_product_gap`, which
takes A_g from the derivative of `infer`. Batch norm and levels in training are compared with a map built by
hand, in which the batch's statistics are frozen (they belong to the E-step). Controls: a correlation drawn
without the flip, switches of another image, and a forgotten mask fail.
"""

import copy
import inspect

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from drmm import rendering
from drmm.rendering import (
    Abs,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    Affine,
    AffineJoin,
    Aside,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Choice,
    Clip,
    Concat,
    Conv2d,
    Dropout,
    Dropout2d,
    Flatten,
    FrozenBatchNorm2d,
    Graph,
    Identity,
    Join,
    Largest,
    LeakyReLU,
    Level,
    Linear,
    LocalJoin,
    LocalLinear,
    Maximum,
    MaxPool2d,
    PReLU,
    ReLU,
    Rendering,
    SamePad2d,
    Sequential,
    Step,
    Sum,
    Switches,
)
from drmm.testing import dot_product_gap

LAW = 1e-10
small = st.integers(1, 3)
pair = st.tuples(small, small)
side = st.integers(3, 8)


def images(data, channels=None):
    shape = (data.draw(small), channels or data.draw(small), data.draw(side), data.draw(side))
    return torch.randn(shape)


def conv(data, channels, **options):
    groups = data.draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
    if data.draw(st.booleans()):
        options |= {"padding": data.draw(st.sampled_from(["same", "valid"]))}
    else:
        options |= {"padding": data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))}
    if options["padding"] != "same":
        options |= {"stride": data.draw(pair)}
    options |= {"dilation": data.draw(pair), "groups": groups, "bias": data.draw(st.booleans())}
    return Conv2d(channels, groups * data.draw(small), data.draw(pair), **options)


def max_pool(data):
    kernel, dilation = data.draw(pair), data.draw(pair)
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    return MaxPool2d(kernel, data.draw(pair), padding, dilation, ceil_mode=data.draw(st.booleans()))


def max_pool_on_features(data):
    """Without dilation: on few features, a dilated window could lie in the padding altogether (torch: -inf)."""
    kernel = data.draw(pair)
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    return MaxPool2d(kernel, data.draw(pair), padding, ceil_mode=data.draw(st.booleans()))


def avg_pool(data):
    kernel = data.draw(pair)
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    divisor = data.draw(st.sampled_from([None, 1, 3]))
    ceil, include = data.draw(st.booleans()), data.draw(st.booleans())
    return AvgPool2d(kernel, data.draw(pair), padding, ceil, include, divisor)


def norm(kind, channels, *, affine):
    """A norm in evaluation mode that has seen data; γ of either sign."""
    module = kind(channels, affine=affine)
    nn.init.normal_(module.running_mean)
    nn.init.uniform_(module.running_var, 0.5, 2)
    if affine:
        nn.init.normal_(module.weight)
        nn.init.normal_(module.bias)
    return module.eval()


def level(data):
    x = images(data)
    dictionary = conv(data, x.shape[1])
    normed = data.draw(st.booleans())
    pool = max_pool_on_features(data) if data.draw(st.booleans()) else None
    return Level(dictionary, norm(BatchNorm2d, dictionary.out_channels, affine=True) if normed else None, pool), x


def nested(data):
    x = images(data)
    first = conv(data, x.shape[1])
    inner = Sequential(ReLU(), max_pool_on_features(data))
    return Sequential(first, inner, Sequential(Sequential(Level(conv(data, first.out_channels)))), Flatten()), x


def of_images(make):
    def case(data):
        return make(data), images(data)

    return case


def of_channels(make):
    def case(data):
        x = images(data)
        return make(data, x.shape[1]), x

    return case


def of_vectors(data):
    x = torch.randn(data.draw(small), data.draw(small), 5)
    return Linear(5, data.draw(small), bias=data.draw(st.booleans())), x


def of_features(data):
    shape = (4, 3, 5) if data.draw(st.booleans()) else (4, 3)
    return norm(BatchNorm1d, 3, affine=data.draw(st.booleans())), torch.randn(shape)


def affine(data):
    shift = torch.randn(1)
    functions = [
        lambda x: F.pad(x, (1, 0, 2, 1), mode="replicate"),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear") + shift,
        lambda x: x.flip(2).transpose(2, 3)[..., ::2],
        lambda x: x.mean((2, 3)),
    ]
    return Affine(data.draw(st.sampled_from(functions)))


def largest(data):
    dims = data.draw(st.sampled_from([(1,), (2, 3), (3, 1), (-1, -2)]))
    return Largest(dims, keepdim=data.draw(st.booleans()), largest=data.draw(st.booleans()))


def joined(join):
    """A join in a graph, where two branches of an image meet; the image itself goes around one of them."""

    def case(data):
        x = images(data)
        branch = {"first": Conv2d(x.shape[1], x.shape[1], 3, padding=1), "second": ReLU(), "join": join(data)}
        return Graph(branch, [Step("first", (0,)), Step("second", (0,)), Step("join", (1, 2))], 3), x

    return case


def graph(data):
    """Branches of one image, a fork that is used three times, and an operation that depends on a size."""
    x = images(data)
    scale = Affine(lambda y, size: y * size[2])
    operations = {"conv": Conv2d(x.shape[1], 4, 3, padding=1), "gate": LeakyReLU(0.3), "scale": scale}
    operations |= {"sum": Sum((1, -0.5)), "cat": Concat(1), "pool": AdaptiveMaxPool2d(2)}
    nodes = [Step("conv", (0,)), Step("gate", (1,)), Aside(lambda y: y.shape, (1,)), Step("scale", (2,), (3,))]
    nodes += [Step("sum", (4, 2)), Step("cat", (5, 2)), Step("pool", (6,)), Step("gate", (7,))]
    return Graph(operations, nodes, 8), x


FAMILIES = {
    Conv2d: of_channels(conv),
    Linear: of_vectors,
    Flatten: of_images(lambda data: Flatten()),
    Identity: of_images(lambda data: Identity()),
    ReLU: of_images(lambda data: ReLU()),
    LeakyReLU: of_images(lambda data: LeakyReLU(data.draw(st.floats(-0.5, 0.9)))),
    Abs: of_images(lambda data: Abs()),
    MaxPool2d: of_images(max_pool),
    AvgPool2d: of_images(avg_pool),
    AdaptiveAvgPool2d: of_images(
        lambda data: AdaptiveAvgPool2d(data.draw(st.one_of(small, st.tuples(small, st.none()))))
    ),
    BatchNorm2d: of_channels(lambda data, channels: norm(BatchNorm2d, channels, affine=data.draw(st.booleans()))),
    BatchNorm1d: of_features,
    Dropout: of_images(lambda data: Dropout(data.draw(st.sampled_from([0.0, 0.3, 0.9, 1.0])))),  # in training mode
    Level: level,
    Sequential: nested,
    AdaptiveMaxPool2d: of_images(
        lambda data: AdaptiveMaxPool2d(data.draw(st.one_of(small, st.tuples(small, st.none()))))
    ),
    Affine: of_images(affine),
    Choice: lambda data: (Choice(4), torch.randn(data.draw(small), 4)),
    Clip: of_images(lambda data: Clip(data.draw(st.sampled_from([-1.0, 0.0])), data.draw(st.floats(0.1, 2)))),
    Dropout2d: of_images(lambda data: Dropout2d(data.draw(st.sampled_from([0.0, 0.3, 1.0])))),  # in training mode
    FrozenBatchNorm2d: of_channels(
        lambda data, channels: norm(FrozenBatchNorm2d, channels, affine=data.draw(st.booleans()))
    ),
    Graph: graph,
    Largest: of_images(largest),
    LocalLinear: of_images(lambda data: LocalLinear(data.draw(st.sampled_from([F.gelu, torch.tanh, F.silu])))),
    SamePad2d: of_images(lambda data: SamePad2d(data.draw(st.integers(1, 5)), data.draw(small))),
    PReLU: of_channels(lambda data, channels: PReLU(channels, data.draw(st.floats(-0.5, 0.9)))),
}
JOINS = {
    AffineJoin: joined(lambda data: AffineJoin(lambda x, y: torch.stack([x, 2 * y], 2), 2)),
    Concat: joined(lambda data: Concat(data.draw(st.sampled_from([1, 2, -1])))),
    LocalJoin: joined(lambda data: LocalJoin(torch.mul, 2)),
    Maximum: joined(lambda data: Maximum(largest=data.draw(st.booleans()))),
    Sum: joined(lambda data: Sum(data.draw(st.sampled_from([(1, 1), (1, -1), (0.5, 3)])))),
}
CASES = {kind.__name__: case for kind, case in {**FAMILIES, **JOINS}.items()}


def test_no_rendering_is_left_out():
    public = {c for c in vars(rendering).values() if inspect.isclass(c) and not inspect.isabstract(c)}
    assert {c for c in public if issubclass(c, Rendering)} == set(FAMILIES)
    assert {c for c in public if issubclass(c, Join)} == set(JOINS)


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # torch's, about even kernels
@pytest.mark.parametrize("family", CASES.values(), ids=CASES)
@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_render_is_the_transpose_of_infer(family, data, seed):
    torch.manual_seed(seed)
    module, x = family(data)
    try:
        y, switches = module.infer(x)
    except RuntimeError as error:  # the dictionary or the window is larger than the picture: torch's own refusal
        assume("size" not in str(error).lower())
        raise
    assert module.render(torch.randn_like(y), switches).shape == x.shape
    assert dot_product_gap(module, x, torch.Generator().manual_seed(seed)) <= LAW


# --- training mode: statistics of the batch, frozen ---


def affine_gap(up, z, v, down):
    gap = ((up * z).sum() - (v * down).sum()).abs()
    return (gap / (up.norm() * z.norm())).item()


@pytest.mark.parametrize("shape", [(6, 3, 4, 5), (6, 3, 7), (6, 3)])
def test_batch_norm_in_training_is_a_frozen_scale(shape):
    x = 3 * torch.randn(shape) + 1
    module = norm(BatchNorm2d if len(shape) == 4 else BatchNorm1d, 3, affine=True).train()
    others = [0, *range(2, len(shape))]
    mean, variance = x.mean(others, keepdim=True), x.var(others, correction=0, keepdim=True)
    gamma, beta = (p.reshape(mean.shape) for p in (module.weight, module.bias))
    scale = gamma / (variance + module.eps).sqrt()
    y, switches = module.infer(x)
    torch.testing.assert_close(y, scale * (x - mean) + beta, rtol=1e-10, atol=1e-10)
    v, z = torch.randn(shape), torch.randn(shape)
    assert affine_gap(scale * v, z, v, module.render(z, switches)) <= LAW


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own forward mode
@pytest.mark.parametrize("pool", [None, MaxPool2d(2), MaxPool2d(3, 2, 1)])
def test_level_in_training_equals_a_level_with_the_same_frozen_statistics(pool):
    x = torch.randn(4, 2, 7, 6)
    module = Level(Conv2d(2, 5, 3, padding=1), norm(BatchNorm2d, 5, affine=True), pool).train()
    u = F.conv2d(x, module.dictionary.weight, module.dictionary.bias, padding=1)
    frozen = copy.deepcopy(module).eval()
    frozen.norm.running_mean.copy_(u.detach().mean((0, 2, 3)))
    frozen.norm.running_var.copy_(u.detach().var((0, 2, 3), correction=0))
    y, switches = module.infer(x)
    torch.testing.assert_close(y, frozen(x), rtol=1e-10, atol=1e-10)
    v, z = torch.randn_like(x), torch.randn_like(y)
    up = torch.func.jvp(frozen, (x,), (v,))[1]
    assert affine_gap(up, z, v, module.render(z, switches)) <= LAW


# --- controls ---


class Unflipped(Rendering):
    """Draws with a correlation, as if the kernel needed no flip."""

    def __init__(self):
        super().__init__()
        self.conv = Conv2d(2, 2, 3, padding=1)

    def infer(self, x):
        return self.conv.infer(x)

    def render(self, z, switches):
        return F.conv2d(z, self.conv.weight.transpose(0, 1), padding=1)


class Stranger(Rendering):
    """Draws each image with the switches of its neighbour in the batch."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def infer(self, x):
        y, switches = self.inner.infer(x)
        return y, switches.map(lambda choice: choice.roll(1, 0))

    def render(self, z, switches):
        return self.inner.render(z, switches)


class Unmasked(Rendering):
    """Forgets which units were on."""

    def infer(self, x):
        return x.relu(), Switches(tuple(x.shape[1:]))

    def render(self, z, switches):
        return z


@pytest.mark.parametrize(
    "wrong",
    [
        Unflipped,
        lambda: Stranger(ReLU()),
        lambda: Stranger(MaxPool2d(2)),
        lambda: Stranger(Level(Conv2d(2, 3, 3))),
        Unmasked,
    ],
    ids=["unflipped", "other-a", "other-t", "other-level", "unmasked"],
)
def test_control_a_wrong_transpose_fails(wrong):
    x = torch.randn(4, 2, 6, 6)
    generator = torch.Generator().manual_seed(0)
    assert max(dot_product_gap(wrong(), x, generator) for _ in range(5)) > 1e-3
