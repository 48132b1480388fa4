"""Corrupting the input is a latent noise: a ridge on the templates, a variance on the pixels.

Slide "Many Species of Convnets… But only a few Key Operations": DropOut, Noise Corruption. Let the net see I + e
with e ~ N(0, s²1), a latent of its own. For a linear map W with a target y that is clean,

    E_e ‖y - W (I + e)‖² = ‖y - W I‖² + s² ‖W‖²,

as E e = 0 and E e eᵀ = s²1 are all that a square sees. Summed over images, the minimiser is the ridge regression
Yᵀ I (Iᵀ I + N s² 1)^-1; with y = I it is the Wiener filter, which draws every direction as much as it stands out
from the noise. In the mixture, I = μ_c + n + e has the density N(μ_c, (σ² + s²)1): the class posterior is that of
the wider noise, the M-step finds σ² + s², and the E-step for e is s² / (σ² + s²) of what the template leaves.

What this does not say: the target has to be clean (a picture that should reproduce its own corruption gives the
identity); and for a net with switches the ridge is on what the image's switches draw, s² ‖J‖², exact while no
corruption flips a switch and an approximation where one does.

Controls: another weight of the ridge; σ² alone; the corrupted target; switches that flip.
"""

import itertools

import pytest
import torch
from torch import nn

from drmm import lift
from drmm.rendering import Linear, ReLU, Sequential

LAW = {"rtol": 1e-10, "atol": 1e-10}
D, OUT, N = 6, 3, 25
LEVELS = [0.1, 0.5, 2.0]


@pytest.fixture
def task():
    """A linear map, images and their clean targets."""
    return torch.randn(OUT, D), torch.randn(N, D) @ torch.randn(D, D), torch.randn(N, OUT)


def corruptions(s):
    """±s in each pixel, 2^D of equal weight: the nodes of Gauss and Hermite, exact for squares as for N(0, s²)."""
    return s * torch.tensor(list(itertools.product((-1.0, 1.0), repeat=D)))


def loss(w, x, y):
    """Σ_n ‖y_n - W x_n‖²."""
    return (y - x @ w.T).square().sum()


def enumerated(w, x, y, s, *, target=False):
    """The mean of the loss over all corruptions of all images; of the target too, if it is the image."""
    noise = corruptions(s)
    wanted = y[:, None] + noise if target else y[:, None]
    return (wanted - (x[:, None] + noise) @ w.T).square().sum(-1).mean(1).sum()


def ridge(x, y, weight):
    """argmin_W Σ_n ‖y_n - W x_n‖² + N weight ‖W‖²."""
    return torch.linalg.solve(x.T @ x + len(x) * weight * torch.eye(D), x.T @ y).T


