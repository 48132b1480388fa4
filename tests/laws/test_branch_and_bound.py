"""Certificates between 0 and 100 %: linear bounds, and branching to the joint MAP of nets of any signs.

No slide has it: max-sum inference is exact for non-negative templates only, and the two-message bound of a signed
net lets each unit choose the switches below for itself. Lines that are pushed down to the pixels share them. Their
bound never lies below the maximum over all configurations, found by brute force, nor above that of two messages.
With every unit that is held at one choice after the other it falls to the maximum itself, configuration and all.

Controls: lines that lie below their gates bound nothing; neither two messages nor lines alone prove every image.
"""

import pytest
import torch
from bounded_nets import EVERY, bounded_net
from hypothesis import given, settings
from hypothesis import strategies as st

from drmm import branch_and_bound, sign_traceback
from drmm.rendering import Gate
from drmm.testing import enumerate_configurations, random_net

SIGNED = [(True, True, True), (True, True, False), (True, True, True, True)]
ROUNDING = 1e-9
TO_THE_END = 10_000


def drawn(seed, signed=(True, True, True), limit=4000):
    generator = torch.Generator().manual_seed(seed)
    model = random_net(generator, signed=signed, limit=limit)
    return model, torch.randn(2, *model.image_shape, generator=generator)


def assert_encloses(model, x, budget):
    """The bound of every class against brute force and two messages; the score is that of its configuration."""
    truth, messages = enumerate_configurations(model, x, limit=300_000).score, model.upper_bound(x)
    slack = ROUNDING * (1 + truth.abs())
    for c in range(model.n_classes):
        latents = branch_and_bound(model, x, c, budget=budget)
        assert (latents.label == c).all()
        assert (latents.upper_bound >= truth[:, c] - slack[:, c]).all()
        assert (latents.upper_bound <= messages[:, c] + slack[:, c]).all()
        assert (latents.score <= truth[:, c] + slack[:, c]).all()
        paths = model.sum_over_paths(x, latents)
        torch.testing.assert_close(latents.logits[:, c], latents.score)
        torch.testing.assert_close(paths.pixels.flatten(1).sum(1) + paths.bias, latents.score)
        if budget == TO_THE_END:
            torch.testing.assert_close(latents.upper_bound, truth[:, c], rtol=ROUNDING, atol=ROUNDING)
            assert latents.certified(ROUNDING).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), signed=st.sampled_from(SIGNED), budget=st.sampled_from((0, 1, 3)))
def test_a_bound_lies_between_the_joint_map_and_two_messages(seed, signed, budget):
    assert_encloses(*drawn(seed, signed), budget)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), signed=st.sampled_from(SIGNED))
def test_branching_to_the_end_is_brute_force(seed, signed):
    model, x = drawn(seed, signed)
    truth, found = enumerate_configurations(model, x), branch_and_bound(model, x, budget=TO_THE_END)
    best = truth.score.amax(1)
    torch.testing.assert_close(found.score, best, rtol=ROUNDING, atol=ROUNDING)
    torch.testing.assert_close(found.upper_bound, best, rtol=ROUNDING, atol=ROUNDING)
    torch.testing.assert_close(truth.score.gather(1, found.label[:, None])[:, 0], best)


@pytest.mark.parametrize("budget", [0, TO_THE_END])
@pytest.mark.parametrize("case", EVERY)
@torch.no_grad()
def test_of_every_kind_of_rendering(case, budget):
    torch.manual_seed(case)
    model = bounded_net(case, 2)
    assert_encloses(model, torch.randn(2, 1, 3, 3), budget)


def proved(find, nets=10, signed=(True, True, True, True)):
    shares = [find(*drawn(seed, signed)).certified(ROUNDING) for seed in range(nets)]
    return float(torch.cat(shares).double().mean())


def test_it_proves_what_two_messages_cannot():
    """Which is also the control: neither the traceback nor lines alone are enough."""
    shares = [
        proved(lambda model, x: model.infer(x)),
        proved(sign_traceback),
        proved(lambda model, x: branch_and_bound(model, x, budget=0)),
        proved(lambda model, x: branch_and_bound(model, x, budget=1000)),
    ]
    assert shares == sorted(shares)
    assert shares[0] < 0.2 < shares[1] < 0.4 < shares[2] < 0.8
    assert shares[3] == 1


@torch.no_grad()
def test_nonnegative_nets_need_no_branching():
    for seed in range(10):
        model, x = drawn(seed, (True, False, False))
        found = branch_and_bound(model, x, budget=0)
        torch.testing.assert_close(found.score, model.infer(x).score, rtol=1e-12, atol=1e-12)
        assert found.certified(1e-12).all()


def test_control_lines_below_their_gates_bound_nothing(monkeypatch):
    line = Gate.line
    monkeypatch.setattr(Gate, "line", lambda self, z, *others: -line(self, -z, *others))
    below = 0
    for seed in range(10):
        model, x = drawn(seed)
        truth = enumerate_configurations(model, x).score.amax(1)
        below += int((branch_and_bound(model, x, budget=0).upper_bound < truth - 1e-6).sum())
    assert below > 0
