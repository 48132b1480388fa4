"""T6 and T7 where the answer is known: nets that lose the background, or the object, by construction."""

import copy

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from torch import nn
from torch.nn import functional as F

import drmm
from drmm.errors import InputError
from drmm.explain import LevelEvidence, draw, guide
from drmm.studies.predictions.curves import Panel, curves
from drmm.studies.predictions.invariance import background_loss, feature_invariance

N, WIDTH = 24, 6  # images; channels of the object, and as many of the background


def scenes(seed=0):
    """Objects (a square that moves) and backgrounds (noise) in channels of their own, and masks."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(N, 8, 8, dtype=torch.bool)
    for mask in masks:
        row, column = torch.randint(0, 5, (2,), generator=generator).tolist()
        mask[row : row + 4, column : column + 4] = True
    objects = torch.rand(N, WIDTH, 8, 8, generator=generator) * masks[:, None]
    backgrounds = torch.rand(N, WIDTH, 8, 8, generator=generator) * ~masks[:, None]
    return objects, backgrounds, masks


def planted(objects, backgrounds):
    """A net whose levels pass on objects and backgrounds with these strengths."""
    layers = []
    for strengths in zip(objects, backgrounds, strict=True):
        conv = nn.Conv2d(2 * WIDTH, 2 * WIDTH, 1, bias=False)
        weight = torch.tensor(strengths).repeat_interleave(WIDTH).diag()
        conv.weight = nn.Parameter(weight[:, :, None, None])
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * WIDTH * 64, 3)).eval()


NETS = {
    "confirmed": lambda: planted((1.0, 1.0, 1.0, 1.0), (0.7, 0.5, 0.2, 0.0)),
    "refuted": lambda: planted((0.7, 0.5, 0.2, 0.0), (1.0, 1.0, 1.0, 1.0)),
}


@pytest.mark.parametrize("way", [draw, guide])
@pytest.mark.parametrize("outcome", NETS)
def test_saliency(outcome, way, float64):
    objects, backgrounds, masks = scenes()
    # Both everywhere, a little: else a map that is black outside of the object could be lost already.
    x = torch.cat([objects, backgrounds], 1)
    found = background_loss(NETS[outcome](), x, masks, way=way, redraws=2)
    verdict = found.verdict("pytest")
    assert verdict.verdict == outcome
    assert (verdict.law, verdict.command) == ("T6", "pytest")
    assert found.trained.shape == found.redrawn.shape == found.untrained.shape == (1, N, 4)
    assert len(found.added()) == len(found.levels) == 4


@pytest.mark.parametrize("outcome", NETS)
def test_features(outcome, float64):
    objects, backgrounds, _ = scenes()
    others = [part.roll(1, 0) for part in (objects, backgrounds)]
    x, other_background, other_object = (
        torch.cat(parts, 1) for parts in ((objects, backgrounds), (objects, others[1]), (others[0], backgrounds))
    )
    found = feature_invariance(NETS[outcome](), x, other_background, other_object, redraws=2)
    assert found.verdict("pytest").verdict == outcome
    assert found.levels[0] == "pixels"
    assert len(found.levels) == found.share.shape[2] == 5
    assert len(found.added()) == 4
    # What is dropped altogether changes nothing at all; and the pixels do not depend on the net.
    assert np.all((found.background if outcome == "confirmed" else found.object)[..., -1] == 0)
    assert np.all(found.share[..., 0] == found.redrawn[..., 0])


def test_nothing_is_found_where_nothing_is(float64):
    objects, backgrounds, masks = scenes()
    nets = []
    for seed in range(4):
        torch.manual_seed(seed)
        nets.append(planted((1.0,) * 3, (1.0,) * 3))
        for layer in nets[-1][:-1:2]:
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
    x = torch.cat([objects, backgrounds], 1)
    untrained = background_loss(nets, x, masks)
    assert untrained.verdict("").verdict != "confirmed"
    elsewhere = background_loss(NETS["confirmed"](), x, masks[torch.randperm(N)], redraws=1)
    assert elsewhere.effects()["falls"].low < 0 < elsewhere.effects()["falls"].high, "control: masks of others"


class Branches(nn.Module):
    """A skip connection, and one gate, that works in place, for everything."""

    def __init__(self):
        super().__init__()
        self.stem, self.side = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.gate, self.head = nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Linear(6, 3)

    def forward(self, x):
        x = F.max_pool2d(self.gate(self.stem(x)), 2)
        x = self.gate(x + self.norm(self.side(x)))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("way", [draw, guide])
@pytest.mark.parametrize("make", [Branches, lambda: drmm.presets.conv_small(3, (2, 12, 12), width=4)])
def test_maps_are_those_of_level_evidence_and_models_are_left_alone(make, way, float64):
    model, x, masks = make(), torch.rand(5, 2, 12, 12), torch.rand(5, 12, 12) > 0.7
    before = copy.deepcopy(model.state_dict())
    found = background_loss(model, x, masks, way=way, redraws=1)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for level, name in enumerate(found.levels):
        maps = LevelEvidence(name, way=way)(model, x).abs()
        share = [[float((one * ~mask).sum() / one.sum()) for mask in masks] for one in maps]
        chance = [np.mean([value for j, value in enumerate(row) if j != i]) for i, row in enumerate(share)]
        np.testing.assert_allclose(found.trained[0, :, level], np.diag(share) - chance, atol=1e-12)


def test_one_level_at_a_time_is_redrawn(float64):
    objects, backgrounds, masks = scenes()
    x = torch.cat([objects, backgrounds], 1)
    one, other = (planted((1.0,) * 2, (0.5, last)) for last in (0.5, 0.0))
    found = [background_loss(net, x, masks, redraws=1) for net in (one, other)]
    np.testing.assert_array_equal(found[0].redrawn, found[1].redrawn)  # what was in its place does not matter
    np.testing.assert_array_equal(found[0].untrained, found[1].untrained)
    assert np.abs(found[0].trained - found[1].trained)[..., 1].min() > 0
    assert np.abs(found[0].redrawn - found[0].untrained)[..., 1].max() > 0.01, "control: below, it is trained"


def test_norms_of_a_redrawn_level_fit_what_comes_in():
    x, masks = torch.rand(8, 2, 12, 12) * 1000, torch.rand(8, 12, 12) > 0.7
    net = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 3)),
    )
    found = background_loss(net, x, masks, redraws=1)
    assert np.isfinite(found.redrawn).all()


def test_nets_are_averaged_and_widen_the_interval(float64):
    objects, backgrounds, masks = scenes()
    x, nets = torch.cat([objects, backgrounds], 1), [NETS["confirmed"](), NETS["refuted"](), NETS["confirmed"]()]
    found = background_loss(nets, x, masks, redraws=1)
    assert found.trained.shape == (3, N, 4)
    assert found.verdict("").verdict == "inconclusive"
    assert "3 nets" in found.verdict("").says


class OwnWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x * self.scale


def test_what_cannot_be_measured():
    net, x, masks = NETS["confirmed"](), torch.rand(4, 12, 8, 8), torch.ones(4, 8, 8, dtype=torch.bool)
    with pytest.raises(InputError, match="masks must be bool"):
        background_loss(net, x, masks.float())
    with pytest.raises(InputError, match="two or more images"):
        background_loss(net, x[:1], masks[:1])
    with pytest.raises(InputError, match="redraws"):
        background_loss(net, x, masks, redraws=0)
    with pytest.raises(InputError, match="two or more levels"):
        background_loss(nn.Sequential(nn.Conv2d(12, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)), x, masks)
    with pytest.raises(InputError, match="one architecture"):
        background_loss([net, planted((1.0,) * 2, (1.0,) * 2)], x, masks)
    with pytest.raises(InputError, match="same two or more images"):
        feature_invariance(net, x, x[:2], x)
    own = nn.Sequential(OwnWeights(), nn.ReLU(), nn.Conv2d(12, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    with pytest.raises(InputError, match="reset_parameters"):
        background_loss(own, x, masks)


def test_curves():
    lines = {"trained": np.random.default_rng(0).normal(size=(2, 5, 3)), "other": np.full((2, 5, 3), np.nan)}
    lines["other"][0, :3] = 1
    figure = curves([Panel("a", "b", lines, ["1", "2", "3"], (0, "chance")), Panel("c", "d", lines, "abc")])
    assert len(figure.axes) == 2
    assert [line.get_label() for line in figure.axes[0].lines[:1]] == ["trained"]


def test_titles_and_names_are_only_text():
    lines = {"$\\frac{1}{$": np.ones((1, 5, 2)), "_\U00013000": np.ones((1, 5, 2))}
    figure = curves([Panel("$\\frac{", "$", lines, ["$a$", "two\nlines"], (0, "$\\frac{$"), "$$")])
    figure.canvas.draw()
    assert not any(text._preprocess_math(text.get_text())[1] for text in figure.findobj(Text))
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["\\$\\frac{1}{\\$", "_\U00013000"]
