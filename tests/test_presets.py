"""The published architectures, size by size."""

import pytest
import torch
from torch import nn

from drmm.errors import InputError
from drmm.presets import PRESETS, build, conv_large, conv_small, dense
from drmm.rendering import Level


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
@pytest.mark.parametrize("constraint", ["soft", "hard"])
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


def test_unknown_names():
    with pytest.raises(InputError, match="choose from conv_small, conv_large, dense"):
        build("resnet", 3, (1, 12, 12))
    with pytest.raises(InputError, match="'soft' or 'hard'"):
        build("conv_small", 3, (1, 12, 12), constraint="firm")
