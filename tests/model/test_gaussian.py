"""The Gaussian objective as an argument of `infer`: what it gives, what it leaves alone and what it refuses.

Its law is tests/laws/test_gaussian_inference.py.
"""

import pytest
import torch
from torch import nn

from drmm import DRMM, lift
from drmm.errors import InputError
from drmm.model.brightness import BestFit, BrightnessPrior
from drmm.model.gaussian import Gaussian
from drmm.model.presets import conv_small
from drmm.rendering import Flatten, Linear, Sequential
from drmm.testing import random_net

QUICK = Gaussian(steps=2, redraws=4)


@pytest.fixture
def model(float64):
    """What it draws has parts that overlap."""
    model = random_net(2, signed=(True, False, False), bias=True)
    model.noise.fill_(0.1)
    return model


@pytest.fixture
def x(model):
    return model.sample(8, generator=torch.Generator().manual_seed(1))


def test_every_field_belongs_to_the_best_configuration(model, x):
    latents = model.infer(x, objective=Gaussian())
    assert latents.objective == "gaussian"
    assert torch.equal(latents.label, latents.logits.argmax(1))
    torch.testing.assert_close(latents.score, latents.logits.amax(1))
    torch.testing.assert_close(latents.score, model.log_joint(x, latents, brightness=BrightnessPrior(1.0, 0.0)))
    template = model.render(latents).flatten(1)
    least_squares = (template * x.flatten(1)).sum(1) / template.square().sum(1).clamp(min=1e-300)
    torch.testing.assert_close(latents.amplitude, least_squares.clamp(min=0))


def test_there_is_no_certificate(model, x):
    latents = model.infer(x, objective=QUICK)
    assert (latents.upper_bound == torch.inf).all()
    assert not latents.certified().any()
    assert model.infer(x).certified().all(), "control"


def test_the_name_is_the_default(model, x):
    named, made = model.infer(x, objective="gaussian"), model.infer(x, objective=Gaussian())
    assert torch.equal(named.score, made.score)
    inner = model.infer(x, objective="inner")
    assert inner.objective == "inner"
    assert torch.equal(inner.logits, model.infer(x).logits)


def test_the_brightness_of_the_model_is_the_default(model, x):
    model.amplitude.fill_(1.7)
    found, given = model.infer(x, objective=QUICK), Gaussian(BrightnessPrior(1.7, 0.0), steps=2, redraws=4)
    torch.testing.assert_close(found.score, model.infer(x, objective=given).score)
    assert not torch.equal(found.score, model.infer(x, objective=Gaussian(BestFit(), steps=2, redraws=4)).score)


def test_more_passes_never_make_it_worse(model, x):
    scores = [model.infer(x, objective=Gaussian(steps=n, redraws=0)).score for n in (0, 2, 6)]
    assert (scores[0] <= scores[1]).all()
    assert (scores[1] <= scores[2]).all()
    assert (scores[0] < scores[2]).any()


def test_without_passes_the_class_is_chosen_at_the_switches_of_max_sum(model, x):
    latents, inner = model.infer(x, objective=Gaussian(steps=0, redraws=0)), model.infer(x)
    for mine, others in zip(latents.switches.leaves(), inner.switches.leaves(), strict=True):
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(mine.choices(), others.choices(), strict=True))
    assert (latents.label != inner.label).any()


def test_conditioned_on_labels(model, x):
    label = torch.arange(8) % 3
    latents, inner = model.infer(x, label, objective=QUICK), model.infer(x, label)
    assert torch.equal(latents.label, label)
    assert (model.log_joint(x, latents) >= model.log_joint(x, inner) - 1e-9).all()
    assert (latents.logits.isfinite().sum(1) == 1).all()
    assert torch.equal(model.infer(x[:1], 2, objective=QUICK).label, torch.tensor([2]))


