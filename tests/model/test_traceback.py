"""The sign traceback as a function: arguments, errors, what it returns. Its law is T17."""

import pytest
import torch
from torch import nn

from drmm import DRMM, lift, sign_traceback
from drmm.model.presets import conv_small, dense
from drmm.model.traceback import _sweep
from drmm.rendering import (
    Abs,
    AdaptiveMaxPool2d,
    BatchNorm2d,
    Clip,
    Conv2d,
    Dropout,
    Flatten,
    Gate,
    Graph,
    Largest,
    LeakyReLU,
    Level,
    Linear,
    LocalLinear,
    Maximum,
    MaxPool2d,
    PReLU,
    ReLU,
    Sequential,
    Step,
)


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


def test_without_sweeps_the_best_class_wins(model, x):
    for top in (None, 2):
        assert torch.equal(sign_traceback(model, x, sweeps=0, top=top).label, model.infer(x).label)


def test_images_do_not_influence_each_other(model, x):
    together = sign_traceback(model, x)
    alone = sign_traceback(model, x[2:3])
    torch.testing.assert_close(together.score[2:3], alone.score)
    torch.testing.assert_close(model.render(together)[2:3], model.render(alone))


def test_a_level_and_its_slow_twin_agree(model, x):
    levels = (level.unfused() if isinstance(level, Level) else level for level in model.levels)
    twin = DRMM(Sequential(*levels), model.templates).eval()
    # Not the same blocks: the twin's pool is chosen after its gate. From one state, both only climb.
    one, other = sign_traceback(model, x, 2), sign_traceback(twin, x, 2)
    start = model.infer(x, 2).score
    torch.testing.assert_close(twin.infer(x, 2).score, start)
    assert (one.score > start).all()
    assert (other.score > start).all()
    torch.testing.assert_close(one.upper_bound, other.upper_bound)


def test_any_net_takes_part():
    model = dense(3, (1, 4, 4), width=8).eval()
    x = torch.randn(20, 1, 4, 4)
    assert (sign_traceback(model, x, 0).score > model.infer(x, 0).score).any()


def test_only_the_best_classes_compete(model):
    x = torch.randn(40, 1, 12, 12)
    bottom_up = model.infer(x)
    everything, one, two = (sign_traceback(model, x, top=k) for k in (None, 1, 2))
    assert torch.equal(one.label, bottom_up.label)
    torch.testing.assert_close(one.score, sign_traceback(model, x, bottom_up.label).score)
    runners = bottom_up.logits.topk(2).indices
    each = torch.stack([sign_traceback(model, x, runners[:, j].clone()).score for j in (0, 1)])
    torch.testing.assert_close(two.score, each.amax(0))
    assert (two.label[:, None] == runners).any(1).all()
    assert (two.label != bottom_up.label).any()
    torch.testing.assert_close(sign_traceback(model, x, top=4).score, everything.score)
    for latents in (one, two):  # no class at all scores higher than this
        torch.testing.assert_close(latents.upper_bound, everything.upper_bound)


@pytest.mark.parametrize("top", [0, 5, -1])
def test_as_many_classes_as_there_are(model, x, top):
    with pytest.raises(ValueError, match=r"top must be from 1 to 4, the number of classes, got"):
        sign_traceback(model, x, top=top)


def test_what_is_no_maximum_keeps_the_convnets_choice():
    x, z = torch.randn(5, 6), torch.randn(5, 6)
    for rendering in (Clip(0, 1), LocalLinear(torch.nn.functional.gelu)):
        y, switches = rendering.infer(x)
        again, new = rendering.reinfer(x, switches, z)
        torch.testing.assert_close(again, y)
        torch.testing.assert_close(rendering.render(z, new), rendering.render(z, switches))


def test_an_image_keeps_what_it_had_where_a_sweep_would_lose():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU6(), nn.Linear(20, 3))
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    model, x = lift(net, image_shape=(1, 2, 3)), torch.randn(200, 1, 2, 3)
    start = model.infer(x, 1)
    assert (_sweep(model, x, start).score < start.score - 1e-3).sum() > 5  # a clip is no maximum
    answer = sign_traceback(model, x, 1)
    assert (answer.score >= start.score).all()
    assert (answer.score > start.score).any()


