"""Pruning: what is measured, what is removed, what the rest takes over, and what cannot be pruned."""

import itertools

import pytest
import torch
from scipy.optimize import nnls
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import l1_unstructured, ln_structured

from drmm import DRMM, lift, prune
from drmm.errors import InputError
from drmm.model.constraints import is_nonnegative, make_nonnegative, weight_normalise
from drmm.model.presets import PRESETS, build, conv_small
from drmm.pruning.chain import _nonnegative
from drmm.pruning.prune import Pruner, prune_synapses, synapse_probability
from drmm.rendering import BatchNorm2d, Conv2d, Flatten, LeakyReLU, Level, Linear, MaxPool2d, ReLU, Sequential
from drmm.storage.models import Recipe, load_model, save_model

SHAPE = (1, 12, 12)
CONSTRAINTS = ("soft", "hard", "weight_norm")


@pytest.fixture
def x():
    return torch.rand(16, *SHAPE)


def ready(model, x):
    """Norms that know the images, and biases that leave some neurons on more often than others."""
    with torch.no_grad():
        for module in model.levels.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.bias.normal_()
        model.calibrate([x])
    return model.eval()


def small_net(x, *, pool=True, width=5):
    """Two levels, then class templates that know about places."""
    below = Level(Conv2d(1, 4, 3), BatchNorm2d(4), MaxPool2d(2) if pool else None)
    side = 3 if pool else 8
    above = Level(Conv2d(4, width, 3, padding=0), BatchNorm2d(width))
    return ready(DRMM(Sequential(below, above, Flatten()), Linear(width * side**2, 3), image_shape=SHAPE), x)


def torch_net():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding="same", dilation=2),
        nn.PReLU(6),
        nn.BatchNorm2d(6),
        nn.AvgPool2d(2),
        nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.LeakyReLU(0.1), nn.Dropout2d(0.2)),
        nn.Flatten(),
        nn.BatchNorm1d(72, affine=False),
        nn.Linear(72, 9, bias=False),
        nn.PReLU(),
        nn.Linear(9, 4, bias=False),
    )


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def parametrised(model):
    return {name for name, module in model.named_modules() if parametrize.is_parametrized(module)}


# --- what is measured ---


def test_probability_on_is_how_often_max_sum_chooses_it(x):
    model = small_net(x)
    switches = model.infer(x).switches.parts
    for on, part in zip(Pruner(model, x).on, switches, strict=False):
        torch.testing.assert_close(on, part.a.float().mean((0, 2, 3)))
        assert on.std() > 0.01


def test_a_pooled_neuron_counts_where_it_is_chosen(x):
    """Level by level or layer by layer, with the pool before or after the gate: the same neurons are on."""
    conv, norm, pool = Conv2d(1, 4, 3), BatchNorm2d(4), MaxPool2d(2)
    top = Linear(100, 3)
    orders = [(Level(conv, norm, pool),), (conv, norm, ReLU(), pool), (conv, norm, pool, ReLU())]
    models = [DRMM(Sequential(*atoms, Flatten()), top, image_shape=SHAPE) for atoms in orders]
    ready(models[0], x)
    first, *others = [Pruner(model.eval(), x) for model in models]
    for other in others:
        torch.testing.assert_close(other.on, first.on)
        torch.testing.assert_close(other.contribution, first.contribution)


def test_neurons_without_a_switch_are_always_on(x):
    model = DRMM(Sequential(Conv2d(1, 4, 3), Flatten(), Linear(400, 5), ReLU()), Linear(5, 3), image_shape=SHAPE)
    on = Pruner(model.eval(), x).on
    assert torch.equal(on[0], torch.ones(4))
    assert (on[1] < 1).any()


def test_contributions_are_shares_of_the_score(x):
    model = small_net(x)
    latents = model.infer(x)
    templates = model.levels.render_levels(model.templates.weight[latents.label], latents.switches)
    y = x
    for i, (level, found) in enumerate(zip(model.levels.renderings, Pruner(model, x).contribution, strict=False)):
        y = level(y)
        flow = (y * templates[i + 1]).sum((2, 3))
        torch.testing.assert_close(found, flow.abs().mean(0))
    # At the top, the shares of one image add up to its score but for the classes' own bias.
    torch.testing.assert_close(flow.sum(1), latents.score - model.templates.bias[latents.label])


