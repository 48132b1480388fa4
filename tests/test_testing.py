"""The oracle itself, on examples small enough to work out by hand."""

import pytest
import torch

from drmm import DRMM
from drmm.errors import InputError
from drmm.rendering import (
    Abs,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    LeakyReLU,
    Level,
    Linear,
    MaxPool2d,
    ReLU,
    Rendering,
    Sequential,
    Switches,
)
from drmm.testing import (
    count_configurations,
    dot_product_gap,
    enumerate_configurations,
    enumerate_paths,
    random_net,
)


@pytest.fixture(autouse=True)
def _double(float64):
    """Double precision, as for all of the theory."""


@torch.no_grad()
def by_hand(*levels, weight, bias=None):
    weight = torch.tensor(weight)
    model = DRMM(
        Sequential(*levels, Flatten()), Linear(weight.shape[1], len(weight), bias=bias is not None)
    ).eval()
    model.templates.weight.copy_(weight)
    if bias is not None:
        model.templates.bias.copy_(torch.tensor(bias))
    return model


def test_two_units_and_two_classes():
    # Scores: c=0: 2·a₀·3 - 1·a₁·(-4) is best with both on, 10; c=1: -1·a₀·3 + 5·a₁·(-4) with both off, 0, plus ½.
    model = by_hand(ReLU(), weight=[[2.0, -1.0], [-1.0, 5.0]], bias=[0.0, 0.5])
    truth = enumerate_configurations(model, torch.tensor([[[[3.0, -4.0]]]]))
    assert truth.score.tolist() == [[10.0, 0.5]]
    assert truth.label.tolist() == [0]
    assert truth.configurations == 2 * 2 * 2
    # The bottom-up pass switches by the sign of I alone and misses both.
    assert model(torch.tensor([[[[3.0, -4.0]]]])).tolist() == [[6.0, -2.5]]


def test_the_gaussian_objective_by_hand():
    # μ ∈ {(0,0), (2,0), (0,-1), (2,-1)} for c=0: the nearest to (3,-4) is (2,-1), at ½(1 + 9).
    model = by_hand(ReLU(), weight=[[2.0, -1.0], [-1.0, 5.0]])
    truth = enumerate_configurations(model, torch.tensor([[[[3.0, -4.0]]]]), "gaussian")
    torch.testing.assert_close(truth.score, torch.tensor([[-5.0, -12.5]]))


def test_a_position_a_sign_and_a_slope():
    x = torch.tensor([[[[3.0, -4.0]]]])
    assert enumerate_configurations(by_hand(MaxPool2d((1, 2)), weight=[[1.0], [-1.0]]), x).score.tolist() == [
        [3, 4]
    ]
    assert enumerate_configurations(by_hand(Abs(), weight=[[1.0, 1.0]]), x).score.tolist() == [[7]]
    leaky = enumerate_configurations(by_hand(LeakyReLU(0.5), weight=[[1.0, 1.0]]), x)
    assert leaky.score.tolist() == [[1]]


def test_biases_scale_with_the_template_and_its_switch():
    level = Level(Conv2d(1, 1, 1))
    model = by_hand(level, weight=[[2.0]], bias=[1.0])
    with torch.no_grad():
        level.dictionary.weight.fill_(3.0)
        level.dictionary.bias.fill_(-1.0)
    # On: 2·(3·x - 1) + 1; off: 1.
    truth = enumerate_configurations(model, torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1))
    assert truth.score.tolist() == [[5.0], [1.0]]


def test_counting():
    assert (
        count_configurations(
            by_hand(Level(Conv2d(1, 2, 1), None, MaxPool2d(2)), weight=[[1.0, 1.0]] * 3), (1, 2, 2)
        )
        == 3 * (2 * 4) ** 2
    )
    assert count_configurations(by_hand(ReLU(), MaxPool2d(2), weight=[[1.0]]), (1, 2, 2)) == 2**4 * 4
    # Positions in the padding are not configurations: each corner window sees one pixel.
    assert count_configurations(by_hand(MaxPool2d(2, 2, 1), weight=[[1.0] * 4]), (1, 2, 2)) == 1
    with pytest.raises(InputError, match="image_shape"):
        count_configurations(by_hand(ReLU(), weight=[[1.0]]))


def test_in_batches_it_is_the_same():
    model = random_net(7, signed=(True, True, True))
    x = torch.randn(5, *model.image_shape)
    together = enumerate_configurations(model, x)
    for i in range(5):
        torch.testing.assert_close(enumerate_configurations(model, x[i : i + 1]).score, together.score[i : i + 1])


def test_it_enumerates_in_evaluation_mode_and_leaves_the_mode():
    model = by_hand(Conv2d(1, 1, 1), BatchNorm2d(1), ReLU(), Dropout(0.9), weight=[[1.0] * 4]).train()
    with torch.no_grad():
        model.levels[1].running_mean.fill_(0.3)
    x = torch.randn(3, 1, 2, 2)
    truth = enumerate_configurations(model, x)
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(truth.score, model.eval()(x).detach())


