"""T11. Dropout is the E-step over features that are missing at random, by one sample of the masks.

Slide "Missing-at-Random Inference in the DRMM yields DropOut": latent s ~ Bern(q) for each feature; the
expectation over s in the complete-data likelihood is approximated by sampled masks. For a linear-Gaussian level,
Q(θ; s) = -½ ‖y - W (s ⊙ x) / q‖², a feature is s_j x_j / q with mean x_j and variance x_j² (1 - q) / q, so that

    E_s Q(θ; s) = -½ ‖y - W x‖² - ½ (1 - q)/q Σ_j x_j² ‖W_j‖²:

the level without masks (the mean), and a ridge on each template as strong as its unit (the variance). Its
gradient is the mean of the gradients for one mask each, and `Dropout` in training computes one of those, down the
same mask.

Missing features taken literally: pixels that are not observed are integrated out, p(c | I_observed) ∝
π_c N(s ⊙ I; s ⊙ μ_c, σ²), so that masked images are matched, with templates whose length is masked as well. Where
noise is independent from pixel to pixel, the likeliest value of a missing one is the rendering's, at the amplitude
of the seen ones; where it is not, it is that and the regression of what the rendering leaves on the seen pixels,
which is what `drmm.model.inpainting` starts from.

What the slide leaves out: its expectation is over the prior of s, and an E-step's is over the posterior, which
knows how well each mask explains y. By Jensen E_prior Q ≤ log E_prior exp Q, short of it by KL(prior ‖ posterior):
dropout is a variational E-step, whose bound is tight for the posterior only.

Controls: without the variance; with another q; with another mask; with the length of the whole template; with the
amplitude of a picture whose gaps are black; with noise taken for independent.
"""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drmm import lift
from drmm.model.deep import fit_amplitude
from drmm.rendering import Conv2d, Dropout, Dropout2d, Flatten, Linear, ReLU, Sequential

LAW = {"rtol": 1e-10, "atol": 1e-10}
D, OUT = 7, 3
KEEP = [0.3, 0.5, 0.9]


def level():
    """A dictionary, features, and what they should explain."""
    return torch.randn(OUT, D, requires_grad=True), torch.randn(D), torch.randn(OUT)


def every_mask(n, keep):
    """All 2^n masks and their probabilities."""
    masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)))
    on = masks.sum(1)
    return masks, keep**on * (1 - keep) ** (n - on)


def objective(w, x, y, masks, keep):
    """Q(θ; s) of each mask (K, D), (K,)."""
    return -0.5 * (y - (masks * x / keep) @ w.T).square().sum(1)


def closed_form(w, x, y, keep, *, variance=True):
    ridge = (1 - keep) / keep * (x.square() * w.square().sum(0)).sum()
    return -0.5 * (y - w @ x).square().sum() - 0.5 * ridge * variance


@pytest.mark.parametrize("keep", KEEP)
def test_the_expectation_over_all_masks_is_a_ridge(keep):
    w, x, y = level()
    masks, probability = every_mask(D, keep)
    torch.testing.assert_close(probability.sum(), torch.ones(()), **LAW)
    expected = probability @ objective(w, x, y, masks, keep)
    torch.testing.assert_close(expected, closed_form(w, x, y, keep), **LAW)


@pytest.mark.parametrize("keep", KEEP)
@torch.no_grad()
def test_dropout_samples_that_expectation(keep):
    w, x, y = level()
    sampled, error = by_dropout(w, x, y, keep)
    assert (sampled - closed_form(w, x, y, keep)).abs() <= 3 * error


def by_dropout(w, x, y, keep, n=20_000):
    """The mean of Q over masks that `Dropout` draws, and its standard error."""
    dropped, switches = Dropout(1 - keep).train().infer(x.expand(n, D))
    torch.testing.assert_close(dropped, switches.kept * x * switches.gain, **LAW)
    values = -0.5 * (y - dropped @ w.T).square().sum(1)
    return values.mean(), values.std() / n**0.5


@pytest.mark.parametrize("keep", KEEP)
def test_one_mask_gradients_average_to_the_gradient_of_the_expectation(keep):
    w, x, y = level()
    masks, probability = every_mask(D, keep)
    each = [torch.autograd.grad(objective(w, x, y, mask[None], keep).sum(), w)[0] for mask in masks]
    mean = torch.einsum("k,kij->ij", probability, torch.stack(each))
    torch.testing.assert_close(mean, torch.autograd.grad(closed_form(w, x, y, keep), w)[0], **LAW)


