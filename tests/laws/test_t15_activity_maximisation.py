"""T15. The picture that excites a class most is a rendering.

Slide "How are Memories of Objects Stored in a Convnet?": I*_c ∝ Σ_P μ(c, g*_P) over patches P. For given switches
the score ⟨μ_cg, I⟩ of a picture of unit length is largest at I = μ_cg / ‖μ_cg‖, so that the best picture is the
rendering of the largest norm; patches that do not overlap choose their switches apart. On non-negative single
levels the closed form, steps along the gradient on the unit sphere and an enumeration of all switches agree
(cosine ≥ 0.99).

Each step to the rendering of the picture's own switches is a step up, because the score is a maximum of linear
functions of the picture: exact inference makes it a fixed-point iteration that never falls.

Controls: the rendering of other switches; the slide's sum over patches where patches overlap is not the best
picture; with signed upper templates a step to the rendering may fall.
"""

import itertools
import math

import pytest
import torch
from torch import nn

from drmm import DRMM, explain, lift
from drmm.errors import InputError
from drmm.rendering import Conv2d, Flatten, Level, Linear, MaxPool2d, Sequential

DRAWS = range(10)


def single_level(seed, *, stride=2, size=4, pool=None, units=2):
    """A signed dictionary, patches of 2 × 2, classes of non-negative templates, no biases."""
    torch.manual_seed(seed)
    level = Level(Conv2d(1, units, 2, stride=stride, bias=False), None, pool)
    side = (size - 2) // stride + 1
    side = side if pool is None else side // pool.kernel_size
    templates = Linear(units * side**2, 3, bias=False)
    with torch.no_grad():
        templates.weight.abs_()
    return DRMM(Sequential(level, Flatten()), templates, image_shape=(1, size, size)).eval()


def renderings(model, label):
    """Every picture that the class can draw, (G, 1, H, W): all a, and all t where there is a pool."""
    switches = model.blank_switches()
    leaf = next(switches.leaves())
    units, positions = leaf.a.numel(), 1 if leaf.t is None else leaf.window.positions
    drawn = []
    for choice in itertools.product(range(1 + positions), repeat=units):
        code = torch.tensor(choice).reshape(leaf.a.shape)
        part = (
            {"a": code > 0} if leaf.t is None else {"a": code > 0, "t": (code - 1).clamp(min=0).to(leaf.t.dtype)}
        )
        chosen = switches.map_leaves(lambda old, part=part: old.__class__(old.shape, **part, window=old.window))
        drawn.append(model.levels.render(model.templates.weight[[label]], chosen))
    return torch.cat(drawn).detach()


def starts(model, n=400):
    return torch.randn(n, *model.image_shape)


def cosine(one, other):
    return torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)


def nearest(one, others):
    return max(cosine(one, other) for other in others)


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize(
    "geometry", [{}, {"stride": 1, "pool": MaxPool2d(2), "units": 4}, {"stride": 1, "size": 3}]
)
def test_closed_form_ascent_and_enumeration_agree(seed, geometry):
    model = single_level(seed, **geometry)
    drawn = renderings(model, 1)
    norms = drawn.flatten(1).norm(dim=1)
    largest = drawn[norms >= norms.max() * (1 - 1e-9)]  # several, where a pool lets a picture be shifted
    for how in (explain.closed_form, explain.ascend):
        found = how(model, starts(model), 1)
        assert nearest(found.image[found.score.argmax()], largest) >= 0.99
        torch.testing.assert_close(found.score.max(), norms.max(), rtol=1e-4, atol=0)
    other = drawn[norms.argsort()[len(norms) // 2]]
    assert nearest(other, largest) < 0.99, "control: other switches"


@pytest.mark.parametrize("seed", DRAWS)
def test_patches_that_do_not_overlap_choose_apart(seed):
    """The slide's sum over patches: each patch's own best picture, from its own units alone."""
    model = single_level(seed)
    dictionary = model.levels[0].dictionary.weight.detach()
    weights = model.templates.weight[2].detach().reshape(2, 2, 2)
    canvas = torch.zeros(1, 4, 4)
    for i, j in itertools.product(range(2), range(2)):
        options = [
            sum((on[k] * weights[k, i, j] * dictionary[k] for k in range(2)), torch.zeros(1, 2, 2))
            for on in itertools.product((0, 1), repeat=2)
        ]
        canvas[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = max(options, key=lambda option: float(option.norm()))
    closed = explain.closed_form(model, starts(model), 2)
    assert cosine(closed.image[closed.score.argmax()], canvas) >= 0.99


@torch.no_grad()
def test_control_patches_that_overlap_do_not():
    """What excites each patch most, drawn side by side, is not what excites the class most."""
    worse = []
    for seed in DRAWS:
        model = single_level(seed, stride=1, size=4)
        dictionary = model.levels[0].dictionary.weight.detach()
        weights = model.templates.weight[2].detach().reshape(2, 3, 3)
        canvas = torch.zeros(1, 4, 4)
        for i, j in itertools.product(range(3), range(3)):
            options = [
                sum((on[k] * weights[k, i, j] * dictionary[k] for k in range(2)), torch.zeros(1, 2, 2))
                for on in itertools.product((0, 1), repeat=2)
            ]
            canvas[:, i : i + 2, j : j + 2] += max(options, key=lambda option: float(option.norm()))
        best = explain.closed_form(model, starts(model), 2).score.max()
        patched = model(canvas[None] / canvas.norm())[0, 2]
        assert patched <= best * (1 + 1e-9)
        worse.append(float(patched / best))
    assert min(worse) < 0.98


def two_levels(*, signed):
    net = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 5, 2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3, bias=False)),
    )
    if not signed:
        for layer in (net[3], net[6]):
            layer.weight.abs_()
    return lift(net)


