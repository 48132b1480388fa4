"""Where learning starts, for every kind of net and for images that are hard to start from."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drmm import DRMM, lift
from drmm.data import load
from drmm.errors import InputError
from drmm.learning.initialisation import initialise
from drmm.model.constraints import is_nonnegative, weight_normalise
from drmm.model.presets import PRESETS, build, conv_large, conv_small, dense
from drmm.rendering import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Level,
    Linear,
    ReLU,
    Rendering,
    Sequential,
)

HOWS = ("default", "data", "orthonormal", "glorot")
LENGTH = 3**-0.5


def digits(n=200, name="digits"):
    data = load(name)
    some = torch.randperm(len(data.x_train), generator=torch.Generator().manual_seed(0))[:n].numpy()
    return torch.from_numpy(data.x_train[some]), torch.from_numpy(data.y_train[some])


def on_top_of(*levels, features, shape):
    return DRMM(Sequential(*levels, AdaptiveAvgPool2d(1), Flatten()), Linear(features, 3), image_shape=shape)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


# --- every kind of net ---


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("constraint", ["soft", "hard"])
@pytest.mark.parametrize("how", HOWS)
def test_every_preset(name, constraint, how):
    model = build(name, 4, (1, 16, 16), constraint=constraint, width=6)
    x, before = torch.rand(20, 1, 16, 16), weights(model)
    if constraint == "hard" and how in {"orthonormal", "glorot"}:
        with pytest.raises(InputError, match="both signs"):
            initialise(model, how, x=x)
        assert equal(weights(model), before)
        return
    assert initialise(model, how, x=x) is model
    assert not equal(weights(model), before)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    latents = model.eval().infer(x)
    assert torch.isfinite(latents.logits).all()
    assert latents.certified().all() == (constraint == "hard")


@pytest.mark.parametrize("how", HOWS)
def test_everything_follows_from_the_seed(how):
    x = torch.rand(20, 1, 12, 12)
    first = weights(initialise(dense(4, (1, 12, 12)), how, x=x, seed=1))
    torch.rand(7)
    again = initialise(dense(4, (1, 12, 12)), how, x=x, seed=1)
    assert equal(weights(again), first)
    assert not equal(weights(initialise(again, how, x=x, seed=2)), first)


def test_default_is_as_torch_draws():
    model = dense(10, (1, 16, 16), width=200)
    initialise(model, "default")
    for dictionary in (model.levels[1], model.levels[4], model.templates):
        reach = dictionary.in_features**-0.5
        assert 0.95 * reach < dictionary.weight.abs().max() <= reach
        assert 0.5 * reach < dictionary.bias.abs().max() <= reach
        assert dictionary.weight.norm(dim=1).mean().item() == pytest.approx(LENGTH, rel=0.03)


def test_default_under_the_hard_constraint_is_sparse_and_has_both_polarities():
    model = initialise(conv_small(4, constraint="hard", width=8), "default")
    first = model.levels[0].dictionary.weight
    assert torch.equal(first[4:], -first[:4])
    for dictionary in (model.levels[1].dictionary, model.levels[3].dictionary, model.templates):
        fan_in = dictionary.weight[0].numel()
        assert dictionary.weight.square().mean().item() == pytest.approx(LENGTH**2 / fan_in, rel=1e-3)
        assert dictionary.weight.median() < 1e-3 * dictionary.weight.max()


def test_norms_start_anew_and_are_measured_where_there_are_images():
    model, x = conv_small(4, width=4), torch.rand(30, 1, 28, 28)
    norm = model.levels[1].norm
    with torch.no_grad():
        norm.weight.uniform_()
        norm.bias.uniform_()
        model(x)
    initialise(model, "orthonormal")
    assert equal(norm.state_dict(), BatchNorm2d(8).state_dict())
    initialise(model, "orthonormal", x=x)
    with torch.no_grad():
        u = model.levels[1].dictionary(model.eval().levels[0](x))
    torch.testing.assert_close(norm.running_mean, u.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, u.var((0, 2, 3), correction=0))


def test_the_identity_on_top_is_kept_unless_templates_come_from_data():
    for constraint in ("soft", "hard"):
        model = conv_large(4, (1, 16, 16), width=3, constraint=constraint)
        initialise(model, "default")
        torch.testing.assert_close(model.templates.weight, torch.eye(4))
        initialise(model, "data", x=torch.rand(9, 1, 16, 16))
        assert (model.templates.weight - torch.eye(4)).abs().max() > 0.1


def test_a_lifted_net_starts_with_its_model():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 36, 3))
    model, (x, _) = lift(net), digits(40)
    before = net[0].weight.clone()
    initialise(model, "data", x=x)
    assert not torch.equal(net[0].weight, before)
    x = x / 255
    assert torch.equal(net(x), model(x))
    # Without norms the biases put the threshold at the mean response.
    torch.testing.assert_close(net[0](x).mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)


def test_weight_normalised_templates_are_set_through_their_parametrisation():
    x, y = digits()
    plain = initialise(conv_small(10, (1, 8, 8), width=4), "data", x=x, y=y).eval()
    model = weight_normalise(conv_small(10, (1, 8, 8), width=4))
    initialise(model, "data", x=x, y=y).eval()
    torch.testing.assert_close(model(x / 255), plain(x / 255), rtol=1e-4, atol=1e-4)


class Residual(Rendering):
    """A rendering of the user's own, with a dictionary inside."""

    def __init__(self):
        super().__init__()
        self.inner = Conv2d(1, 1, 3, padding=1)

    def infer(self, x):
        y, switches = self.inner.infer(x)
        return x + y, switches

    def render(self, z, switches):
        return z + self.inner.render(z, switches)


