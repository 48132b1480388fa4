"""Evidence by pixel, unit and level: sums that are exact, peers that agree, and models that are left alone."""

import copy
import warnings

import pytest
import torch
from captum.attr import GuidedBackprop, InputXGradient
from pytorchcv.model_provider import get_model
from torch import nn
from torch.nn import functional as F

import drmm
from drmm import explain
from drmm.errors import InputError
from drmm.explain.passes import level_number
from drmm.rendering import BatchNorm2d, Conv2d, Level, MaxPool2d

EXACT = {"rtol": 1e-9, "atol": 1e-9}


class Branches(nn.Module):
    """A skip connection, a concatenation, functions, and each gate of its own, so that hooks can work too."""

    def __init__(self, *, bias=True):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=bias)
        self.left, self.right = nn.Conv2d(6, 6, 3, padding=1, bias=bias), nn.Conv2d(6, 4, 1, bias=bias)
        self.gates = nn.ModuleList(nn.ReLU() for _ in range(4))
        self.head = nn.Linear(10, 5, bias=bias)

    def forward(self, x):
        x = F.max_pool2d(self.gates[0](self.stem(x)), 3, stride=2, padding=1)
        x = self.gates[1](x + self.left(x))
        x = torch.cat([x, self.gates[2](self.right(x))], 1)
        return self.head(self.gates[3](x).mean((2, 3)))


