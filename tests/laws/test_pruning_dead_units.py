"""Neurons that are never on can be cut out: every logit stays what it is.

Slide "Summary of Theory" (synaptic pruning), with "only active paths matter": a neuron whose switch is off for
every image and place lies on no active path. Pruning by P(on) finds these first, and nothing changes but the size,
whether the norms are measured afresh or not. Control: cutting out as many others, though what they contributed is
taken over as far as the rest can say it, changes logits at least a million times more. A neuron that is always
equally on is a bias: it can be cut out too, where its mean is taken over, and only there.
"""

import pytest
import torch
from torch import nn

from drmm import DRMM, lift
from drmm.model.presets import conv_large, conv_small, dense
from drmm.pruning.prune import Pruner
from drmm.rendering import AdaptiveAvgPool2d, Conv2d, Flatten, Level, Linear, Sequential

DEAD = 2  # of each level


def torch_net():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 9, 7),
        nn.BatchNorm1d(7),
        nn.ReLU(),
        nn.Linear(7, 4),
    )


NETS = {
    "conv_small": lambda constraint: conv_small(4, (1, 12, 12), width=5, constraint=constraint),
    "conv_large": lambda constraint: conv_large(4, (1, 12, 12), width=4, depth=5, constraint=constraint),
    "dense": lambda constraint: dense(5, (1, 12, 12), width=9, constraint=constraint),
}
CASES = [(name, constraint) for name in NETS for constraint in ("soft", "hard", "weight_norm")]


def images(n=24):
    return torch.rand(n, 1, 12, 12)


def norm_biases(model):
    norms = [m for m in model.levels.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    return [norm.bias for norm in norms]


def with_dead_units(model, biases, x):
    """Some neurons of each level are never on, the others often; returns their places."""
    places = []
    for bias in biases:
        bias.uniform_(0.2, 1)
        dead = torch.randperm(len(bias))[:DEAD]
        bias[dead] = -1e4
        places.append(dead.sort().values)
    model.calibrate([x])
    model.eval()
    return places


def check(model, x, places):
    pruner = Pruner(model, x)
    for on, dead in zip(pruner.on, places, strict=True):
        assert (on == 0).nonzero().flatten().tolist() == dead.tolist()
    counts = [len(on) - DEAD for on in pruner.on]
    pruned = pruner.prune(counts, recalibrate=False)
    for index, dead in zip(pruned.kept, places, strict=True):
        assert set(index.tolist()).isdisjoint(dead.tolist())
    harmless = max(worst(pruned.model, model, part) for part in (x, images()))  # images it has not seen, too
    assert harmless <= 1e-9
    control = pruner.prune(counts, criterion="random", recalibrate=False)
    assert any(not torch.equal(a, b) for a, b in zip(control.kept, pruned.kept, strict=True))
    assert worst(control.model, model, x) >= 1e6 * max(harmless, 1e-12)


def worst(smaller, model, x):
    """Largest change of a logit, as a share of how much logits vary."""
    return float((smaller(x) - model(x)).abs().max() / model(x).std())


@pytest.mark.parametrize(("name", "constraint"), CASES)
@torch.no_grad()
def test_presets(name, constraint):
    model, x = NETS[name](constraint), images()
    check(model, x, with_dead_units(model, norm_biases(model), x))


@torch.no_grad()
def test_a_torch_net():
    net, x = torch_net(), images()
    model = lift(net, image_shape=(1, 12, 12))
    check(model, x, with_dead_units(model, [net[1].bias, net[4].bias, net[8].bias], x))


@torch.no_grad()
def test_with_norms_measured_afresh():
    model, x = NETS["conv_small"]("soft"), images()
    with_dead_units(model, norm_biases(model), x)
    model.calibrate([2 * x])
    pruner = Pruner(model, x)
    sizes = [len(on) for on in pruner.on]
    whole, smaller = (pruner.prune(keep).model for keep in (sizes, [size - DEAD for size in sizes]))
    assert worst(smaller, whole, x) <= 1e-9
    assert worst(smaller, model, x) >= 1e-2  # afresh indeed


@torch.no_grad()
def test_what_is_always_equally_on_is_a_bias():
    levels = Sequential(Level(Conv2d(1, 5, 3)), Level(Conv2d(5, 6, 3)), AdaptiveAvgPool2d(1), Flatten())
    model = DRMM(levels, Linear(6, 4), image_shape=(1, 12, 12)).eval()
    x = images()
    for level, constant in zip(levels.renderings, (2.0, 3.0), strict=False):
        level.dictionary.weight[1] = 0
        level.dictionary.bias[1] = constant
    counts, pruner = [4, 5], Pruner(model, x)
    score = tuple(torch.arange(len(on)) != 1 for on in pruner.on)
    pruner.contribution = tuple(values.double() for values in score)  # leave out number 1 of each
    taken_over = pruner.prune(counts, criterion="contribution")
    assert all(1 not in index for index in taken_over.kept)
    assert (taken_over.model(x) - model(x)).abs().max() <= 1e-12
    lost = pruner.prune(counts, criterion="contribution", absorb=False).model
    assert (lost(x) - model(x)).abs().max() >= 1e-2
