"""T12. Batch norm is EM under a diagonal covariance: the M-step's statistics whiten the E-step's features.

Slide "Deriving/Explaining Other Architectures": Batch Normalization. With templates μ_c, one offset m, and one
diagonal covariance D in place of σ²1, I ~ N(m + μ_c, D), the square in I is the same for all classes, so that

    log p(c | I) = ⟨D^-1/2 μ_c, D^-1/2 (I - m)⟩ - ½ ‖D^-1/2 μ_c‖² + log π_c + const(I):

a linear classifier of what batch norm computes. Where the templates are not known yet, the M-step for m and D is
the mean and the (biased) variance of each pixel over the batch, the statistics of batch norm in training; the
pixels of a channel share theirs. Once frozen they are a diagonal map, part of Γ: Γ' = diag(γ/σ) Γ infers and
renders the same.

What the slide's wording leaves out: the M-step for D *given* classes is the variance within the classes, and batch
norm's is the total, which has the variance between them on top. That is still an exact reparametrisation (the
weights above take up the difference), but it is no longer the covariance of this mixture.

Controls: correlated pixels; the statistics of another batch; the variance between the classes.
"""

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal
from torch.nn import functional as F

from drmm.rendering import BatchNorm1d, BatchNorm2d, Conv2d, Level, Linear, MaxPool2d, ReLU, Sequential
from drmm.testing import dot_product_gap

LAW = {"rtol": 1e-10, "atol": 1e-10}
N, D, C = 40, 6, 4
NONE = 1e-300  # torch insists on an ε above 0


def mixture():
    """Offset, templates, variances, log-odds, and pictures that the mixture draws."""
    m, mu, v = torch.randn(D), torch.randn(C, D), torch.rand(D) * 4 + 0.1
    prior = torch.rand(C).log_softmax(0)
    label = torch.arange(N) % C
    return m, mu, v, prior, m + mu[label] + v.sqrt() * torch.randn(N, D), label


def bayes(x, means, covariance, prior):
    """Log p(c | I) by Bayes' rule from the densities themselves, (N, C)."""
    return (prior + MultivariateNormal(means, covariance).log_prob(x[:, None])).log_softmax(1)


@torch.no_grad()
def norm_of(m, v, *, gamma=None, beta=None):
    """Batch norm that has seen m and v."""
    norm = BatchNorm1d(len(m), eps=NONE).eval()
    norm.running_mean.copy_(m)
    norm.running_var.copy_(v)
    norm.weight.copy_(torch.ones_like(m) if gamma is None else gamma)
    norm.bias.copy_(torch.zeros_like(m) if beta is None else beta)
    return norm


def classify(norm, x, mu, v, prior):
    """The law's right-hand side: a linear classifier of the whitened features."""
    weight = mu / v.sqrt()
    return F.linear(norm(x), weight, prior - 0.5 * weight.square().sum(1)).log_softmax(1)


def log_likelihood(x, m, v):
    """Mean log N(x; m, diag v), up to a constant."""
    return -0.5 * ((x - m).square() / v + v.log()).sum(1).mean()


def test_the_posterior_is_a_linear_classifier_of_whitened_pixels():
    m, mu, v, prior, x, _ = mixture()
    torch.testing.assert_close(classify(norm_of(m, v), x, mu, v, prior), bayes(x, m + mu, v.diag(), prior), **LAW)


def test_the_picture_that_it_matches_is_the_template_whitened_twice():
    """⟨D^-1 μ_c, I - m⟩ is the match: going down, the norm draws D^-1/2 of what it is given."""
    m, mu, v, _, x, _ = mixture()
    norm = norm_of(m, v)
    whitened, switches = norm.infer(x)
    weight = mu[:1].expand(N, D) / v.sqrt()
    drawn = norm.render(weight, switches)
    torch.testing.assert_close(drawn, (mu[0] / v).expand(N, D), **LAW)
    torch.testing.assert_close((drawn * (x - m)).sum(1), (weight * whitened).sum(1), **LAW)


def test_scale_and_shift_are_taken_up_by_the_classifier():
    """With γ and β the same posterior has the weights μ_c / (σ γ): a gauge."""
    m, mu, v, prior, x, _ = mixture()
    gamma, beta = torch.randn(D), torch.randn(D)
    weight = mu / (v.sqrt() * gamma)
    bias = prior - 0.5 * (mu.square() / v).sum(1) - weight @ beta
    logits = F.linear(norm_of(m, v, gamma=gamma, beta=beta)(x), weight, bias)
    torch.testing.assert_close(logits.log_softmax(1), bayes(x, m + mu, v.diag(), prior), **LAW)


