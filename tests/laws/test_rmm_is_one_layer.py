"""Inference in the shallow model is one layer of a convnet.

Slide "Theorem: Inference in RMM yields One Layer of Convnet": for given loadings z,

    ĉ(I) = argmax_c max_t max_a ⟨Λ(c,t)(a ⊙ z), I⟩ = Choose(MaxPool(ReLU(Conv(I)))).

Checked against drawing every configuration, border included: what is drawn beyond the canvas is lost, as the zero
padding of the convolution has it. With one element a class, torch's own layers compute the same numbers; with
more, the elements share one position, so that their maps are added before the pooling.

Controls, measured on these draws (chance: 0.33): loadings of both signs that come after the ReLU find the best
class in 0.63 of the images, average pooling in 0.82, pooling each element by itself in 0.85. Max-sum's class is
that of the Gaussian -½‖I - Λ(c,t)(a ⊙ z)‖² in 0.23: strong templates score high, and have a large norm to pay for.
"""

import itertools

import pytest
import torch
from torch import nn

from drmm.model.shallow import RMM
from drmm.rendering import Conv2d, Level, MaxPool2d

CASES = [
    {"elements": 1, "reach": 1},
    {"elements": 1, "reach": (0, 2)},
    {"elements": 2, "reach": 1},
    {"elements": 3, "reach": (2, 1)},
]


def random_mixture(seed, *, elements=2, reach=1, shape=(2, 4, 5), signed=False):
    """Three classes with templates of both signs, and forty images."""
    generator = torch.Generator().manual_seed(seed)
    model = RMM(3, shape, elements=elements, reach=reach).requires_grad_(requires_grad=False)
    nn.init.normal_(model.dictionary.weight, generator=generator)
    nn.init.normal_(model.mean_loading, generator=generator)
    if not signed:
        model.mean_loading.abs_()
    return model, torch.randn(40, *shape, generator=generator)


def drawn(picture, shift):
    """A picture (C, H, W) moved by whole pixels, pixel by pixel; what leaves the canvas is lost."""
    canvas = torch.zeros_like(picture)
    height, width = picture.shape[1:]
    for row, column in itertools.product(range(height), range(width)):
        r, c = row + int(shift[0]), column + int(shift[1])
        if 0 <= r < height and 0 <= c < width:
            canvas[:, r, c] = picture[:, row, column]
    return canvas


def every_configuration(model, loadings=None):
    """Indices (c, t, a) of all configurations, and their pictures."""
    z = model.mean_loading if loadings is None else loadings
    rows = model.reach
    shifts = list(itertools.product(range(-rows[0], rows[0] + 1), range(-rows[1], rows[1] + 1)))
    index, pictures = [], []
    for c, t in itertools.product(range(model.n_classes), range(len(shifts))):
        elements = [drawn(model.templates[c, k], shifts[t]) * z[c, k] for k in range(model.elements)]
        for a in itertools.product((0, 1), repeat=model.elements):
            index.append((c, t, a))
            pictures.append(sum(on * element for on, element in zip(a, elements, strict=True)))
    return index, torch.stack(pictures)


def brute_force(model, x, objective="max-sum"):
    """The best score of each image, and the configuration that has it."""
    index, pictures = every_configuration(model)
    scores = x.flatten(1) @ pictures.flatten(1).T
    if objective == "gaussian":
        scores = scores - 0.5 * pictures.flatten(1).square().sum(1)
    best, place = scores.max(1)
    return best, [index[i] for i in place.tolist()]


def agreement(labels, configurations):
    return float((labels == torch.tensor([c for c, _, _ in configurations])).double().mean())


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_joint_maximum(case, signed):
    for seed in range(10):
        model, x = random_mixture(seed, signed=signed, **case)
        best, configurations = brute_force(model, x)
        score, latents = model.infer(x)
        torch.testing.assert_close(score, best, rtol=1e-12, atol=1e-12)
        found = zip(
            latents.label.tolist(), latents.position.tolist(), latents.switches.int().tolist(), strict=True
        )
        assert [(c, t, tuple(a)) for c, t, a in found] == configurations


