"""A model as a chain of dictionaries: what comes down to each, what is drawn below it."""

import pytest
import torch
from torch import nn

from drmm import DRMM, lift
from drmm.learning.em.chain import Chain
from drmm.model.presets import build
from drmm.rendering import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    LeakyReLU,
    Level,
    Linear,
    MaxPool2d,
    ReLU,
    Rendering,
    Sequential,
    Switches,
)

pytestmark = pytest.mark.usefixtures("float64")

EXACT = 1e-10


def levels():
    first = Level(Conv2d(1, 4, 3, padding=1, bias=False), BatchNorm2d(4), MaxPool2d(2))
    return Sequential(first, Level(Conv2d(4, 3, 2, stride=2)), Flatten()), 12, (1, 8, 8)


def nested():
    inner = Sequential(BatchNorm2d(3), Sequential(LeakyReLU(0.2), MaxPool2d(2)))
    return Sequential(Conv2d(2, 3, 3), inner, Flatten(), Linear(12, 5), BatchNorm1d(5), ReLU()), 5, (2, 6, 6)


def averaged():
    return Sequential(AvgPool2d(2), Conv2d(1, 4, 2), ReLU(), AvgPool2d(2), Flatten()), 4, (1, 7, 6)


def bare():
    return Sequential(Flatten()), 12, (1, 3, 4)


NETS = {"levels": levels, "nested": nested, "averaged": averaged, "bare": bare}
DICTIONARIES = {"levels": 3, "nested": 3, "averaged": 2, "bare": 1}


def begin(name, seed=0):
    torch.manual_seed(seed)
    body, features, shape = NETS[name]()
    model = DRMM(body, Linear(features, 3), image_shape=shape)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.uniform_(module.running_var, 0.5, 2)
    x = torch.randn(5, *shape)
    return model.eval(), x, model.infer(x)


@pytest.mark.parametrize("name", NETS)
def test_every_dictionary_is_a_site_pixels_first(name):
    model, _, _ = begin(name)
    sites = Chain(model).sites
    expected = [m for m in model.levels.modules() if isinstance(m, Conv2d | Linear)]
    assert [site.dictionary for site in sites] == [*expected, model.templates]
    assert len(sites) == DICTIONARIES[name]
    assert [site.index for site in sites] == sorted(site.index for site in sites)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_units_above_and_levels_below_draw_the_picture(name):
    model, _, latents = begin(name)
    for site in Chain(model).sites:
        canvas = site.canvas(site.units(latents), latents.switches)
        assert canvas.shape[1:] == site.shape(latents.switches)
        picture, _ = site.linear_below(canvas, latents.switches)
        torch.testing.assert_close(picture.reshape(len(picture), -1), model.picture(latents).flatten(1))


@pytest.mark.parametrize("name", NETS)
def test_the_way_back_is_the_transpose(name):
    model, x, latents = begin(name)
    for site in Chain(model).sites:
        canvas = torch.randn(5, *site.shape(latents.switches))
        picture, pull_back = site.linear_below(canvas, latents.switches)
        back = pull_back(x.reshape(picture.shape))
        assert not back.requires_grad
        torch.testing.assert_close((picture.flatten() * x.flatten()).sum(), (canvas * back).sum())


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_a_move_changes_what_is_drawn_by_the_coefficients(name):
    model, _, latents = begin(name)
    for site in Chain(model).sites:
        before, coefficients = site.drawing(latents.switches).clone(), site.coefficients()
        torch.testing.assert_close(site.design.weight(coefficients), before, rtol=EXACT, atol=EXACT)
        change = torch.randn(coefficients.shape)
        site.move(change)
        moved = site.drawing(latents.switches) - before
        torch.testing.assert_close(moved, site.design.weight(change), rtol=EXACT, atol=EXACT)


@torch.no_grad()
def test_a_template_that_its_norm_hides_stays():
    model, _, latents = begin("levels")
    site = Chain(model).sites[0]
    model.levels[0].norm.weight[1] = 0
    before = site.dictionary.weight.clone()
    site.move(torch.randn(site.coefficients().shape))
    assert torch.equal(site.dictionary.weight[1], before[1])
    assert (site.dictionary.weight[[0, 2, 3]] != before[[0, 2, 3]]).all()
    assert site.drawing(latents.switches).isfinite().all()


@torch.no_grad()
def test_a_parametrised_dictionary_moves_alike():
    model = build("conv_small", 3, (1, 8, 8), width=2, constraint="weight_norm").eval()
    latents = model.infer(torch.rand(3, 1, 8, 8))
    for site in Chain(model).sites:
        before, change = site.drawing(latents.switches).clone(), torch.randn(site.coefficients().shape)
        site.move(change)
        moved = site.drawing(latents.switches) - before
        torch.testing.assert_close(moved, site.design.weight(change), rtol=EXACT, atol=EXACT)


@torch.no_grad()
def test_a_lifted_net_moves_with_its_model():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).eval()
    model = lift(net, image_shape=(1, 6, 6))
    site = Chain(model).sites[0]
    before = net[0].weight.clone()
    site.move(torch.ones(site.coefficients().shape))
    torch.testing.assert_close(net[0].weight, before + 1)


class Doubled(Rendering):
    """A rendering of one's own, without a dictionary that the M-step knows."""

    def infer(self, x):
        return 2 * x, Switches(tuple(x.shape[1:]))

    def render(self, z, switches):
        return 2 * z


@torch.no_grad()
def test_renderings_of_ones_own_stand_between():
    model = DRMM(Sequential(Doubled(), Flatten()), Linear(4, 2), image_shape=(1, 2, 2)).eval()
    latents = model.infer(torch.rand(3, 1, 2, 2))
    (site,) = Chain(model).sites
    picture, _ = site.linear_below(site.canvas(site.units(latents), latents.switches), latents.switches)
    torch.testing.assert_close(picture, model.picture(latents))