@pytest.mark.parametrize("pool", [True, False])
def test_a_synapse_is_on_where_both_ends_are(x, pool):
    model = small_net(x[:3], pool=pool)
    (found,) = synapse_probability(model, x[:3])
    below, above = model.infer(x[:3]).switches.parts[:2]
    on = below.a.float()
    counted = torch.zeros_like(found)
    places = above.a.shape[-1]
    for row, column in itertools.product(range(places), repeat=2):
        patch = on[:, None, :, row : row + 3, column : column + 3]
        counted += (above.a[:, :, row, column, None, None, None] * patch).sum(0)
    torch.testing.assert_close(found, counted / (3 * places**2))
    assert found.std() > 0.01


def test_a_pooled_synapse_is_on_at_the_chosen_place(x):
    """Neurons above with one place each: a synapse is on where what it reaches from the chosen place is on."""
    below = Level(Conv2d(1, 2, 3))
    above = Level(Conv2d(2, 3, 5), None, MaxPool2d(6))
    model = DRMM(Sequential(below, above, Flatten()), Linear(3, 3), image_shape=SHAPE).eval()
    (found,) = synapse_probability(model, x[:2])
    lower, upper = model.infer(x[:2]).switches.parts[:2]
    counted = torch.zeros_like(found)
    for n, channel in itertools.product(range(2), range(3)):
        row, column = divmod(int(upper.t[n, channel, 0, 0]), 6)
        counted[channel] += upper.a[n, channel, 0, 0] * lower.a[n, :, row : row + 5, column : column + 5]
    torch.testing.assert_close(found, counted / 2)


def test_synapses_of_layers_are_those_of_levels(x):
    conv, norm, pool = Conv2d(4, 5, 3), BatchNorm2d(5), MaxPool2d(2)
    orders = [(Level(conv, norm, pool),), (conv, norm, ReLU(), pool), (conv, norm, pool, ReLU())]
    below, top = Level(Conv2d(1, 4, 3), BatchNorm2d(4)), Linear(80, 3)
    models = [DRMM(Sequential(below, *atoms, Flatten()), top, image_shape=SHAPE) for atoms in orders]
    ready(models[0], x)
    first, *others = [synapse_probability(model.eval(), x)[0] for model in models]
    assert first.std() > 0.01
    for other in others:
        torch.testing.assert_close(other, first)


