"""Paths, counted and ranked, against an enumeration that goes along each of them."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import drmm
from drmm import explain
from drmm.errors import InputError
from drmm.rendering import (
    Abs,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    BatchNorm2d,
    Clip,
    Conv2d,
    Dropout,
    Flatten,
    Identity,
    Largest,
    LeakyReLU,
    Level,
    Linear,
    MaxPool2d,
    PReLU,
    ReLU,
    Sequential,
)
from drmm.testing import enumerate_paths, random_net

EXACT = {"rtol": 1e-9, "atol": 1e-12}
pytestmark = pytest.mark.usefixtures("float64")


def tiny(seed):
    generator = torch.Generator().manual_seed(seed)
    model = random_net(generator, signed=(True, True, True))
    return model, torch.rand(1, *model.image_shape, generator=generator)


# --- counting ---


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_those_of_an_enumeration(seed):
    model, x = tiny(seed)
    counts = explain.count_paths(model, x, 0)
    paths = enumerate_paths(model, model.infer(x, 0))
    drawn = (paths.end >= 0) & (paths.gamma != 0)
    assert counts.active[0, -1] == int((drawn & paths.active).sum())
    assert counts.levels[-1] == "pixels"
    assert counts.active[0, -1] < counts.all[-1], "control: not every path is active"
    torch.testing.assert_close(counts.share, counts.active / counts.all)


OPERATIONS = {
    "convolution": Conv2d(3, 4, 3, stride=2, padding=1),
    "groups": Conv2d(4, 4, 3, groups=2, dilation=2),
    "norm": BatchNorm2d(3),
    "gates": Sequential(ReLU(), LeakyReLU(), PReLU(3), Abs(), Identity()),
    "leak of 0": LeakyReLU(0.0),
    "clip": Clip(0, 0.4, slope=0.5),
    "dropout": Dropout(),
    "maximum": MaxPool2d(3, 2, padding=1),
    "maximum, dilated": MaxPool2d(2, 1, dilation=2),
    "maximum, ceil": MaxPool2d(2, 2, ceil_mode=True),
    "average": AvgPool2d(3, 2, padding=1),
    "average, ceil": AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
    "parts": AdaptiveAvgPool2d((2, 3)),
    "largest parts": AdaptiveMaxPool2d((3, 2)),
    "largest": Largest((2, 3)),
    "largest channel": Largest((1,), keepdim=True),
    "flat": Sequential(Flatten(), Linear(3 * 7 * 7, 5)),
    "level": Level(Conv2d(3, 4, 3), BatchNorm2d(4), MaxPool2d(2)),
    "level without pool": Level(Conv2d(3, 4, 3)),
}


def jacobian(rendering, x):
    return torch.func.jacrev(lambda image: rendering.infer(image)[0])(x).reshape(-1, x.numel())


@pytest.mark.parametrize("name", OPERATIONS)
def test_active_paths_of_one_level_are_the_entries_of_its_jacobian(name):
    """In a level without a hidden layer of units each entry that is not 0 is one path."""
    torch.manual_seed(0)
    rendering = OPERATIONS[name].double().eval()
    x = torch.randn(1, 4 if name == "groups" else 3, 7, 7)
    y, switches = rendering.infer(x)
    paths = torch.randint(1, 9, y.shape).double()
    entries = (jacobian(rendering, x) != 0).double()
    found = explain.count(rendering, paths, switches, every=False)
    torch.testing.assert_close(found.flatten(), paths.flatten() @ entries)


@pytest.mark.parametrize("name", OPERATIONS)
def test_all_paths_are_the_entries_that_any_image_has(name):
    """The union over many images, in each of which another pixel stands out."""
    torch.manual_seed(0)
    rendering = OPERATIONS[name].double().eval()
    channels = 4 if name == "groups" else 3
    one = torch.eye(49 * channels).reshape(-1, 1, channels, 7, 7)
    images = torch.cat([torch.randn(one.shape) + 9 * one, 0.5 * torch.randn(one.shape)])
    ever = sum(jacobian(rendering, image).abs() for image in images) > 0
    y, switches = rendering.infer(torch.randn(1, channels, 7, 7))
    paths = torch.randint(1, 9, y.shape).double()
    found = explain.count(rendering, paths, switches, every=True)
    if name == "level":  # a unit may reach a pixel from several positions: each is a path
        assert (found.flatten() >= paths.flatten() @ ever.double()).all()
        twin = rendering.unfused()
        slow = explain.count(twin, paths, twin.infer(torch.randn(1, 3, 7, 7))[1], every=True)
        torch.testing.assert_close(found, slow)
        return
    torch.testing.assert_close(found.flatten(), paths.flatten() @ ever.double())


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.left, self.right = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 1)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = x + F.relu(self.left(x))
        return self.head(torch.cat([x, self.right(x)], 1).mean((2, 3)))


def test_branches_add_up():
    """Each of 16 places: 2 of the sum's channels and 3 of the right branch, which reads both of the sum's."""
    net, x = Branches().eval(), torch.rand(2, 1, 6, 6)
    counts = explain.count_paths(net, x, 1)
    into_sum = 16 * (2 + 3 * 2)
    into_first = into_sum * (1 + 2)  # as it is, and through the left branch from both channels
    assert counts.all[-1] == into_first * 9
    first = net.first(x)
    on = (first > 0).double()
    left = (net.left(F.relu(first)) > 0).double()
    each = 1 + 3  # from each channel of the sum upwards
    by_hand = each * (on.sum((1, 2, 3)) + (left.sum(1, keepdim=True) * on).sum((1, 2, 3))) * 9
    torch.testing.assert_close(counts.active[:, -1], by_hand)


def test_a_weight_of_zero_is_no_path():
    net, x = Branches().eval(), torch.rand(1, 1, 6, 6)
    before = explain.count_paths(net, x, 1)
    with torch.no_grad():
        net.first.weight[:, :, 0] = 0
    assert explain.count_paths(net, x, 1).all[-1] == before.all[-1] * 6 / 9


def test_shares_of_what_is_on():
    model = drmm.presets.conv_small(width=4).double().eval()
    counts = explain.count_paths(model, torch.rand(3, 1, 28, 28))
    features = [torch.rand(1)]
    x = torch.rand(3, 1, 28, 28)
    counts = explain.count_paths(model, x)
    for level in model.levels:
        x = level(x)
        features.append(x)
    for column, units in zip(counts.on.T, features[:0:-1], strict=False):
        torch.testing.assert_close(column, (units != 0).double().flatten(1).mean(1))
    assert (counts.share.diff(dim=1) <= 1e-12).all(), "each level down leaves fewer of the paths active"


def test_what_has_no_paths_to_count_says_so():
    smooth = drmm.lift(nn.Sequential(nn.Flatten(), nn.Linear(9, 3), nn.GELU(), nn.Linear(3, 2)), strict=False)
    with pytest.raises(InputError, match="no paths to count"):
        explain.count_paths(smooth, torch.rand(1, 1, 3, 3))
    grow = nn.Sequential(nn.Upsample(scale_factor=8, mode="bilinear"), nn.Flatten(), nn.Linear(480 * 480, 2))
    with pytest.raises(InputError, match=r"Upsample.* is too large to read off"):
        explain.count_paths(grow, torch.rand(1, 1, 60, 60))


def test_uneven_weights_are_paths_like_others():
    grow = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Flatten(), nn.Linear(36, 2))
    entries = torch.func.jacrev(grow[0])(torch.rand(1, 1, 3, 3)) != 0
    assert len(torch.func.jacrev(grow[0])(torch.rand(1, 1, 3, 3)).unique()) > 4, "control: they are uneven"
    counts = explain.count_paths(grow, torch.rand(1, 1, 3, 3))
    assert counts.all[-1] == entries.sum()
    assert counts.active[0, -1] == entries.sum()


# --- the strongest ---


@pytest.mark.parametrize("seed", range(20))
def test_the_strongest_paths_are_those_of_an_enumeration(seed):
    model, x = tiny(seed)
    latents = model.infer(x, 1)
    terms = explain_terms(model, latents, x)
    found = explain.strongest_paths(model, x, 1, k=10, width=10**6)
    best = terms.abs().sort(descending=True).values[:10]
    torch.testing.assert_close(
        torch.tensor([abs(path.contribution) for path in found]), best[best > 0][: len(found)], **EXACT
    )


def explain_terms(model, latents, x):
    """What each path that ends in a pixel adds; in a fused level a unit and a pixel have one, at its position."""
    paths = enumerate_paths(model, latents)
    return paths.scores(x[0])[paths.end >= 0]


def test_all_paths_sum_up_to_the_score():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 2, bias=False), nn.ReLU(), nn.Conv2d(2, 2, 2, bias=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(8, 2, bias=False),
    ).eval()  # fmt: skip
    x = torch.rand(1, 4, 4)
    paths = explain.strongest_paths(net, x, 1, k=10**5, width=10**5)
    total = sum(path.contribution for path in paths)
    torch.testing.assert_close(torch.tensor(total), net(x[None])[0, 1], **EXACT)
    strengths = [abs(path.contribution) for path in paths]
    assert strengths == sorted(strengths, reverse=True)
    assert len(set(paths)) == len(paths)
    path = paths[0]
    assert path.label == 1
    assert len(path.units) == 6
    (c, i, j), (_, di, dj), (first, *_), top = path.units[5], path.units[4], path.units[4], path.units[1]
    by_hand = x[c, i, j] * net[0].weight[first, c, i - di, j - dj]
    (second, ti, tj) = path.units[2]
    by_hand = by_hand * net[2].weight[second, first, di - ti, dj - tj] * net[5].weight[1, path.units[0][0]]
    torch.testing.assert_close(torch.tensor(path.contribution), by_hand.detach(), **EXACT)
    assert top == path.units[2]


def test_a_beam_that_is_too_narrow_misses_what_cancels_out():
    """Control: exactness needs the width. Two strong paths through one unit that is nearly off."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[10.0, -9.9, 0, 0], [0, 0, 1, 1]]))
        net[3].weight.fill_(1)
    x = torch.ones(1, 2, 2)
    assert explain.strongest_paths(net, x, 0, k=1, width=1)[0].contribution == 1
    assert explain.strongest_paths(net, x, 0, k=1, width=9)[0].contribution == 10


