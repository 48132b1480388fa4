"""An unknown contrast, and an unknown noise, divide the responses: divisive normalisation is a maximum over both.

The slides score a class by ⟨μ_c, I⟩, with a fixed brightness. Let each image have a contrast α ≥ 0 of its own,
I ~ N(α μ_c, σ²1). With r_c = max(0, ⟨μ_c, I⟩) / ‖μ_c‖, the response divided by the template's energy, the maximum
over α is at α̂ = r_c / ‖μ_c‖ (`fit_amplitude`), where

    max_α log N(I; α μ_c, σ²1) = ½ (r_c² - ‖I‖²) / σ² - ½ D log 2πσ²:

neither the length of a template nor the contrast of the image changes the decision, and the log-odds grow with the
contrast's square. If σ² is the image's own too, its maximum is (‖I‖² - r_c²) / D, where

    max_{α,σ} log N(I; α μ_c, σ²1) = -½ D log(1 - r_c² / ‖I‖²) - ½ D log(2πe ‖I‖² / D):

what depends on c is the response divided by the energy of the input alone, so that even the posterior does not
change with the contrast. With an inverse-gamma prior (a, b) on σ² the divisor is ‖I‖² + 2b, the semi-saturation
constant of the textbooks' r² / (b' + Σ_j r_j²), whose pool has the energy of the input where templates are an
orthonormal basis.

Controls: a fixed contrast; the noise fixed; the semi-saturation; α of either sign; a pool that is not a basis.
"""

import math

import pytest
import torch
from torch import nn

from drmm import lift
from drmm.model.deep import fit_amplitude

LAW = {"rtol": 1e-10, "atol": 1e-10}
D, CLASSES, IMAGES = 8, 4, 20
SCALES = [1e-3, 0.1, 7.0, 1e4]


@pytest.fixture
def data():
    """Templates (C, D) of very different lengths, and pictures of them (N, D) of unknown contrast, with noise."""
    mu = torch.randn(CLASSES, D) * torch.tensor([0.3, 1, 2, 5])[:, None]
    contrast = torch.rand(IMAGES, 1) * 3
    return mu, contrast * mu[torch.arange(IMAGES) % CLASSES] + torch.randn(IMAGES, D)


def amplitudes(mu, x):
    """α̂ of each class, (N, C)."""
    return torch.stack([fit_amplitude(x, template.expand_as(x)) for template in mu], 1)


def log_density(x, mu, alpha, variance):
    """Log N(I; α μ_c, σ²1), α and σ² of shapes that broadcast to (N, C)."""
    square = (x[:, None] - alpha[..., None] * mu).square().sum(-1)
    return -0.5 * square / variance - 0.5 * D * (2 * math.pi * variance).log()


def responses(mu, x):
    """r_c, (N, C)."""
    return (x @ mu.T).clamp(min=0) / mu.norm(dim=1)


def energy(x):
    return x.square().sum(1, keepdim=True)


def best_noise(mu, x):
    return (energy(x) - responses(mu, x).square()) / D


def profile(mu, x):
    """Log-likelihood at the best contrast and the best noise, found by `fit_amplitude`, (N, C)."""
    return log_density(x, mu, amplitudes(mu, x), best_noise(mu, x))


@pytest.mark.parametrize("noise", [0.2, 1.5])
def test_the_best_contrast_divides_by_the_templates_energy(data, noise):
    mu, x = data
    noise = torch.tensor(noise)
    found = log_density(x, mu, amplitudes(mu, x), noise)
    law = 0.5 * (responses(mu, x).square() - energy(x)) / noise - 0.5 * D * (2 * math.pi * noise).log()
    torch.testing.assert_close(found, law, **LAW)
    torch.testing.assert_close(amplitudes(mu, x), responses(mu, x) / mu.norm(dim=1), **LAW)


def test_the_best_contrast_is_a_maximum(data):
    """Stationary where it is positive, and falling where it is 0 (the Karush-Kuhn-Tucker conditions)."""
    mu, x = data
    alpha = amplitudes(mu, x).requires_grad_()
    (slope,) = torch.autograd.grad(log_density(x, mu, alpha, torch.tensor(0.7)).sum(), alpha)
    on = alpha > 0
    assert 0 < on.sum() < on.numel()
    torch.testing.assert_close(slope[on], torch.zeros_like(slope[on]), **LAW)
    assert (slope[~on] < 0).all()