# --- what is removed ---


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_under_every_constraint(name, constraint, x, tmp_path):
    depth = 4 if name == "conv_large" else None
    model = ready(build(name, 3, SHAPE, width=6, depth=depth, constraint=constraint), x)
    before = state(model)
    pruned = prune(model, x, 0.5)
    assert same(state(model), before)
    assert pruned.channels == tuple(len(on) // 2 for on in pruned.on)
    for index, on in zip(pruned.kept, pruned.on, strict=True):
        assert on[index].min() >= on.sort().values[len(on) // 2 :].min()
    smaller = pruned.model
    assert smaller.reconstruct(x).shape == x.shape
    assert smaller.sample(2).isfinite().all()
    latents = smaller.infer(x)
    assert smaller.log_joint(x, latents).isfinite().all()
    assert latents.certified().all() == (constraint == "hard")
    mine, theirs = (
        {n for n, m in net.named_modules() if parametrize.is_parametrized(m)} for net in (smaller, model)
    )
    assert mine == theirs
    assert sum(p.numel() for p in smaller.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())
    recipe = Recipe(name, SHAPE, ("a", "b", "c"), constraint, depth=depth, channels=pruned.channels)
    save_model(smaller, recipe, tmp_path)
    again, read = load_model(tmp_path)
    assert read == recipe
    torch.testing.assert_close(again(x), smaller(x))


def test_what_is_measured_afresh_and_what_stays(x):
    model = small_net(x)
    model.class_prior.copy_(torch.tensor([0.5, 0.3, 0.2]))
    pruned = prune(model, x, 0.5).model
    assert torch.equal(pruned.class_prior, model.class_prior)
    for leaf, on in enumerate(Pruner(pruned, x).on):
        torch.testing.assert_close(pruned.prior.probability(leaf, "a").mean((1, 2)), on)
    residual = x - pruned.picture(pruned.infer(x))
    torch.testing.assert_close(pruned.noise, residual.square().mean().detach())
    unknown = DRMM(model.levels, model.templates)  # it knows no shape, so that it has no prior to measure
    unknown.noise.fill_(0.25)
    unknown.amplitude.fill_(7)
    smaller = prune(unknown, x, 0.5).model
    assert (float(smaller.noise), float(smaller.amplitude)) == (0.25, 7)


def test_a_normalised_template_of_zeros_stays_one(x):
    model = ready(conv_small(3, SHAPE, width=4, constraint="weight_norm"), x)
    with torch.no_grad():
        model.templates.parametrizations.weight.original0[1] = 0
    smaller = prune(model, x, 0.5).model
    assert (smaller.templates.weight[1] == 0).all()
    assert smaller(x).isfinite().all()


def test_a_lifted_net(x):
    net = torch_net()
    nn.init.uniform_(net[1].weight)
    model = lift(net, image_shape=SHAPE).eval()
    pruned = prune(model, x, [3, 5, 4])
    assert pruned.channels == (3, 5, 4)
    assert [p.shape[0] for p in pruned.model.parameters() if p.ndim > 1] == [3, 5, 4, 4]
    assert pruned.model(x).shape == (16, 4)
    assert pruned.model.reconstruct(x).shape == x.shape
    assert net[0].weight.shape == (6, 1, 3, 3)
    whole = prune(model, x, 1.0, recalibrate=False).model
    torch.testing.assert_close(whole(x), net.eval()(x))


def test_shares(x):
    model = small_net(x)
    assert [prune(model, x, keep).channels for keep in (1, 0.5, 0.3, 1e-9)] == [(4, 5), (2, 2), (1, 2), (1, 1)]
    pruner = Pruner(model, x)
    pruner.on = (torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0.5, 0.75, 0.1, 0.2, 0.3]))
    assert pruner.prune(0.4, scope="net").channels == (3, 1)
    assert [index.tolist() for index in pruner.prune(0.5, scope="net").kept] == [[0, 1, 2], [1]]
    assert pruner.prune(0.25, scope="net").channels == (2, 1)  # no level loses its last one


def test_one_map_for_each_class_stays(x):
    model = ready(build("conv_large", 3, SHAPE, width=4), x)
    pruned = prune(model, x, 0.25)
    assert pruned.channels == (1, 1, 1, 2, 2, 2, 2, 2, 3)
    assert prune(model, x, 0.25, scope="net").channels[-1] == 3


def test_magnitude_is_torchs(x):
    model = small_net(x)
    pruned = prune(model, x, 0.5, criterion="magnitude")
    for level, index in zip(model.levels.renderings, pruned.kept, strict=False):
        twin = nn.Conv2d(1, 1, 1)
        twin.weight = nn.Parameter(level.dictionary.weight.detach().clone())
        ln_structured(twin, "weight", amount=len(twin.weight) - len(index), n=2, dim=0)
        assert index.tolist() == twin.weight_mask.flatten(1).any(1).nonzero().flatten().tolist()


