"""What orthonormal and Glorot-Bengio initialisation mean for a model that renders.

Slide "Deriving/Explaining Other Architectures": Orthonormal Init, Glorot-Bengio Init.

Orthonormal. If the templates of a dictionary are orthonormal (at most as many as their entries) and those of
different places do not overlap (fully connected, 1×1, or a stride as large as the kernel), then Λ_gᵀ Λ_g = 1 on
the units that are on, whatever the switches:

- rendering keeps lengths, ‖Λ_g z‖ = ‖z‖;
- I^(ℓ) = Λ_gᵀ I^(ℓ-1) is the least-squares estimate of z^(ℓ), and what was drawn is read off exactly;
- ‖I - Λ_g z‖² = ‖I - Λ_g I^(ℓ)‖² + ‖I^(ℓ) - z‖²: regression on the level's features is regression on the image.

It does not hold for overlapping templates, which are correlated however they start, and in a deep net only for
what no gate cuts off: there, rendering shortens, and the regression above forgets what it draws on units that
are off. With more templates than entries the columns are orthonormal in place of the rows: inference keeps
lengths. Control: Gaussian templates of length 1 on average.

Glorot. A message going up is multiplied by fan-in · Var(w) in its second moment, one going down by fan-out ·
Var(w), each halved by the ReLU's switches. No variance makes both 1 unless the fans are equal; Glorot and
Bengio's makes their sum 2 and so the worse of the two better than a choice for one direction alone does.
"""

from itertools import pairwise
from math import log

import pytest
import torch
from torch import nn

from drmm import DRMM
from drmm.learning.initialisation import initialise
from drmm.rendering import Abs, Conv2d, Flatten, Level, Linear, MaxPool2d, ReLU, Sequential

LAW = 1e-10
GATED = {  # name: level, shape of its images
    "dense": (lambda: Sequential(Flatten(), Linear(24, 9, bias=False), ReLU()), (2, 4, 3)),
    "dense, square": (lambda: Sequential(Flatten(), Linear(24, 24, bias=False), ReLU()), (2, 4, 3)),
    "1x1": (lambda: Sequential(Level(Conv2d(6, 4, 1, bias=False))), (6, 4, 4)),
    "1x1, pooled": (lambda: Sequential(Level(Conv2d(6, 4, 1, bias=False), None, MaxPool2d(2))), (6, 4, 4)),
    "1x1, two groups": (lambda: Sequential(Level(Conv2d(8, 6, 1, groups=2, bias=False))), (8, 3, 3)),
    "tiles": (lambda: Sequential(Level(Conv2d(2, 5, (2, 3), stride=(2, 3), bias=False))), (2, 6, 6)),
}
OVERLAPPING = (lambda: Sequential(Level(Conv2d(2, 5, 3, padding=1, bias=False))), (2, 6, 6))


def level(make, shape, how="orthonormal", seed=0):
    """One level in evaluation mode, initialised, and images."""
    levels = make()
    model = DRMM(levels, Linear(3, 2))
    if how == "gaussian":
        for module in levels.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    else:
        initialise(model, how, seed=seed)
    return levels.eval(), torch.randn(4, *shape)


def on(switches):
    """The last gate's a."""
    return list(switches.leaves())[-1].a


def stretch(levels, x):
    """How far ‖Λ_g z‖² is from ‖z‖² on active units, for switches of x and any z, relative."""
    y, switches = levels.infer(x)
    z = torch.randn(y.shape) * on(switches)
    lengths = z.flatten(1).square().sum(1)
    return (levels.render(z, switches).flatten(1).square().sum(1) / lengths - 1).abs().max().item()


def least_squares(levels, x):
    """Distance of the features from the least-squares estimate of z on active units, relative; one image."""
    y, switches = levels.infer(x)
    active = on(switches).flatten().nonzero().squeeze(1)
    basis = torch.zeros(len(active), y.numel()).scatter_(1, active[:, None], 1.0).reshape(-1, *y.shape[1:])
    many = switches.map(lambda choice: choice.expand(len(active), *choice.shape[1:]))
    drawn = levels.render(basis, many).flatten(1)
    estimate = torch.linalg.lstsq(drawn.T, x.flatten()[:, None]).solution.squeeze(1)
    return ((estimate - y.flatten()[active]).norm() / estimate.norm()).item()


def left_over(levels, x):
    """How far ‖I - Λ_g z‖² is from ‖I - Λ_g y‖² + ‖y - z‖² for z on active units, relative."""
    y, switches = levels.infer(x)
    z = torch.randn(y.shape) * on(switches)
    whole = (x - levels.render(z, switches)).square().sum()
    parts = (x - levels.render(y, switches)).square().sum() + (y - z).square().sum()
    return (whole / parts - 1).abs().item()


def read_off(levels, x):
    """How far features are from the z ≥ 0 that was drawn, relative."""
    y, switches = levels.infer(x)
    z = torch.rand(y.shape) * on(switches)
    return ((levels(levels.render(z, switches)) - z).norm() / z.norm()).item()


LAWS = {
    "rendering keeps lengths": stretch,
    "features are least squares": lambda levels, x: least_squares(levels, x[:1]),
    "regression on features is exact": left_over,
    "what was drawn is read off": read_off,
}


@pytest.mark.parametrize("case", GATED)
@pytest.mark.parametrize("law", LAWS)
def test_orthonormal(case, law):
    for seed in range(5):
        assert LAWS[law](*level(*GATED[case], seed=seed)) <= LAW


@pytest.mark.parametrize("law", LAWS)
def test_control_gaussian_templates(law):
    for case in GATED.values():
        assert LAWS[law](*level(*case, how="gaussian")) > 1e-2