@pytest.mark.parametrize("keep", KEEP)
def test_the_m_step_is_a_ridge_regression(keep):
    """Σ_n E_s Q has its maximum at Yᵀ X (Xᵀ X + (1 - q)/q diag(Xᵀ X))^-1."""
    x, y = torch.randn(20, D), torch.randn(20, OUT)
    gram = x.T @ x
    w = torch.linalg.solve(gram + (1 - keep) / keep * gram.diagonal().diag(), x.T @ y).T.requires_grad_()

    def total(w):
        return sum(closed_form(w, a, b, keep) for a, b in zip(x, y, strict=True))

    torch.testing.assert_close(torch.autograd.grad(total(w), w)[0], torch.zeros(OUT, D), **LAW)
    assert all(total(w + 0.1 * torch.randn(OUT, D)) < total(w) for _ in range(50))


NETS = {
    "features": lambda: (Linear(D, 6), ReLU(), Dropout(0.4), Linear(6, OUT)),
    "pixels": lambda: (Dropout(0.3), Linear(D, 6), ReLU(), Linear(6, OUT)),
    "both": lambda: (Dropout(0.3), Linear(D, 6), ReLU(), Dropout(0.6), Linear(6, OUT)),
    "channels": lambda: (Conv2d(1, 4, 2), ReLU(), Dropout2d(0.5), Flatten(), Linear(4 * 4, OUT)),
}


def is_dropout(module):
    return isinstance(module, Dropout | Dropout2d)


def with_masks(levels, x, switches):
    """The level's features by hand, with masks and gains from the switches."""
    for module, part in zip(levels.renderings, switches.parts, strict=True):
        x = x * part.kept * part.gain if is_dropout(module) else module(x)
    return x


def a_net(name):
    levels = Sequential(*NETS[name]()).train()
    return levels, torch.randn(9, 1, 3, 3) if name == "channels" else torch.randn(9, D)


@pytest.mark.parametrize("name", NETS)
def test_the_gradient_of_one_mask_is_that_of_dropout_in_training(name):
    levels, x = a_net(name)
    y, switches = levels.infer(x)
    target = torch.randn(y.shape)
    by_hand = with_masks(levels, x, switches)
    torch.testing.assert_close(by_hand, y, **LAW)
    parameters = list(levels.parameters())
    losses = [(output - target).square().sum() for output in (y, by_hand)]
    for mine, theirs in zip(*(torch.autograd.grad(loss, parameters) for loss in losses), strict=True):
        torch.testing.assert_close(mine, theirs, **LAW)


@pytest.mark.parametrize("name", NETS)
def test_the_picture_is_drawn_down_the_same_mask(name):
    """Law 0: the mask is one latent of both directions, not noise of the bottom-up pass."""
    levels, x = a_net(name)
    x.requires_grad_()
    y, switches = levels.infer(x)
    z = torch.randn(y.shape)
    (gradient,) = torch.autograd.grad((with_masks(levels, x, switches) * z).sum(), x)
    torch.testing.assert_close(levels.render(z, switches), gradient, **LAW)


@pytest.mark.parametrize("name", ["features", "pixels"])
def test_dropout_gradients_are_unbiased_in_a_nonlinear_net(name):
    """Several levels have no closed form; the mean of the gradients is still that of the expectation."""
    levels, x = a_net(name)
    x, target, n = x[:1], torch.randn(OUT), 4000
    place = next(i for i, module in enumerate(levels.renderings) if is_dropout(module))
    below = Sequential(*levels.renderings[:place]) if place else nn.Identity()
    above = Sequential(*levels.renderings[place + 1 :])
    keep, weight = 1 - levels.renderings[place].p, levels.renderings[place + 1].weight
    features = below(x)
    masks, probability = every_mask(features.shape[1], keep)
    loss = (probability * (above(features * masks / keep) - target).square().sum(1)).sum()
    (expected,) = torch.autograd.grad(loss, weight)

    def one(weight, mask):
        output = torch.func.functional_call(above, {"0.weight": weight}, (features * mask,))
        return (output - target).square().sum()

    drawn = levels.renderings[place].infer(torch.ones(n, features.shape[1]))[0]
    each = torch.func.vmap(torch.func.grad(one), (None, 0))(weight, drawn[:, None]).detach()
    error = each.std(0) / n**0.5
    assert ((each.mean(0) - expected).abs() <= 4.5 * error + 1e-12).all()


