"""Noise, blur, occlusion and attacks: bounds, seeds, what they do to the loss, and errors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drmm.errors import InputError
from drmm.studies.corruptions import blur, fgsm, gaussian_noise, occlude, pgd

EPS = 0.1


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def x():
    return torch.rand(20, 3, 12, 10)


@pytest.fixture
def y():
    return torch.randint(4, (20,))


@pytest.fixture
def net():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(480, 4)).eval()


def everything(net, x, y, seed=0):
    yield gaussian_noise(x, 0.3, seeded(seed))
    yield blur(x, 1.5)
    yield occlude(x, 5, seeded(seed))
    yield fgsm(net, x, y, EPS)
    yield pgd(net, x, y, EPS, seeded(seed))


def test_new_images_in_range(net, x, y):
    before = x.clone()
    for result in everything(net, x, y):
        assert result.shape == x.shape
        assert result.dtype == x.dtype
        assert result.min() >= 0
        assert result.max() <= 1
        assert not torch.equal(result, x)
        assert not result.requires_grad
    assert torch.equal(x, before)


def test_the_seed_decides(net, x, y):
    same, again, other = (list(everything(net, x, y, seed)) for seed in (0, 0, 1))
    state = torch.get_rng_state()
    list(everything(net, x, y))
    assert torch.equal(torch.get_rng_state(), state)
    for one, two in zip(same, again, strict=True):
        assert torch.equal(one, two)
    assert [torch.equal(a, b) for a, b in zip(same, other, strict=True)] == [False, True, False, True, False]


def test_noise_has_the_size_it_says():
    x = torch.full((50, 1, 20, 20), 0.5)
    noise = gaussian_noise(x, 0.1, seeded()) - x
    assert abs(float(noise.std()) - 0.1) < 0.003
    assert abs(float(noise.mean())) < 0.003
    pixels = noise.flatten(1)
    assert abs(float((pixels[:, 1:] * pixels[:, :-1]).mean())) < 3e-4  # neighbours are independent


@pytest.mark.parametrize("sigma", [0.2, 1, 3, 8])  # at 8 the Gaussian is wider than the picture
def test_blur_keeps_the_mean_and_removes_detail(x, sigma):
    blurred = blur(x.double(), sigma)
    torch.testing.assert_close(blurred.mean((2, 3)), x.double().mean((2, 3)))
    assert (blurred.var((2, 3)) < x.double().var((2, 3))).all()


def test_blur_is_a_gaussian_in_both_directions():
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    spread = blur(point, 2.0)[0, 0]
    places = torch.arange(41) - 20.0
    for profile in (spread.sum(0), spread.sum(1)):
        assert abs(float((profile * places).sum())) < 1e-5
        assert abs(float((profile * places.square()).sum()) - 4) < 0.15  # cut off at three sigma
    torch.testing.assert_close(spread, spread.T)
    assert torch.equal(blur(point, 0), point)


def test_an_occlusion_is_one_square_in_each_image(x):
    covered = (occlude(x, 4, seeded(), value=0.25) != x).any(1)
    assert (covered.flatten(1).sum(1) == 16).all()
    assert (covered.any(2).sum(1) == 4).all()
    assert (covered.any(1).sum(1) == 4).all()
    assert len({tuple(image.flatten().tolist()) for image in covered}) > 10
    assert torch.equal(occlude(x, 0, seeded()), x)
    assert (occlude(x, 10, seeded()) == 0.5).flatten(1).float().mean() == pytest.approx(10 / 12)


def test_an_occlusion_reaches_every_place():
    covered = (occlude(torch.zeros(2000, 1, 6, 5), 2, seeded(), value=1) > 0).any(0)
    assert covered.all()


def loss(net, x, y):
    return F.cross_entropy(net(x), y, reduction="none")


@torch.no_grad()
def test_attacks_stay_in_the_ball_and_beat_noise_of_their_size(net, x, y):
    attacks = fgsm(net, x, y, EPS), pgd(net, x, y, EPS, seeded())
    random = (x + EPS * (2 * torch.rand(x.shape, generator=seeded()) - 1).sign()).clamp(0, 1)
    for attacked in attacks:
        assert (attacked - x).abs().max() <= EPS + 1e-6
        assert (loss(net, attacked, y) > loss(net, random, y)).all()
        assert (loss(net, attacked, y) > loss(net, x, y)).all()
    assert loss(net, attacks[1], y).mean() >= loss(net, attacks[0], y).mean() - 1e-3


def test_one_step_of_fgsm_is_the_signed_gradient(net, x, y):
    inside = 0.4 + 0.2 * x
    images = inside.clone().requires_grad_()
    F.cross_entropy(net(images), y).backward()
    torch.testing.assert_close(fgsm(net, inside, y, EPS), inside + EPS * images.grad.sign())


def test_attacks_leave_no_gradients_and_treat_images_alone(net, x, y):
    together = pgd(net, x, y, EPS, seeded(), steps=3)
    assert all(parameter.grad is None for parameter in net.parameters())
    torch.testing.assert_close(fgsm(net, x, y, EPS)[:3], fgsm(net, x[:3], y[:3], EPS))
    assert (pgd(net, x, y, 0, seeded()) == x).all()
    assert (together - x).abs().max() > 0.9 * EPS


def test_steps_of_pgd(net, x, y):
    start = pgd(net, x, y, EPS, seeded(), steps=0)
    small = pgd(net, x, y, EPS, seeded(), steps=2, step=0.01)
    assert (small - start).abs().max() <= 0.02 + 1e-6
    assert (loss(net, small, y) > loss(net, start, y)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: gaussian_noise(2 * x + 1, 0.1), r"in \[0, 1\]"),
        (lambda x, y: gaussian_noise(x[0], 0.1), "floats"),
        (lambda x, y: blur((255 * x).byte(), 1), "floats"),
        (lambda x, y: blur(x, -1), "sigma must not be negative"),
        (lambda x, y: gaussian_noise(x, float("nan")), "sigma must not be negative"),
        (lambda x, y: gaussian_noise(x * float("nan"), 0.1), r"in \[0, 1\]"),
        (lambda x, y: occlude(x, 11), "11 pixels does not fit into pictures of 12x10"),
        (lambda x, y: occlude(x, 3, value=2), "value must be in"),
        (lambda x, y: fgsm(nn.Flatten(), x, y[:3], EPS), "as many classes"),
        (lambda x, y: fgsm(nn.Flatten(), x, y.float(), EPS), "as many classes"),
        (lambda x, y: pgd(nn.Flatten(), x, y, -EPS), "negative"),
        (lambda x, y: pgd(nn.Flatten(), x, y, EPS, step=-1), "step must not be negative"),
    ],
)
def test_errors_say_what_is_wrong(x, y, call, message):
    with pytest.raises(InputError, match=message):
        call(x, y)