def sampled(w, x, y, s, n=20_000):
    """The loss of n corruptions of all images together: mean and standard error."""
    values = torch.stack([(y - (x + s * torch.randn(N, D)) @ w.T).square().sum() for _ in range(n // N)])
    return values.mean(), values.std() / len(values) ** 0.5


@pytest.mark.parametrize("s", LEVELS)
def test_the_expected_error_is_the_clean_one_and_a_ridge(task, s):
    w, x, y = task
    law = loss(w, x, y) + N * s**2 * w.square().sum()
    torch.testing.assert_close(enumerated(w, x, y, s), law, **LAW)
    mean, error = sampled(w, x, y, s)
    assert (mean - law).abs() <= 4 * error


@pytest.mark.parametrize("s", LEVELS)
def test_the_minimiser_is_the_ridge_regression(task, s):
    _, x, y = task
    w = ridge(x, y, s**2).requires_grad_()
    best = enumerated(w, x, y, s)
    (slope,) = torch.autograd.grad(best, w)
    torch.testing.assert_close(slope, torch.zeros(OUT, D), **LAW)
    assert all(enumerated(w + 0.05 * torch.randn(OUT, D), x, y, s) > best for _ in range(50))


@pytest.mark.parametrize("s", LEVELS)
def test_the_best_denoiser_is_the_wiener_filter(task, s):
    """It shrinks each principal direction of the images by λ / (λ + s²)."""
    _, x, _ = task
    values, vectors = torch.linalg.eigh(x.T @ x / N)
    wiener = (vectors * (values / (values + s**2))) @ vectors.T
    torch.testing.assert_close(ridge(x, x, s**2), wiener, **LAW)


@pytest.mark.parametrize("s", LEVELS)
@torch.no_grad()
def test_the_reconstruction_error_of_tied_templates(task, s):
    """Infer with Γᵀ and render with Γ, as a level without switches does: s² ‖Γ Γᵀ‖² on top."""
    _, x, _ = task
    level = Linear(D, OUT, bias=False)

    def reconstruct(x):
        return level.render(*level.infer(x))

    w = level.weight.T @ level.weight
    torch.testing.assert_close(reconstruct(x), x @ w.T, **LAW)
    error = sum((x - reconstruct(x + e)).square().sum() for e in corruptions(s)) / 2**D
    torch.testing.assert_close(error, loss(w, x, x) + N * s**2 * w.square().sum(), **LAW)


def mixture():
    """Templates, log-odds, σ², s², images."""
    return torch.randn(OUT, D), torch.rand(OUT).log_softmax(0), 0.6, 0.9, 2 * torch.randn(N, D)


def posterior(x, mu, prior, variance):
    """Log p(c | I), (N, C)."""
    return (prior - 0.5 * (x[:, None] - mu).square().sum(-1) / variance).log_softmax(1)


def grid(variance):
    """Values of one pixel's corruption, and log weights: a sum so fine that it is the integral."""
    e = torch.linspace(-12, 12, 2001) * variance**0.5
    log_weight = torch.distributions.Normal(0.0, variance**0.5).log_prob(e) + (e[1] - e[0]).log()
    return e, log_weight


def pixel_terms(x, mu, variance, corruption):
    """Log p(e) + log N(I_i - e; μ_ci, σ²) for each pixel and value of e, (N, C, D, values), and the values."""
    e, log_weight = grid(corruption)
    residual = x[:, None, :, None] - mu[..., None] - e
    return log_weight + torch.distributions.Normal(0.0, variance**0.5).log_prob(residual), e


def test_the_posterior_has_both_variances():
    """Against the integral over all corruptions, pixel by pixel."""
    mu, prior, noise, extra, x = mixture()
    terms, _ = pixel_terms(x, mu, noise, extra)
    brute = (prior + terms.logsumexp(-1).sum(-1)).log_softmax(1)
    torch.testing.assert_close(posterior(x, mu, prior, noise + extra), brute, **LAW)


def test_the_e_step_for_the_corruption_is_a_share_of_the_residual():
    mu, _, noise, extra, x = mixture()
    terms, e = pixel_terms(x, mu, noise, extra)
    mean = terms.softmax(-1) @ e
    torch.testing.assert_close(mean, extra / (noise + extra) * (x[:, None] - mu), **LAW)


@torch.no_grad()
def test_the_m_step_finds_both_variances():
    """The variance of corrupted pictures, over all corruptions: what the clean ones have, and s²."""
    mu, _, _, extra, _ = mixture()
    label = torch.arange(N) % OUT
    x = mu[label] + 0.7 * torch.randn(N, D)
    clean = (x - mu[label]).square().mean()
    corrupted = (x[:, None] + corruptions(extra**0.5) - mu[label][:, None]).square().mean()
    torch.testing.assert_close(corrupted, clean + extra, **LAW)


@torch.no_grad()
def test_the_models_log_likelihood_expects_the_ridge():
    """DRMM.log_density of a corrupted image, on average: the clean one less D s² / 2σ²."""
    model = lift(nn.Sequential(nn.Flatten(), nn.Linear(D, OUT)), image_shape=(1, 2, 3))
    model.noise.fill_(0.6)
    x, picture = torch.randn(2, N, 1, 2, 3)
    noise = corruptions(0.9).reshape(-1, 1, 1, 2, 3)
    average = sum(model.log_density(x + e, picture) for e in noise) / len(noise)
    torch.testing.assert_close(average, model.log_density(x, picture) - D * 0.81 / 1.2, **LAW)


def switched():
    levels = Sequential(Linear(D, 8), ReLU(), Linear(8, OUT))
    return levels, torch.randn(1, D), torch.randn(1, OUT)


def net_errors(levels, x, y, s):
    """Σ over corruptions by enumeration, and the law with J as `render` draws it; whether a switch flips."""
    output, switches = levels.infer(x)
    rows = [levels.render(unit[None], switches)[0] for unit in torch.eye(OUT)]
    jacobian = torch.stack(rows)
    moved, others = levels.infer(x + corruptions(s))
    law = (y - output).square().sum() + s**2 * jacobian.square().sum()
    flips = (others.parts[1].a != switches.parts[1].a).any()
    return (y - moved).square().sum(1).mean(), law, bool(flips)


@torch.no_grad()
def test_a_net_is_linear_while_no_switch_flips():
    levels, x, y = switched()
    brute, law, flips = net_errors(levels, x, y, 1e-3)
    assert not flips
    torch.testing.assert_close(brute, law, **LAW)


@torch.no_grad()
def test_control_switches_that_flip():
    brute, law, flips = net_errors(*switched(), 2.0)
    assert flips
    assert (brute - law).abs() > 1e-2


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_control_another_weight_is_not_the_minimiser(task, factor):
    _, x, y = task
    w = ridge(x, y, factor * 0.25).requires_grad_()
    error = enumerated(w, x, y, 0.5)
    assert torch.autograd.grad(error, w)[0].abs().max() > 1e-2
    assert error > enumerated(ridge(x, y, 0.25), x, y, 0.5) + 1e-6


def test_control_without_the_ridge_the_error_is_too_small(task):
    w, x, y = task
    mean, error = sampled(w, x, y, 2.0)
    assert (mean - loss(w, x, y)) > 4 * error


def test_control_a_corrupted_target_needs_no_ridge(task):
    """E ‖I + e - W (I + e)‖² = ‖I - W I‖² + s² ‖1 - W‖²: the identity is best, and learns nothing."""
    _, x, _ = task
    w = torch.randn(D, D)
    law = loss(w, x, x) + N * 0.25 * (torch.eye(D) - w).square().sum()
    torch.testing.assert_close(enumerated(w, x, x, 0.5, target=True), law, **LAW)
    wiener = ridge(x, x, 0.25)
    assert enumerated(torch.eye(D), x, x, 0.5, target=True) < enumerated(wiener, x, x, 0.5, target=True) - 0.1
    assert enumerated(wiener, x, x, 0.5) < enumerated(torch.eye(D), x, x, 0.5) - 0.1


def test_control_the_posterior_of_the_clean_noise_differs():
    mu, prior, noise, extra, x = mixture()
    wide = posterior(x, mu, prior, noise + extra)
    assert (posterior(x, mu, prior, noise) - wide).abs().max() > 0.5
    # Nor is it the average of the clean noise's posteriors over corruptions of what is seen.
    average = torch.stack([posterior(x + e, mu, prior, noise).exp() for e in corruptions(extra**0.5)]).mean(0)
    assert (average - wide.exp()).abs().max() > 1e-2