@pytest.mark.parametrize("keep", KEEP)
@torch.no_grad()
def test_evaluation_is_the_mean_over_masks_of_a_linear_level(keep):
    w, x, _ = level()
    masks, probability = every_mask(D, keep)
    mean = probability @ ((masks * x / keep) @ w.T)
    torch.testing.assert_close(w @ Dropout(1 - keep).eval()(x), mean, **LAW)


@torch.no_grad()
def test_the_prior_in_place_of_the_posterior_is_a_lower_bound():
    """log p(y | x) - E_prior log p(y | x, s) = KL(prior ‖ posterior), and 0 for the posterior."""
    w, x, y = level()
    masks, prior = every_mask(D, 0.6)
    q = objective(w, x, y, masks, 0.6)
    marginal = torch.logsumexp(q + prior.log(), 0)
    posterior = (q + prior.log()).softmax(0)
    gap = (prior * (prior.log() - posterior.log())).sum()
    torch.testing.assert_close(marginal - prior @ q, gap, **LAW)
    assert gap > 0.1
    exact = posterior @ q - (posterior * (posterior.log() - prior.log())).sum()
    torch.testing.assert_close(exact, marginal, **LAW)


def test_the_posterior_gives_the_gradient_of_the_likelihood():
    """Fisher's identity: that E-step's gradient is the marginal likelihood's; the prior's is another."""
    w, x, y = level()
    masks, prior = every_mask(D, 0.6)
    q = objective(w, x, y, masks, 0.6)
    posterior = (q + prior.log()).softmax(0).detach()
    marginal = torch.logsumexp(q + prior.log(), 0)
    exact, with_posterior, with_prior = (
        torch.autograd.grad(value, w, retain_graph=True)[0] for value in (marginal, posterior @ q, prior @ q)
    )
    torch.testing.assert_close(with_posterior, exact, **LAW)
    assert (with_prior - exact).abs().max() > 0.1


def missing(x, mu, masks, noise, *, whole):
    """Log p(c | the pixels that are there), (K, C), from masked images."""
    length = mu.square().sum(1) if whole else masks @ mu.square().T
    return (((masks * x) @ mu.T - 0.5 * length) / noise).log_softmax(-1)


@torch.no_grad()
def test_missing_pixels_are_integrated_out_by_masking():
    """Against the integral over what the missing pixels could have been, by the density of the rest."""
    mu, x, noise = torch.randn(OUT, D), torch.randn(D), 0.7
    masks, _ = every_mask(D, 0.5)
    for mask, found in zip(masks, missing(x, mu, masks, noise, whole=False), strict=True):
        there = mask.bool()
        density = torch.distributions.Normal(mu[:, there], noise**0.5).log_prob(x[there]).sum(1)
        torch.testing.assert_close(found, density.log_softmax(0), **LAW)


def gaps():
    """A model of pictures, pictures, and which of their pixels are seen; a rendering of each, of any amplitude."""
    model = lift(nn.Sequential(nn.Flatten(), nn.Linear(12, OUT)), image_shape=(1, 3, 4))
    model.noise.fill_(0.7)
    x, drawn = torch.rand(2, 5, 1, 3, 4)
    return model, x, torch.rand(x.shape) < 0.6, 3 * drawn


@torch.no_grad()
def test_the_models_likelihood_of_seen_pixels_is_the_integral_over_the_others():
    """Brute force over two missing pixels, in steps so fine that the sum is the integral."""
    model, x, _, drawn = gaps()
    values = torch.arange(-8, 11, 0.1)
    candidates, missing = torch.cartesian_prod(values, values), torch.tensor([2, 7])
    seen = torch.ones(12, dtype=torch.bool).index_fill(0, missing, value=False).reshape(1, 1, 3, 4)
    for image, picture in zip(x, drawn, strict=True):
        filled = image.flatten().repeat(len(candidates), 1)
        filled[:, missing] = candidates
        integral = model.log_density(filled.reshape(-1, 1, 3, 4), picture).logsumexp(0) + 2 * math.log(0.1)
        found = model.log_density(image[None], picture[None], seen)
        torch.testing.assert_close(found[0], integral, **LAW)
        whole = model.log_density(image[None], picture[None])
        assert (found - whole).abs() > 0.1, "control: not the density of the whole image"