class Reused(nn.Module):
    """One in-place gate for everything, which hooks count as one."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3)
        self.gate, self.head = nn.ReLU(inplace=True), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.gate(self.second(self.gate(self.first(x)))).mean((2, 3)))


NETS = {
    "branches": Branches,
    "overlapping pools": lambda: drmm.presets.conv_small(5, (2, 12, 12), width=4),
    "chain": lambda: nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(3, 1),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 5),
    ),
    "resnet": lambda: get_model("resnet20_cifar10", in_channels=2),
    "clips": lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(600, 5)),
}


@pytest.fixture(params=NETS)
def net(request, float64):
    torch.manual_seed(0)
    return NETS[request.param]().eval()


@pytest.fixture
def x(net):
    size = 32 if "CIFAR" in type(net).__name__ else 12
    return torch.rand(3, 2, size, size)


def by_captum(method, net, x, label):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says that it sets hooks, and requires gradients
        return method(net).attribute(x.clone(), target=label).sum(1).detach()


def test_a_gate_that_is_used_twice_is_two_levels(float64):
    model = drmm.lift(Reused())
    assert level_number(model, -1) == len(model.levels.renderings)
    x = torch.rand(2, 2, 12, 12)
    top, below = (explain.LevelEvidence(level)(model, x) for level in (-1, -2))
    assert not torch.equal(top, below)
    assert len(explain.count_paths(model, x).levels) == len(model.levels.renderings) + 1


# --- peers ---


@pytest.mark.parametrize("label", [0, 3])
def test_active_paths_are_captums_input_times_gradient(net, x, label):
    found = explain.active_paths(net, x, label)
    torch.testing.assert_close(found, by_captum(InputXGradient, net, x, label), **EXACT)


@pytest.mark.parametrize("name", ["branches", "chain", "resnet"])
def test_guided_backprop_is_captums_where_every_gate_is_a_relu_module_of_its_own(name, float64):
    torch.manual_seed(0)
    net, size = NETS[name]().eval(), 32 if name == "resnet" else 12
    x = torch.rand(3, 2, size, size)
    found, peer = explain.guided_backprop(net, x, 1), by_captum(GuidedBackprop, net, x, 1)
    torch.testing.assert_close(found, peer, **EXACT)
    plain = by_captum(InputXGradient, net, x, 1)
    assert (found - plain).abs().max() > 0.1 * found.abs().max(), "control: not the gradient"


def test_guided_backprop_of_a_fused_level_is_that_of_its_slow_twin(float64):
    """Windows that overlap: what they send to a unit adds up before its gate."""
    level = Level(Conv2d(2, 5, 3), BatchNorm2d(5), MaxPool2d(3, 1)).eval()
    x = torch.randn(4, 2, 9, 9)
    y, switches = level.infer(x)
    z = torch.randn(y.shape)
    twin = level.unfused()
    found = explain.guide(level, z, switches)
    torch.testing.assert_close(found, explain.guide(twin, z, twin.infer(x)[1]), **EXACT)
    early = level.render(z.clamp(min=0), switches)
    assert (found - early).abs().max() > 1e-2, "control: cut at each window instead"


def test_a_gate_that_is_used_twice_is_no_trap(float64):
    net, x = Reused().eval(), torch.rand(3, 2, 9, 9)
    twin = nn.Sequential(
        net.first, nn.ReLU(), net.second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.head
    )
    found = explain.guided_backprop(net, x, 1)
    torch.testing.assert_close(found, by_captum(GuidedBackprop, twin, x, 1), **EXACT)


def test_the_gradient_is_autograds(net, x):
    images = x.clone().requires_grad_()
    net(images)[:, 2].sum().backward()
    torch.testing.assert_close(explain.gradient(net, x, 2), images.grad.abs().amax(1), **EXACT)


# --- sums ---


@pytest.mark.parametrize("label", [None, 2])
def test_maps_and_bias_paths_are_the_score(net, x, label):
    model = drmm.lift(net) if not isinstance(net, drmm.DRMM) else net
    latents = model.infer(x, label)
    bias = model.sum_over_paths(x, latents).bias
    found = explain.active_paths(net, x, label).sum((1, 2)) + bias
    torch.testing.assert_close(found, latents.score, **EXACT)


def test_without_biases_maps_are_the_whole_score(float64):
    net, x = Branches(bias=False).eval(), torch.rand(3, 2, 12, 12)
    torch.testing.assert_close(explain.active_paths(net, x).sum((1, 2)), net(x).amax(1), **EXACT)
    biased = Branches().eval()
    gap = explain.active_paths(biased, x).sum((1, 2)) - biased(x).amax(1)
    assert gap.abs().min() > 1e-3, "control: biases"


def test_relevance_of_every_level_is_the_score(net, x):
    model = explain.as_drmm(net)
    score = model(x).amax(1)
    for level in range(1, len(model.levels) + 1):
        relevance, bias = explain.level_relevance(net, x, level)
        torch.testing.assert_close(relevance.flatten(1).sum(1) + bias, score, **EXACT)
        assert relevance.shape[0] == 3
    assert torch.equal(
        relevance.flatten(1), (model.levels(x) * model.templates.weight[model(x).argmax(1)]).flatten(1)
    )


def test_a_units_evidence_is_its_activation(float64):
    net, x = Branches(bias=False).eval(), torch.rand(3, 2, 12, 12)
    model = drmm.lift(net)
    y = x
    for number, level in enumerate(model.levels, 1):
        y = level(y.clone())
        unit = tuple(n // 2 for n in y.shape[1:])
        maps = explain.UnitEvidence(number, unit)(net, x)
        torch.testing.assert_close(maps.sum((1, 2)), y[(slice(None), *unit)], **EXACT)


def test_a_unit_sees_its_receptive_field_only(float64):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(192, 2)).eval()
    x = torch.rand(2, 1, 12, 12)
    maps = explain.UnitEvidence("2", (0, 4, 1))(net, x)
    inside = torch.zeros(12, 12, dtype=torch.bool)
    inside[4:9, 1:6] = True
    assert (maps[:, ~inside] == 0).all()
    assert (maps[:, inside] != 0).any()


def test_by_default_the_unit_that_adds_most(float64):
    net, x = Branches().eval(), torch.rand(3, 2, 12, 12)
    relevance, _ = explain.level_relevance(net, x, 3)
    best = [tuple(int(i) for i in torch.unravel_index(r.argmax(), r.shape)) for r in relevance]
    found = explain.UnitEvidence(3)(net, x)
    for i, unit in enumerate(best):
        torch.testing.assert_close(found[i], explain.UnitEvidence(3, unit)(net, x)[i], **EXACT)


def test_the_evidence_of_a_level_is_the_sum_over_its_units(float64):
    net, x = Branches(bias=False).eval(), torch.rand(1, 2, 4, 4)
    level = explain.as_drmm(net).levels[0]
    units = level(x)
    whole = sum(
        value * explain.UnitEvidence(1, tuple(place))(net, x)
        for place, value in zip(torch.nonzero(units[0] != 0).tolist(), units[units != 0], strict=True)
    )
    torch.testing.assert_close(explain.LevelEvidence(1)(net, x), whole, **EXACT)
    one = explain.LevelEvidence(1, units=1)(net, x)
    place = tuple(int(i) for i in torch.unravel_index(units[0].argmax(), units[0].shape))
    torch.testing.assert_close(one, units.max() * explain.UnitEvidence(1, place)(net, x), **EXACT)
    assert torch.equal(explain.LevelEvidence(1, units=10**6)(net, x), explain.LevelEvidence(1)(net, x))


# --- manners ---


@pytest.mark.parametrize(
    "explainer", [*explain.EXPLAINERS.values(), explain.UnitEvidence(1), explain.LevelEvidence(1)]
)
def test_models_and_images_are_left_alone(net, x, explainer):
    net.train()
    hook = net.register_forward_hook(lambda *_: None)
    before, images = copy.deepcopy(net.state_dict()), x.clone()
    seen = torch.random.get_rng_state()
    maps = explainer(net, x)
    assert maps.shape == (3, *x.shape[2:])
    assert not maps.requires_grad
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(x, images)
    assert torch.equal(seen, torch.random.get_rng_state())
    assert all(p.grad is None for p in net.parameters())
    assert list(net._forward_hooks.values()) == [net._forward_hooks[hook.id]]
    torch.testing.assert_close(explainer(net.eval(), x), maps, **EXACT)


@pytest.mark.parametrize("explainer", explain.EXPLAINERS.values())
def test_maps_of_a_batch_are_those_of_its_images(net, x, explainer):
    labels = torch.tensor([0, 4, 2])
    whole = explainer(net, x, labels)
    for i in range(3):
        torch.testing.assert_close(whole[i : i + 1], explainer(net, x[i : i + 1], labels[i : i + 1]), **EXACT)


@pytest.mark.parametrize("explainer", explain.EXPLAINERS.values())
def test_bad_labels(net, x, explainer):
    for label in (10, -1, torch.tensor([0, 1])):
        with pytest.raises(InputError, match="class indices"):
            explainer(net, x, label)


@pytest.mark.parametrize(("level", "says"), [(0, "1 to"), (99, "1 to"), ("nothing", "choose from"), (-99, "1 to")])
def test_bad_levels(level, says, float64):
    net, x = Branches().eval(), torch.rand(1, 2, 12, 12)
    for call in (
        lambda: explain.UnitEvidence(level)(net, x),
        lambda: explain.LevelEvidence(level)(net, x),
        lambda: explain.level_relevance(net, x, level),
    ):
        with pytest.raises(InputError, match=says):
            call()


@pytest.mark.parametrize("unit", [(0,), (0, 0, 0, 0), (6, 0, 0), (0, -1, 0), (0, 0, 12)])
def test_bad_units(unit, float64):
    with pytest.raises(InputError, match="is not in level 1, whose units are"):
        explain.UnitEvidence(1, unit)(Branches().eval(), torch.rand(1, 2, 12, 12))
    with pytest.raises(InputError, match="at least 1"):
        explain.LevelEvidence(1, units=0)(Branches().eval(), torch.rand(1, 2, 12, 12))


def test_a_net_that_has_no_exact_rendering_says_so():
    with pytest.raises(TypeError, match="GELU"):
        explain.active_paths(
            nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)), torch.rand(1, 1, 2, 2)
        )