@pytest.mark.parametrize("law", LAWS)
def test_control_overlapping_templates(law):
    assert LAWS[law](*level(*OVERLAPPING)) > 1e-2
    rows = level(*OVERLAPPING)[0][0].dictionary.weight.flatten(1)
    assert (rows @ rows.T - torch.eye(5)).abs().max() <= LAW


def deep(gate, widths=(24, 16, 10, 6)):
    """Fully connected levels of orthonormal templates."""
    parts = [Flatten()]
    for d_in, d_out in pairwise(widths):
        parts += [Linear(d_in, d_out, bias=False), gate()]
    model = initialise(DRMM(Sequential(*parts), Linear(widths[-1], 2)), "orthonormal").eval()
    return model.levels, torch.randn(4, 2, 4, 3)


def test_a_deep_picture_is_as_long_as_its_template_where_nothing_is_cut_off():
    """Signs switch everything and cut nothing: the squared error of the picture is the levels' added up."""
    levels, x = deep(Abs)
    y, switches = levels.infer(x)
    z = torch.randn(y.shape)
    picture = levels.render(z, switches)
    torch.testing.assert_close(picture.flatten(1).norm(dim=1), z.norm(dim=1), rtol=LAW, atol=LAW)
    expected, below = (y - z).square().sum(), x.flatten(1)
    for dictionary, gate in zip(levels[1::2], levels[2::2], strict=True):
        features = gate(dictionary(below))
        expected = expected + (below.square().sum() - features.square().sum())  # ‖I - Λ Λᵀ I‖²
        below = features
    torch.testing.assert_close((x - picture).square().sum(), expected, rtol=LAW, atol=LAW)


def test_gates_cut_off_what_is_drawn_on_units_that_are_off():
    levels, x = deep(ReLU, (24, 16, 10))
    y, switches = levels.infer(x)
    z = torch.randn(y.shape) * on(switches)
    picture, _, _, z1, *_ = levels.render_levels(z, switches)
    a = switches.parts[2].a
    lost = (z1 * ~a).square().sum()
    assert lost > 0.1 * z.square().sum()
    torch.testing.assert_close(picture.square().sum(), z.square().sum() - lost, rtol=LAW, atol=LAW)
    y1 = levels[:3](x)
    first = (x.flatten(1).square().sum(1) - y1.square().sum(1)).sum()
    exact = first + (y1 - z1).square().sum() - lost
    torch.testing.assert_close((x - picture).square().sum(), exact, rtol=LAW, atol=LAW)


def test_more_templates_than_entries_are_a_tight_frame():
    dictionary = Linear(9, 24, bias=False)
    initialise(DRMM(Sequential(dictionary), Linear(24, 2)), "orthonormal")
    x = torch.randn(5, 9)
    y, switches = dictionary.infer(x)
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1), rtol=LAW, atol=LAW)
    torch.testing.assert_close(dictionary.render(y, switches), x, rtol=LAW, atol=LAW)
    z = torch.randn(5, 24)
    assert (dictionary.render(z, switches).norm(dim=1) / z.norm(dim=1) - 1).abs().min() > 1e-2


# --- Glorot-Bengio ---


def factors(make, shape, how, seed=0):
    """What happens to the second moment of white messages, going up and going down."""
    levels, _ = level(make, shape, how, seed)
    y, switches = levels.infer(torch.randn(32, *shape))
    z = torch.randn(y.shape)
    return y.square().mean().item(), levels.render(z, switches).square().mean().item()


def chain(widths):
    parts = [Flatten()]
    for d_in, d_out in pairwise(widths):
        parts += [Linear(d_in, d_out, bias=False), ReLU()]
    return (lambda: Sequential(*parts)), (1, 1, widths[0])


RATIOS = [(64, 512), (128, 256), (256, 256), (512, 128)]


@pytest.mark.parametrize(("fan_in", "fan_out"), RATIOS)
def test_glorot_shares_the_variance_between_the_directions(fan_in, fan_out):
    up, down = torch.tensor([factors(*chain((fan_in, fan_out)), "glorot", seed) for seed in range(8)]).mean(0)
    assert up.item() == pytest.approx(2 * fan_in / (fan_in + fan_out), rel=0.03)
    assert down.item() == pytest.approx(2 * fan_out / (fan_in + fan_out), rel=0.03)
    assert (up + down).item() == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize(("fan_in", "fan_out"), [pair for pair in RATIOS if pair[0] != pair[1]])
def test_the_worse_direction_is_better_than_with_one_fan(fan_in, fan_out):
    up, down = factors(*chain((fan_in, fan_out)), "glorot")
    one_sided = abs(log(fan_out / fan_in))  # Var(w) = 2 / fan-in: going up exactly 1, down fan-out / fan-in
    assert max(abs(log(up)), abs(log(down))) < 0.8 * one_sided


def test_glorot_for_strided_and_grouped_convolutions():
    make, shape = lambda: Sequential(Level(Conv2d(16, 64, 4, stride=2, groups=2, bias=False))), (16, 34, 34)
    up, down = factors(make, shape, "glorot")
    # Fan-in 8·16, fan-out 32·16 / 4: equal, but at the border.
    assert up == pytest.approx(1, rel=0.05)
    assert down == pytest.approx(1, rel=0.15)


def test_ten_levels_up_and_down():
    up, down = torch.tensor([factors(*chain((256,) * 11), "glorot", seed) for seed in range(8)]).mean(0)
    assert 0.5 < up < 2
    assert 0.5 < down < 2


def test_control_as_torch_draws_them_messages_die_out():
    up, down = factors(*chain((256,) * 11), "default")
    assert max(up, down) < 1e-5  # (1/6)^10 is 2e-8
