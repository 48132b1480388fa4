"""Gates, dropout and norms: the values of torch's layers, and the switches that say how they came about."""

import pytest
import torch
from torch import nn

from drmm.rendering import Abs, BatchNorm1d, BatchNorm2d, Dropout, LeakyReLU, PReLU, ReLU
from drmm.testing import check_rendering

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def test_relu_is_on_where_positive_and_off_at_zero():
    x = torch.tensor([[-1.0, 0.0, 2.0, -0.0]])
    y, switches = ReLU().infer(x)
    assert y.tolist() == [[0, 0, 2, 0]]
    assert switches.a.tolist() == [[False, False, True, False]]
    assert ReLU().render(torch.ones(1, 4), switches).tolist() == [[0, 0, 1, 0]]


def test_zero_is_off_where_autograd_says_so():
    x = torch.zeros(3, requires_grad=True)
    x.relu().sum().backward()
    assert torch.equal(x.grad, torch.zeros(3))


def test_leaky_relu_weakens_what_is_off():
    x = torch.randn(3, 5)
    module = LeakyReLU(0.2)
    y, switches = module.infer(x)
    torch.testing.assert_close(y, nn.LeakyReLU(0.2)(x))
    torch.testing.assert_close(module.render(torch.ones(3, 5), switches), torch.where(x > 0, 1.0, 0.2))


def test_abs_gives_the_sign_back():
    x = torch.randn(3, 5)
    y, switches = Abs().infer(x)
    torch.testing.assert_close(y, x.abs())
    torch.testing.assert_close(Abs().render(y, switches), x)


def test_in_place_gates_leave_the_input_alone():
    x = torch.randn(3, 5)
    before = x.clone()
    for module in (ReLU(inplace=True), LeakyReLU(inplace=True)):
        module.infer(x)
        assert torch.equal(x, before)


# --- dropout ---


def test_dropout_shares_its_mask_and_keeps_the_mean():
    module = Dropout(0.25)
    x = torch.ones(4, 10_000)
    y, switches = module.infer(x)
    assert set(y.unique().tolist()) == {0.0, 1 / 0.75}
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(module.render(x, switches), y)
    assert list(switches.leaves()) == []  # missing at random: not chosen, no prior


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_of_nothing_and_of_everything(p):
    y, switches = Dropout(p).infer(torch.ones(2, 3))
    assert torch.equal(y, torch.full((2, 3), 1 - p))
    assert torch.equal(Dropout(p).render(torch.ones(2, 3), switches), y)


def test_dropout_is_off_in_evaluation():
    module, x = Dropout(0.5).eval(), torch.randn(2, 3)
    y, switches = module.infer(x)
    assert torch.equal(y, x)
    assert torch.equal(module.render(x, switches), x)


def test_forward_and_infer_draw_alike():
    module, x = Dropout(0.5), torch.randn(20, 3)
    torch.manual_seed(1)
    one = module(x)
    torch.manual_seed(1)
    assert torch.equal(one, module.infer(x)[0])


# --- norms ---


@pytest.mark.parametrize(
    ("kind", "shape"), [(BatchNorm2d, (6, 3, 4, 5)), (BatchNorm1d, (6, 3, 7)), (BatchNorm1d, (6, 3))]
)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}])
def test_norms_are_torchs(kind, shape, training, options):
    ours = kind(3, **options).train(training)
    theirs = getattr(nn, kind.__name__)(3, **options).train(training)
    for _ in range(2):
        x = torch.randn(shape)
        y, switches = ours.infer(x)
        torch.testing.assert_close(y, theirs(x), **TIGHT)
        # What the norm multiplies a difference by is what rendering multiplies a template by.
        scale = ours.render(torch.ones_like(x), switches)
        torch.testing.assert_close((y - y[:1]), scale * (x - x[:1]), rtol=1e-9, atol=1e-9)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other, **TIGHT)


def test_a_norm_needs_its_own_switches():
    switches = ReLU().infer(torch.randn(2, 3, 4, 4))[1]
    with pytest.raises(ValueError, match="hold no gain"):
        BatchNorm2d(3).render(torch.randn(2, 3, 4, 4), switches)


def test_the_statistics_are_frozen_in_the_g_step():
    module, x = BatchNorm2d(3), torch.randn(4, 3, 5, 5, requires_grad=True)
    y, switches = module.infer(x)
    (template,) = torch.autograd.grad(module.render(torch.ones_like(y), switches).sum(), x, allow_unused=True)
    assert template is None


@pytest.mark.parametrize(
    "gate",
    [ReLU(), ReLU(inplace=True), LeakyReLU(0.2), LeakyReLU(-0.5), LeakyReLU(1.5), PReLU(3), Abs(), Dropout(0.5)],
    ids=str,
)
def test_the_laws_hold(gate):
    check_rendering(gate.double(), torch.randn(2, 3, 4, dtype=torch.float64))
