"""Other views: what draws decide, and what stays as it is."""

import math

import pytest
import torch

from drmm.learning import views
from drmm.learning.views import random_views, viewed

DRAWS = torch.rand(40, 11, generator=torch.Generator().manual_seed(7))
ALL = ("affine", "brightness", "crop", "flip")


def ramps(n=40, size=12):
    """Pictures that become brighter to the right."""
    return torch.linspace(0.2, 0.8, size).expand(n, 3, size, size).contiguous()


def rising(seen):
    return (seen[..., -1] - seen[..., 0]).mean((1, 2)) > 0


@pytest.mark.parametrize("kind", ALL)
def test_a_view_depends_on_its_draws_and_picture_alone(kind):
    x = torch.rand(5, 3, 12, 9)
    seen = viewed(x, DRAWS[:5], [kind])
    alone = torch.cat([viewed(x[i : i + 1], DRAWS[i : i + 1], [kind]) for i in range(5)])
    torch.testing.assert_close(seen, alone, rtol=0, atol=1e-6)
    assert seen.shape == x.shape
    assert not torch.allclose(seen, x, atol=0.01)
    assert not torch.allclose(seen, viewed(x, DRAWS[10:15], [kind]), atol=0.01), "control: other draws"


def test_without_kinds_pictures_stay_as_they_are():
    x = torch.rand(5, 3, 12, 9)
    assert torch.equal(viewed(x, DRAWS[:5], ()), x)


def test_random_views_are_the_generators():
    torch.manual_seed(3)
    x = torch.rand(40, 1, 9, 9)
    seen = random_views(x, ALL)
    torch.manual_seed(3)
    assert torch.equal(random_views(torch.rand(40, 1, 9, 9), ALL), seen)
    assert not torch.equal(random_views(x, ALL), seen), "control"


def test_about_half_of_random_views_are_whole():
    torch.manual_seed(3)
    x = torch.rand(200, 1, 9, 12)

    def share(seen, *ways):
        return sum(float(((seen - way).abs().amax((1, 2, 3)) < 1e-5).float().mean()) for way in ways)

    assert 0.4 < share(random_views(x, ("affine", "brightness")), x) < 0.6
    assert 0.4 < share(random_views(x, ALL), x, x.flip(3)) < 0.6
    assert 0.15 < share(random_views(x, ALL), x) < 0.35, "control: the others are mirrored"


def test_levels_stay_levels_and_nothing_from_outside_comes_in():
    white, black = torch.ones(40, 1, 8, 8), torch.zeros(40, 1, 8, 8)
    for picture in (white, black):
        seen = viewed(picture, DRAWS, ALL)
        assert float(seen.min()) >= 0
        assert float(seen.max()) <= 1
        assert float(seen.flatten(1).std(1).max()) < 1e-6, "a plain picture stays plain"


def test_half_are_mirrored_where_they_may_be_and_none_otherwise():
    assert bool(rising(viewed(ramps(), DRAWS, ["affine", "brightness", "crop"])).all())
    assert 10 < int(rising(viewed(ramps(), DRAWS, ALL)).sum()) < 30


def test_a_mirrored_picture_is_the_picture_from_right_to_left():
    x = torch.rand(40, 2, 7, 10)
    seen = viewed(x, DRAWS, ["flip"])
    same, mirrored = ((seen - one).abs().amax((1, 2, 3)) < 1e-5 for one in (x, x.flip(3)))
    assert bool((same ^ mirrored).all())
    assert bool(same.any() and mirrored.any())


def test_sides_are_cut_by_three_tenths_at_most():
    span = viewed(ramps(), DRAWS, ["crop"])[:, 0, 0]
    widths = (span[:, -1] - span[:, 0]) / 0.6
    assert 0.65 < float(widths.min()) < 0.8
    assert float(widths.max()) <= 1


def test_colours_change_by_three_tenths_at_most():
    factor = viewed(ramps(), DRAWS, ["brightness"])[:, 0, 0].diff(dim=1).amax(1) / ramps()[:, 0, 0].diff(
        dim=1
    ).amax(1)
    assert 0.69 < float(factor.min()) < 0.8
    assert 1.2 < float(factor.max()) < 1.31


@pytest.mark.parametrize("shape", [(40, 40), (24, 40)])
def test_a_turn_keeps_right_angles_whatever_the_shape(shape, monkeypatch):
    """A bar through the middle, turned by fifteen degrees: where its pixels lie tells the angle."""
    for name in ("_SCALE", "_SHEAR", "_SHIFT"):
        monkeypatch.setattr(views, name, 0.0)
    x = torch.zeros(2, 1, *shape)
    x[0, :, :, shape[1] // 2 - 1 : shape[1] // 2 + 1] = 1
    x[1, :, shape[0] // 2 - 1 : shape[0] // 2 + 1] = 1
    draws = torch.ones(2, DRAWS.shape[1])
    seen = viewed(x, draws, ["affine"])[:, 0]
    down, right = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    keep = (down.square() + right.square()).sqrt() < min(shape) / 2 - 2
    angles = []
    for one in seen * keep:
        spread = torch.stack([(one * a * b).sum() for a, b in ((right, right), (right, down), (down, down))])
        angles.append(math.degrees(0.5 * math.atan2(2 * spread[1], spread[0] - spread[2])))
    assert abs(abs(angles[1]) - 15) < 1.5
    assert abs((angles[0] - angles[1]) % 180 - 90) < 1.5, "the two bars cross at right angles"
