"""What follows from a kind: classes written in a few lines, against slow twins that know nothing of kinds.

Twins: derivatives of `infer`, entry by entry, for path counts; many images and switches for bounds; dense matrices
for affine layers. Controls: classes that declare what is not so are found out, never counted or bounded wrongly.
"""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drmm import DRMM
from drmm.errors import InputError
from drmm.rendering import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    Affine,
    AffineRendering,
    Aside,
    AvgPool2d,
    BatchNorm2d,
    Channels,
    Conv2d,
    Flatten,
    Gate,
    Graph,
    Largest,
    Linear,
    MaxPool2d,
    Norm,
    Pool,
    Rendering,
    Sequential,
    Step,
    Switches,
)
from drmm.rendering.bounds import NoBoundError
from drmm.rendering.kinds import present
from drmm.testing import check_rendering, enumerate_configurations


class HardShrink(Gate):
    slopes = (0.0, 1.0)

    def choose(self, x):
        return x.abs() > 0.5


class Capped(Gate):
    slopes, offsets = (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)

    def choose(self, x):
        return (x > 0).long() + (x > 1)


class TwoSlopes(Gate):
    """The slope of each channel is learned."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -0.3, 0.1, 2.0]))

    @property
    def slopes(self):
        return self.weight.reshape(-1, 1, 1), 1.5

    def choose(self, x):
        return x > 0


class WholeChannels(Gate):
    slopes = (0.0, 1.0)

    def choose(self, x):
        return x.mean((2, 3), keepdim=True) > 0


class Noisy(Gate):
    slopes, drawn = (0.0, 2.0), True

    def choose(self, x):
        return torch.rand_like(x) > 0.5


class ChannelPairs(Pool):
    def candidates(self, x):
        return x.unflatten(1, (-1, 2)).movedim(2, -1)


class Diagonals(Pool):
    def candidates(self, x):
        return torch.stack([x.diagonal(k, 2, 3)[..., :3] for k in (-1, 0, 1)], -1)


class Overlapping(Pool):
    def candidates(self, x):
        x = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
        return x.unfold(2, 3, 2).unfold(3, 3, 2).flatten(-2)


class Median(Pool):
    def candidates(self, x):
        return x.unfold(3, 3, 1)

    def choose(self, candidates):
        return candidates.median(-1).indices


class Blur(AffineRendering):
    def infer(self, x):
        return 0.5 * x[..., 1:] + 0.5 * x[..., :-1], Switches(tuple(x.shape[1:]))

    def render(self, z, switches):
        return 0.5 * F.pad(z, (1, 0)) + 0.5 * F.pad(z, (0, 1))


class Halved(AffineRendering):
    def infer(self, x):
        return 0.5 * x - 1, Switches(tuple(x.shape[1:]))

    def render(self, z, switches):
        return 0.5 * z


class Shift(AffineRendering):
    def infer(self, x):
        return F.pad(x[..., 1:], (0, 1)), Switches(tuple(x.shape[1:]))

    def render(self, z, switches):
        return F.pad(z[..., :-1], (1, 0))


class LowRank(AffineRendering):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(144, 2)), nn.Parameter(torch.randn(2, 5))
        self.bias = nn.Parameter(torch.randn(5))

    def infer(self, x):
        return x.flatten(1) @ self.down @ self.up + self.bias, Switches(tuple(x.shape[1:]))

    def render(self, z, switches):
        return (z @ self.up.T @ self.down.T).reshape(len(z), *switches.shape)


class Upwards(AffineRendering):
    """A transposed convolution with groups."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 3, 2, 2)), nn.Parameter(torch.randn(6))
        nn.init.constant_(self.weight[:, 0, 0], 0)

    def infer(self, x):
        y = F.conv_transpose2d(x, self.weight, self.bias, stride=2, groups=2)
        return y, Switches(tuple(x.shape[1:]))

    def render(self, z, switches):
        return F.conv2d(z, self.weight, stride=2, groups=2)


class Declared(Upwards):
    def reweighted(self, x, change):
        return F.conv_transpose2d(x, change(self.weight.to(x)), stride=2, groups=2)


