"""Robustness for free: where a margin is proved no attack within the radius changes the class.

No slide has it: the score of a net whose upper templates are non-negative is the largest of many linear functions
of the pixels, so that its active paths bound it from below for every other picture. The proved margin is that of
the net itself at radius 0, exact in a net without switches, never less than that of plain intervals, and never
above what an attack by projected gradient ascent reaches.

Controls: attacks succeed where nothing is proved; paths alone, without the chords of the other classes, prove what
an attack refutes.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drmm import DRMM, lift, robust_margin
from drmm.model.presets import dense
from drmm.rendering import (
    Abs,
    AvgPool2d,
    Conv2d,
    Flatten,
    Gate,
    LeakyReLU,
    Linear,
    MaxPool2d,
    PReLU,
    ReLU,
    Sequential,
)
from drmm.testing import random_net

NORMS = ["linf", "l2"]


def attacked(model, x, label, radius, norm, steps=30):
    """The smallest margin that projected gradient steps from three starts reach in the ball, (N,)."""
    order, least = 1 if norm == "linf" else 2, margin(model, x, label)
    for _ in range(3):
        change = within(torch.randn_like(x) * radius, radius, norm)
        for _ in range(steps):
            change.requires_grad_()
            reached = margin(model, x + change, label)
            slope = torch.autograd.grad(-reached.sum(), change)[0]
            least = torch.minimum(least, reached.detach())
            size = slope.flatten(1).norm(dim=1)[:, None, None, None].clamp(min=1e-12)
            step = slope.sign() if order == 1 else slope / size
            change = within(change.detach() + radius / 5 * step, radius, norm)
    return least


def within(change, radius, norm):
    if norm == "linf":
        return change.clamp(-radius, radius)
    size = change.flatten(1).norm(dim=1)[:, None, None, None]
    return change * (radius / size.clamp(min=1e-12)).clamp(max=1)


def margin(model, x, label):
    logits = model(x)
    own = logits.gather(1, label[:, None])
    return (own - logits.scatter(1, label[:, None], -torch.inf)).amin(1)


def drawn(seed, signed=(True, False, False)):
    generator = torch.Generator().manual_seed(seed)
    model = random_net(generator, signed=signed)
    x = torch.randn(4, *model.image_shape, generator=generator)
    return model, x, model(x).argmax(1)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    signed=st.sampled_from([(True, False, False), (True, True, True), (True, False, False, False)]),
    radius=st.sampled_from([0.01, 0.1, 0.5, 2.0]),
    norm=st.sampled_from(NORMS),
)
def test_no_attack_reaches_what_is_proved(seed, signed, radius, norm):
    model, x, label = drawn(seed, signed)
    proved = robust_margin(model, x, label, radius, norm)
    assert (attacked(model, x, label, radius, norm, steps=12) >= proved - 1e-9).all()


def of_every_kind():
    yield Sequential(Conv2d(1, 3, 2), Abs(), MaxPool2d(2, 1), Conv2d(3, 4, 2), LeakyReLU(0.2), Flatten()), 4
    yield Sequential(Conv2d(1, 3, 2), LeakyReLU(-0.5), AvgPool2d(2, 1), Flatten(), Linear(12, 5), PReLU()), 5
    yield Sequential(Flatten(), Linear(16, 6), LeakyReLU(1.5), Linear(6, 6), ReLU(), Linear(6, 5), Abs()), 5
    yield Sequential(MaxPool2d(3, 1, 1), Conv2d(1, 3, 3, padding=1), ReLU(), MaxPool2d(2), Flatten()), 12


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("case", range(4))
def test_of_every_kind_of_rendering(case, norm):
    torch.manual_seed(case)
    levels, features = list(of_every_kind())[case]
    model = DRMM(levels, Linear(features, 3), image_shape=(1, 4, 4)).eval()
    x = torch.randn(6, 1, 4, 4)
    label = model(x).argmax(1)
    for radius in (0.02, 0.3):
        proved = robust_margin(model, x, label, radius, norm)
        assert (attacked(model, x, label, radius, norm) >= proved - 1e-9).all()
        assert (proved > margin(model, x, label) - 100 * radius).all()  # not merely minus infinity


def test_through_branches():
    class Skip(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner, self.top = (torch.nn.Linear(*sizes) for sizes in ((9, 6), (6, 6), (6, 3)))

        def forward(self, x):
            y = self.first(x.flatten(1)).relu()
            return self.top(y + self.inner(y).relu())

    torch.manual_seed(0)
    model, x = lift(Skip().eval(), image_shape=(1, 3, 3)), torch.randn(5, 1, 3, 3)
    label = model(x).argmax(1)
    for norm in NORMS:
        proved = robust_margin(model, x, label, 0.05, norm)
        assert (attacked(model, x, label, 0.05, norm) >= proved - 1e-9).all()
        assert (proved > 0).any()


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_moves_at_radius_0(norm):
    for seed in range(5):
        model, x, label = drawn(seed, (True, True, True))
        torch.testing.assert_close(robust_margin(model, x, label, 0.0, norm), margin(model, x, label))


@torch.no_grad()
def test_it_is_exact_without_switches():
    model = DRMM(Sequential(Flatten()), Linear(9, 2), image_shape=(1, 3, 3))
    x, difference = torch.randn(4, 1, 3, 3), model.templates.weight[0] - model.templates.weight[1]
    for norm, size in zip(NORMS, (difference.abs().sum(), difference.norm()), strict=True):
        expected = model(x)[:, 0] - model(x)[:, 1] - 0.3 * size
        torch.testing.assert_close(robust_margin(model, x, 0, 0.3, norm), expected)


def test_the_farther_the_less_and_a_ball_fits_into_its_cube():
    model, x, label = drawn(3)
    cube, ball = (
        torch.stack([robust_margin(model, x, label, radius, norm) for radius in (0, 0.05, 0.1, 0.5)])
        for norm in NORMS
    )
    assert (cube.diff(dim=0) <= 1e-9).all()
    assert (ball.diff(dim=0) <= 1e-9).all()
    assert (ball >= cube - 1e-9).all()
    assert (ball > cube + 1e-3).any()


@torch.no_grad()
def test_never_less_than_intervals_and_mostly_more():
    torch.manual_seed(0)
    model = dense(3, (1, 4, 4), width=8).eval()
    x = torch.randn(20, 1, 4, 4)
    label, difference = model(x).argmax(1), []
    for radius in (0.05, 0.2):
        lower = upper = None
        for layer in model.levels:  # plain intervals, by hand
            lower, upper = (x - radius, x + radius) if lower is None else (lower, upper)
            ends = (layer(lower), layer(upper)) if not isinstance(layer, Linear) else layer.bounds(lower, upper)
            lower, upper = torch.minimum(*ends), torch.maximum(*ends)
        z = model.templates.weight - model.templates.weight[label][:, None]
        worst = torch.einsum("nck,nk->nc", z.clamp(min=0), upper) + torch.einsum(
            "nck,nk->nc", z.clamp(max=0), lower
        )
        worst += model.templates.bias - model.templates.bias[label][:, None]
        plain = -worst.scatter(1, label[:, None], -torch.inf).amax(1)
        difference.append(robust_margin(model, x, label, radius) - plain)
    assert (torch.stack(difference) >= -1e-9).all()
    assert (torch.stack(difference) > 1e-3).double().mean() > 0.9


def test_control_attacks_succeed_where_nothing_is_proved():
    broken = 0
    for seed in range(10):
        model, x, label = drawn(seed)
        broken += int((attacked(model, x, label, 1.0, "linf") < 0).sum())
    assert broken > 5


def test_control_paths_alone_prove_too_much(monkeypatch):
    monkeypatch.setattr(Gate, "line", lambda self, z, x, low, high, own: z * self.render(x, own))
    refuted = 0
    for seed in range(20):
        model, x, label = drawn(seed)
        proved = robust_margin(model, x, label, 0.5)
        refuted += int((attacked(model, x, label, 0.5, "linf") < proved - 1e-6).sum())
    assert refuted > 0