def test_the_likeliest_missing_pixels_are_the_rendering_at_the_amplitude_of_the_seen_ones():
    """Stationary in the missing pixels and in α together."""
    model, x, seen, drawn = gaps()
    alpha = fit_amplitude(x, drawn, seen)[:, None, None, None].requires_grad_()
    filled = torch.where(seen, x, (alpha * drawn).detach()).requires_grad_()
    slopes = torch.autograd.grad(model.log_density(filled, alpha * drawn).sum(), [filled, alpha])
    torch.testing.assert_close(slopes[0][~seen], torch.zeros_like(slopes[0][~seen]), **LAW)
    torch.testing.assert_close(slopes[1], torch.zeros_like(slopes[1]), **LAW)
    black = fit_amplitude(x * seen, drawn)
    assert (alpha.flatten() - black).abs().min() > 1e-2, "control: black gaps make it fainter"


@torch.no_grad()
def test_with_correlated_noise_neighbours_add_their_share_of_what_the_rendering_leaves():
    """The mean of the conditional Gaussian, from the precision matrix, which knows nothing of regressions."""
    factor, mu, x = torch.randn(D, D), torch.randn(D), torch.randn(D)
    covariance, seen = factor @ factor.T + 0.1 * torch.eye(D), torch.arange(D) % 3 > 0
    precision = torch.linalg.inv(covariance)
    pull = precision[~seen][:, seen] @ (x - mu)[seen]
    likeliest = mu[~seen] - torch.linalg.solve(precision[~seen][:, ~seen], pull)
    weights = torch.linalg.solve(covariance[seen][:, seen], covariance[seen][:, ~seen]).T
    torch.testing.assert_close(likeliest, mu[~seen] + weights @ (x - mu)[seen], **LAW)
    assert (likeliest - mu[~seen]).abs().max() > 0.1, "control: not the rendering alone"


@torch.no_grad()
def test_control_the_length_of_the_whole_template():
    """Dropout masks the image and leaves the bias: only for templates of equal energy everywhere is that Bayes."""
    mu, x, noise = torch.randn(OUT, D), torch.randn(D), 0.7
    masks, _ = every_mask(D, 0.5)
    exact = missing(x, mu, masks, noise, whole=False)
    assert (missing(x, mu, masks, noise, whole=True) - exact).abs().max() > 0.1
    alike = mu.sign()
    shared = [missing(x, alike, masks, noise, whole=whole) for whole in (False, True)]
    torch.testing.assert_close(*shared, **LAW)


@pytest.mark.parametrize("keep", KEEP)
@torch.no_grad()
def test_control_without_the_variance(keep):
    w, x, y = level()
    masks, probability = every_mask(D, keep)
    mean = closed_form(w, x, y, keep, variance=False)
    assert (probability @ objective(w, x, y, masks, keep) - mean).abs() > 0.1
    sampled, error = by_dropout(w, x, y, keep)
    assert (sampled - mean).abs() > 3 * error


@pytest.mark.parametrize("keep", KEEP)
@torch.no_grad()
def test_control_another_keep_probability(keep):
    w, x, y = level()
    wrong = closed_form(w, x, y, keep * 0.8)
    masks, probability = every_mask(D, keep)
    assert (probability @ objective(w, x, y, masks, keep) - wrong).abs() > 0.1
    sampled, error = by_dropout(w, x, y, keep)
    assert (sampled - wrong).abs() > 3 * error


def test_control_another_mask_has_another_gradient():
    levels, x = a_net("features")
    weight = levels.renderings[-1].weight
    (y, _), (_, others) = levels.infer(x), levels.infer(x)
    mine, theirs = (
        torch.autograd.grad(F.mse_loss(output, torch.zeros(9, OUT)), weight)[0]
        for output in (y, with_masks(levels, x, others))
    )
    assert (mine - theirs).abs().max() > 1e-2