class RootMeanSquare(Norm):
    """Divides by a running scale."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.rand(4, 1, 1) + 0.5)

    def infer(self, x):
        return x / self.scale, Switches(tuple(x.shape[1:]), gain=1 / self.scale)

    def render(self, z, switches):
        return z * switches.gain


GATES = (HardShrink, Capped, TwoSlopes, WholeChannels, Noisy)
POOLS = (ChannelPairs, Diagonals, Overlapping, Median)
AFFINE = (Blur, Halved, Shift, LowRank, Upwards, Declared)
KINDS = (*GATES, *POOLS, *AFFINE, RootMeanSquare)
LIBRARY = {
    "convolution": lambda: Conv2d(4, 4, 3, stride=2, padding=1, groups=2),
    "linear": lambda: Sequential(Flatten(), Linear(144, 5)),
    "average": lambda: AvgPool2d(3, 2, padding=1),
    "average, ceil": lambda: AvgPool2d(4, 3, ceil_mode=True, count_include_pad=False),
    "parts": lambda: AdaptiveAvgPool2d((2, 4)),
    "flat": Flatten,
    "mean": lambda: Affine(lambda x: x.mean((2, 3))),
    "difference": lambda: Affine(lambda x: x[..., 1:] - 2 * x[..., :-1]),
    "maximum": lambda: MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True),
    "largest parts": lambda: AdaptiveMaxPool2d((4, 2)),
    "largest": lambda: Largest((1,), keepdim=True),
    "smallest": lambda: Largest((1,), keepdim=True, largest=False),
    "norm": lambda: BatchNorm2d(4),
}


@pytest.fixture
def x():
    return torch.randn(3, 4, 6, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_laws_hold_for_a_class_of_a_few_lines(kind, x):
    for seed in range(3):
        check_rendering(kind(), x, seed=seed)


@pytest.mark.parametrize("name", LIBRARY)
def test_the_laws_hold_for_the_librarys_own(name, x):
    check_rendering(LIBRARY[name]().eval(), x)


def jacobian(rendering, images):
    """(N, outputs, inputs), by one derivative for each output."""
    images = images.clone().requires_grad_()
    outputs = rendering.infer(images)[0].flatten(1)
    rows = [
        torch.autograd.grad(outputs[:, j].sum(), images, retain_graph=True)[0] for j in range(outputs.shape[1])
    ]
    return torch.stack(rows, 1).flatten(2)


@pytest.mark.parametrize("kind", [*(k for k in KINDS if k is not Noisy)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_paths_are_entries_that_are_not_zero(kind, dtype):
    """Active ones of one image, all of them of many images in each of which another pixel stands out."""
    rendering, image = kind().to(dtype), torch.randn(1, 4, 6, 6, dtype=dtype)
    y, switches = rendering.infer(image)
    paths = torch.randint(1, 9, y.shape).double()
    active = rendering.count(paths, switches, every=False)
    entries = (jacobian(rendering, image)[0] != 0).double()
    torch.testing.assert_close(active.flatten(), paths.flatten() @ entries)
    one = torch.eye(144, dtype=dtype).reshape(-1, 4, 6, 6)
    images = [
        torch.randn_like(one) + 9 * one,
        torch.randn_like(one) - 9 * one,
        0.3 * torch.rand_like(one) + one / 2,
    ]
    if isinstance(rendering, AffineRendering | Norm):  # where all images are alike
        images = [images[0][:2]]
    ever = (jacobian(rendering, torch.cat(images)) != 0).any(0)
    every = rendering.count(paths, switches, every=True)
    torch.testing.assert_close(every.flatten(), paths.flatten() @ ever.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weight_of_one_half_is_one_path(dtype):
    """Which was once counted as half a path."""
    image = torch.randn(1, 4, 4, 4, dtype=dtype)
    _, switches = Halved().infer(image)
    assert Halved().count(torch.ones(1, 4, 4, 4, dtype=torch.float64), switches, every=False).sum() == 64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_enclose_and_are_reached(kind, dtype):
    rendering = kind().to(dtype)
    lower = torch.randn(1, 4, 6, 6, dtype=dtype)
    upper = lower + torch.rand_like(lower)
    least, most = rendering.bounds(lower, upper)
    shares = torch.rand(500, *lower.shape[1:], dtype=dtype).round()  # corners
    inside = torch.cat([lower + shares * (upper - lower), lower, upper])
    values = rendering(inside)
    slack = 1e-4
    assert (values >= least - slack).all()
    assert (values <= most + slack).all()
    if isinstance(rendering, AffineRendering):
        matrix, offset = jacobian(rendering, lower)[0], rendering(torch.zeros_like(lower)).flatten()
        ends = [torch.where(matrix > 0, end.flatten(), start.flatten()) for start, end in
                ((lower, upper), (upper, lower))]  # fmt: skip
        torch.testing.assert_close(most.flatten(), (matrix * ends[0]).sum(1) + offset)
        torch.testing.assert_close(least.flatten(), (matrix * ends[1]).sum(1) + offset)


@pytest.mark.parametrize("kind", [*(k for k in GATES if k is not Noisy), *POOLS])
def test_a_choice_made_again_is_the_best_of_all(kind, x):
    """Of a gate's pieces or a pool's candidates, tried one after the other; controls: the convnet's is not."""
    rendering = kind()
    y, switches = rendering.infer(x)
    z = torch.randn_like(y)
    again, new = rendering.reinfer(x, switches, z)
    if isinstance(rendering, Pool):
        options = list(rendering.candidates(x).nan_to_num(neginf=torch.nan).unbind(-1))
        best = torch.stack([(z * option).nan_to_num(nan=-torch.inf) for option in options]).amax(0)
    else:
        each = [(z * (slope * x + offset)) for slope, offset in rendering.pieces(x)]
        shared = switches.a is not None and switches.a.shape != x.shape
        best = torch.stack([part.sum((2, 3)) if shared else part for part in each]).amax(0)
    reached = z * again
    torch.testing.assert_close(reached.sum((2, 3)) if best.ndim == 2 else reached, best)
    assert (best.sum() - (z * y).sum()) > 1e-3
    if rendering.__class__ is not Capped:  # whose pieces have offsets
        torch.testing.assert_close((rendering.render(z, new) * x).sum(), reached.sum())


