"""Masks from maps: planted objects are found, wrong maps find nothing, and every figure is what its words say."""

import itertools

import pytest
import torch
from torch import nn

from drmm.errors import InputError
from drmm.explain import active_paths
from drmm.studies.predictions.localisation import (
    READINGS,
    CentreBox,
    RandomMap,
    Reading,
    best_reading,
    localise,
    measure,
)

SIDE = 16
PLAIN = Reading("positive", 0.0, 1.0)


def squares(n, side=5):
    """Masks of squares at random places."""
    masks = torch.zeros(n, SIDE, SIDE, dtype=torch.bool)
    for mask, (row, column) in zip(masks, torch.randint(SIDE - side + 1, (n, 2)).tolist(), strict=True):
        mask[row : row + side, column : column + side] = True
    return masks


@pytest.fixture
def scenes():
    """Bright squares on a dark picture, and a net that sums up brightness: its paths start in the square."""
    masks = squares(40)
    x = masks[:, None] * (0.5 + 0.5 * torch.rand(40, 1, SIDE, SIDE))
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(SIDE**2, 2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(0.1)
    return net.eval(), x, masks


def test_a_map_of_the_object_finds_all_of_it():
    masks = squares(6)
    found = measure(masks.float(), masks, PLAIN)
    assert torch.equal(found.masks, masks)
    for figure in (found.iou, found.pointing, found.energy):
        torch.testing.assert_close(figure, torch.ones(6))


def test_a_map_of_everything_else_finds_none_of_it():
    masks = squares(6)
    found = measure((~masks).float(), masks, PLAIN)
    for figure in (found.iou, found.pointing, found.energy):
        assert not figure.any()


def test_figures_by_hand():
    masks = torch.tensor([[[True, True], [False, False]]])
    maps = torch.tensor([[[0.2, 0.3], [0.4, -0.1]]])
    found = measure(maps, masks, Reading("positive", 0.0, 0.7))
    assert found.masks.tolist() == [[[False, True], [True, False]]]  # 0.4 and 0.3 hold 7 of 9 tenths
    assert (float(found.iou), float(found.pointing)) == (pytest.approx(1 / 3), 0.0)
    assert float(found.energy) == pytest.approx(5 / 9)
    assert float(measure(maps, masks, Reading("absolute", 0.0, 0.7)).energy) == pytest.approx(0.5)


def test_active_paths_find_what_the_net_sees_and_baselines_do_not(scenes):
    net, x, masks = scenes
    tuned = x[:20], masks[:20]
    iou = {
        name: localise(explainer, net, x[20:], masks[20:], reading=tuned).iou.mean()
        for name, explainer in (("paths", active_paths), ("box", CentreBox()), ("random", RandomMap()))
    }
    assert iou["paths"] > 0.9
    assert iou["box"] < 0.4
    assert iou["random"] < 0.25, "control: guesses find no object"


def test_paths_find_nothing_in_a_net_that_looks_elsewhere(scenes):
    net, x, masks = scenes
    hidden = x * 0 + (~masks)[:, None].float()  # the net now sees everything but the object
    assert localise(active_paths, net, hidden, masks, reading=PLAIN).energy.max() < 1e-6


def test_the_best_reading_is_the_best_of_all_tried_one_by_one():
    masks = squares(12)
    maps = masks.float() + 0.8 * torch.randn(12, SIDE, SIDE)
    iou = {reading: float(measure(maps, masks, reading).iou.mean()) for reading in READINGS}
    best = best_reading(maps, masks)
    assert iou[best] == max(iou.values())
    assert iou[best] > min(iou.values()) + 0.2, "control: readings differ"
    assert best.blur > 0, "noise has to be smoothed"


def test_a_share_of_a_centred_map_is_a_box():
    x = torch.zeros(1, 1, SIDE, SIDE)
    mask = Reading("positive", 0.0, 0.3).masks(CentreBox()(nn.Identity(), x))[0]
    rows, columns = mask.any(1), mask.any(0)
    assert (rows == rows.flip(0)).float().mean() > 0.8
    assert mask.sum() >= 0.6 * rows.sum() * columns.sum()


def test_a_map_without_evidence_makes_an_empty_mask():
    masks = torch.stack([squares(1)[0], torch.zeros(SIDE, SIDE, dtype=torch.bool)])
    found = measure(torch.zeros(2, SIDE, SIDE), masks, Reading())
    assert found.iou.tolist() == [0.0, 1.0]
    assert not found.masks.any()
    assert torch.isfinite(found.energy).all()


def test_what_cannot_be_localised():
    maps, masks = torch.rand(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    for wrong_maps, wrong_masks in itertools.product([maps, maps[:1]], [masks.float(), masks[:, :2]]):
        with pytest.raises(InputError, match="bool masks of their shape"):
            measure(wrong_maps, wrong_masks, Reading())
    with pytest.raises(InputError, match=r"share in \(0, 1\]"):
        Reading(share=0)
    with pytest.raises(InputError, match="no reading"):
        best_reading(maps, masks, [])
