"""The fast path: a `Level` is its plain sequence, in values, gradients, statistics and pictures."""

import copy

import pytest
import torch
from torch import nn

from drmm.rendering import BatchNorm2d, Conv2d, Level, MaxPool2d, Switches
from drmm.testing import check_rendering

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def make(*, norm=True, pool=None, c_in=3, bias=False, **options):
    dictionary = Conv2d(c_in, 6, 3, bias=bias, **options)
    if not norm:
        return Level(dictionary, None, pool)
    level = Level(dictionary, BatchNorm2d(6), pool)
    nn.init.normal_(level.norm.weight)  # γ of either sign
    nn.init.normal_(level.norm.bias)
    nn.init.normal_(level.norm.running_mean)
    nn.init.uniform_(level.norm.running_var, 0.5, 2)
    return level


CASES = {
    "plain": {"norm": False, "bias": True},
    "pooled": {"norm": False, "pool": MaxPool2d(2)},
    "normed": {},
    "normed-bias": {"bias": True},
    "all": {"pool": MaxPool2d(2)},
    "overlapping": {"pool": MaxPool2d(3, 2, 1), "padding": 2},
    "ceil": {"pool": MaxPool2d(2, ceil_mode=True), "stride": 2, "padding": 1},
    "one-channel": {"c_in": 1, "pool": MaxPool2d(2)},
}


@pytest.mark.parametrize("case", CASES)
def test_the_laws_hold(case):
    level = make(**CASES[case])
    check_rendering(level, torch.randn(2, level.dictionary.in_channels, 6, 6))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_equals_its_slow_twin(case, training):
    level = make(**CASES[case]).train(training)
    slow = copy.deepcopy(level).unfused().train(training)
    x = torch.randn(4, level.dictionary.in_channels, 9, 8, requires_grad=True)
    y, switches = level.infer(x)
    expected, theirs = slow.infer(x)
    torch.testing.assert_close(y, expected, **TIGHT)
    z = torch.randn_like(y)
    torch.testing.assert_close(level.render(z, switches), slow.render(z, theirs), **TIGHT)
    mine = torch.autograd.grad((y * z).sum(), [x, *level.parameters()], allow_unused=True)
    other = torch.autograd.grad((expected * z).sum(), [x, *slow.parameters()])
    for one, two in zip(mine, other, strict=True):
        # None for a bias in training: the batch's mean takes it away.
        torch.testing.assert_close(torch.zeros_like(two) if one is None else one, two, **TIGHT)
    for one, two in zip(level.buffers(), slow.buffers(), strict=True):
        torch.testing.assert_close(one, two, **TIGHT)


@pytest.mark.parametrize("case", CASES)
def test_rendering_has_the_twins_gradient(case):
    level = make(**CASES[case]).eval()
    slow = copy.deepcopy(level).unfused().eval()
    x = torch.randn(4, level.dictionary.in_channels, 9, 8)
    gradients = []
    for module in (level, slow):
        y, switches = module.infer(x)
        picture = module.render(torch.ones_like(y), switches)
        weights = [p for name, p in module.named_parameters() if not name.endswith("bias")]
        gradients.append(torch.autograd.grad((picture * x).sum(), weights))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, **TIGHT)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_forward_is_the_features_of_infer(training, grad):
    level = make(pool=MaxPool2d(2)).train(training)
    x = torch.randn(4, 3, 8, 8)
    before = x.clone()
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(level(x), level.infer(x)[0], **TIGHT)
    assert torch.equal(x, before)