def test_saturated_units_are_ends():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU6(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[9.0] * 4, [8.0] * 4, [0.1] * 4]))
        net[3].weight.fill_(1)
    found = explain.strongest_paths(net, torch.ones(1, 2, 2), 0, k=4, width=1)
    assert [path.units[0] for path in found] == [(2,)] * len(found)
    assert math.isclose(found[0].contribution, 0.1)


@pytest.mark.parametrize(("k", "width"), [(0, 5), (5, 0)])
def test_bad_numbers(k, width):
    with pytest.raises(InputError, match="at least 1"):
        explain.strongest_paths(Branches().eval(), torch.rand(1, 6, 6), k=k, width=width)


def test_paths_belong_to_one_image():
    with pytest.raises(InputError, match="one image, got 2"):
        explain.strongest_paths(Branches().eval(), torch.rand(2, 1, 6, 6))


def test_paths_through_branches_are_summed_between_two_levels():
    net, x = Branches().eval(), torch.rand(1, 6, 6)
    for parameter in (net.first.bias, net.left.bias, net.right.bias, net.head.bias):
        torch.nn.init.zeros_(parameter)
    paths = explain.strongest_paths(net, x, 2, k=10**5, width=10**5)
    total = torch.tensor(sum(path.contribution for path in paths))
    torch.testing.assert_close(total, net(x[None])[0, 2].detach(), **EXACT)