def test_images_do_not_influence_each_other(model, x):
    together, alone = model.infer(x, objective=QUICK), model.infer(x[3:5], objective=QUICK)
    torch.testing.assert_close(together.select(slice(3, 5)).score, alone.score)
    torch.testing.assert_close(model.render(together.select(slice(3, 5))), model.render(alone))
    assert together.select([0]).objective == "gaussian"


def test_it_is_the_same_again_and_disturbs_no_stream(model, x):
    state = torch.get_rng_state()
    first, second = model.infer(x, objective=QUICK), model.infer(x, objective=QUICK)
    assert torch.equal(first.score, second.score)
    assert torch.equal(state, torch.get_rng_state())
    assert not first.score.requires_grad


def test_what_was_not_seen_has_no_part_in_it(model, x):
    seen = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) > 0.4
    blind = torch.where(seen, x, torch.nan)
    found, inner = (model.infer(blind, observed=seen, objective=one) for one in (QUICK, "inner"))
    assert found.score.isfinite().all()
    assert (model.log_joint(blind, found) >= model.log_joint(blind, inner) - 1e-9).all()
    torch.testing.assert_close(found.score, model.log_joint(blind, found, brightness=BrightnessPrior(1.0, 0.0)))


def test_a_score_in_nats_is_no_sum_over_paths(model, x):
    with pytest.raises(InputError, match="only the inner product is a sum over paths"):
        model.sum_over_paths(x, model.infer(x, objective=QUICK))
    model.sum_over_paths(x, model.infer(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_a_convnet_takes_part(dtype):
    torch.manual_seed(0)
    model = conv_small(3, (1, 12, 12), width=3).eval().to(dtype)
    x = torch.rand(4, 1, 12, 12, dtype=dtype)
    inner, found = model.infer(x), model.infer(x, objective=QUICK)
    assert found.score.dtype == dtype
    room = 1e-4 * model.log_joint(x, inner).abs()
    assert (model.log_joint(x, found) >= model.log_joint(x, inner) - room).all()


@torch.no_grad()
def test_a_lifted_net_takes_part():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU6(), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))
    model, x = lift(net.eval(), image_shape=(1, 6, 6), strict=False), torch.rand(5, 1, 6, 6)
    inner, found = model.infer(x), model.infer(x, objective=QUICK)
    assert (model.log_joint(x, found) >= model.log_joint(x, inner) - 1e-4).all()


@torch.no_grad()
def test_without_switches_the_class_alone_is_chosen(float64):
    templates = Linear(4, 2, bias=False)
    templates.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [4.0, 4, 4, 4]]))
    model = DRMM(Sequential(Flatten()), templates, image_shape=(1, 2, 2)).eval()
    x = torch.tensor([[1.0, 0, 0, 0]]).reshape(1, 1, 2, 2)
    assert model.infer(x).label.item() == 1, "the longest picture wins"
    assert model.infer(x, objective="gaussian").label.item() == 0


@pytest.mark.parametrize("objective", ["", "Gaussian", "max-sum", None, ["gaussian"], Gaussian])
def test_there_is_no_such_objective(model, x, objective):
    with pytest.raises(InputError, match="objective must be 'inner' or 'gaussian', got"):
        model.infer(x, objective=objective)


@pytest.mark.parametrize("settings", [{"steps": -1}, {"redraws": -1}])
def test_less_than_nothing(settings):
    with pytest.raises(InputError, match="steps and redraws must be 0 or more"):
        Gaussian(**settings)


def test_training_mode_is_refused():
    model = conv_small(3, (1, 12, 12), width=3)
    with pytest.raises(InputError, match=r"evaluation mode: call model\.eval\(\) first"):
        model.infer(torch.rand(2, 1, 12, 12), objective="gaussian")


def test_a_model_that_does_not_know_its_shape_is_refused():
    model = DRMM(Sequential(Flatten()), Linear(4, 2)).eval()
    with pytest.raises(InputError, match="does not know its image shape"):
        model.infer(torch.rand(2, 1, 2, 2), objective="gaussian")