def test_forward_learns_as_infer_does_and_works_out_no_switches(monkeypatch):
    level = make(pool=MaxPool2d(2), bias=True).train()
    twin, x = copy.deepcopy(level), torch.randn(4, 3, 9, 8)
    y, _ = twin.infer(x)
    z = torch.randn_like(y)
    expected = torch.autograd.grad((y * z).sum(), twin.dictionary.weight)

    def never(*_):
        raise RuntimeError("switches")

    monkeypatch.setattr("drmm.rendering.level.position_of", never)
    torch.testing.assert_close(torch.autograd.grad((level(x) * z).sum(), level.dictionary.weight), expected)
    for one, two in zip(level.buffers(), twin.buffers(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(RuntimeError, match="switches"):  # the control: infer does
        level.infer(x)


@pytest.mark.parametrize("pool", [None, MaxPool2d(2), MaxPool2d(3, 2, 1), MaxPool2d((3, 1))])
@pytest.mark.parametrize("c_out", [1, 6])
def test_a_step_breaks_ties_like_its_slow_twin(pool, c_out):
    level = Level(Conv2d(2, c_out, 3, bias=False), BatchNorm2d(c_out), pool).train()
    nn.init.normal_(level.norm.weight)
    with torch.no_grad():
        level.dictionary.weight.copy_(torch.randint(-1, 2, level.dictionary.weight.shape))
    slow = copy.deepcopy(level).unfused().train()
    x = torch.randint(0, 2, (4, 2, 9, 11)).double().requires_grad_()
    y, switches = level.infer(x)
    expected, theirs = slow.infer(x)
    torch.testing.assert_close(y, expected, **TIGHT)
    if pool is not None:
        # Where a unit is off, the twin's pool sees nothing but zeros: what it chooses there is never drawn.
        assert torch.equal(switches.t[switches.a], theirs.parts[3].t[switches.a])
        u = level.dictionary(x) * level.norm.weight.sign()[:, None, None]
        later = pool.infer(u + 1e-9 * torch.arange(u[0, 0].numel()).view(u.shape[2:]))[1].t
        assert (later != switches.t)[switches.a].any()  # the control: another rule chooses otherwise
    z = torch.randn_like(y)
    torch.testing.assert_close(level.render(z, switches), slow.render(z, theirs), **TIGHT)
    one = torch.autograd.grad(y, [x, *level.parameters()], z.contiguous(), retain_graph=True)
    two = torch.autograd.grad(expected, [x, *slow.parameters()], z)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, **TIGHT)
    again = torch.autograd.grad(y, [x, *level.parameters()], z)  # in whatever layout the gradient comes, and twice
    for a, b in zip(one, again, strict=True):
        torch.testing.assert_close(a, b, **TIGHT)


def test_what_is_not_a_number_is_seen_in_training():
    level = make(pool=MaxPool2d(2)).train()
    x = torch.randn(4, 3, 8, 8)
    x[0, 0, 0, 0] = torch.nan
    y, switches = level.infer(x)
    assert y.isnan().all()  # the batch's mean is none
    assert switches.a.all(), "a unit that may be on passes its gradient on, as autograd's ReLU does"


def test_a_norm_must_fit_the_dictionary():
    with pytest.raises(ValueError, match="6 channels"):
        Level(Conv2d(3, 6, 3), BatchNorm2d(5))
    with pytest.raises(ValueError, match="affine"):
        Level(Conv2d(3, 6, 3), BatchNorm2d(6, affine=False))


# --- the sign traceback's part ---


def test_signs_maximise_s_times_u():
    level = make(norm=False, pool=MaxPool2d(2), bias=True)
    x = torch.randn(3, 3, 8, 8)
    plus, _ = level.infer(x)
    sign = torch.where(torch.rand_like(plus) < 0.5, -1.0, 1.0)
    y, switches = level.infer(x, sign)
    u = level.dictionary(x)
    lowest = -nn.functional.max_pool2d(-u, 2)
    torch.testing.assert_close(y, torch.where(sign > 0, plus, lowest.clamp(max=0)), **TIGHT)
    # The switches are those of a configuration with this value.
    z = torch.randn_like(y)
    gated = Switches(tuple(u.shape[1:]), t=switches.t, window=switches.window)
    place = level.pool.render(z * switches.a, gated)
    torch.testing.assert_close((place * u).sum(), (z * y).sum(), **TIGHT)


def test_a_positive_sign_everywhere_is_the_convnet():
    level = make(pool=MaxPool2d(2)).eval()
    x = torch.randn(3, 3, 8, 8)
    y, switches = level.infer(x)
    again, same = level.infer(x, torch.ones_like(y))
    torch.testing.assert_close(again, y)
    assert torch.equal(switches.a, same.a)
    assert torch.equal(switches.t, same.t)


def test_signs_need_fixed_statistics():
    level = make()
    x = torch.randn(3, 3, 8, 8)
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        level.train().infer(x, torch.ones(3, 6, 6, 6))
