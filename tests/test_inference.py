"""The sign traceback as a function: arguments, errors, what it returns. Its law is T17."""

import pytest
import torch

from drmm import DRMM, sign_traceback
from drmm.presets import conv_small, dense
from drmm.rendering import Conv2d, Flatten, Level, Linear, ReLU, Sequential


@pytest.fixture
def model(float64):
    torch.manual_seed(0)
    return conv_small(4, (1, 12, 12), width=3).eval()


@pytest.fixture
def x(model):
    return torch.randn(5, 1, 12, 12)


def test_every_field_belongs_to_the_best_configuration(model, x):
    latents = sign_traceback(model, x)
    torch.testing.assert_close(latents.logits.gather(1, latents.label[:, None]).squeeze(1), latents.score)
    match = (model.render(latents) * x).flatten(1).sum(1) + model.templates.bias[latents.label]
    torch.testing.assert_close(match, latents.score)  # fresh norms shift nothing
    template = model.render(latents).flatten(1)
    amplitude = ((template * x.flatten(1)).sum(1) / template.square().sum(1)).clamp(min=0)
    torch.testing.assert_close(latents.amplitude, amplitude)
    torch.testing.assert_close(latents.upper_bound, model.upper_bound(x).amax(1))


def test_the_best_class_is_the_best_of_each(model, x):
    each = torch.stack([sign_traceback(model, x, c).score for c in range(4)], 1)
    latents = sign_traceback(model, x)
    torch.testing.assert_close(latents.score, each.amax(1))
    assert torch.equal(latents.label, each.argmax(1))


def test_conditioned_on_labels(model, x):
    label = torch.tensor([3, 2, 1, 0, 3])
    latents = sign_traceback(model, x, label)
    assert torch.equal(latents.label, label)
    assert (latents.score >= model.infer(x, label).score).all()
    torch.testing.assert_close(latents.upper_bound, model.infer(x, label).upper_bound)


def test_without_sweeps_it_is_the_bottom_up_pass(model, x):
    torch.testing.assert_close(sign_traceback(model, x, 1, sweeps=0).score, model.infer(x, 1).score)


def test_images_do_not_influence_each_other(model, x):
    together = sign_traceback(model, x)
    alone = sign_traceback(model, x[2:3])
    torch.testing.assert_close(together.score[2:3], alone.score)
    torch.testing.assert_close(model.render(together)[2:3], model.render(alone))


def test_switches_outside_a_level_are_refused():
    model = DRMM(Sequential(Conv2d(1, 2, 3), ReLU(), Flatten()), Linear(200, 3)).eval()
    with pytest.raises(TypeError, match="ReLU inside a Level"):
        sign_traceback(model, torch.randn(2, 1, 12, 12))
    with pytest.raises(TypeError, match="inside a Level"):
        sign_traceback(dense(3, (1, 4, 4), width=8).eval(), torch.randn(2, 1, 4, 4))


def test_batch_statistics_are_refused(model, x):
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        sign_traceback(model.train(), x)


def test_levels_without_norms_need_no_mode():
    model = DRMM(Sequential(Level(Conv2d(1, 2, 3)), Flatten()), Linear(200, 3))
    latents = sign_traceback(model.train(), torch.randn(2, 1, 12, 12))
    assert latents.upper_bound.isposinf().all()


def test_nothing_is_recorded_for_backprop(model, x):
    assert not sign_traceback(model, x).score.requires_grad
