"""EM of repeated images and of few: bounded variances, sums that do not cancel, an objective that never falls."""

import math
from unittest.mock import PropertyMock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor

from drmm.learning.em import shallow
from drmm.learning.em.loop import Trace, run_em
from drmm.learning.em.shallow import Moments, ShallowLearner, expect, maximise, seed
from drmm.model.shallow import RMM


def learned(x: Tensor, classes: int, *, soft: bool = True, max_iter: int = 25, **options) -> tuple[RMM, Trace]:
    model = RMM(classes, tuple(x.shape[1:]), **options)
    if x.is_floating_point():
        model.to(x.dtype)
    seed(model, x, torch.Generator().manual_seed(0))
    trace = run_em(ShallowLearner(model, x, soft=soft), max_iter=max_iter, tolerance=0.0, progress=False)
    return model, trace


def glyphs(kinds: int = 5, copies: int = 20) -> Tensor:
    levels = np.rint(load_digits().images[:kinds] * 255 / 16).astype(np.uint8)
    return torch.from_numpy(np.repeat(levels, copies, 0))[:, None]


def most_nats(x: Tensor) -> float:
    """Log N(0; 0, σ²) of an image at the least σ²."""
    return -0.5 * x[0].numel() * math.log(2 * math.pi * shallow._LEAST_NOISE)


def is_possible(trace: Trace, x: Tensor, *, rounding: float) -> bool:
    objective = np.array(trace.objective)
    falls = -np.diff(objective) / np.abs(objective[1:]).clip(1)
    return bool((falls <= rounding).all() and objective.max() <= most_nats(x) + 1e-6)


# --- the trace ---


@st.composite
def repeated_images(draw: st.DrawFn) -> Tensor:
    """A few images, each some times: noise, black and white, all alike but for a thousandth, or all but black."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kinds, n = draw(st.integers(1, 5)), draw(st.integers(1, 20))
    images = rng.random((kinds, 1, draw(st.integers(1, 4)), draw(st.integers(1, 4))))
    kind = draw(st.sampled_from(["noise", "binary", "alike", "constant", "dim"]))
    if kind == "binary":
        images = images.round()
    elif kind == "alike":
        images = images[:1] + 1e-3 * images
    elif kind == "constant":
        images = np.broadcast_to(images[..., :1, :1], images.shape)
    elif kind == "dim":
        images = 1e-6 * images
    return torch.from_numpy(images[rng.integers(0, kinds, n)])


@settings(max_examples=40)
@given(x=repeated_images(), classes=st.integers(1, 5), elements=st.integers(1, 3), soft=st.booleans())
def test_the_objective_never_falls_nor_exceeds_its_bound(x, classes, elements, soft) -> None:
    reach = (x.shape[2] // 3, x.shape[3] // 3)
    model, trace = learned(x, classes, elements=elements, reach=reach, soft=soft)
    assert is_possible(trace, x, rounding=1e-6)
    assert float(model.noise) >= shallow._LEAST_NOISE
    assert float(model.mean_loading.abs().max()) <= shallow._STEADIEST


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("copies", [1, 20])
def test_glyphs_that_repeat_are_told_apart(copies: int, soft) -> None:
    x = glyphs(copies=copies)
    model, trace = learned(x, 5, reach=0, soft=soft)
    assert is_possible(trace, x, rounding=1e-7)
    assert trace.objective[-1] > most_nats(x) - 10
    assert len(model.responsibilities(x / 255).argmax(1).unique()) == 5


def variance_by_subtraction(model: RMM, moments: Moments, on: Tensor) -> tuple[Tensor, Tensor]:
    """What `_loadings` was: a bound that is no share of the mean, where rounding is all that is left."""
    count = on.clamp(min=1e-300)
    mean, square = moments.loadings / count, moments.pairs.diagonal(dim1=-2, dim2=-1).sum(1) / count
    return mean, (square - mean.square()).clamp(min=torch.finfo(on.dtype).eps).sqrt()


@pytest.mark.parametrize("copies", [1, 20])
def test_control_without_bound_and_in_single_precision_rounding_wins(copies: int, monkeypatch) -> None:
    x = glyphs(copies=copies)
    monkeypatch.setattr(RMM, "inference_dtype", PropertyMock(return_value=torch.float32))
    bounded = learned(x, 5, reach=0)[1]
    assert not is_possible(bounded, x, rounding=1e-7)
    monkeypatch.setattr(shallow, "_loadings", variance_by_subtraction)
    monkeypatch.setattr(shallow, "_STEADIEST", math.inf)
    free = learned(x, 5, reach=0)[1]
    assert not is_possible(free, x, rounding=1e-3)
    assert max(free.objective) > 10 * most_nats(x)


# --- the M-step ---


def test_the_loadings_are_the_most_likely_within_their_bound() -> None:
    generator = torch.Generator().manual_seed(0)
    model = RMM(40, (1, 1, 1), reach=0).double()
    on = torch.full((40, 1), 3.0)
    mean = torch.randn(40, 1, generator=generator).double()
    variance = mean.square() * 10 ** (-8 * torch.rand(40, 1, generator=generator).double())
    square = mean.square() + variance
    moments = Moments(on, 3 * mean, 3 * square[:, None, None], *torch.zeros(3, 1))
    _, found = shallow._loadings(model, moments, on)

    def likelihood(m: Tensor, tau: Tensor) -> Tensor:
        return -tau.log() - 0.5 * (square - 2 * m * mean + m.square()) / tau.square()

    best = likelihood((mean / found).clamp(-255, 255) * found, found)
    bounded = found > variance.sqrt() * (1 + 1e-9)
    assert 5 < bounded.sum() < 35  # both cases
    torch.testing.assert_close(found[~bounded], variance[~bounded].sqrt())
    for ratio in torch.linspace(-255, 255, 41).double():
        for tau in found * torch.logspace(-2, 2, 41, dtype=torch.double):
            assert (likelihood(ratio * tau, tau) <= best + 1e-9).all()
    beyond = likelihood(mean, variance.sqrt())
    assert (beyond > best + 1e-3)[bounded].any()  # control: the bound costs something


def test_what_templates_leave_is_that_of_a_second_pass() -> None:
    x = glyphs(1, 50).double() / 255
    model = RMM(1, (1, 8, 8), reach=0).double()
    seed(model, x)
    for _ in range(6):
        moments = expect(model, x)[1]
        with torch.no_grad():
            template, left = shallow._templates(model, moments)
        maximise(model, moments)
    mean, square = moments.loadings / 50, moments.pairs.sum() / 50
    drawn = (x - mean * template[0, 0]).square().sum() + 50 * (square - mean.square()) * template.square().sum()
    assert float(left) == pytest.approx(float(drawn), rel=1e-4)
    single = moments.energy.float() - (template.float() * moments.pictures.float()).sum()
    assert abs(float(single) / float(drawn) - 1) > 0.01  # control: rounding shows


# --- precision ---


def test_double_precision_where_single_would_show() -> None:
    model = RMM(2, (1, 8, 8))
    assert model.inference_dtype == torch.float32
    assert model.double().inference_dtype == torch.float64
    model.float().noise.fill_(1e-4)
    assert model.inference_dtype == torch.float64
    x = torch.rand(3, 1, 8, 8)
    assert model.explain(x).loadings.dtype == torch.float64
    exact = model.log_prob(x)
    torch.testing.assert_close(exact, RMM.log_prob(model.double(), x), rtol=1e-12, atol=0)
