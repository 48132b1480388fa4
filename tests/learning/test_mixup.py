"""Two images in one: by hand, pixel for pixel, and with controls."""

import pytest
import torch
from torch.nn import functional as F

from drmm.learning.mixup import mixed


def posteriors(n):
    return torch.rand(n, 3, dtype=torch.float64).softmax(1)


@pytest.fixture
def alone(monkeypatch):
    """Each image is its own partner."""
    monkeypatch.setattr(torch, "randperm", lambda n, **_: torch.arange(n))


@pytest.mark.usefixtures("alone")
def test_images_are_moved_by_whole_pixels_of_their_own():
    """Towards the posteriors of the images where they are; what comes in repeats the edge."""
    torch.manual_seed(0)
    x, q = torch.rand(400, 2, 5, 7, dtype=torch.float64), posteriors(400)
    found, of = mixed(x, q, translation=2)
    padded = F.pad(x, (2,) * 4, mode="replicate")
    places = torch.cartesian_prod(torch.arange(5), torch.arange(5)).tolist()
    moved = torch.stack([padded[:, :, i : i + 5, j : j + 7] for i, j in places])
    hits = torch.isclose(moved, found, rtol=0, atol=1e-12).flatten(2).all(2)
    assert bool((hits.sum(0) == 1).all())
    assert hits.sum(1).min() > 0, "every translation occurs"
    torch.testing.assert_close(of, q)
    torch.testing.assert_close(mixed(x, q)[0], x)  # control


@pytest.fixture
def pasted_images():
    """Images of one value each on a background of 0, their cutmix, and who was pasted into whom."""
    torch.manual_seed(1)
    n = 300
    x = torch.zeros(n, 2, 12, 9, dtype=torch.float64)
    x[:, :, 3:8, 2:6] = 1 + torch.arange(n, dtype=torch.float64)[:, None, None, None]
    q = posteriors(n)
    torch.manual_seed(2)
    partner = torch.randperm(n)
    torch.manual_seed(2)
    return x, q, partner, *mixed(x, q, cutmix=1)


def test_a_cutmix_has_each_pixel_from_one_of_the_two(pasted_images):
    x, _, partner, found, _ = pasted_images
    of_first, of_second = found == x, found == x[partner]
    assert bool((of_first | of_second).all())
    assert not bool(of_first.all()), "control: something was pasted"


def test_what_is_pasted_is_a_rectangle_of_at_most_half_the_area():
    torch.manual_seed(3)
    x = torch.arange(300.0, dtype=torch.float64)[:, None, None, None].expand(-1, 2, 12, 9)
    found, _ = mixed(x, posteriors(300), cutmix=1)
    pasted = found != x
    assert bool((pasted[:, 0] == pasted[:, 1]).all()), "the same in all channels"
    rows, columns = pasted[:, 0].any(2), pasted[:, 0].any(1)
    assert bool((pasted[:, 0] == (rows[:, :, None] & columns[:, None, :])).all())
    for line in rows, columns:  # without gaps: it starts at most once
        assert bool(
            (line.int().diff(dim=1, prepend=torch.zeros(300, 1, dtype=torch.int32)) == 1).sum(1).max() <= 1
        )
    area = pasted[:, 0].double().mean((1, 2))
    assert area.max() <= 0.5 + 0.08  # whole pixels
    assert bool(pasted[:, 0].any(0).all()), "everywhere in the picture"


def test_the_share_of_an_image_is_its_part_of_what_stands_out(pasted_images):
    x, q, partner, found, of = pasted_images
    for n in range(0, 300, 17):
        m = int(partner[n])
        mine, theirs = (
            float((found[n] == x[n].max()).sum() * (n + 1)),
            float((found[n] == x[m].max()).sum() * (m + 1)),
        )
        if n != m and mine + theirs:
            share = mine / (mine + theirs)
            torch.testing.assert_close(of[n], share * q[n] + (1 - share) * q[m])


def test_the_background_does_not_count(pasted_images):
    """A cutmix is the same of images on another background."""
    x, q, _, found, of = pasted_images
    torch.manual_seed(2)
    shifted, also = mixed(x + 5, q, cutmix=1)
    torch.testing.assert_close(shifted, found + 5)
    torch.testing.assert_close(also, of)


def test_empty_images_have_the_share_of_their_area():
    torch.manual_seed(4)
    q = posteriors(50)
    found, of = mixed(torch.zeros(50, 1, 6, 6, dtype=torch.float64), q, cutmix=1)
    assert not bool(found.any())
    assert bool(of.isfinite().all())
    torch.testing.assert_close(of.sum(1), torch.ones(50, dtype=torch.float64))


def test_so_many_are_cutmix():
    torch.manual_seed(5)
    x = torch.arange(2000.0)[:, None, None, None].expand(-1, 1, 8, 8)
    for share in (0.0, 0.3, 1.0):
        found, _ = mixed(x, posteriors(2000).float(), cutmix=share)
        one_value = (found == found[:, :, :1, :1]).flatten(1).all(1)  # a mixture of two grounds is a ground
        whole = (found == x).flatten(1).all(1)  # too little was pasted to be a pixel
        assert float((~one_value | whole).double().mean()) == pytest.approx(share, abs=0.04)