def test_refusals():
    model = by_hand(ReLU(), weight=[[1.0] * 25])
    with pytest.raises(InputError, match="33554432 configurations are more than the limit of 100000"):
        enumerate_configurations(model, torch.zeros(1, 1, 5, 5))
    with pytest.raises(InputError, match="objective must be"):
        enumerate_configurations(model, torch.zeros(1, 1, 1, 1), "poisson")
    own = by_hand(BatchNorm2d(1, track_running_stats=False), weight=[[1.0] * 4])
    with pytest.raises(InputError, match="running statistics"):
        enumerate_configurations(own, torch.zeros(1, 1, 2, 2))

    class Chooses(Rendering):
        def infer(self, x):
            return x.relu(), Switches(tuple(x.shape[1:]), a=x > 0)

        def render(self, z, switches):
            return z * switches.a

    with pytest.raises(InputError, match="cannot enumerate Chooses"):
        enumerate_configurations(by_hand(Chooses(), weight=[[1.0] * 4]), torch.zeros(1, 1, 2, 2))


def test_paths_by_hand():
    level = Level(Conv2d(1, 1, 1), None, MaxPool2d((1, 2)))
    model = by_hand(level, weight=[[2.0]], bias=[7.0])
    with torch.no_grad():
        level.dictionary.weight.fill_(3.0)
        level.dictionary.bias.fill_(-1.0)
    x = torch.tensor([[[[1.0, 5.0]]]])
    paths = enumerate_paths(model, model.infer(x))
    rows = sorted(zip(paths.gamma.tolist(), paths.switch.tolist(), paths.end.tolist(), strict=True))
    assert rows == [(-2, 0, -1), (-2, 1, -1), (6, 0, 0), (6, 1, 1), (7, 1, -1)]
    assert paths.image().tolist() == [[[0, 6]]]
    assert paths.scores(x[0]).sum() == 7 - 2 + 30
    assert paths.active.sum() == 3


def test_paths_belong_to_one_small_net_and_image():
    model = random_net(1, signed=(True, True, True))
    latents = model.infer(torch.randn(2, *model.image_shape))
    with pytest.raises(InputError, match="one image, got 2"):
        enumerate_paths(model, latents)
    with pytest.raises(InputError, match="more than the limit of 3"):
        enumerate_paths(model, latents.select(slice(0, 1)), limit=3)


@pytest.mark.parametrize("signed", [(True, True, True), (True, False, False), (False, True, False, True)])
def test_random_nets_have_the_signs_that_were_asked_for(signed):
    seen = torch.zeros(len(signed), dtype=torch.bool)
    for seed in range(10):
        model = random_net(seed, signed=signed, n_classes=4)
        weights = [level.dictionary.weight for level in model.levels if isinstance(level, Level)]
        for i, weight in enumerate([*weights, model.templates.weight]):
            seen[i] |= bool((weight < 0).any())
        assert count_configurations(model) <= 20_000
        assert model.n_classes == 4
        assert not model.training
    assert seen.tolist() == list(signed)


def test_random_nets_are_reproducible_and_differ():
    one, same, other = (random_net(seed) for seed in (3, 3, 4))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), same.parameters(), strict=True))
    assert str(one) != str(other) or not torch.equal(one.templates.weight, other.templates.weight)
    assert all(level.pool is None for level in random_net(5, pool=False).levels if isinstance(level, Level))
    assert all(level.pool is not None for level in random_net(5, pool=True).levels if isinstance(level, Level))
    assert not [name for name, _ in random_net(5, bias=False).named_parameters() if name.endswith("bias")]
    with pytest.raises(InputError, match="one entry a level"):
        random_net(0, signed=(True,))
    with pytest.raises(InputError, match="found no net"):
        random_net(0, limit=1)


def test_the_dot_product_refuses_a_wrong_canvas():
    class Crops(Rendering):
        def infer(self, x):
            return x, Switches(tuple(x.shape[1:]))

        def render(self, z, switches):
            return z[..., 1:]

    with pytest.raises(InputError, match="canvas"):
        dot_product_gap(Crops(), torch.randn(1, 1, 3, 3))


@pytest.mark.parametrize("objective", ["max-sum", "gaussian"])
@pytest.mark.parametrize("signed", [(True, True, True), (True, False, False)])
@torch.no_grad()
def test_the_switches_of_the_best_draw_what_scores_best(float64, objective, signed):
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        model = random_net(generator, signed=signed, bias=False)
        x = torch.randn(4, *model.image_shape, generator=generator)
        found = enumerate_configurations(model, x, objective)
        drawn = model.levels.render(model.templates.weight[found.label], found.switches)
        score = (drawn * x) if objective == "max-sum" else -0.5 * (x - drawn).square()
        torch.testing.assert_close(score.flatten(1).sum(1), found.score.amax(1))
