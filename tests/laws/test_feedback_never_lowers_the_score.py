"""Feedback in any net: a sweep of the sign traceback never lowers the score, branches or not.

The score is linear in the switches of each gate or pool given all the others. A sweep chooses each anew, pixels
first, from its new input and the sign of the template that comes down through what lies above and has not been
updated yet. That is block-coordinate ascent, so no filter is needed: skips, concats, maxout, pools that overlap or
come after a ReLU, leaky gates, absolute values. What is reported is the score of a configuration: its picture's
match with the image, plus what the paths that end in a bias contribute, added up here from the biases and the
templates that come down to them. Where the ascent stops, no single switch can be flipped with profit.

Controls: the signs of another image lower the score; a sweep that ignores the signs throws away what the ascent
had won; a template of the wrong class explains another score.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import drmm
from drmm.model.traceback import _sweep, sign_traceback
from drmm.rendering import BatchNorm2d, Conv2d

SEEDS = range(6)
ROUNDING = 1e-9


class Branches(nn.Module):
    """Every way that branches part and meet, by three recipes."""

    def __init__(self, recipe, bias):
        super().__init__()
        self.recipe = recipe
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=bias) for i, o in [(2, 4)] + [(4, 4)] * 5)
        self.norm = nn.BatchNorm2d(4)
        self.prelu = nn.PReLU(4, init=0.3)
        self.classes = nn.Linear(8, 3, bias=bias)

    def residual(self, x):
        """A skip, a concat, a pool after a ReLU, and one that is enlarged again to the size of its branch."""
        x = F.max_pool2d(F.relu(self.convs[0](x)), 3, 2, 1)
        x = F.relu(x + self.convs[2](F.relu(self.norm(self.convs[1](x)))))
        x = x + F.interpolate(F.max_pool2d(self.convs[4](x), 2), size=x.shape[2:])
        return torch.cat([F.leaky_relu(self.convs[3](x), 0.2), x], 1)

    def maxout(self, x):
        """The larger of two branches, of two channels, of two neighbours; a branch subtracted."""
        x = self.convs[0](x)
        x = torch.maximum(self.convs[1](x), self.norm(self.convs[2](x))) - self.prelu(x)
        y = self.convs[3](x).unflatten(1, (2, 2)).amax(2)
        return torch.cat([F.max_pool2d(x, 2, 1), F.avg_pool2d(torch.cat([y, -y], 1), 2, 1)], 1)

    def odd(self, x):
        """Gates whose convnet does not take the larger value."""
        x = F.leaky_relu(self.convs[0](x), 1.5)
        x = torch.minimum(self.convs[1](x).abs(), F.leaky_relu(self.norm(x), -0.5))
        return torch.cat([F.adaptive_max_pool2d(x, (3, 2)), F.adaptive_max_pool2d(self.convs[2](x), (3, 2))], 1)

    def forward(self, x):
        return self.classes(getattr(self, self.recipe)(x).mean((2, 3)))


def draw(recipe, seed, *, bias=True):
    """A lifted net of random weights and norms, and images."""
    torch.manual_seed(seed)
    net = Branches(recipe, bias).eval()
    if bias:
        for tensor in (net.norm.running_mean, net.norm.bias, *(c.bias for c in [*net.convs, net.classes])):
            nn.init.normal_(tensor, 0, 0.3)
    nn.init.normal_(net.norm.weight)
    return drmm.lift(net, image_shape=(2, 7, 6)), torch.randn(12, 2, 7, 6)


@pytest.fixture(params=itertools.product(["residual", "maxout", "odd"], SEEDS), ids=str)
def case(request):
    return draw(*request.param)


def below(one, other):
    """By how much the first lies below the second, beyond rounding; 0 where it does not."""
    return (other - one - ROUNDING * (1 + other.abs())).clamp(min=0)


def ascent(model, x, label, sweeps=5):
    """The scores of every sweep, with nothing rejected, and where it ends."""
    latents = model.infer(x, label)
    scores = [latents.score]
    for _ in range(sweeps):
        latents = _sweep(model, x, latents)
        scores.append(latents.score)
    return scores, latents


@torch.no_grad()
def test_no_sweep_lowers_any_images_score(case):
    model, x = case
    risen = 0
    for label in range(3):
        scores, _ = ascent(model, x, label)
        for before, after in itertools.pairwise(scores):
            assert below(after, before).max() == 0
        risen += int((scores[-1] > scores[0] + 1e-6).sum())
        assert (scores[-1] <= model.upper_bound(x)[:, label] + 1e-9).all()
    assert risen > 18  # of 36: there is something to climb


@torch.no_grad()
def test_the_filter_rejects_nothing(case):
    model, x = case
    scores, _ = ascent(model, x, 1, sweeps=4)
    torch.testing.assert_close(sign_traceback(model, x, 1, sweeps=4).score, scores[-1])


def bias_paths(model, latents, monkeypatch):
    """The biases times the templates that come down to them, (N,)."""
    total = model.templates.bias[latents.label].clone()

    def watch(kind, offset):
        render = kind.render

        def watched(self, z, switches):
            b = offset(self)
            total.add_((z * b.reshape(-1, *[1] * (z.ndim - 2))).flatten(1).sum(1))
            return render(self, z, switches)

        monkeypatch.setattr(kind, "render", watched)

    watch(Conv2d, lambda conv: conv.bias)
    watch(BatchNorm2d, lambda n: n.bias - n.weight * n.running_mean * (n.running_var + n.eps).rsqrt())
    picture = model.render(latents)
    monkeypatch.undo()
    return picture, total


@torch.no_grad()
def test_the_score_is_that_of_its_configuration(case, monkeypatch):
    model, x = case
    latents = sign_traceback(model, x)
    picture, bias = bias_paths(model, latents, monkeypatch)
    match = (picture * x).flatten(1).sum(1)
    torch.testing.assert_close(match + bias, latents.score, rtol=1e-9, atol=1e-9)
    assert (bias.abs() > 1e-3).all()  # the control: without the biases it is another number
    stranger = replace(latents, label=(latents.label + 1) % 3)
    assert ((model.render(stranger) * x).flatten(1).sum(1) + bias - latents.score).abs().max() > 1e-3


@pytest.mark.parametrize("recipe", ["residual", "maxout", "odd"])
@torch.no_grad()
def test_without_biases_the_score_is_the_match(recipe):
    model, x = draw(recipe, 0, bias=False)
    latents = sign_traceback(model, x)
    torch.testing.assert_close((model.render(latents) * x).flatten(1).sum(1), latents.score, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("recipe", ["residual", "maxout", "odd"])
@torch.no_grad()
def test_no_single_switch_can_be_flipped_with_profit(recipe):
    # Checked by drawing alone: one gate of one place, in every leaf, on every image.
    model, x = draw(recipe, 1, bias=False)
    _, latents = ascent(model, x, 0, sweeps=30)
    flips, lost, still = 0, 0, model.infer(x, 0)
    for number, leaf in enumerate(latents.switches.leaves()):
        for name, choice in leaf.choices():
            if choice.dtype != torch.bool:
                continue
            for place in torch.randint(choice[0].numel(), (6,)):
                for start in (latents, still):
                    flipped = flip(start.switches, number, name, int(place))
                    score = (model.render(replace(start, switches=flipped)) * x).flatten(1).sum(1)
                    if start is latents:
                        flips += 1
                        assert below(latents.score, score).max() == 0
                    else:
                        lost += int((score > start.score + 1e-9).sum())
    assert flips >= 12
    assert lost > 0  # the control: bottom-up inference leaves profit behind


def flip(switches, number, name, place):
    """The other choice of one gate, at one place, on all images."""
    count = itertools.count()

    def change(leaf):
        if next(count) != number:
            return leaf
        choice = getattr(leaf, name).clone()
        choice.flatten(1)[:, place] = ~choice.flatten(1)[:, place]
        return replace(leaf, **{name: choice})

    return switches.map_leaves(change)


@torch.no_grad()
def test_control_signs_of_another_image_lower_the_score(case):
    model, x = case
    _, latents = ascent(model, x, 0)
    order = torch.arange(len(x)).roll(1)
    features, _ = model.levels.reinfer(x, latents.switches.select(order), model.templates.weight[latents.label])
    assert below(model.templates(features)[:, 0], latents.score).count_nonzero() > 3


@torch.no_grad()
def test_control_ignoring_the_signs_throws_the_profit_away(case):
    model, x = case
    _, latents = ascent(model, x, 0)
    assert below(model.infer(x, 0).score, latents.score).count_nonzero() > 3


def test_the_nets_have_what_the_law_is_about():
    kinds = {
        type(module).__name__
        for recipe in ("residual", "maxout", "odd")
        for module in draw(recipe, 0)[0].levels.modules()
    }
    assert kinds >= {"ReLU", "LeakyReLU", "PReLU", "Abs", "MaxPool2d", "AdaptiveMaxPool2d", "Largest", "Maximum"}
    assert kinds >= {"Sum", "Concat", "Graph", "Sequential", "BatchNorm2d"}
