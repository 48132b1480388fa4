"""The guide "Add a rendering" runs as it is printed, and what it makes takes part in everything or is refused."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import drmm
from drmm import DRMM
from drmm.errors import InputError
from drmm.explain import active_paths, count_paths, guided_backprop, strongest_paths
from drmm.learning.initialisation import initialise
from drmm.pruning.prune import Pruner, prune_synapses
from drmm.rendering import Conv2d, Flatten, Gate, Linear, Rendering, Sequential, Switches
from drmm.report.sections.explanations import _numbered
from drmm.studies.predictions.active import active_paths_matter
from drmm.studies.predictions.fields import receptive_fields
from drmm.testing import enumerate_configurations

GUIDE = Path(__file__).parents[2] / "docs" / "new_rendering.md"
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def names():
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    names = {"__name__": "guide"}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # as a reader's session has it
    torch.manual_seed(0)
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    torch.set_default_dtype(before)
    return names


@pytest.fixture
def net(names):
    return copy.deepcopy(names["net"]).double().eval()


@pytest.fixture
def model(net):
    return drmm.lift(net, image_shape=SHAPE)


@pytest.fixture
def x():
    return torch.rand(6, *SHAPE)


def test_the_guide_runs(names):
    assert names["picture"].shape == (4, *SHAPE)
    assert names["sample"].shape == (2, *SHAPE)
    assert names["latents"].gap.isfinite().all()
    assert (names["latents"].gap > 1e-3).all(), "a hard shrink is no maximum: nothing is certified"
    assert (names["better"].score >= names["latents"].score).all()


def test_it_is_one_page():
    assert len(GUIDE.read_text(encoding="utf-8").splitlines()) < 130


def test_the_lifted_net_is_the_net(net, model, x):
    torch.testing.assert_close(model(x), net(x))
    latents = model.infer(x)
    gradient = torch.func.grad(lambda image: net(image[None])[0, latents.label[0]])(x[0])
    torch.testing.assert_close(model.render(latents)[0], gradient)
    assert model.log_joint(x, latents).isfinite().all()
    assert not model.approximations


def test_maps_sum_up_to_the_score(model, x):
    latents = model.infer(x)
    parts = model.sum_over_paths(x, latents)
    torch.testing.assert_close(active_paths(model, x).sum((1, 2)) + parts.bias, latents.score)
    assert (guided_backprop(model, x) - active_paths(model, x)).abs().max() > 1e-6


def test_paths_are_counted_as_a_product_of_patterns(net, model, x):
    """Every layer's derivative, 1 where it is not 0: all paths over many images, active ones of one."""
    counts = count_paths(model, x[:1], 3)
    patterns, image = [], x[:1]
    for layer in net:
        jacobian = torch.autograd.functional.jacobian(layer, image)
        patterns.append((jacobian.reshape(-1, image.numel()) != 0).double())
        image = layer(image)
    active = torch.eye(10)[3:4]
    for pattern in reversed(patterns):
        active = active @ pattern
    assert counts.active[0, -1] == active.sum()
    conv, pair = 6 * 6 * 9, 2
    assert counts.all[-1] == 96 * 3 * 9 * 2 * pair * conv / (6 * 6)  # template, conv, blur, candidates, conv
    assert counts.active[0, -1] < counts.all[-1], "control: not every path is active"


def test_the_strongest_paths_sum_up(names, float64):
    kinds = (names[kind]() for kind in ("HardShrink", "ChannelPairs", "Blur"))
    net = nn.Sequential(nn.Conv2d(1, 4, 2, bias=False), *kinds, nn.Flatten(), nn.Linear(12, 3, bias=False)).eval()
    x = torch.rand(1, 1, 4, 4)
    paths = strongest_paths(net, x, 2, k=10**5, width=10**5)
    torch.testing.assert_close(torch.tensor(sum(path.contribution for path in paths)), net(x)[0, 2].detach())


def test_feedback_raises_the_score_and_stays_below_the_bound(model, x):
    before = model.infer(x, 1)
    after = drmm.sign_traceback(model, x, 1)
    assert (after.score >= before.score).all()
    assert (after.score > before.score + 1e-6).any()
    assert (after.score <= after.upper_bound + 1e-9).all()


def test_a_net_with_a_channel_pool_is_not_pruned(model, x):
    with pytest.raises(InputError, match="ChannelPairs cannot be pruned: it does not work channel by channel"):
        Pruner(model, x).prune(0.5)


def chain(*middle, channels=6):
    levels = Sequential(Conv2d(1, channels, 3), *middle, Conv2d(channels, 4, 3), Flatten())
    features = levels(torch.zeros(1, *SHAPE)).shape[1]
    return DRMM(levels, Linear(features, 3), image_shape=SHAPE).eval()


