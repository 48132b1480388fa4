"""Branch and bound as a tool: what it takes, what it refuses, and what it leaves as it was."""

import itertools

import pytest
import torch

from drmm import DRMM, branch_and_bound
from drmm.errors import InputError
from drmm.model.presets import conv_small, dense
from drmm.rendering import BatchNorm2d, Clip, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential
from drmm.rendering.bounds import NoBoundError
from drmm.testing import random_net

SHAPE = (1, 4, 4)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return dense(3, SHAPE, width=6).eval()


@pytest.fixture
def x(model):
    return torch.randn(4, *SHAPE)


def test_the_more_is_split_the_closer(model, x):
    found = [branch_and_bound(model, x, budget=budget) for budget in (0, 2, 20, 1000)]
    for one, other in itertools.pairwise(found):
        assert (other.upper_bound <= one.upper_bound + 1e-5).all()
        assert (other.score >= one.score - 1e-5).all()
    assert not found[0].certified().all()
    assert found[-1].certified().all()
    assert (found[0].upper_bound < model.upper_bound(x).amax(1) - 1e-3).all()


def test_images_are_found_one_by_one(model, x):
    together = branch_and_bound(model, x, budget=20)
    for i in range(len(x)):
        alone, one = branch_and_bound(model, x[i : i + 1], budget=20), together.select(slice(i, i + 1))
        torch.testing.assert_close(alone.upper_bound, one.upper_bound)
        torch.testing.assert_close(model.render(alone), model.render(one))
        torch.testing.assert_close(alone.amplitude, one.amplitude)


def test_labels_are_given_as_for_infer(model, x):
    label = torch.tensor([0, 1, 2, 1])
    each = branch_and_bound(model, x, label)
    assert (each.label == label).all()
    torch.testing.assert_close(each.score[:1], branch_and_bound(model, x[:1], 0).score)
    every = torch.stack([branch_and_bound(model, x, c).score for c in range(3)], 1)
    torch.testing.assert_close(branch_and_bound(model, x).score, every.amax(1))


def test_its_latents_are_used_as_others(model, x):
    found = branch_and_bound(model, x)
    assert model.picture(found).shape == x.shape
    assert model.log_joint(x, found).isfinite().all()
    torch.testing.assert_close(model.templates(found.features), found.logits)


def test_the_mode_is_kept_and_training_means_evaluation(model, x):
    expected = branch_and_bound(model, x, budget=5)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.testing.assert_close(branch_and_bound(model, x, budget=5).upper_bound, expected.upper_bound)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value)


def test_a_net_without_switches_is_proved_at_once(x):
    model = DRMM(Sequential(Flatten()), Linear(16, 3), image_shape=SHAPE)
    assert branch_and_bound(model, x, budget=0).certified().all()


def test_a_fused_level_is_as_its_parts():
    model = random_net(3, signed=(True, True, True), pool=True)
    x = torch.randn(2, *model.image_shape)
    parts = [part for level in model.levels for part in getattr(level, "parts", (level,))]
    plain = DRMM(Sequential(*parts), model.templates, image_shape=model.image_shape).eval()
    one, other = (branch_and_bound(net, x, budget=3) for net in (model, plain))
    torch.testing.assert_close(one.upper_bound, other.upper_bound)
    torch.testing.assert_close(model.render(one), plain.render(other))


@pytest.mark.parametrize("constraint", ["hard", "soft"])
def test_a_hard_net_is_proved_and_a_soft_one_is_not(constraint):
    torch.manual_seed(1)
    model = conv_small(3, (1, 8, 8), width=2, constraint=constraint).eval()
    images = torch.randn(3, 1, 8, 8)
    found = branch_and_bound(model, images, budget=2)
    assert bool(found.certified().all()) == (constraint == "hard")
    assert (found.gap >= 0).all()


def test_what_it_refuses(model, x):
    with pytest.raises(InputError, match="budget must be 0 or more, got -1"):
        branch_and_bound(model, x, budget=-1)
    with pytest.raises(InputError, match="label must be"):
        branch_and_bound(model, x, 3)
    batch = Sequential(Conv2d(1, 2, 2), BatchNorm2d(2, track_running_stats=False), ReLU(), MaxPool2d(3), Flatten())
    with pytest.raises(NoBoundError, match="a norm keeps no statistics"):
        branch_and_bound(DRMM(batch, Linear(2, 3)).eval(), x)
    clipped = Sequential(Conv2d(1, 2, 2), Clip(0, 1), MaxPool2d(3), Flatten())
    with pytest.raises(NoBoundError, match="no bound for Clip"):
        branch_and_bound(DRMM(clipped, Linear(2, 3)).eval(), x)
