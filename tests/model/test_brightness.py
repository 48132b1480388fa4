"""Brightness: the closed forms against quadrature and limits, gradients, and what is refused."""

import pytest
import torch

from drmm.errors import InputError
from drmm.model.brightness import BestFit, BrightnessPrior, compare
from drmm.model.deep import fit_amplitude

NOISE = torch.tensor(0.3, dtype=torch.float64)
PRIORS = [
    BrightnessPrior(0.0, 2.0),
    BrightnessPrior(1.0, 0.5),
    BrightnessPrior(2.0, 0.05),
    BrightnessPrior(0.5, 3.0),
]


@pytest.fixture
def fits(float64):
    """Match and energy of ten templates: along the image, across it, against it, and of nothing."""
    energy = torch.tensor([0.0, 1e-3, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 1.0, 1.0])
    match = torch.tensor([0.0, 1e-2, 0.3, -0.5, 0.0, 3.0, 4.0, -20.0, 9.0, -9.0])
    return match, energy


@pytest.mark.parametrize("prior", PRIORS)
def test_the_integral_is_that_of_quadrature(prior, fits):
    match, energy = fits
    alpha = torch.linspace(0, 40, 400_001)
    density = (-0.5 * ((alpha - prior.mean) / prior.spread).square()).exp()
    for i in range(len(match)):
        known = ((alpha * match[i] - 0.5 * alpha.square() * energy[i]) / NOISE).exp()
        expected = (torch.trapezoid(density * known, alpha) / torch.trapezoid(density, alpha)).log()
        assert prior.gain(match[i], energy[i], NOISE).item() == pytest.approx(expected.item(), abs=1e-5)


def test_nothing_drawn_gains_nothing(fits):
    for known in (*PRIORS, BestFit(), BrightnessPrior(1.0, 0.0)):
        assert known.gain(fits[0][:1], fits[1][:1], NOISE).item() == pytest.approx(0, abs=1e-12)


def test_without_spread_it_is_one_for_all(fits):
    match, energy = fits
    expected = (1.5 * match - 0.5 * 1.5**2 * energy) / NOISE
    torch.testing.assert_close(
        BrightnessPrior(1.5, 0.0).gain(match, energy, NOISE), expected, rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(BrightnessPrior(1.5, 0.0).best(match, energy, NOISE), torch.full_like(match, 1.5))


def test_no_prior_gains_more_than_the_best_fit(fits):
    best = BestFit().gain(*fits, NOISE)
    for prior in (*PRIORS, BrightnessPrior(1.0, 0.0)):
        assert (prior.gain(*fits, NOISE) <= best + 1e-9).all()


def test_the_best_fit_is_least_squares(float64):
    x, rendering = torch.randn(2, 6, 1, 3, 3)
    match, energy = compare(x, rendering)
    alpha = BestFit().best(match, energy, NOISE)
    torch.testing.assert_close(alpha, fit_amplitude(x, rendering))
    left = x - alpha[:, None, None, None] * rendering
    gain = (x.square() - left.square()).flatten(1).sum(1) / (2 * NOISE)
    torch.testing.assert_close(BestFit().gain(match, energy, NOISE), gain)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_most_probable_is_a_maximum(prior, fits):
    match, energy = fits
    best = prior.best(match, energy, NOISE)
    assert (best >= 0).all()

    def nats(alpha):
        return (alpha * match - 0.5 * alpha**2 * energy) / NOISE - 0.5 * ((alpha - prior.mean) / prior.spread) ** 2

    for step in (-1e-3, 1e-3):
        assert (nats(best) >= nats((best + step).clamp(min=0)) - 1e-12).all()


@pytest.mark.parametrize("prior", [*PRIORS, BrightnessPrior(1.0, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite(prior, dtype):
    match = torch.tensor([0.0, 1e-4, 1e4, -1e4, 50.0], dtype=dtype, requires_grad=True)
    energy = torch.tensor([0.0, 1e-6, 1e3, 1e3, 1e-2], dtype=dtype, requires_grad=True)
    gain = prior.gain(match, energy, NOISE.to(dtype))
    assert gain.dtype == dtype
    assert gain.isfinite().all()
    for slope in torch.autograd.grad(gain.sum(), (match, energy)):
        assert slope.isfinite().all()


def test_the_slope_is_the_expected_brightness(fits):
    match = fits[0].clone().requires_grad_()
    slope = torch.autograd.grad(PRIORS[1].gain(match, fits[1], NOISE).sum(), match)[0] * NOISE
    assert (slope > 0).all()
    posterior = (1.0 + 0.25 * fits[0] / NOISE) / (1 + 0.25 * fits[1] / NOISE)
    torch.testing.assert_close(slope[-2], posterior[-2], rtol=1e-6, atol=1e-6)  # far from 0 nothing is cut off


@pytest.mark.parametrize("prior", [*PRIORS, BrightnessPrior(1.0, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_follow_it(prior, dtype):
    like = torch.ones((), dtype=dtype)
    drawn = prior.sample(40_000, like, torch.Generator().manual_seed(0))
    assert drawn.dtype == dtype
    assert drawn.isfinite().all()
    assert (drawn >= 0).all()
    alpha = torch.linspace(0, 40, 400_001, dtype=torch.float64)
    weights = (-0.5 * ((alpha - prior.mean) / max(prior.spread, 1e-3)).square()).exp()
    mean = (alpha * weights).sum() / weights.sum()
    assert drawn.double().mean().item() == pytest.approx(mean.item(), abs=5 * prior.spread / 200 + 1e-5)


def test_it_is_fitted_to_what_images_have(float64):
    amplitude = BrightnessPrior(2.0, 0.3).sample(20_000, torch.ones(()), torch.Generator().manual_seed(0))
    fitted = BrightnessPrior.fit(amplitude)
    assert (fitted.mean, fitted.spread) == (pytest.approx(2, abs=0.02), pytest.approx(0.3, abs=0.02))
    assert BrightnessPrior.fit(torch.full((5,), 1.5)) == BrightnessPrior(1.5, 0.0)


@pytest.mark.parametrize(("mean", "spread"), [(-1, 1), (1, -1), (float("nan"), 1), (1, float("inf"))])
def test_what_is_no_prior(mean, spread):
    with pytest.raises(InputError, match=r"a prior of brightness needs a mean and a spread of 0 or more"):
        BrightnessPrior(mean, spread)


def test_what_it_cannot_be_fitted_to():
    with pytest.raises(InputError, match="two images or more, got 1"):
        BrightnessPrior.fit(torch.ones(1))
    with pytest.raises(InputError, match="0 or more, got nan"):
        BrightnessPrior.fit(torch.tensor([1.0, float("nan")]))


def test_where_nothing_is_ever_drawn_nothing_is_gained(fits):
    dark = BrightnessPrior.fit(torch.zeros(3))
    assert (dark.gain(*fits, NOISE).abs() < 1e-12).all()
    assert (dark.sample(100, torch.ones(())) < 1e-12).all()