def test_what_is_drawn_stays_drawn(x):
    gate = Noisy()
    y, switches = gate.infer(x)
    again, same = gate.reinfer(x, switches, torch.randn_like(y))
    torch.testing.assert_close(again, y)
    assert torch.equal(same.kept, switches.kept)
    assert not list(switches.choices()), "no prior"


@pytest.mark.parametrize(
    "name", [name for name in LIBRARY if not name.startswith(("la", "maximum", "norm", "smallest"))]
)
@pytest.mark.parametrize(
    "change", [torch.abs, lambda w: w.clamp(min=0), present], ids=["abs", "positive", "present"]
)
def test_a_fast_form_is_the_matrix(name, change, x):
    rendering = LIBRARY[name]()
    layers = rendering.atoms
    for layer in layers[:-1]:
        x = layer(x)
    offset = layers[-1](torch.zeros_like(x[:1]))
    basis = torch.eye(x[0].numel()).reshape(-1, *x.shape[1:])
    matrix = (layers[-1](basis) - offset).flatten(1).T
    expected = x.flatten(1) @ change(torch.where(matrix.abs() > 1e-12, matrix, 0.0)).T
    torch.testing.assert_close(layers[-1].reweighted(x, change).flatten(1), expected.detach())


@pytest.mark.parametrize("name", ["maximum", "largest parts", "largest"])
def test_a_fast_pool_is_the_largest_of_its_candidates(name, x):
    pool = LIBRARY[name]()
    y, switches = pool.infer(x)
    torch.testing.assert_close(pool.candidates(x).amax(-1), y)
    z = torch.randn_like(y)
    torch.testing.assert_close(Pool.render(pool, z, Pool.infer(pool, x)[1]), pool.render(z, switches))
    for slow, fast in zip(Pool.bounds(pool, x, x + 1), pool.bounds(x, x + 1), strict=True):
        torch.testing.assert_close(slow, fast)
    torch.testing.assert_close(Pool.reinfer(pool, x, switches, z)[0], pool.reinfer(x, switches, z)[0])


