"""What `robust_margin` takes, and what it refuses."""

import pytest
import torch

from drmm import DRMM, branch_and_bound, robust_margin
from drmm.errors import InputError
from drmm.model.presets import dense
from drmm.rendering import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, Sequential
from drmm.rendering.bounds import NoBoundError

SHAPE = (1, 4, 4)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return dense(3, SHAPE, width=6)


@pytest.mark.parametrize("radius", [-0.1, float("nan"), float("inf")])
def test_a_radius_is_a_number_from_0(model, radius):
    with pytest.raises(InputError, match=f"radius 0 or more: got 'linf' and {radius}"):
        robust_margin(model, torch.randn(2, *SHAPE), 0, radius)


def test_norms_and_labels_are_known(model):
    x = torch.randn(2, *SHAPE)
    with pytest.raises(InputError, match="norm must be linf or l2"):
        robust_margin(model, x, 0, 0.1, "l1")
    with pytest.raises(InputError, match="label must be"):
        robust_margin(model, x, 3, 0.1)
    with pytest.raises(InputError, match="label must be"):
        robust_margin(model, x, torch.tensor([0, 1, 2]), 0.1)


def gap(model, x):
    return branch_and_bound(model, x, budget=1).gap


def margin(model, x):
    return robust_margin(model, x, 1, 0.1)


@pytest.mark.parametrize("find", [margin, gap])
def test_training_means_evaluation_and_the_mode_stays(find, model):
    dropped = Sequential(*model.levels, Dropout(0.5))
    model, x = DRMM(dropped, model.templates, image_shape=SHAPE), torch.randn(2, *SHAPE)
    expected = find(model.eval(), x)
    torch.testing.assert_close(find(model.train(), x), expected)
    assert model.training


def test_no_margin_where_images_depend_on_each_other():
    norm = BatchNorm2d(2, track_running_stats=False)
    model = DRMM(Sequential(Conv2d(1, 2, 4), norm, Flatten()), Linear(2, 3))
    with pytest.raises(NoBoundError, match="a norm keeps no statistics"):
        robust_margin(model, torch.randn(2, *SHAPE), 0, 0.1)


def test_one_class_has_no_rival():
    model = DRMM(Sequential(Flatten()), Linear(16, 1))
    assert robust_margin(model, torch.randn(2, *SHAPE), 0, 0.1).isposinf().all()