def test_in_training_the_statistics_are_the_m_step():
    """At the batch's mean and variance the likelihood is stationary, and any other values are worse."""
    x = torch.randn(N, D) * torch.rand(D) + torch.randn(D)
    norm = BatchNorm1d(D, eps=NONE, momentum=1.0).train()
    y = norm(x)
    m = norm.running_mean.clone().requires_grad_()
    v = (norm.running_var * (N - 1) / N).requires_grad_()  # torch tracks the unbiased one
    best = log_likelihood(x, m, v)
    for gradient in torch.autograd.grad(best, [m, v]):
        torch.testing.assert_close(gradient, torch.zeros(D), **LAW)
    with torch.no_grad():
        for _ in range(200):
            other = log_likelihood(x, m + 0.1 * torch.randn(D), v * (0.2 * torch.randn(D)).exp())
            assert other < best
        torch.testing.assert_close(y, (x - m) / v.sqrt(), **LAW)


def test_the_pixels_of_a_channel_share_their_m_step():
    x = torch.randn(5, 3, 4, 4) * torch.rand(3, 1, 1) + torch.randn(3, 1, 1)
    y, switches = BatchNorm2d(3, eps=NONE).train().infer(x)
    pixels = x.permute(0, 2, 3, 1).reshape(-1, 3)
    m, v = pixels.mean(0).requires_grad_(), pixels.var(0, correction=0).requires_grad_()
    for gradient in torch.autograd.grad(log_likelihood(pixels, m, v), [m, v]):
        torch.testing.assert_close(gradient, torch.zeros(3), **LAW)
    torch.testing.assert_close(switches.gain.flatten(), v.detach().rsqrt(), **LAW)
    whitened = (x - m.detach()[:, None, None]) * v.detach().rsqrt()[:, None, None]
    torch.testing.assert_close(y, whitened, **LAW)


def test_a_small_eps_is_a_noise_of_its_own():
    """Batch norm divides by σ² + ε: the posterior under D + ε1."""
    m, mu, v, prior, x, _ = mixture()
    norm = norm_of(m, v)
    norm.eps = 0.3
    torch.testing.assert_close(
        classify(norm, x, mu, v + 0.3, prior), bayes(x, m + mu, (v + 0.3).diag(), prior), **LAW
    )


def test_a_momentum_of_none_averages_the_m_steps_of_all_batches():
    """Over batches of one size: the mean of everything seen, and the mean of their (unbiased) variances."""
    x = torch.randn(6, N, D) + torch.randn(D)
    norm = BatchNorm1d(D, momentum=None).train()
    for batch in x:
        norm(batch)
    torch.testing.assert_close(norm.running_mean, x.flatten(0, 1).mean(0), **LAW)
    # The variances within the batches; what the batches' means differ by is not in it.
    within = x.var(1, correction=1).mean(0)
    torch.testing.assert_close(norm.running_var, within, **LAW)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("pool", [False, True])
@torch.no_grad()
def test_folded_into_the_dictionary(bias, pool):
    level = Level(Conv2d(2, 5, 3, padding=1, bias=bias), BatchNorm2d(5), MaxPool2d(2) if pool else None)
    for tensor in (level.norm.weight, level.norm.bias, level.norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(level.norm.running_var, 0.3, 3)
    level.eval()
    norm, gamma = level.norm, level.dictionary.weight
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    before = torch.zeros(5) if level.dictionary.bias is None else level.dictionary.bias
    weight, offset = gamma * gain[:, None, None, None], norm.bias + (before - norm.running_mean) * gain
    for mine, by_hand in zip(level.folded(), (weight, offset), strict=True):
        torch.testing.assert_close(mine, by_hand, **LAW)

    plain = Conv2d(2, 5, 3, padding=1)
    plain.weight.copy_(weight)
    plain.bias.copy_(offset)
    folded = Sequential(plain, ReLU(), *([MaxPool2d(2)] if pool else []))
    x = torch.randn(7, 2, 8, 8)
    (y, switches), (z, same) = level.unfused().infer(x), folded.infer(x)
    torch.testing.assert_close(z, y, **LAW)
    torch.testing.assert_close(level(x), y, **LAW)
    template = torch.randn(y.shape)
    picture = level.unfused().render(template, switches)
    torch.testing.assert_close(folded.render(template, same), picture, **LAW)
    torch.testing.assert_close(level.render(template, level.infer(x)[1]), picture, **LAW)


@torch.no_grad()
def test_folded_into_a_dense_dictionary():
    m, _, v, _, x, _ = mixture()
    dense, norm = Linear(D, D), norm_of(m, v, gamma=torch.randn(D), beta=torch.randn(D))
    gain = norm.weight / v.sqrt()
    folded = Linear(D, D)
    folded.weight.copy_(dense.weight * gain[:, None])
    folded.bias.copy_(norm.bias + (dense.bias - m) * gain)
    both, template = Sequential(dense, norm), torch.randn(N, D)
    y, switches = both.infer(x)
    torch.testing.assert_close(folded(x), y, **LAW)
    same = folded.infer(x)[1]
    torch.testing.assert_close(folded.render(template, same), both.render(template, switches), **LAW)


@pytest.mark.parametrize("soft", [False, True])
def test_the_m_step_given_classes_is_the_variance_within_them(soft):
    """The law of total variance: batch norm's is that, and the responsibilities' variance between classes."""
    m, mu, v, prior, x, label = mixture()
    r = bayes(x, m + mu, v.diag(), prior).exp() if soft else F.one_hot(label, C).to(x.dtype)
    share = r.mean(0)
    means = (r.T @ x / (N * share[:, None])).requires_grad_()
    within = ((r[:, :, None] * (x[:, None] - means).square()).sum((0, 1)) / N).detach().requires_grad_()
    expected = -0.5 * (r[:, :, None] * ((x[:, None] - means).square() / within + within.log())).sum() / N
    for gradient in torch.autograd.grad(expected, [means, within]):  # so that this is the mixture's M-step
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), **LAW)
    between = (share[:, None] * (means - share @ means).square()).sum(0)
    gain = BatchNorm1d(D, eps=NONE).train().infer(x)[1].gain
    torch.testing.assert_close(gain**-2, (within + between).detach(), **LAW)
    assert (between > 1e-3).all()