@pytest.mark.parametrize(
    "rendering",
    [
        ReLU(),
        LeakyReLU(0.2),
        LeakyReLU(1.5),
        LeakyReLU(-0.5),
        PReLU(3),
        Abs(),
        MaxPool2d(2),
        MaxPool2d(3, 2, 1),
        AdaptiveMaxPool2d(2),
        Largest((1,)),
        Largest((1,), keepdim=True),
        Largest((-2, -1)),
        Largest((1,), largest=False),
        Level(Conv2d(3, 4, 3), pool=MaxPool2d(2)),
    ],
    ids=repr,
)
@torch.no_grad()
def test_each_choice_is_the_best_for_what_comes_from_above(rendering):
    x = torch.randn(4, 3, 6, 6)
    y, before = rendering.infer(x)
    z = torch.randn_like(y)
    again, after = rendering.reinfer(x, before, z)
    assert again.shape == y.shape
    assert (z * again >= z * y - 1e-6).all()  # unit by unit
    assert (z * again > z * y + 1e-3).any()
    upwards, same = rendering.reinfer(x, before, torch.zeros_like(z))
    torch.testing.assert_close(upwards, y)
    for (_, one), (_, other) in zip(before.choices(), same.choices(), strict=True):
        assert torch.equal(one, other)
    if not isinstance(rendering, Level):  # which has biases
        # The reported features are those of the reported switches.
        match = (rendering.render(z, after) * x).flatten(1).sum(1)
        torch.testing.assert_close(match, (z * again).flatten(1).sum(1))


@pytest.mark.parametrize("largest", [True, False])
@torch.no_grad()
def test_which_of_two_branches(largest):
    graph = Graph(
        {"flip": Linear(6, 6), "join": Maximum(largest=largest)}, [Step("flip", (0,)), Step("join", (0, 1))], 2
    )
    x, z = torch.randn(5, 6), torch.randn(5, 6)
    y, before = graph.infer(x)
    z[:, 3:] = 0
    again, after = graph.reinfer(x, before, z)
    branches = torch.stack([x, graph.operations["flip"](x)])
    torch.testing.assert_close(z * again, (z * branches).amax(0))
    torch.testing.assert_close(again[:, 3:], y[:, 3:])  # nothing comes down: the convnet's choice
    torch.testing.assert_close(torch.where(after.parts[1].a, branches[0], branches[1]), again)


def test_dropped_units_stay_dropped():
    drop = Dropout(0.5)
    x = torch.randn(8, 50)
    y, switches = drop.infer(x)
    again, same = drop.reinfer(x, switches, torch.randn(8, 50))
    torch.testing.assert_close(again, y)
    assert torch.equal(same.kept, switches.kept)


def test_norms_outside_a_level_need_fixed_statistics():
    model = DRMM(Sequential(Conv2d(1, 2, 3), BatchNorm2d(2), ReLU(), Flatten()), Linear(200, 3))
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        sign_traceback(model, torch.randn(2, 1, 12, 12))
    sign_traceback(model.eval(), torch.randn(2, 1, 12, 12))


def test_a_rendering_of_your_own_takes_part():
    class Larger(Gate):
        """Of x and 2x."""

        slopes = (1.0, 2.0)

        def choose(self, x):
            return x > 0

    model = DRMM(Sequential(Flatten(), Larger()), Linear(4, 2, bias=False))
    x = torch.randn(6, 1, 2, 2)
    weighted = model.templates.weight[0] * x.flatten(1)
    torch.testing.assert_close(sign_traceback(model, x, 0).score, torch.maximum(weighted, 2 * weighted).sum(1))
    assert (model.infer(x, 0).score < sign_traceback(model, x, 0).score).all()


def test_batch_statistics_are_refused(model, x):
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        sign_traceback(model.train(), x)


def test_levels_without_norms_need_no_mode():
    model = DRMM(Sequential(Level(Conv2d(1, 2, 3)), Flatten()), Linear(200, 3))
    x = torch.randn(2, 1, 12, 12)
    latents = sign_traceback(model.train(), x)
    assert model.training
    torch.testing.assert_close(latents.upper_bound, model.eval().upper_bound(x).amax(1))


def test_nothing_is_recorded_for_backprop(model, x):
    assert not sign_traceback(model, x).score.requires_grad
