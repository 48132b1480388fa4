"""A folded net infers and draws the same, and the one it was made of stays as it is."""

import pytest
import torch

from drmm import DRMM
from drmm.model.folding import folded
from drmm.model.presets import build, conv_small
from drmm.rendering import BatchNorm2d, Conv2d, Flatten, FrozenBatchNorm2d, Linear, Norm, ReLU, Sequential


def loose_norms():
    """A norm below a convolution, and one above it."""
    torch.manual_seed(1)
    levels = Sequential(
        FrozenBatchNorm2d(2), Conv2d(2, 4, 3, bias=False), BatchNorm2d(4), ReLU(), Conv2d(4, 3, 3), Flatten()
    )
    return DRMM(levels, Linear(3 * 4 * 4, 3), image_shape=(2, 8, 8))


def nets():
    yield "levels", lambda: conv_small(4, (1, 12, 12), width=3), (1, 12, 12)
    yield "non-negative", lambda: conv_small(4, (1, 12, 12), width=3, constraint="hard"), (1, 12, 12)
    yield "loose norms", loose_norms, (2, 8, 8)
    yield "efficientnet", lambda: build("efficientnet_lite0", 3, (3, 32, 32)), (3, 32, 32)


@pytest.mark.parametrize(("make", "shape"), [pytest.param(*case[1:], id=case[0]) for case in nets()])
def test_infers_and_draws_the_same(float64, make, shape):
    torch.manual_seed(0)
    model = make()
    for norm in model.modules():
        if isinstance(norm, Norm) and norm.running_mean is not None:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, quick = torch.randn(5, *shape), folded(model)
    latents, expected = quick.infer(x), model.eval().infer(x)
    torch.testing.assert_close(latents.logits, expected.logits)
    torch.testing.assert_close(quick.picture(latents), model.picture(expected))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_norm_is_left_above_a_convolution_and_a_first_one_stays(float64):
    quick = folded(loose_norms())
    assert [type(level) for level in quick.modules() if isinstance(level, Norm)] == [FrozenBatchNorm2d]
    assert not quick.training
    assert not any(weight.requires_grad for weight in quick.parameters())