def test_the_total_variance_gives_the_same_posterior_with_other_weights():
    """The features of batch norm suffice for the posterior, whatever diagonal they were divided by."""
    m, mu, v, prior, x, _ = mixture()
    norm = BatchNorm1d(D, eps=NONE, affine=False).train()
    whitened, switches = norm.infer(x)
    weight = mu / (v * switches.gain)
    bias = prior - 0.5 * (mu.square() / v).sum(1) + (mu / v) @ (x.mean(0) - m)
    logits = F.linear(whitened, weight, bias)
    torch.testing.assert_close(logits.log_softmax(1), bayes(x, m + mu, v.diag(), prior), **LAW)


def test_law_0_in_training():
    """Even where the statistics are the batch's: the M-step is frozen while the picture is drawn."""
    levels = Sequential(Conv2d(2, 4, 3), BatchNorm2d(4), ReLU()).train()
    y, switches = levels.infer(torch.randn(6, 2, 7, 7))
    x, z = torch.randn(6, 2, 7, 7), torch.randn(y.shape)
    frozen = F.conv2d(x, levels.renderings[0].weight) * levels.renderings[1].weight[:, None, None]
    frozen = frozen * switches.parts[1].gain * switches.parts[2].a
    torch.testing.assert_close((frozen * z).sum(), (x * levels.render(z, switches)).sum(), **LAW)
    assert dot_product_gap(levels.eval(), x) <= 1e-10


def test_control_correlated_pixels_have_another_posterior():
    m, mu, v, prior, x, _ = mixture()
    factor = torch.randn(D, 2)
    covariance = v.diag() + factor @ factor.T
    diagonal = covariance.diagonal()
    posterior = bayes(x, m + mu, covariance, prior)
    assert (classify(norm_of(m, diagonal), x, mu, diagonal, prior) - posterior).abs().max() > 0.1


def test_control_the_statistics_of_another_batch():
    m, mu, v, prior, x, _ = mixture()
    other = x.roll(1, 1) * 1.5
    posterior = bayes(x, m + mu, v.diag(), prior)
    stranger = norm_of(other.mean(0), other.var(0, correction=0))
    assert (classify(stranger, x, mu, v, prior) - posterior).abs().max() > 0.1
    m, v = other.mean(0).requires_grad_(), other.var(0, correction=0).requires_grad_()
    assert all(g.abs().max() > 0.01 for g in torch.autograd.grad(log_likelihood(x, m, v), [m, v]))


def test_control_the_total_variance_is_not_the_mixtures():
    """Taken for D itself, it gives another posterior."""
    m, mu, v, prior, x, _ = mixture()
    total = v + mu.var(0, correction=0)
    wrong = classify(norm_of(m, total), x, mu, total, prior)
    assert (wrong - bayes(x, m + mu, v.diag(), prior)).abs().max() > 0.1


def test_control_running_statistics_are_not_the_batchs():
    """Folding holds for frozen statistics: in training the same dictionary gives other features."""
    level = Level(Conv2d(2, 5, 3), BatchNorm2d(5))
    x = torch.randn(7, 2, 8, 8)
    weight, bias = level.folded()
    assert (level.train()(x) - F.conv2d(x, weight, bias).relu()).abs().max() > 0.1
