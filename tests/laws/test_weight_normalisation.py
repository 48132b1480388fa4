"""Weight normalisation gives a template's length, a gauge, a coordinate of its own.

Slide "Deriving/Explaining Other Architectures": Weight Normalization. A template drawn twice as long and a unit
half as large give the same picture: the length of a template is a gauge, which a norm, an amplitude or the
templates above can take over. With w = g v/‖v‖ for every template, shared by inference and rendering,

- logits, switches and renderings are what they were, and Law 0 holds;
- the gradient with respect to v is orthogonal to v, for any objective: ‖v‖ is free;
- nothing is lost: ∂/∂w is (∂/∂g) v/‖v‖ plus (‖v‖/g) ∂/∂v, along the gauge and across it.

Control: without it the gradient has a share along w; with batch norm in training that share comes from the
rendering alone, since going up the norm takes every length away again.
"""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from drmm import Objective
from drmm.errors import InputError
from drmm.model.constraints import make_nonnegative, weight_normalise
from drmm.model.presets import PRESETS, build, conv_small
from drmm.rendering import BatchNorm2d, Conv2d, Level, MaxPool2d
from drmm.testing import dot_product_gap, random_net

LAW = 1e-12


def preset(name):
    """A preset whose norms have seen images, in evaluation mode, and images."""
    model, x = build(name, 4, (1, 12, 12), width=4), torch.rand(16, 1, 12, 12)
    with torch.no_grad():
        for _ in range(20):
            model.train()(x)
    return model.eval(), x


def dictionaries(model):
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def along(gradient, weight):
    """The share of a gradient that points along its template, the largest of all templates."""
    gradient, weight = gradient.flatten(1), weight.flatten(1)
    lengths = gradient.norm(dim=1) * weight.norm(dim=1)
    return ((gradient * weight).sum(1).abs() / lengths.clamp(min=1e-300)).max().item()


def loss(model, x):
    """Every term of the objective, with labels and without."""
    y = torch.arange(len(x)) % (model.n_classes + 1) - 1
    return Objective()(model, x, y)["loss"]


@pytest.mark.parametrize("name", PRESETS)
def test_nothing_is_seen_or_drawn_differently(name):
    model, x = preset(name)
    twin = weight_normalise(deepcopy(model))
    torch.testing.assert_close(twin(x), model(x), rtol=LAW, atol=LAW)
    torch.testing.assert_close(twin.reconstruct(x), model.reconstruct(x), rtol=LAW, atol=LAW)
    mine, theirs = model.infer(x), twin.infer(x)
    torch.testing.assert_close(twin.render(theirs), model.render(mine), rtol=LAW, atol=LAW)
    for leaf, other in zip(mine.switches.leaves(), theirs.switches.leaves(), strict=True):
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(leaf.choices(), other.choices(), strict=True))


@pytest.mark.parametrize("seed", range(10))
def test_law_0(seed):
    model = weight_normalise(random_net(seed, signed=(True, True, True)))
    with torch.no_grad():
        for module in dictionaries(model):
            nn.init.normal_(module.parametrizations.weight.original0)
            nn.init.normal_(module.parametrizations.weight.original1)
    assert dot_product_gap(model.levels, torch.randn(2, *model.image_shape)) <= 1e-10


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("training", [False, True])
def test_the_gradient_is_orthogonal_to_v_and_complete(name, training):
    model, x = preset(name)
    twin = weight_normalise(deepcopy(model)).train(training)
    loss(twin, x).backward()
    loss(model.train(training), x).backward()
    for module, free in zip(dictionaries(twin), dictionaries(model), strict=True):
        g, v = module.parametrizations.weight.original0, module.parametrizations.weight.original1
        length = v.flatten(1).norm(dim=1).reshape(g.shape)
        assert along(v.grad, v) <= 1e-10
        torch.testing.assert_close(g.grad * v / length + v.grad * length / g, free.weight.grad, rtol=LAW, atol=LAW)


def test_the_fused_level_learns_as_its_unfused_twin():
    level = Level(Conv2d(2, 3, 3, bias=False), BatchNorm2d(3), MaxPool2d(2)).train()
    nn.utils.parametrizations.weight_norm(level.dictionary)
    gradients = []
    for rendering in (level, level.unfused()):
        torch.manual_seed(1)
        y, switches = rendering.infer(torch.randn(4, 2, 7, 7))
        picture = rendering.render(y * torch.randn(y.shape), switches)
        gradients.append(torch.autograd.grad(y.sum() + picture.square().sum(), list(level.parameters())))
    for fused, slow in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, slow, rtol=1e-10, atol=1e-10)


def test_a_step_along_the_gradient_makes_v_longer():
    """Its length only ever grows, and does not matter."""
    model, x = preset("conv_small")
    weight_normalise(model)
    before = [module.parametrizations.weight.original1.norm().item() for module in dictionaries(model)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss(model, x).backward()
    optimizer.step()
    after = [module.parametrizations.weight.original1.norm().item() for module in dictionaries(model)]
    assert all(b > a for a, b in zip(before, after, strict=True))


def test_saved_weights_fit_a_model_built_alike():
    model, x = preset("conv_small")
    weight_normalise(model)
    other = weight_normalise(build("conv_small", 4, (1, 12, 12), width=4)).eval()
    other.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert torch.equal(other(x), model(x))


def test_not_together_with_the_hard_constraint():
    with pytest.raises(InputError, match="not both"):
        weight_normalise(conv_small(width=2, constraint="hard"))
    with pytest.raises(InputError, match="not both"):
        make_nonnegative(weight_normalise(conv_small(width=2)))
    with pytest.raises(InputError, match="not both"):
        weight_normalise(weight_normalise(conv_small(width=2)))


def test_a_template_of_zeros_is_refused_before_anything_changes():
    model = conv_small(width=2)
    nn.init.zeros_(model.templates.weight)
    with pytest.raises(InputError, match="no direction"):
        weight_normalise(model)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())


@pytest.mark.parametrize("name", PRESETS)
def test_control_free_weights_have_a_share_along_themselves(name):
    model, x = preset(name)
    loss(model, x).backward()
    assert all(along(module.weight.grad, module.weight) > 1e-3 for module in dictionaries(model))


def test_control_batch_norm_removes_the_gauge_going_up_only():
    model, x = preset("conv_small")
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.eps = 0.0
    model.train()
    first = model.levels[0].dictionary.weight
    up = torch.autograd.grad(model(x).logsumexp(1).sum(), first)[0]
    down = torch.autograd.grad(loss(model, x), first)[0]
    assert along(up, first) <= 1e-10
    assert along(down, first) > 1e-3
