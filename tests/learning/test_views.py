"""Other views: what a seed draws, and what it leaves as it is."""

import pytest
import torch

from drmm.learning import views
from drmm.learning.views import viewed

SEEDS = [bytes([i, 7]) for i in range(40)]


def ramps(n=40, size=12):
    """Pictures that become brighter to the right."""
    return torch.linspace(0.2, 0.8, size).expand(n, 3, size, size).contiguous()


@pytest.fixture
def only_mirrored(monkeypatch):
    monkeypatch.setattr(views, "_LEAST", 1.0)
    monkeypatch.setattr(views, "_BRIGHTER", 0.0)
    monkeypatch.setattr(views, "_LIGHTER", 0.0)


def test_a_view_depends_on_its_seed_and_picture_alone():
    x = torch.rand(5, 3, 12, 9)
    seen = viewed(x, SEEDS[:5], may_mirror=True)
    alone = torch.cat([viewed(x[i : i + 1], SEEDS[i : i + 1], may_mirror=True) for i in range(5)])
    torch.testing.assert_close(seen, alone, rtol=0, atol=1e-6)
    assert seen.shape == x.shape
    assert not torch.allclose(seen, viewed(x, SEEDS[1:6], may_mirror=True), atol=0.01), "control: other seeds"


def test_levels_stay_levels_and_nothing_from_outside_comes_in():
    white, black = torch.ones(40, 1, 8, 8), torch.zeros(40, 1, 8, 8)
    for picture in (white, black):
        seen = viewed(picture, SEEDS, may_mirror=True)
        assert float(seen.min()) >= 0
        assert float(seen.max()) <= 1
        assert float(seen.flatten(1).std(1).max()) < 1e-6, "a plain picture stays plain"


def test_half_are_mirrored_where_they_may_be_and_none_otherwise():
    def rising(seen):
        return (seen[..., -1] - seen[..., 0]).mean((1, 2)) > 0

    assert bool(rising(viewed(ramps(), SEEDS, may_mirror=False)).all())
    assert 10 < int(rising(viewed(ramps(), SEEDS, may_mirror=True)).sum()) < 30


@pytest.mark.usefixtures("only_mirrored")
def test_a_mirrored_picture_is_the_picture_from_right_to_left():
    x = torch.rand(40, 2, 7, 10)
    seen = viewed(x, SEEDS, may_mirror=True)
    same, mirrored = ((seen - one).abs().amax((1, 2, 3)) < 1e-5 for one in (x, x.flip(3)))
    assert bool((same ^ mirrored).all())
    assert bool(same.any() and mirrored.any())


def test_sides_are_cut_by_three_tenths_at_most():
    span = viewed(ramps(), SEEDS, may_mirror=False)[:, 0, 0]
    widths = (span[:, -1] - span[:, 0]) / 0.6
    assert 0.45 < float(widths.min()) < 0.8, "0.7 of the ramp, as bright as 0.7 to 1.3 times"
    assert float(widths.max()) < 1.35
