"""T9, for the shallow model: EM is exact, and its objective never falls.

Slides "The Shallow Rendering Mixture Model" and "Hard EM Interpretation": c, t and a are enumerated, z is
integrated out. On pictures small enough to write every covariance down, log p(I), the responsibilities and every
expectation of the E-step equal dense Gaussians; the M-step solves its normal equations; soft EM never lowers
log p(I), nor hard EM max_{c,t,a} log p(I, c, t, a); a dictionary that made the images is found again; samples
follow the priors. Each law has a control that must fail.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import multivariate_normal

from drmm.learning.em import shallow
from drmm.learning.em.loop import run_em
from drmm.learning.em.shallow import ShallowLearner, expect, maximise, seed
from drmm.model.shallow import RMM

N = 20_000


def random_mixture(number, *, classes=2, elements=2, reach=1, shape=(1, 2, 3)):
    generator = torch.Generator().manual_seed(number)
    model = RMM(classes, shape, elements=elements, reach=reach).requires_grad_(requires_grad=False)
    torch.nn.init.normal_(model.dictionary.weight, generator=generator)
    torch.nn.init.normal_(model.mean_loading, generator=generator)
    model.switch_prior.uniform_(0.2, 0.9, generator=generator)
    for prior in (model.class_prior, model.position_prior):
        prior.uniform_(0.5, 1.5, generator=generator).div_(prior.sum())
    model.noise.fill_(0.3)
    return model, torch.randn(12, *shape, generator=generator)


def shift_matrices(model):
    """T_t as dense (T, D, D), for one channel: pixel by pixel, without a convolution."""
    _, height, width = model.image_shape
    matrices = torch.zeros(len(model.shifts), height * width, height * width)
    for t, (down, right) in enumerate(model.shifts.tolist()):
        for row, column in itertools.product(range(height), range(width)):
            if 0 <= row + down < height and 0 <= column + right < width:
                matrices[t, (row + down) * width + column + right, row * width + column] = 1
    return matrices


class Dense:
    """Every configuration as a Gaussian over pixels, and the loadings given it, by textbook formulas."""

    def __init__(self, model, x):
        self.x = x.flatten(1).numpy()
        self.shift = shift_matrices(model).numpy()
        self.shape = (len(x), model.n_classes, len(self.shift), 2**model.elements)
        self.log_joint = np.zeros(self.shape)
        self.loadings = np.zeros((*self.shape, model.elements))
        self.pairs = np.zeros((*self.shape, model.elements, model.elements))
        templates, noise = model.templates.flatten(2).numpy(), float(model.noise)
        for c, t, m in itertools.product(*map(range, self.shape[1:])):
            a = model.masks[m].double().numpy()
            rho, zeta = model.switch_prior[c].numpy(), model.mean_loading[c].numpy()
            drawn = (templates[c] @ self.shift[t].T).T * a  # (D, K)
            covariance = drawn @ drawn.T + noise * np.eye(len(drawn))
            prior = float(model.class_prior[c] * model.position_prior[t]) * np.where(a, rho, 1 - rho).prod()
            density = multivariate_normal(drawn @ zeta, covariance)
            gain = np.linalg.solve(covariance, drawn).T
            mean = a * (zeta + (self.x - drawn @ zeta) @ gain.T)
            left = np.diag(a) - gain @ drawn
            self.log_joint[:, c, t, m] = np.log(prior) + density.logpdf(self.x)
            self.loadings[:, c, t, m] = mean
            self.pairs[:, c, t, m] = left + mean[:, :, None] * mean[:, None]

    @property
    def log_prob(self):
        return np.logaddexp.reduce(self.log_joint.reshape(len(self.x), -1), 1)

    def weights(self, *, soft=True):
        if soft:
            return np.exp(self.log_joint - self.log_prob[:, None, None, None])
        flat = self.log_joint.reshape(len(self.x), -1)
        return (np.arange(flat.shape[1]) == flat.argmax(1)[:, None]).astype(float).reshape(self.shape)


CASES = [{"elements": 1}, {"elements": 2}, {"elements": 3, "classes": 1, "reach": (0, 1)}, {"reach": 0}]


@pytest.mark.parametrize("case", CASES)
def test_densities_equal_dense_gaussians(case):
    model, x = random_mixture(0, **case)
    dense = Dense(model, x)
    np.testing.assert_allclose(model.log_joint(x), dense.log_joint, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.log_prob(x), dense.log_prob, rtol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_responsibilities_equal_dense_gaussians(case):
    model, x = random_mixture(1, **case)
    found = model.responsibilities(x)
    torch.testing.assert_close(found.sum(1), torch.ones(len(x)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found, Dense(model, x).weights().sum((2, 3)), rtol=1e-9, atol=1e-12)


def test_the_density_integrates_to_one():
    model, _ = random_mixture(2, shape=(1, 1, 2), reach=(0, 1))
    axis = torch.linspace(-12, 12, 481)
    total = model.log_prob(torch.cartesian_prod(axis, axis).reshape(-1, 1, 1, 2)).exp().sum() * 0.05**2
    assert float(total) == pytest.approx(1, abs=1e-6)


def test_control_loadings_without_their_variance():
    # Known loadings, z = ζ, would leave a mixture of spherical Gaussians.
    model, x = random_mixture(0)
    dense = Dense(model, x)
    model.templates.mul_(1e-3)
    model.mean_loading.mul_(1e3)
    assert np.abs(model.log_prob(x).numpy() - dense.log_prob).max() > 0.1


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_derivatives_are_the_expectations(case, soft):
    # Fisher's identity: the E-step is backprop.
    model, x = random_mixture(3, **case)
    dense = Dense(model, x)
    weights = dense.weights(soft=soft)
    objective, moments = expect(model, x, soft=soft)
    best = dense.log_prob if soft else dense.log_joint.reshape(len(x), -1).max(1)
    assert objective == pytest.approx(best.mean(), rel=1e-12)
    pictures = np.einsum("nctm,nctmk,np,tpq->ckq", weights, dense.loadings, dense.x, dense.shift)
    for found, truth in (
        (moments.weights, weights.sum(0)),
        (moments.loadings, np.einsum("nctm,nctmk->ck", weights, dense.loadings)),
        (moments.pairs, np.einsum("nctm,nctmkl->ctkl", weights, dense.pairs)),
        (moments.pictures.flatten(2), pictures),
    ):
        np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-9)


def normal_equations(model, x, templates):
    """Slope of the expected log-joint in the templates, relative to its terms, with dense expectations."""
    dense = Dense(model, x)
    weights, shift = dense.weights(), dense.shift
    pictures = np.einsum("nctm,nctmk,np,tpq->ckq", weights, dense.loadings, dense.x, shift)
    pairs = np.einsum("nctm,nctmkl->ctkl", weights, dense.pairs)
    drawn = np.einsum("ctkl,tpq,tpr,clr->ckq", pairs, shift, shift, templates.flatten(2).numpy())
    return np.abs(pictures - drawn).max() / np.abs(pictures).max()


@pytest.mark.parametrize("case", CASES)
def test_templates_solve_the_normal_equations(case):
    for number in range(5):
        model, x = random_mixture(number, **case)
        _, moments = expect(model, x)
        assert normal_equations(model, x, shallow._templates(model, moments)[0]) <= 1e-8


def test_control_templates_without_the_canvas_border(monkeypatch):
    model, x = random_mixture(0)
    _, moments = expect(model, x)
    monkeypatch.setattr(RMM, "visible", lambda self: torch.ones(len(self.shifts), *self.image_shape[1:]))
    assert normal_equations(model, x, shallow._templates(model, moments)[0]) > 1e-2


def planted(elements=1, classes=3, n=600, reach=1, seed=0):
    """Images of blurred random strokes that a mixture drew, and the mixture."""
    generator = torch.Generator().manual_seed(seed)
    truth = RMM(classes, (1, 9, 9), elements=elements, reach=reach).requires_grad_(requires_grad=False)
    strokes = torch.zeros(classes * elements, 1, 9, 9)
    strokes[:, :, 2:7, 2:7] = (torch.rand(classes * elements, 1, 5, 5, generator=generator) > 0.6).double()
    truth.dictionary.weight.copy_(0.3 * strokes)
    truth.mean_loading.fill_(4.0)
    truth.switch_prior.fill_(0.6 if elements > 1 else 1.0)
    truth.noise.fill_(0.02)
    x, latents = truth.sample(n, generator)
    return truth, x, latents


def learn(x, *, classes, elements=1, reach=1, soft=True, max_iter=60, number=0, tolerance=1e-9):
    model = RMM(classes, tuple(x.shape[1:]), elements=elements, reach=reach)
    seed(model, x, torch.Generator().manual_seed(number))
    learner = ShallowLearner(model, x, soft=soft)
    return model, run_em(learner, max_iter=max_iter, tolerance=tolerance, progress=False)


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("elements", [1, 2, 3])
def test_the_objective_never_falls(elements, soft):
    _, x, _ = planted(elements=2, classes=3, n=200)
    for number in range(3):
        _, trace = learn(x, classes=4, elements=elements, soft=soft, number=number, max_iter=30)
        gains = np.diff(trace.objective)
        assert len(gains) > 3
        assert gains.min() >= -1e-9 * abs(trace.objective[-1])


def test_control_an_m_step_without_the_canvas_border_falls(monkeypatch):
    truth, _ = random_mixture(0, shape=(1, 4, 4))
    x, _ = truth.sample(200, torch.Generator().manual_seed(0))
    model, trace = learn(x, classes=2, elements=2, max_iter=30)
    assert np.diff(trace.objective).min() >= -1e-9
    objective = [trace.objective[-1]]
    visible = RMM.visible
    for _ in range(10):
        moments = expect(model, x)[1]
        monkeypatch.setattr(RMM, "visible", lambda self: torch.ones(len(self.shifts), *self.image_shape[1:]))
        maximise(model, moments)
        monkeypatch.setattr(RMM, "visible", visible)
        objective.append(expect(model, x)[0])
    assert np.diff(objective).min() < -1e-3


def test_where_em_ends_the_likelihood_is_level():
    _, x, _ = planted(n=60)
    model, _ = learn(x, classes=2, max_iter=3000, tolerance=0.0)
    base = float(model.log_prob(x).sum())
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        step = torch.randn(model.dictionary.weight.shape, generator=generator)
        with torch.no_grad():
            slopes = []
            for sign in (1, -2, 1):
                model.dictionary.weight.add_(sign * 1e-5 * step)
                slopes.append(float(model.log_prob(x).sum()) - base)
        assert abs(slopes[0] - slopes[1]) / 2e-5 < 1e-2 * step.norm()
        assert slopes[0] + slopes[1] < 0


def cosine(found, truth):
    """Worst cosine of matched templates, each at its best shift."""
    flat = torch.nn.functional.pad(found.flatten(0, 1), (2, 2, 2, 2))
    windows = flat.unfold(2, 9, 1).unfold(3, 9, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    target = truth.flatten(0, 1).flatten(1)
    table = (windows @ target.T).abs() / windows.norm(dim=2)[..., None].clamp(min=1e-12) / target.norm(dim=1)
    table = table.amax(1).numpy()
    return table[linear_sum_assignment(-table)].min()


@pytest.mark.parametrize("soft", [True, False])
def test_a_planted_dictionary_is_recovered(soft):
    truth, x, latents = planted(classes=4, n=800)
    model, _ = learn(x, classes=4, soft=soft)
    assert cosine(model.templates.detach(), truth.templates) >= 0.98
    assert float(model.noise) == pytest.approx(0.02, rel=0.05)
    found = model.responsibilities(x).argmax(1)
    table = np.zeros((4, 4))
    np.add.at(table, (found.numpy(), latents.label.numpy()), 1)
    assert table.max(1).sum() == len(x)


def test_planted_elements_are_recovered_from_a_rough_start():
    # From images alone EM may end in a rotation of a class's elements, which explains them almost as well.
    truth, x, _ = planted(elements=2, classes=2, n=1500, seed=1)
    model = copy.deepcopy(truth)
    weight = model.dictionary.weight
    weight.add_(
        torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)) * weight.flatten(1).norm() / 12
    )
    model.noise.fill_(0.1)
    model.switch_prior.fill_(0.5)
    assert cosine(model.templates, truth.templates) < 0.6
    run_em(ShallowLearner(model, x), max_iter=60, tolerance=1e-9, progress=False)
    assert cosine(model.templates, truth.templates) >= 0.98
    np.testing.assert_allclose(model.switch_prior, 0.6, atol=0.06)


def test_control_a_mixture_that_cannot_shift_recovers_nothing():
    truth, x, _ = planted(classes=4, n=800)
    model, _ = learn(x, classes=4, reach=0)
    assert cosine(model.templates.detach(), truth.templates) < 0.98


def within(count, probability, errors=4.0):
    error = (probability * (1 - probability) / N).sqrt()
    return bool(((count.double() / N - probability).abs() <= errors * error).all())


def frequencies(model, latents):
    label, position = latents.label.bincount(minlength=3), latents.position.bincount(minlength=9)
    joint = torch.stack([latents.switches[latents.label == c].sum(0) for c in range(3)])
    return (
        (label, model.class_prior),
        (position, model.position_prior),
        (joint, model.class_prior[:, None] * model.switch_prior),
    )


def test_samples_follow_the_priors():
    model, _ = random_mixture(5, classes=3)
    x, latents = model.sample(N, torch.Generator().manual_seed(0))
    assert all(within(count, prior) for count, prior in frequencies(model, latents))
    spread = latents.loadings - model.mean_loading[latents.label]
    assert spread.mean(0).abs().max() < 4 / N**0.5
    assert (spread.var(0) - 1).abs().max() < 4 * (2 / N) ** 0.5
    noise = x - model.render(latents)
    assert float(noise.var()) == pytest.approx(0.3, rel=4 * (2 / noise.numel()) ** 0.5)


def test_control_samples_do_not_follow_uniform_priors():
    model, _ = random_mixture(5, classes=3)
    _, latents = model.sample(N, torch.Generator().manual_seed(0))
    for count, prior in frequencies(model, latents):
        assert not within(count, torch.full_like(prior, float(prior.mean())))