def test_a_dictionary_inside_a_rendering_of_your_own():
    model = on_top_of(Residual(), Level(Conv2d(1, 4, 3)), features=4, shape=(1, 8, 8))
    initialise(model, "orthonormal", x=torch.rand(3, 1, 8, 8))
    assert model.levels[0].inner.weight.norm().item() == pytest.approx(1)
    before = weights(model)
    with pytest.raises(InputError, match="Residual"):
        initialise(model, "data", x=torch.rand(3, 1, 8, 8))
    assert equal(weights(model), before)


# --- templates from data ---

CONVS = {
    "plain": {"kernel_size": 3},
    "padded, strided, dilated": {"kernel_size": (2, 3), "padding": (3, 1), "stride": (2, 1), "dilation": (1, 2)},
    "same, dilated": {"kernel_size": 3, "dilation": (2, 1), "padding": "same"},
    "valid": {"kernel_size": 2, "padding": "valid"},
    "groups": {"kernel_size": 3, "groups": 2},
    "depthwise, larger than the picture": {"kernel_size": 9, "groups": 4, "padding": 2},
}


def contrasts(patches):
    """Less their mean, at length 1."""
    return F.normalize(patches - patches.mean(-1, keepdim=True), dim=-1)


def seen(conv, x):
    """Every patch by torch's own convolution with the identity: (patches, groups, fan-in)."""
    fan_in = conv.weight[0].numel()
    identity = torch.eye(fan_in).reshape(fan_in, *conv.weight.shape[1:]).repeat(conv.groups, 1, 1, 1)
    patches = F.conv2d(x, identity, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    return patches.unflatten(1, (conv.groups, fan_in)).permute(0, 3, 4, 1, 2).flatten(0, 2)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", CONVS)
def test_a_template_is_a_patch_less_its_mean(case):
    conv, x = Conv2d(4, CONVS[case].get("groups", 1), **CONVS[case]), torch.rand(10, 4, 7, 6)
    model = on_top_of(Level(conv), features=conv.out_channels, shape=(4, 7, 6))
    patches = seen(conv, x)
    for seed in range(10):
        initialise(model, "data", x=x, seed=seed)
        templates = conv.weight.flatten(1)  # one for each group
        cosine = (contrasts(patches) * templates / LENGTH).sum(2)
        assert cosine.amax(0).min() > 1 - 1e-5
        response = (patches.mean(0) * templates).sum(1)
        torch.testing.assert_close(-conv.bias, response, atol=1e-5, rtol=1e-4)


def test_several_templates_are_the_orthonormal_ones_nearest_to_patches():
    model, x = dense(4, (1, 4, 4), width=5), torch.rand(5, 1, 4, 4)
    initialise(model, "data", x=x)
    templates, patches = model.levels[1].weight / LENGTH, contrasts(x.flatten(1))
    torch.testing.assert_close(templates @ templates.T, torch.eye(5), atol=1e-5, rtol=0)
    match = templates @ patches.T
    match = match[:, match.argmax(1)]  # in the order that they were chosen in
    torch.testing.assert_close(match, match.T, atol=1e-5, rtol=0)  # the polar factor, which is the nearest
    assert torch.linalg.eigvalsh(match).min() > 0


def test_more_templates_than_entries_span_what_the_patches_span():
    model = on_top_of(Level(Conv2d(1, 20, 3)), features=20, shape=(1, 8, 8))
    initialise(model, "data", x=torch.rand(20, 1, 8, 8))
    templates = model.levels[0].dictionary.weight.flatten(1)
    torch.testing.assert_close(templates.sum(1), torch.zeros(20), atol=1e-5, rtol=0)  # no patch has a mean
    torch.testing.assert_close(templates.norm(dim=1), torch.full((20,), LENGTH))
    assert torch.linalg.svdvals(templates)[7] > 0.5 * torch.linalg.svdvals(templates)[0]


def test_a_group_sees_its_own_channels():
    x = torch.rand(20, 4, 6, 6)
    x[:, 2:] = 0.5  # nothing to see for the second group
    conv = Conv2d(4, 6, 3, groups=2)
    model = on_top_of(Level(conv), features=6, shape=(4, 6, 6))
    initialise(model, "default", seed=1)
    random = conv.weight.clone()
    initialise(model, "data", x=x, seed=1)
    assert (conv.weight != random).flatten(1).any(1).tolist() == [True] * 3 + [False] * 3


def test_levels_of_pixels_are_read_as_fractions():
    x = torch.randint(0, 256, (20, 1, 12, 12), dtype=torch.uint8)
    one = initialise(conv_small(4, (1, 12, 12), width=4), "data", x=x)
    other = initialise(conv_small(4, (1, 12, 12), width=4), "data", x=x / 255)
    assert equal(weights(one), weights(other))


def test_patches_without_contrast_are_not_taken():
    x = torch.full((50, 1, 12, 12), 0.5) + 1e-3 * torch.rand(50, 1, 12, 12)  # noise has directions, too
    x[:, :, 4:8, 4:8] += torch.rand(50, 1, 4, 4)
    model = on_top_of(Level(Conv2d(1, 1, 3)), features=1, shape=(1, 12, 12))
    patches = seen(model.levels[0].dictionary, x)
    loud = patches.std(2) > 0.05
    assert 0.2 < loud.float().mean() < 0.5
    for seed in range(20):
        initialise(model, "data", x=x, seed=seed)
        cosine = (contrasts(patches) * model.levels[0].dictionary.weight.flatten(1) / LENGTH).sum(2)
        assert cosine[loud].max() > 1 - 1e-5


@pytest.mark.parametrize("name", PRESETS)
def test_constant_images(name):
    x = torch.full((6, 1, 16, 16), 0.3)
    x[3:] = 0
    model = initialise(build(name, 4, (1, 16, 16), width=6), "data", x=x)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert torch.isfinite(model.eval()(x)).all()


def test_constant_images_leave_the_random_templates():
    model = on_top_of(Level(Conv2d(1, 6, 3)), Level(Conv2d(6, 6, 3)), features=6, shape=(1, 8, 8))
    initialise(model, "default", seed=3)
    random = [level.dictionary.weight.clone() for level in model.levels[:2]]
    initialise(model, "data", x=torch.full((6, 1, 8, 8), 0.3), seed=3)
    assert torch.equal(model.levels[0].dictionary.weight, random[0])


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("constraint", ["soft", "hard"])
def test_a_single_image(name, constraint):
    model, x = build(name, 4, (1, 16, 16), constraint=constraint, width=30), torch.rand(1, 1, 16, 16)
    initialise(model, "data", x=x, y=torch.tensor([2]))
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert torch.isfinite(model.eval()(x)).all()


def test_fewer_patches_than_templates_fill_up_with_random_ones():
    model, x = dense(4, (1, 3, 3), width=20), torch.rand(5, 1, 3, 3)
    initialise(model, "data", x=x, seed=4)
    templates, patches = model.levels[1].weight, contrasts(x.flatten(1))
    random = initialise(dense(4, (1, 3, 3), width=20), "default", seed=4).levels[1].weight
    assert torch.equal(templates[5:], random[5:])
    inside = torch.linalg.lstsq(patches.T, templates[:5].T).solution
    torch.testing.assert_close(patches.T @ inside, templates[:5].T, atol=1e-5, rtol=0)


# --- class templates ---


def error(model, x, y):
    with torch.no_grad():
        return (model.eval()(x / 255).argmax(1) != y).double().mean().item()


@pytest.mark.parametrize("constraint", ["soft", "hard"])
def test_with_labels_the_class_templates_know_the_classes(constraint):
    x, y = digits(1000)
    some = torch.where(torch.arange(1000) < 300, y, -1)
    model = initialise(conv_small(10, (1, 8, 8), width=8, constraint=constraint), "data", x=x, y=some)
    blind = copy.deepcopy(model)
    initialise(blind, "data", x=x)
    assert error(model, x[300:], y[300:]) < 0.7 < error(blind, x[300:], y[300:])


def test_class_templates_are_mean_features():
    x, y = digits()
    model = initialise(conv_small(10, (1, 8, 8), width=8), "data", x=x, y=y).eval()
    with torch.no_grad():
        features = model.levels(x / 255)
    means = torch.stack([features[y == c].mean(0) for c in range(10)])
    middle = means.mean(0)
    torch.testing.assert_close(model.templates.weight, LENGTH * F.normalize(means - middle), atol=1e-5, rtol=1e-4)
    undecided = model.templates(middle)
    torch.testing.assert_close(undecided, torch.zeros(10), atol=1e-5, rtol=0)


def test_a_class_without_an_image_stays_as_it_was():
    x, y = digits()
    few = torch.where(y == 7, -1, y)
    blind = initialise(conv_small(10, (1, 8, 8), width=8), "data", x=x)
    none = initialise(conv_small(10, (1, 8, 8), width=8), "data", x=x, y=torch.full_like(y, -1))
    model = initialise(conv_small(10, (1, 8, 8), width=8), "data", x=x, y=few)
    assert equal(weights(none), weights(blind))
    changed = (model.templates.weight != blind.templates.weight).any(1)
    assert changed.tolist() == [c != 7 for c in range(10)]


# --- does it help? ---


def readout_error(model, x, y, train=400):
    """Of a ridge regression from the top features to the classes."""
    with torch.no_grad():
        features = model.eval().levels(x / 255).double()
    features = (features - features[:train].mean(0)) / (features[:train].std(0) + 1e-9)
    targets = F.one_hot(y[:train], 10).double() - 0.1
    gram = features[:train].T @ features[:train] + 0.1 * train * torch.eye(features.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, features[:train].T @ targets)
    return ((features[train:] @ weight).argmax(1) != y[train:]).double().mean().item()


def test_patches_are_better_features_than_noise():
    x, y = digits(1200, "mnist-5k")
    found = {how: readout_error(initialise(conv_small(width=16), how, x=x), x, y, 600) for how in HOWS}
    assert found["data"] < 0.7 * min(found[how] for how in HOWS if how != "data")


# --- what cannot be done ---


def test_refusals():
    model, x = conv_small(4, (1, 12, 12), width=3), torch.rand(5, 1, 12, 12)
    before = weights(model)
    cases = [
        ({"how": "zeros"}, "one of default, data, orthonormal, glorot"),
        ({"how": "data"}, "needs images"),
        ({"how": "data", "x": x[0]}, r"\(N, 1, 12, 12\), not \(1, 12, 12\)"),
        ({"how": "data", "x": x[:0]}, "must be"),
        ({"how": "data", "x": x[..., :11]}, "must be"),
        ({"how": "glorot", "x": x / 0}, "NaN or infinity"),
        ({"how": "data", "x": x, "y": torch.zeros(4, dtype=torch.long)}, "5 class indices from 0 to 3"),
        ({"how": "data", "x": x, "y": torch.zeros(5)}, "class indices"),
        ({"how": "data", "x": x, "y": torch.full((5,), 4)}, "class indices"),
        ({"how": "data", "x": x, "y": torch.full((5,), -2)}, "class indices"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            initialise(model, **options)
    assert equal(weights(model), before)


def test_only_a_hard_model_is_nonnegative():
    hard, soft = conv_small(width=2, constraint="hard"), weight_normalise(conv_small(width=2))
    assert is_nonnegative(hard.templates)
    assert not is_nonnegative(hard.levels[0].dictionary)
    assert not any(is_nonnegative(module) for module in soft.modules())


def test_a_plain_stack_of_dictionaries():
    levels = Sequential(Sequential(Flatten(), Linear(64, 20)), Sequential(ReLU(), Linear(20, 12), ReLU()))
    model, (x, y) = DRMM(levels, Linear(12, 10), image_shape=(1, 8, 8)), digits()
    for how in HOWS:
        initialise(model, how, x=x, y=y)
        assert torch.isfinite(model(x / 255)).all()
    initialise(model, "orthonormal")
    rows = levels[1][1].weight
    torch.testing.assert_close(rows @ rows.T, torch.eye(12), atol=1e-5, rtol=0)
    assert not levels[1][1].bias.any()