def test_the_best_contrast_against_a_grid(data):
    """No α of a fine grid is better, and the best of them is no worse than half a step may cost."""
    mu, x = data
    noise, step = torch.tensor(0.7), 0.005
    grid = torch.arange(0, amplitudes(mu, x).max().item() + 1, step)[:, None, None]
    best = log_density(x, mu, grid.expand(-1, IMAGES, CLASSES), noise).amax(0)
    found = log_density(x, mu, amplitudes(mu, x), noise)
    allowed = 0.5 * (step / 2) ** 2 * mu.square().sum(1) / noise
    assert (best <= found + 1e-10).all()
    assert (best >= found - allowed - 1e-10).all()


def test_the_best_contrast_and_noise_divide_by_the_inputs_energy(data):
    mu, x = data
    share = responses(mu, x).square() / energy(x)
    law = -0.5 * D * (1 - share).log() - 0.5 * D * (2 * math.pi * math.e * energy(x) / D).log()
    torch.testing.assert_close(profile(mu, x), law, **LAW)
    posterior = (-0.5 * D * (1 - share).log()).log_softmax(1)
    torch.testing.assert_close(profile(mu, x).log_softmax(1), posterior, **LAW)


def test_the_best_contrast_and_noise_are_a_maximum(data):
    mu, x = data
    alpha, variance = amplitudes(mu, x).requires_grad_(), best_noise(mu, x).requires_grad_()
    slopes = torch.autograd.grad(log_density(x, mu, alpha, variance).sum(), [alpha, variance])
    torch.testing.assert_close(slopes[0] * (alpha > 0), torch.zeros(IMAGES, CLASSES), **LAW)
    torch.testing.assert_close(slopes[1], torch.zeros(IMAGES, CLASSES), **LAW)


def test_the_best_contrast_and_noise_against_a_grid(data):
    mu, x = data
    mu, x = mu[1:3], x[:6]
    h, k = 0.01, 0.02  # steps of α and of log σ²
    logs = best_noise(mu, x).log()
    alphas = torch.arange(0, amplitudes(mu, x).max().item() + 1, h)[:, None, None, None]
    variances = torch.arange(logs.min().item() - 1, logs.max().item() + 1, k).exp()[:, None, None]
    square = (x[:, None] - alphas * mu).square().sum(-1)
    values = -0.5 * square[:, None] / variances - 0.5 * D * (2 * math.pi * variances).log()
    best, found = values.amax((0, 1)), profile(mu, x)
    # Half a step in log σ² costs D/2 (e^-δ - 1 + δ), and half a step in α its square over the grid's nearest σ².
    delta = k / 2
    allowed = 0.5 * D * (math.exp(delta) - 1 - delta)
    allowed = allowed + 0.5 * (h / 2) ** 2 * mu.square().sum(1) / best_noise(mu, x) * math.exp(delta)
    assert (best <= found + 1e-10).all()
    assert (best >= found - allowed - 1e-10).all()


@pytest.mark.parametrize("k", SCALES)
def test_the_contrast_of_the_image_does_not_matter(data, k):
    """The decision, for a known noise; all of the posterior, for an unknown one."""
    mu, x = data
    assert torch.equal(responses(mu, k * x).argmax(1), responses(mu, x).argmax(1))
    torch.testing.assert_close(amplitudes(mu, k * x), k * amplitudes(mu, x), **LAW)
    posterior = profile(mu, x).log_softmax(1)
    torch.testing.assert_close(profile(mu, k * x).log_softmax(1), posterior, **LAW)


@pytest.mark.parametrize("k", SCALES)
def test_the_length_of_a_template_does_not_matter(data, k):
    mu, x = data
    longer = mu * torch.tensor([1, k, 1, 1])[:, None]
    torch.testing.assert_close(responses(longer, x), responses(mu, x), **LAW)
    torch.testing.assert_close(profile(longer, x), profile(mu, x), **LAW)


@torch.no_grad()
def test_the_models_own_likelihood_is_divided(data):
    """`infer` fits the amplitude of whatever it draws, here through a level of switches."""
    _, x = data
    net = nn.Sequential(nn.Flatten(), nn.Linear(D, 6, bias=False), nn.ReLU(), nn.Linear(6, CLASSES, bias=False))
    model, images = lift(net, image_shape=(1, 2, 4)), x.reshape(-1, 1, 2, 4)
    model.noise.fill_(0.4)
    for label in range(CLASSES):
        latents = model.infer(images, label)
        drawn = model.render(latents).flatten(1)
        match = (drawn * x).sum(1).clamp(min=0).square() / drawn.square().sum(1).clamp(min=1e-300)
        law = 0.5 * (match - energy(x)[:, 0]) / 0.4 - 0.5 * D * math.log(2 * math.pi * 0.4)
        torch.testing.assert_close(model.log_likelihood(images, latents), law, **LAW)