def test_random_is_drawn_from_the_seed(x):
    model = conv_small(3, SHAPE, width=8).eval()
    draws = [prune(model, x, 0.5, criterion="random", seed=seed).kept[0].tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


# --- what the rest takes over ---


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@torch.no_grad()
def test_a_twin_can_go(x, constraint):
    """Of two equal neurons, the one that stays does the work of both."""
    model = ready(conv_small(3, SHAPE, width=4, depth=2, constraint="soft"), x)
    level = model.levels.renderings[0]
    for tensor in (level.dictionary.weight, level.norm.weight, level.norm.bias):
        tensor[1] = tensor[0]
    model.calibrate([x])
    model = constrained(model, constraint).eval()
    pruner = Pruner(model, x)
    pruner.contribution = (torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.ones(8))
    options = {"criterion": "contribution", "recalibrate": False}
    taken, lost = (pruner.prune([3, 8], absorb=absorb, **options).model for absorb in (True, False))
    error, other = (float((net(x) - model(x)).square().mean()) for net in (taken, lost))
    assert error <= 1e-4 * other
    if constraint == "hard":
        assert taken.infer(x).certified().all()


def constrained(model, constraint):
    if constraint == "soft":
        return model
    return make_nonnegative(model) if constraint == "hard" else weight_normalise(model)


@torch.no_grad()
def test_what_the_rest_can_say_is_taken_over(x):
    """What the dictionary above gets is right on average, and closer to what it got than without regression."""
    model = small_net(x)
    pruner = Pruner(model, x)
    y = model.levels.renderings[0](x)
    target = model.levels.renderings[1].dictionary(y)
    errors = []
    for absorb in (True, False):
        smaller = pruner.prune([2, 5], absorb=absorb, recalibrate=False)
        level = smaller.model.levels.renderings[1]
        shift = model.levels.renderings[1].norm.running_mean - level.norm.running_mean
        found = level.dictionary(y[:, smaller.kept[0]]) + shift[:, None, None]
        errors.append(float((found - target).square().mean()))
        biased = (found - target).mean((0, 2, 3))
        assert bool(biased.abs().max() < 1e-4) == absorb
    assert errors[0] < 0.7 * errors[1]


@torch.no_grad()
def test_templates_too_large_for_covariances_take_over_means(x, monkeypatch):
    monkeypatch.setattr("drmm.pruning.prune._LARGEST", 35)  # the upper dictionary's templates have 36 entries
    model = small_net(x)
    taken, lost = (prune(model, x, [2, 5], absorb=flag, recalibrate=False) for flag in (True, False))
    uppers = [smaller.model.levels.renderings[1] for smaller in (taken, lost)]
    assert torch.equal(uppers[0].dictionary.weight, uppers[1].dictionary.weight)
    y = model.levels.renderings[0](x)
    missing = y.clone()
    missing[:, taken.kept[0]] = 0
    above = model.levels.renderings[1].dictionary
    mean = above(missing).mean((0, 2, 3)) - above.bias
    torch.testing.assert_close(uppers[0].dictionary.bias - uppers[1].dictionary.bias, mean, atol=1e-5, rtol=0)


def test_hard_models_take_over_without_negative_weights(x):
    model = ready(build("conv_small", 3, SHAPE, width=6, constraint="hard"), x)
    smaller = prune(model, x, 0.5).model
    upper = [level.dictionary for level in smaller.levels.renderings[1:4]]
    assert all(is_nonnegative(dictionary) and dictionary.weight.min() >= 0 for dictionary in upper)
    assert (smaller.infer(x).gap == 0).all()


def test_the_non_negative_regression_is_scipys():
    features = torch.rand(200, 6, dtype=torch.float64)
    start, wanted = torch.rand(3, 6).double(), 2 * torch.randn(3, 6).double() @ features.mT
    found = start + _nonnegative(features.mT @ features, wanted @ features, start)
    for row, target, old in zip(found, wanted, start, strict=True):
        best, _ = nnls(features.numpy(), (target + features @ old).numpy())
        assert 0 < (best == 0).sum() < 6
        torch.testing.assert_close(row, torch.from_numpy(best), atol=1e-3, rtol=0)


def test_recalibration_can_be_left_out(x):
    model = ready(conv_small(3, SHAPE, width=6), x)
    fresh, stale = (prune(model, x, 0.5, recalibrate=flag).model for flag in (True, False))
    old = model.levels.renderings[3].norm.running_var[prune(model, x, 0.5).kept[3]]
    assert torch.equal(stale.levels.renderings[3].norm.running_var, old)
    assert not torch.allclose(fresh.levels.renderings[3].norm.running_var, old)


# --- synapses ---


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("criterion", ["on", "contribution", "magnitude", "random"])
def test_synapses_become_zero(x, constraint, criterion):
    model = ready(conv_small(3, SHAPE, width=4, constraint=constraint), x)
    before = state(model)
    thinner = prune_synapses(model, x, 0.25, criterion=criterion)
    assert same(state(model), before)
    weights = [level.dictionary.weight for level in thinner.levels.renderings[:4]]
    assert (weights[0] != 0).all()
    for weight, old in zip(weights[1:], model.levels.renderings[1:], strict=False):
        kept = weight != 0
        assert 0.24 < kept.float().mean() < 0.3
        assert kept.flatten(1).any(1).all()  # no template loses its last one
        torch.testing.assert_close(weight[kept], old.dictionary.weight[kept])
    assert thinner.infer(x).certified().all() == (constraint == "hard")
    assert thinner.sample(2).isfinite().all()


def test_which_synapses(x):
    model = small_net(x)
    weight = model.levels.renderings[1].dictionary.weight
    on = torch.rand(weight.shape)
    by_on = prune_synapses(model, x, 0.5, on=[on]).levels.renderings[1].dictionary.weight != 0
    assert on[by_on].min() > on[~by_on].max()
    drawn = [prune_synapses(model, x, 0.5, criterion="random", on=on) for on in ([on], None)]
    assert same(state(drawn[0]), state(drawn[1]))
    by_both = prune_synapses(model, x, 0.5, on=[on], criterion="contribution").levels.renderings[1]
    kept, strength = by_both.dictionary.weight != 0, on * weight.abs()
    assert strength[kept].min() > strength[~kept].max()
    twin = nn.Conv2d(1, 1, 1)
    twin.weight = nn.Parameter(weight.detach().clone())
    l1_unstructured(twin, "weight", amount=weight.numel() // 2)
    by_size = prune_synapses(model, x, 0.5, criterion="magnitude").levels.renderings[1].dictionary.weight
    assert torch.equal(by_size != 0, twin.weight_mask.bool())


# --- what cannot be pruned ---


@pytest.mark.parametrize("keep", [0, -0.1, 1.01, float("nan"), [1], [4, 6], [0, 5]])
def test_shares_that_do_not_exist(x, keep):
    with pytest.raises(InputError, match="keep must"):
        prune(small_net(x), x, keep)


def test_names_that_do_not_exist(x):
    with pytest.raises(InputError, match="no criterion 'luck': choose from on, contribution, magnitude, random"):
        prune(small_net(x), x, criterion="luck")
    with pytest.raises(InputError, match="no criterion 'luck'"):
        prune_synapses(small_net(x), x, criterion="luck")
    with pytest.raises(InputError, match="no scope 'brain': choose from level, net"):
        prune(small_net(x), x, scope="brain")


@pytest.mark.parametrize("images", [torch.rand(1, *SHAPE), torch.rand(12, 12), torch.rand(4, 3, 12, 12)])
def test_images_that_do_not_fit(x, images):
    with pytest.raises(InputError, match="images"):
        prune(small_net(x), images)


def test_images_of_another_size():
    model = DRMM(Sequential(Flatten(), Linear(144, 5), ReLU()), Linear(5, 3)).eval()
    with pytest.raises(InputError, match="do not fit"):
        prune(model, torch.rand(4, 1, 10, 10))


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.top = nn.Linear(144, 144), nn.Linear(144, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.top(x + self.first(x).relu())


def test_models_that_are_no_chain(x):
    with pytest.raises(InputError, match="cannot be pruned: use a chain"):
        prune(lift(Skip()), x)
    grouped = DRMM(Sequential(Conv2d(1, 4, 3), ReLU(), Conv2d(4, 4, 9, groups=2), Flatten()), Linear(16, 3))
    with pytest.raises(InputError, match="groups"):
        prune(grouped, x)


def test_nothing_to_prune(x):
    with pytest.raises(InputError, match="nothing to prune: no neurons"):
        prune(DRMM(Sequential(Flatten()), Linear(144, 3)), x)
    with pytest.raises(InputError, match="nothing to prune: the only neurons are the classes"):
        prune(DRMM(Sequential(Flatten(), Linear(144, 3), LeakyReLU()), Linear(3, 3)), x)


def test_a_parametrisation_of_ones_own(x):
    model = small_net(x)
    parametrize.register_parametrization(model.levels.renderings[1].dictionary, "weight", nn.Tanh(), unsafe=True)
    with pytest.raises(InputError, match="parametrisation of your own"):
        prune(model, x)
