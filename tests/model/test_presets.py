"""The published architectures, size by size."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from drmm.errors import InputError, RunError
from drmm.model.presets import PRESETS, build, conv_large, conv_small, dense
from drmm.rendering import Level
from drmm.storage.models import Recipe, load_model, save_model


def table(model, image_shape):
    """Each level as (channels, kernel, size after the dictionary, size after the pool)."""
    rows, x = [], torch.zeros(1, *image_shape)
    for level in model.eval().levels.renderings:
        if isinstance(level, Level):
            u = level.dictionary(x)
            x = level(x)
            rows.append((u.shape[1], level.dictionary.kernel_size[0], u.shape[2], x.shape[2]))
    return rows


def test_conv_small():
    model = conv_small()
    assert table(model, (1, 28, 28)) == [(32, 5, 32, 16), (64, 3, 14, 14), (64, 3, 16, 8), (128, 3, 6, 6)]
    assert model.templates.weight.shape == (10, 128)
    assert model(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    assert model.levels(torch.zeros(1, 1, 28, 28)).shape == (1, 128)  # the mean over 6×6


def test_conv_large():
    model = conv_large()
    assert table(model, (3, 32, 32)) == [
        (96, 3, 32, 32),
        (96, 3, 34, 34),
        (96, 3, 36, 18),
        (192, 3, 16, 16),
        (192, 3, 18, 18),
        (192, 3, 16, 8),
        (192, 3, 6, 6),
        (192, 1, 6, 6),
        (10, 1, 6, 6),
    ]
    assert torch.equal(model.templates.weight, torch.eye(10))
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("make", [conv_small, conv_large])
def test_every_dictionary_has_a_norm_and_no_bias(make):
    levels = [level for level in make(width=2).levels.renderings if isinstance(level, Level)]
    assert all(level.norm is not None and level.dictionary.bias is None for level in levels)


@pytest.mark.parametrize(("name", "smallest"), [("conv_small", 8), ("conv_large", 12)])
def test_the_smallest_images(name, smallest):
    model = build(name, 3, (2, smallest, smallest + 5), width=2)
    assert model.eval()(torch.zeros(1, 2, smallest, smallest + 5)).shape == (1, 3)
    with pytest.raises(InputError, match=f"needs {smallest}x{smallest}.*preset 'dense'"):
        build(name, 3, (2, smallest - 1, 40), width=2)
    with pytest.raises(InputError, match=name):
        build(name, 3, (2, 40, smallest - 1), width=2)


def test_dense_takes_any_size():
    model = dense(3, (1, 1, 5), width=7).eval()
    assert model(torch.zeros(2, 1, 1, 5)).shape == (2, 3)
    assert model.infer(torch.randn(2, 1, 1, 5)).switches.parts[3].a.shape == (2, 7)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("constraint", ["soft", "hard", "weight_norm"])
def test_by_name(name, constraint):
    model = build(name, 3, (1, 12, 12), constraint=constraint, width=2).eval()
    x = torch.randn(2, 1, 12, 12)
    assert model.reconstruct(x).shape == x.shape
    assert model.sample(2).shape == x.shape


@pytest.mark.parametrize("name", PRESETS)
def test_a_hard_preset_is_certified_in_single_precision(name):
    model, x = build(name, 4, (1, 16, 16), constraint="hard", width=8), torch.rand(8, 1, 16, 16)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0  # running statistics are those of the last batch
    with torch.no_grad():
        model.train()(x)
    latents = model.eval().infer(x)
    assert latents.certified().all()
    assert latents.score.std() > 1e-4


def test_the_default_width_is_the_presets_own():
    assert build("conv_small", 10, (1, 28, 28)).templates.weight.shape == (10, 128)


# --- depth ---


DEPTHS = [("conv_small", 4), ("conv_large", 9), ("dense", 2)]


@pytest.mark.parametrize(("name", "own"), DEPTHS)
def test_the_default_depth_is_the_presets_own(name, own):
    default, explicit, shallower = (build(name, 3, (1, 12, 12), width=2, depth=d) for d in (None, own, own - 1))
    assert [p.shape for p in default.parameters()] == [p.shape for p in explicit.parameters()]
    assert len(list(shallower.parameters())) == len(list(default.parameters())) - {"dense": 4}.get(name, 3)


def dictionaries(model):
    return [m.weight.shape for m in model.levels.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize(("name", "own"), DEPTHS)
@pytest.mark.parametrize("constraint", ["soft", "hard", "weight_norm"])
def test_the_lowest_levels_stay(name, own, constraint):
    whole = dictionaries(build(name, 3, (1, 12, 12), width=2))
    for depth in range(1, own + 1):
        model = build(name, 3, (1, 12, 12), width=2, depth=depth, constraint=constraint).eval()
        found = dictionaries(model)
        assert found == whole[:depth]
        assert model.templates.in_features == found[-1][0]
        x = torch.randn(2, 1, 12, 12)
        assert model(x).shape == (2, 3)
        assert model.reconstruct(x).shape == x.shape
        assert model.sample(2).isfinite().all()


def test_a_dense_net_may_be_as_deep_as_you_like():
    model = dense(3, (1, 2, 2), width=5, depth=6).eval()
    assert dictionaries(model) == [(5, 4)] + [(5, 5)] * 5
    assert model(torch.zeros(1, 1, 2, 2)).shape == (1, 3)


@pytest.mark.parametrize(("name", "own"), DEPTHS)
def test_depths_that_do_not_exist(name, own):
    for depth in (0, -1, *([] if name == "dense" else [own + 1])):
        with pytest.raises(InputError, match="depth"):
            build(name, 3, (1, 12, 12), width=2, depth=depth)


def test_the_identity_on_top_of_conv_large_needs_all_levels():
    assert torch.equal(build("conv_large", 3, (1, 12, 12), width=2).templates.weight, torch.eye(3))
    shallower = build("conv_large", 3, (1, 12, 12), width=2, depth=8)
    assert shallower.templates.weight.shape == (3, 4)


@pytest.mark.parametrize(("width", "depth"), [(4, 3), (2, 8), (4, 1)])
def test_as_many_templates_as_classes_make_no_identity_below_the_top(width, depth):
    templates = build("conv_large", 4, (1, 12, 12), width=width, depth=depth).templates
    assert templates.weight.shape == (4, 4)
    assert not torch.equal(templates.weight, torch.eye(4))


@pytest.mark.parametrize("name", PRESETS)
def test_weight_normalised_templates_are_amplitude_times_direction(name):
    model = build(name, 3, (1, 12, 12), width=2, constraint="weight_norm")
    modules = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert all(parametrize.is_parametrized(module, "weight") for module in modules)
    for module in modules:
        amplitude = module.parametrizations.weight.original0
        torch.testing.assert_close(module.weight.flatten(1).norm(dim=1), amplitude.flatten())
    control = build(name, 3, (1, 12, 12), width=2)
    assert not any(parametrize.is_parametrized(module) for module in control.modules())


def test_a_recipe_keeps_the_depth(tmp_path):
    recipe = Recipe("conv_small", (1, 12, 12), ("a", "b"), "weight_norm", width=2, depth=3)
    model = recipe.build(seed=0).eval()
    save_model(model, recipe, tmp_path)
    again, read = load_model(tmp_path)
    assert read == recipe
    assert torch.equal(model(x := torch.rand(2, 1, 12, 12)), again(x))
    config = json.loads((tmp_path / "model.json").read_text())
    del config["depth"]  # as written before there was a choice
    (tmp_path / "model.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="another architecture"):
        load_model(tmp_path)
    whole = Recipe("conv_small", (1, 12, 12), ("a", "b"), width=2)
    save_model(whole.build(seed=0), whole, tmp_path)
    config = json.loads((tmp_path / "model.json").read_text())
    del config["depth"]
    (tmp_path / "model.json").write_text(json.dumps(config))
    assert load_model(tmp_path)[1] == whole


@pytest.mark.parametrize(
    ("name", "channels"), [("conv_small", (3, 1, 4, 2)), ("conv_large", (3, 1)), ("dense", (4, 3))]
)
@pytest.mark.parametrize("constraint", ["soft", "hard", "weight_norm"])
def test_channels_in_place_of_a_width(name, channels, constraint, tmp_path):
    recipe = Recipe(name, (1, 12, 12), ("a", "b", "c"), constraint, depth=len(channels), channels=channels)
    model = recipe.build(seed=0).eval()
    assert [shape[0] for shape in dictionaries(model)] == list(channels)
    x = torch.rand(2, 1, 12, 12)
    assert model(x).shape == (2, 3)
    save_model(model, recipe, tmp_path)
    again, read = load_model(tmp_path)
    assert read == recipe
    assert torch.equal(again(x), model(x))


def test_channels_of_a_models_file(tmp_path):
    recipe = Recipe("conv_small", (1, 12, 12), ("a", "b"), depth=2, channels=(2, 3))
    save_model(recipe.build(seed=0), recipe, tmp_path)
    config = json.loads((tmp_path / "model.json").read_text())
    for damaged, message in (([2], "channels must be 2 numbers"), ([2, "x"], "not describe"), (7, "not describe")):
        (tmp_path / "model.json").write_text(json.dumps({**config, "channels": damaged}))
        with pytest.raises(RunError, match=message):
            load_model(tmp_path)
    whole = Recipe("conv_small", (1, 12, 12), ("a", "b"), width=2)
    save_model(whole.build(seed=0), whole, tmp_path)
    config = json.loads((tmp_path / "model.json").read_text())
    del config["channels"]  # as written before there was pruning
    (tmp_path / "model.json").write_text(json.dumps(config))
    assert load_model(tmp_path)[1] == whole


@pytest.mark.parametrize("channels", [(), (2,), (2, 3, 4), (0, 2)])
def test_channels_that_do_not_fit(channels):
    with pytest.raises(InputError, match="channels must be 2 numbers of 1 or more"):
        build("conv_small", 3, (1, 12, 12), depth=2, channels=channels)


def test_unknown_names():
    with pytest.raises(InputError, match="choose from conv_small, conv_large, dense"):
        build("resnet", 3, (1, 12, 12))
    with pytest.raises(InputError, match="choose from soft, hard, weight_norm"):
        build("conv_small", 3, (1, 12, 12), constraint="firm")