def test_nothing_drawn_has_no_contrast():
    assert torch.equal(fit_amplitude(torch.randn(3, D), torch.zeros(3, D)), torch.zeros(3))


def with_prior(mu, x, a, b):
    """Maximum of log N(I; α μ_c, σ²1) + log of an inverse-gamma (a, b) at σ², up to constants, (N, C)."""
    variance = (energy(x) - responses(mu, x).square() + 2 * b) / (D + 2 * a + 2)
    variance.requires_grad_()
    value = log_density(x, mu, amplitudes(mu, x), variance) - (a + 1) * variance.log() - b / variance
    (slope,) = torch.autograd.grad(value.sum(), variance)
    torch.testing.assert_close(slope, torch.zeros_like(slope), **LAW)
    return value.detach()


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.3), (2.0, 5.0)])
def test_a_prior_on_the_noise_is_the_semi_saturation(data, a, b):
    mu, x = data
    share = responses(mu, x).square() / (energy(x) + 2 * b)
    law = (-(0.5 * D + a + 1) * (1 - share).log()).log_softmax(1)
    torch.testing.assert_close(with_prior(mu, x, a, b).log_softmax(1), law, **LAW)


def test_the_inputs_energy_is_that_of_a_pool_of_responses(data):
    """Of an orthonormal basis, both signs of it: r_j² / Σ_i r_i², divided by what the neighbours respond."""
    _, x = data
    basis = torch.linalg.qr(torch.randn(D, D))[0]
    pool = responses(torch.cat([basis, -basis]), x).square()
    torch.testing.assert_close(pool.sum(1, keepdim=True), energy(x), **LAW)


def plain(mu, x):
    """The log-odds of a mixture with a fixed contrast."""
    return x @ mu.T - 0.5 * mu.square().sum(1)


def test_control_a_fixed_contrast_decides_by_contrast(data):
    mu, x = data
    faint, strong = plain(mu, 0.1 * x).argmax(1), plain(mu, 10 * x).argmax(1)
    assert (faint != strong).sum() > IMAGES / 4
    longer = mu * torch.tensor([1, 4, 1, 1])[:, None]
    assert (plain(longer, x).argmax(1) != plain(mu, x).argmax(1)).any()


def test_control_a_bare_response_prefers_long_templates(data):
    """⟨μ_c, I⟩ alone, the slides' score, does not change its mind with contrast, but with the gauge."""
    mu, x = data
    assert torch.equal((10 * x @ mu.T).argmax(1), (x @ mu.T).argmax(1))
    longer = mu * torch.tensor([30, 1, 1, 1])[:, None]
    assert ((x @ longer.T).argmax(1) != (x @ mu.T).argmax(1)).any()


def test_control_with_a_known_noise_the_posterior_has_contrast(data):
    mu, x = data
    sure, unsure = (log_density(k * x, mu, amplitudes(mu, k * x), torch.tensor(1.0)) for k in (1, 0.1))
    assert (sure.log_softmax(1) - unsure.log_softmax(1)).abs().max() > 1
    odds, faint = (values - values[:, :1] for values in (sure, unsure))
    torch.testing.assert_close(faint, odds / 100, **LAW)


def test_control_semi_saturation_is_not_invariant(data):
    mu, x = data
    full, faint = (with_prior(mu, k * x, 1.0, 1.0).log_softmax(1) for k in (1, 0.1))
    assert (full - faint).abs().max() > 0.5


def test_control_a_contrast_of_either_sign_takes_negatives_too(data):
    """Then a picture and its negative are one; with α ≥ 0 they are not."""
    mu, x = data
    signed = (x @ mu.T).square() / mu.square().sum(1)
    assert torch.equal(signed.argmax(1), ((-x) @ mu.T).square().div(mu.square().sum(1)).argmax(1))
    assert (responses(mu, x).argmax(1) != responses(mu, -x).argmax(1)).sum() > IMAGES / 2


def test_control_a_pool_that_is_no_basis_has_another_energy(data):
    mu, x = data
    pool = responses(torch.cat([mu, -mu]), x).square().sum(1, keepdim=True)
    assert ((pool - energy(x)).abs() > 1e-3 * energy(x)).all()