@pytest.mark.parametrize("case", CASES)
def test_the_score_is_the_rendering_times_the_image(case):
    model, x = random_mixture(1, signed=True, **case)
    score, latents = model.infer(x)
    torch.testing.assert_close((model.render(latents) * x).flatten(1).sum(1), score, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reach", [1, (0, 2)])
def test_one_element_is_literally_torchs_layer(reach):
    model, x = random_mixture(2, elements=1, reach=reach)
    rows, columns = model.reach
    window = (2 * rows + 1, 2 * columns + 1)
    conv = nn.Conv2d(2, 3, (4, 5), padding=(rows, columns), bias=False)
    conv.weight.data = model.mean_loading[..., None, None] * model.dictionary.weight
    layer = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(window), nn.Flatten())
    torch.testing.assert_close(model(x), layer(x).detach(), rtol=1e-12, atol=1e-12)
    assert torch.equal(model.infer(x)[1].label, layer(x).argmax(1))


def test_one_element_is_one_level_of_the_deep_model():
    model, x = random_mixture(3, elements=1)
    dictionary = Conv2d(2, 3, (4, 5), padding=1, bias=False)
    dictionary.weight.data = model.mean_loading[..., None, None] * model.dictionary.weight
    features, switches = Level(dictionary, None, MaxPool2d(3)).infer(x)
    torch.testing.assert_close(model(x), features.flatten(1).detach(), rtol=1e-12, atol=1e-12)
    _, latents = model.infer(x)
    chosen = torch.arange(len(x)), latents.label
    assert torch.equal(latents.position, switches.t.flatten(1)[chosen].long())
    assert torch.equal(latents.switches[:, 0], switches.a.flatten(1)[chosen])


def test_elements_add_up_before_the_pooling():
    model, x = random_mixture(4, elements=3)
    conv = nn.Conv2d(2, 9, (4, 5), padding=1, bias=False)
    conv.weight.data = model.mean_loading.reshape(-1, 1, 1, 1) * model.dictionary.weight
    add = nn.Conv2d(9, 3, 1, groups=3, bias=False)
    nn.init.ones_(add.weight)
    layer = nn.Sequential(conv, nn.ReLU(), add, nn.MaxPool2d(3), nn.Flatten())
    torch.testing.assert_close(model(x), layer(x).detach(), rtol=1e-12, atol=1e-12)


def shares(change, *, signed=False):
    """Share of images whose class another layer, or another objective, shares with the theorem's right side."""
    found = []
    for seed in range(10):
        model, x = random_mixture(seed, signed=signed)
        found.append(agreement(change(model, x), brute_force(model, x)[1]))
    return sum(found) / len(found)


def correlations(model, x):
    maps = nn.functional.conv2d(x, model.dictionary.weight, padding=model.reach)
    return maps.unflatten(1, (model.n_classes, model.elements)).flatten(3)


def test_control_signed_loadings_after_the_relu():
    after = shares(
        lambda model, x: (correlations(model, x).relu() * model.mean_loading[..., None]).sum(2).amax(2).argmax(1),
        signed=True,
    )
    assert 0.3 < after < 0.9


def test_control_average_pooling():
    average = shares(
        lambda model, x: (correlations(model, x) * model.mean_loading[..., None]).relu().sum(2).mean(2).argmax(1)
    )
    assert 0.3 < average < 0.95


def test_control_a_position_for_each_element():
    apart = shares(
        lambda model, x: (correlations(model, x) * model.mean_loading[..., None]).relu().amax(3).sum(2).argmax(1)
    )
    assert 0.3 < apart < 0.95


def test_control_gaussian_objective():
    found = []
    for seed in range(10):
        model, x = random_mixture(seed)
        found.append(agreement(model.infer(x)[1].label, brute_force(model, x, "gaussian")[1]))
    assert sum(found) / len(found) < 0.5