@pytest.mark.parametrize("kinds", [("HardShrink",), ("Blur",), ("HardShrink", "Blur")])
def test_what_works_channel_by_channel_is_pruned(names, kinds, x, float64):
    """Twin: the same model with the other channels' weights at 0."""
    x, model = x.double(), chain(*(names[kind]() for kind in kinds))
    pruned = Pruner(model, x).prune([3, 4], absorb=False, recalibrate=False)
    assert pruned.channels == (3, 4)
    twin = copy.deepcopy(model)
    gone = [i for i in range(6) if i not in pruned.kept[0].tolist()]
    twin.levels.renderings[-2].weight.data[:, gone] = 0
    torch.testing.assert_close(pruned.model(x), twin(x))
    assert (pruned.model(x) - model(x)).abs().max() > 1e-6
    on = pruned.on[0]
    assert (on < 1).any() == ("HardShrink" in kinds)
    prune_synapses(model, x, 0.5, recalibrate=False)


def test_what_holds_tensors_says_how_it_is_narrowed(x, float64):
    class Leak(Gate):
        def __init__(self, weight):
            super().__init__()
            self.weight = nn.Parameter(weight)

        @property
        def slopes(self):
            return self.weight.reshape(-1, 1, 1), 1.0

        def choose(self, x):
            return x > 0

    class Narrowing(Leak):
        def narrowed(self, kept):
            return Narrowing(self.weight[kept.index])

    class Forgetful(Leak):
        def narrowed(self, kept):
            return Forgetful(self.weight[: len(kept.index)])

    weight, x = torch.rand(6), x.double()
    with pytest.raises(InputError, match="Leak cannot be pruned: it holds tensors, so give it narrowed"):
        Pruner(chain(Leak(weight)), x)
    assert Pruner(chain(Narrowing(weight)), x).prune([3, 4]).channels == (3, 4)
    with pytest.raises(InputError, match="Forgetful cannot be pruned"):
        Pruner(chain(Forgetful(weight)), x).prune([3, 4], criterion="random")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nets_with_them_learn_and_shrink_in_their_own_precision(names, x, dtype):
    kinds = (names[kind]() for kind in ("HardShrink", "Blur"))
    net = nn.Sequential(nn.Conv2d(1, 4, 3), *kinds, nn.ReLU(), nn.Flatten(), nn.Linear(120, 3)).to(dtype)
    model = drmm.lift(net, image_shape=SHAPE).train()
    drmm.Objective()(model, x.to(dtype), torch.arange(6) % 3)["loss"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())
    smaller = drmm.prune(model.eval(), x, 0.5)
    assert smaller.model.infer(x.to(dtype)).score.dtype == dtype


def test_studies_report_and_initialisation_take_them(model, x):
    assert active_paths_matter(model, x).inactive.min() > 0
    fields = receptive_fields(model, x)
    assert fields.support[0] == 3
    assert "gate" not in [what for _, what in _numbered(model)]
    assert len(_numbered(model)) == 2  # the hard shrink and the ReLU
    initialise(model, "data", x=x)
    assert model(x).isfinite().all()


def test_the_oracle_tries_every_choice(names, float64):
    levels = Sequential(Conv2d(1, 2, (1, 2)), names["HardShrink"](), names["ChannelPairs"](), Flatten())
    model = DRMM(levels, Linear(3, 2), image_shape=(1, 1, 4)).eval()
    x = torch.randn(5, 1, 1, 4)
    truth = enumerate_configurations(model, x)
    assert truth.configurations == 2 * 2**6 * 2**3
    assert (model(x) <= truth.score + 1e-9).all()
    assert (truth.score <= model.upper_bound(x) + 1e-9).all()
    assert (truth.score - model(x)).max() > 1e-3


def test_without_a_kind_nothing_is_certified_or_counted(x):
    class Mirror(Rendering):
        def infer(self, x):
            return x.flip(-1), Switches(tuple(x.shape[1:]))

        def render(self, z, switches):
            return z.flip(-1)

    model = drmm.lift(
        nn.Sequential(nn.Conv2d(1, 4, 3), Mirror(), nn.Flatten(), nn.Linear(144, 3)).eval(), image_shape=SHAPE
    )
    latents = model.infer(x)
    assert latents.upper_bound.isposinf().all()
    assert not latents.certified().any()
    assert model.sample(2).shape == (2, *SHAPE)
    assert active_paths(model, x).shape == (6, 8, 8)
    assert (drmm.sign_traceback(model, x, 0).score >= model.infer(x, 0).score).all()
    for refused in (lambda: count_paths(model, x), lambda: Pruner(model, x)):
        with pytest.raises(InputError, match="Mirror"):
            refused()