def falls(model):
    """How often one of ten steps to the own rendering lowers the score of one of twenty pictures."""
    image, fell = torch.randn(20, 1, 8, 8), 0
    image = image / image.flatten(1).norm(dim=1)[:, None, None, None]
    for _ in range(10):
        drawn = model.render(model.infer(image, 0))
        new = drawn / drawn.flatten(1).norm(dim=1)[:, None, None, None]
        fell += int((model(new)[:, 0] < model(image)[:, 0] - 1e-12).sum())
        image = new
    return fell


@torch.no_grad()
def test_a_step_to_the_own_rendering_never_lowers_the_score():
    """Also in two levels, as long as what is above the pixels is non-negative."""
    signed = 0
    for seed in DRAWS:
        torch.manual_seed(seed)
        assert falls(two_levels(signed=False)) == 0
        signed += falls(two_levels(signed=True))
    assert signed > 0, "control: with signed templates above the pixels it may"


@pytest.mark.parametrize("how", [explain.closed_form, explain.ascend])
def test_answers_are_pictures_of_unit_length_that_score_no_less_than_before(how):
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 4))
    start, label = torch.rand(5, 2, 10, 10), torch.tensor([0, 1, 2, 3, 0])
    found = how(net, start, label)
    torch.testing.assert_close(found.image.flatten(1).norm(dim=1), torch.ones(5))
    torch.testing.assert_close(
        found.score, net.eval()(found.image).gather(1, torch.tensor([[0], [1], [2], [3], [0]]))[:, 0]
    )
    unit = start / start.flatten(1).norm(dim=1)[:, None, None, None]
    assert (found.score >= net(unit).gather(1, torch.tensor([[0], [1], [2], [3], [0]]))[:, 0]).all()


@pytest.mark.parametrize("how", [explain.closed_form, explain.ascend])
def test_bad_starts(how):
    model = single_level(0)
    with pytest.raises(InputError, match="black"):
        how(model, torch.zeros(2, 1, 4, 4), 0)
    with pytest.raises(InputError, match="class indices"):
        how(model, torch.rand(2, 1, 4, 4), 3)
    with pytest.raises(InputError, match="rate"):
        explain.ascend(model, torch.rand(2, 1, 4, 4), 0, rate=0)


# --- the mixture over nuisances ---


def test_a_mixture_finds_the_nuisances_of_a_class():
    """A class of pictures with a bar in one of three places: three templates explain all of it, one a third."""
    bars = torch.zeros(3, 1, 6, 6)
    for i in range(3):
        bars[i, 0, 2 * i] = 1
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(bars.reshape(3, 36))
        net[3].weight.fill_(1)
    images = bars[torch.arange(30) % 3] * torch.linspace(0.5, 1, 30)[:, None, None, None]
    found = explain.class_mixture(net, images[:21], 0, 3, held_out=images[21:])
    assert math.isclose(found.explained, 1, abs_tol=1e-9)
    assert math.isclose(found.by_one, 1 / 3, abs_tol=1e-9)
    torch.testing.assert_close(found.share, torch.full((3,), 1 / 3))
    overlap = found.templates.flatten(1) @ bars.flatten(1).T / math.sqrt(6)
    torch.testing.assert_close(overlap.sort(dim=1).values, torch.tensor([[0.0, 0.0, 1.0]] * 3))


@pytest.mark.parametrize("k", [0, 22])
def test_bad_mixtures(k):
    model = single_level(0)
    with pytest.raises(InputError, match="k must be 1 to 21"):
        explain.class_mixture(model, torch.rand(21, 1, 4, 4), 0, k, held_out=torch.rand(2, 1, 4, 4))
    with pytest.raises(InputError, match="held_out"):
        explain.class_mixture(model, torch.rand(21, 1, 4, 4), 0, 2, held_out=torch.rand(0, 1, 4, 4))
