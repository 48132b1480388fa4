"""T4. A picture is a sum over paths from the class down to the pixels.

Slide "The Sum-over-Paths Formulation": I_x = Σ_{p: c→x} Π_ℓ t_p a_p γ_p, by the definition of matrix
multiplication. Every path of small nets is listed with its weight γ_p and its switches t_p a_p; the sum
equals what the levels render, and the paths into pixels and biases add up to the score. Only a sparse part of
the paths is active, and it alone gives the same sum. Control: with every switch on the sum is another one.
"""

import pytest
import torch

from drmm import DRMM
from drmm.rendering import (
    Abs,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from drmm.testing import enumerate_paths, random_net

TIGHT = {"rtol": 1e-9, "atol": 1e-9}
DRAWS = 40


def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    signed = (True,) * (3 + seed % 2)
    model = random_net(generator, signed=signed)
    x = torch.randn(1, *model.image_shape, generator=generator)
    latents = model.infer(x)
    return model, x, latents, enumerate_paths(model, latents)


@pytest.mark.parametrize("seed", range(DRAWS))
def test_paths_add_up_to_the_picture_and_the_score(seed):
    model, x, latents, paths = draw(seed)
    torch.testing.assert_close(paths.image(), model.render(latents)[0], **TIGHT)
    torch.testing.assert_close(paths.scores(x[0]).sum(), latents.score[0], **TIGHT)


def test_active_paths_are_few_and_sufficient():
    shares = []
    for seed in range(DRAWS):
        model, x, latents, paths = draw(seed)
        shares.append(float(paths.active.double().mean()))
        alone = paths.scores(x[0])[paths.active].sum()
        torch.testing.assert_close(alone, model(x)[0, latents.label[0]], **TIGHT)
    assert sum(shares) / DRAWS < 0.4


def test_paths_into_biases_are_what_sum_over_paths_says():
    model, x, latents, paths = draw(5)
    biases = paths.scores(x[0])[paths.end < 0].sum()
    assert (paths.end < 0).any()
    torch.testing.assert_close(biases, model.sum_over_paths(x, latents).bias[0], **TIGHT)


def test_every_kind_of_switch_is_on_the_path():
    levels = Sequential(
        Conv2d(1, 2, 2),
        BatchNorm2d(2),
        Abs(),
        MaxPool2d(2, 1, 1, ceil_mode=True),
        AvgPool2d(2),
        LeakyReLU(0.3),
        Conv2d(2, 2, 2),
        ReLU(),
        Flatten(),
    )
    model = DRMM(levels, Linear(2, 3)).eval()
    x = torch.randn(1, 1, 4, 4)
    latents = model.infer(x)
    paths = enumerate_paths(model, latents)
    torch.testing.assert_close(paths.image(), model.render(latents)[0], **TIGHT)
    torch.testing.assert_close(paths.scores(x[0]).sum(), latents.score[0], **TIGHT)


def test_control_all_paths_give_another_sum():
    for seed in range(DRAWS):
        _, x, latents, paths = draw(seed)
        inputs = torch.cat([x.flatten(), torch.ones(1)])
        everything = (paths.gamma * inputs[paths.end]).sum()
        assert abs(everything - latents.score[0]) > 1e-3 * abs(latents.score[0])
