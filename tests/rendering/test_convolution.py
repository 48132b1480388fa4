"""Drawing by a convolution against its slow twin, the vector-Jacobian product, in both memory layouts."""

import itertools

import pytest
import torch

from drmm.rendering import Affine, BatchNorm2d, Conv2d, FrozenBatchNorm2d, ReLU, Sequential
from drmm.rendering.convolution import as_channels_last

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": as_channels_last,
    "every other": lambda x: torch.stack([x, x], -1)[..., 0],
}


def drawn_by_twin(conv, x, z, weight):
    return torch.func.vjp(lambda v: conv.correlate(v, weight), x)[1](z)[0]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("channels", "out", "groups"), [(4, 4, 4), (4, 8, 4), (4, 6, 2), (3, 5, 1), (1, 1, 1)])
def test_a_drawing_is_the_transpose(channels, out, groups, layout):
    checked = 0
    size = (8, 13)
    for kernel, stride, dilation in itertools.product(range(1, 8), (1, 2, 3), (1, 2)):
        for padding in {0, kernel // 2, kernel}:
            if min(size) + 2 * padding <= dilation * (kernel - 1):
                continue
            conv = Conv2d(channels, out, kernel, stride, padding, dilation, groups, bias=False)
            x = torch.randn(2, channels, *size)
            y, switches = conv.infer(x)
            z = layout(torch.randn_like(y))
            want = drawn_by_twin(conv, x, z, conv.weight)
            gain = torch.rand(out, 1, 1)
            torch.testing.assert_close(conv.render(z, switches), want)
            want = drawn_by_twin(conv, x, z * gain, conv.weight)
            torch.testing.assert_close(conv.render_scaled(z, switches, gain), want)
            checked += 1
    assert checked > 100


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("options", [(4, 4, 3, 2, 1, 1, 4), (4, 6, 1, 2), (4, 6, 3, 1, 1, 1, 2), (4, 2, 1)])
def test_it_can_be_differentiated_twice(options, layout):
    conv = Conv2d(*options, bias=False)
    y, switches = conv.infer(torch.randn(1, 4, 5, 6))
    z = layout(torch.randn_like(y)).detach().requires_grad_()
    gain = torch.rand(len(conv.weight), 1, 1).requires_grad_()

    def draw(z, gain, weight):
        return torch.func.functional_call(conv, {"weight": weight}, (z, gain))

    conv.forward = lambda z, gain: conv.render_scaled(z, switches, gain)
    weight = conv.weight.detach().requires_grad_()
    assert torch.autograd.gradcheck(draw, (z, gain, weight))
    assert torch.autograd.gradgradcheck(draw, (z, gain, weight))


@pytest.mark.parametrize("conv", [(4, 4, 3, 1, 1, 1, 4), (4, 4, 3, 2, 1, 1, 4), (4, 4, 1), (4, 4, 1, 2)])
def test_channels_last_stays_so(conv):
    y, switches = Conv2d(*conv).infer(as_channels_last(torch.randn(2, 4, 8, 8)))
    drawn = Conv2d(*conv).render(y, switches)
    assert drawn.is_contiguous(memory_format=torch.channels_last)
    assert not Conv2d(*conv).render(y.contiguous(), switches).is_contiguous(memory_format=torch.channels_last)


NORMS = {"frozen": FrozenBatchNorm2d, "running": lambda c: BatchNorm2d(c).eval(), "batch": BatchNorm2d}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("size", [(2, 1), (20, 20)])  # scaled are the features, and the templates
def test_a_norm_goes_into_the_templates_below_it(size, norm, affine):
    made = norm(6)
    made = made if affine else type(made)(6, affine=False).train(made.training)
    with torch.no_grad():
        for values in (made.running_mean, made.running_var, made.weight, made.bias):
            if values is not None:
                values.uniform_(0.5, 2)
    net = Sequential(made, ReLU(), Conv2d(6, 6, (2, 1)), made, made, ReLU())
    y, switches = net.infer(torch.randn(2, 6, size[0] + 1, size[1]))
    z = torch.randn_like(y).requires_grad_()
    one, other = net.render(z, switches), net.render_levels(z, switches)[0]
    torch.testing.assert_close(one, other)
    parameters = [z, *net.parameters()]
    used = [p for p in parameters if p is not net[2].bias and p is not made.bias]
    gradients = (torch.autograd.grad(drawn.square().sum(), used) for drawn in (one, other))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_no_pass_over_the_features_scales_them(monkeypatch):
    net = Sequential(Conv2d(3, 6, 3), FrozenBatchNorm2d(6), ReLU())
    y, switches = net.infer(torch.randn(2, 3, 20, 20))
    want = net.render(y, switches)
    monkeypatch.setattr(FrozenBatchNorm2d, "render", lambda *_: pytest.fail("scaled the features"))
    assert torch.equal(net.render(y, switches), want)
    with pytest.raises(pytest.fail.Exception):  # control: level by level it does
        net.render_levels(y, switches)


def test_a_transpose_that_is_given_is_used():
    calls = []
    doubled = Affine(lambda x: calls.append("up") or 2 * x, transpose=lambda z, shape: z.expand(-1, *shape) * 2)
    y, switches = doubled.infer(torch.ones(2, 3))
    assert torch.equal(doubled.render(y, switches), 4 * torch.ones(2, 3))
    assert calls == ["up"]
    scaled = Affine(lambda x, factor: x * factor, transpose=lambda z, shape, factor: z * factor)
    assert torch.equal(scaled.given(3.0).render(y, switches), scaled.render(y, switches, 3.0))
    assert torch.equal(scaled.given(3.0)(y), 3 * y)