def test_the_smallest_is_the_largest_of_the_negative(x):
    smallest, largest = (Largest((1,), keepdim=True, largest=largest) for largest in (False, True))
    z = torch.randn_like(smallest(x))
    torch.testing.assert_close(smallest(x), -largest(-x))
    torch.testing.assert_close(smallest.render(z, smallest.infer(x)[1]), largest.render(z, largest.infer(-x)[1]))
    for slow, fast in zip(Pool.infer(smallest, x)[0], smallest(x), strict=True):
        torch.testing.assert_close(slow, fast)
    for one, other in zip(smallest.bounds(x, x + 1), largest.bounds(-x - 1, -x)[::-1], strict=True):
        torch.testing.assert_close(one, -other)


# --- whole nets, by brute force ---


@pytest.mark.parametrize("middle", [HardShrink, ChannelPairs, Blur, TwoSlopes, Shift])
def test_nothing_scores_above_the_bound(middle):
    levels = Sequential(Conv2d(1, 4, (1, 2)), middle(), Largest((2, 3)), Flatten())
    model = DRMM(levels, Linear(levels(torch.zeros(1, 1, 1, 3)).shape[1], 2), image_shape=(1, 1, 3)).eval()
    images = torch.randn(5, 1, 1, 3)
    truth, latents = enumerate_configurations(model, images), model.infer(images)
    assert (model.upper_bound(images) >= truth.score - 1e-9).all()
    assert (latents.score <= truth.score.amax(1) + 1e-9).all()
    for parameter in (levels[0].weight, model.templates.weight):
        parameter.data.abs_()
    if middle is ChannelPairs:  # a max, and all upper weights positive: exact
        truth = enumerate_configurations(model, images)
        torch.testing.assert_close(model(images), truth.score)
        torch.testing.assert_close(model.upper_bound(images), truth.score)


# --- controls ---


class NotTransposed(Halved):
    def render(self, z, switches):
        return z


class NotAffine(Halved):
    def infer(self, x):
        return x * x.abs(), Switches(tuple(x.shape[1:]))


class Choosing(Halved):
    def infer(self, x):
        return x.relu(), Switches(tuple(x.shape[1:]), a=x > 0)

    def render(self, z, switches):
        return z * switches.a


class Falling(AffineRendering):
    """Sharpens: rows add up to 1, but some entries are negative."""

    increasing = True

    def infer(self, x):
        return 2 * x[..., 1:] - x[..., :-1], Switches(tuple(x.shape[1:]))

    def render(self, z, switches):
        return 2 * F.pad(z, (1, 0)) - F.pad(z, (0, 1))


class Scaled(ChannelPairs):
    def candidates(self, x):
        return 0.5 * super().candidates(x)


class Undeclared(HardShrink):
    """A soft shrink, whose offsets nobody has declared."""

    def infer(self, x):
        y, switches = super().infer(x)
        return y - 0.5 * x.sign() * (x.abs() > 0.5), switches


class NotLargest(HardShrink):
    """What is far below 0 is less than what is off."""

    largest = True


class NotAbove(HardShrink):
    def line(self, z, x, lower, upper, switches):
        return -super().line(-z, x, lower, upper, switches)


class ByImage(RootMeanSquare):
    """Its gain changes with the image."""

    def infer(self, x):
        gain = 1 / x.square().mean().sqrt()
        return x * gain, Switches(tuple(x.shape[1:]), gain=gain)


WRONG = {
    NotTransposed: "transpose",
    NotAffine: "affine",
    Choosing: "affine",
    Falling: None,
    Scaled: "entries of its input",
    Undeclared: None,
    ByImage: None,
}


@pytest.mark.parametrize("kind", [NotTransposed, NotAffine, Choosing, Undeclared])
def test_control_a_broken_law_is_named(kind, x):
    with pytest.raises(InputError, match=rf"{kind.__name__} (breaks \d of \d laws|is declared affine)"):
        check_rendering(kind(), x)


@pytest.mark.parametrize("kind", [NotLargest, NotAbove])
def test_control_a_way_down_that_is_no_bound_is_named(kind, x):
    with pytest.raises(InputError, match=rf"{kind.__name__} breaks 1 of \d laws: what comes down relaxed"):
        check_rendering(kind(), x)


