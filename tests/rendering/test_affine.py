"""Dictionaries, averages and reshapes: torch's values, and the errors of what has no rendering."""

import pytest
import torch

from drmm.rendering import AdaptiveAvgPool2d, AvgPool2d, Conv2d, Flatten, Linear
from drmm.rendering.convolution import feature_size


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (lambda: Conv2d(2, 4, 3, stride=2, padding=1, groups=2), (3, 2, 8, 9)),
        (lambda: Linear(5, 3), (3, 4, 5)),
        (Flatten, (3, 2, 4, 4)),
        (lambda: AvgPool2d(3, 2, 1, count_include_pad=False), (3, 2, 8, 9)),
        (lambda: AdaptiveAvgPool2d((2, None)), (3, 2, 8, 9)),
        (lambda: AdaptiveAvgPool2d(1), (3, 2, 8, 9)),
    ],
)
def test_values_are_torchs(module, shape):
    ours, x = module(), torch.randn(shape)
    kind = next(base for base in type(ours).__mro__ if base.__module__.startswith("torch"))
    y, switches = ours.infer(x)
    assert torch.equal(y, kind.forward(ours, x))
    assert list(switches.leaves()) == []
    assert ours.render(y, switches).shape == x.shape


@pytest.mark.parametrize("options", [{"padding": "same", "dilation": 2}, {"stride": 3, "padding": (2, 0)}, {}])
def test_feature_size_is_that_of_the_features(options):
    conv = Conv2d(1, 1, (3, 5), **options)
    for size in ((11, 12), (14, 13)):
        assert feature_size(conv, size) == tuple(conv(torch.zeros(1, 1, *size)).shape[2:])


def test_a_unit_draws_its_template_at_its_place():
    conv = Conv2d(1, 1, 3, bias=False)
    z = torch.zeros(1, 1, 4, 4)
    z[0, 0, 1, 2] = 2.0
    _, switches = conv.infer(torch.zeros(1, 1, 6, 6))
    expected = torch.zeros(6, 6)
    expected[1:4, 2:5] = 2 * conv.weight[0, 0]
    torch.testing.assert_close(conv.render(z, switches)[0, 0], expected)


def test_the_global_mean_spreads_evenly():
    y, switches = AdaptiveAvgPool2d(1).infer(torch.randn(2, 3, 4, 5))
    assert torch.equal(AdaptiveAvgPool2d(1).render(torch.ones_like(y), switches), torch.full((2, 3, 4, 5), 1 / 20))


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
def test_other_paddings_have_no_rendering(mode):
    conv = Conv2d(1, 1, 3, padding=1, padding_mode=mode)
    y, switches = conv.infer(torch.randn(1, 1, 5, 5))
    with pytest.raises(ValueError, match=mode):
        conv.render(y, switches)


@pytest.mark.parametrize("module", [AvgPool2d(2), AdaptiveAvgPool2d(3), AdaptiveAvgPool2d(1)])
def test_averages_are_differentiable_in_z(module):
    x = torch.randn(2, 3, 8, 8)
    y, switches = module.infer(x)
    z = torch.randn_like(y).requires_grad_()
    (gradient,) = torch.autograd.grad((module.render(z, switches) * x).sum(), z)
    torch.testing.assert_close(gradient, y)