@pytest.mark.parametrize("kind", WRONG)
def test_control_no_bound_from_what_is_not_so(kind, x):
    with pytest.raises((NoBoundError, InputError), match=kind.__name__):
        kind().bounds(x, x + 1)


@pytest.mark.parametrize("kind", [kind for kind, reason in WRONG.items() if reason])
def test_control_no_count_from_what_is_not_so(kind, x):
    rendering = kind()
    y, switches = rendering.infer(x)
    with pytest.raises(InputError, match=f"{kind.__name__}|{WRONG[kind]}"):
        rendering.count(torch.ones_like(y), switches, every=True)


def test_a_matrix_that_is_too_large_says_what_to_declare():
    image = torch.randn(1, 4, 100, 100)
    with pytest.raises(InputError, match=r"Blur is too large .* reweighted"):
        Blur().count(torch.ones(1, 4, 100, 99), Blur().infer(image)[1], every=True)
    with pytest.raises(NoBoundError, match="Blur"):
        Blur().bounds(image, image + 1)
    assert Shift().count(torch.ones_like(image), Shift().infer(image)[1], every=True).sum() == 4 * 100 * 99


def test_rounding_errors_are_no_paths_and_no_secret():
    class Spectral(AffineRendering):
        """A shift by one place, by a transform that rounds."""

        def infer(self, x):
            return self.turned(x, -1), Switches(tuple(x.shape[1:]))

        def render(self, z, switches):
            return self.turned(z, 1)

        def turned(self, x, sign):
            phase = torch.exp(sign * 2j * torch.pi * torch.arange(4) / 7)
            return torch.fft.irfft(torch.fft.rfft(x) * phase, 7)

    image = torch.randn(1, 1, 1, 7)
    with pytest.raises(InputError, match="Spectral are as small as rounding errors"):
        Spectral().count(torch.ones_like(image), Switches((1, 1, 7)), every=True)


def test_no_kind_is_refused_by_name(x):
    class Mirror(Rendering):
        def infer(self, x):
            return x.flip(-1), Switches(tuple(x.shape[1:]))

        def render(self, z, switches):
            return z.flip(-1)

    y, switches = Mirror().infer(x)
    for refused in (
        lambda: Mirror().bounds(x, x),
        lambda: Mirror().count(y, switches, every=True),
        lambda: Mirror().narrowed(Channels(torch.arange(1), 4)),
        lambda: Mirror().given(3),
    ):
        with pytest.raises((InputError, NoBoundError), match="Mirror"):
            refused()
    torch.testing.assert_close(Mirror().reinfer(x, switches, y)[0], y)
    torch.testing.assert_close(Mirror().guided(y, switches), Mirror().render(y, switches))


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda x: (x > 0).flatten(1), "returns"),
        (lambda x: x, "bools, or integers below 2"),
        (lambda x: 2 * (x > 0).long(), "integers below 2"),
    ],
)
def test_a_gate_says_what_is_wrong_with_its_choice(choose, message, x):
    gate = HardShrink()
    gate.choose = choose
    with pytest.raises(InputError, match=f"HardShrink.*{message}"):
        gate.infer(x)


def test_a_gate_needs_slopes(x):
    class Bare(Gate):
        def choose(self, x):
            return x > 0

    with pytest.raises(InputError, match="Bare must declare slopes"):
        Bare().infer(x)


def test_bounds_and_counts_go_through_graphs(x):
    """A function with settings is the function with the settings filled in."""
    scale = Affine(lambda y, size: y * size[2])
    nodes = [Step("blur", (0,)), Aside(lambda y: y.shape, (1,)), Step("scale", (1,), (2,)), Step("gate", (3,))]
    graph = Graph({"blur": Blur(), "scale": scale, "gate": HardShrink()}, nodes, 4)
    lower, upper = graph.bounds(x, x + 1)
    torch.testing.assert_close(upper, (6 * Blur()(x + 1)).clamp(min=0))
    y, switches = graph.infer(x)
    counted = graph.count(torch.ones_like(y), switches, every=True)
    assert counted.sum() == 2 * y.numel()
    assert (lower <= y + 1e-9).all()
    for step, part in itertools.pairwise([y, graph.reinfer(x, switches, torch.zeros_like(y))[0]]):
        torch.testing.assert_close(step, part)
