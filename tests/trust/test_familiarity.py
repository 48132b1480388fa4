"""Pictures like those that a model learned from are familiar; noise, blanks and others are not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from drmm.data import load
from drmm.data.images import pixels
from drmm.learning.config import Training
from drmm.learning.train import train
from drmm.model.deep import DRMM
from drmm.storage.models import Recipe
from drmm.trust.familiarity import PARTS, Familiarity, _typical, fit_familiarity, looks_of_pictures

DATA = load("digits")
TRAIN, TEST = torch.from_numpy(DATA.x_train), torch.from_numpy(DATA.x_test)


@pytest.fixture(scope="module")
def model() -> DRMM:
    recipe = Recipe("conv_small").fitted((1, 8, 8), DATA.classes)
    config = Training(epochs=1, min_steps=40)
    return train(recipe.build(0), TRAIN, torch.from_numpy(DATA.y_train), config=config, progress=False)


@pytest.fixture(scope="module")
def known(model: DRMM) -> Familiarity:
    return fit_familiarity(model, TRAIN)


def p_values(model: DRMM, known: Familiarity, x: torch.Tensor) -> np.ndarray:
    return of_parts(model, known, x)[0]


def of_parts(model: DRMM, known: Familiarity, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        return known.p_values(looks_of_pictures(model, pixels(x), model.infer(pixels(x))))


def strange() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, TEST.shape, generator=draw, dtype=torch.uint8)
    order = torch.rand(TEST.flatten(1).shape, generator=draw).argsort(1)
    return {
        "noise": noise,
        "shuffled": TEST.flatten(1).gather(1, order).reshape(TEST.shape),
        "inverted": 255 - TEST,
        "black": torch.zeros_like(TEST),
        "white": torch.full_like(TEST, 255),
        "gray": torch.full_like(TEST, 128),
    }


@pytest.mark.parametrize("kind", strange())
def test_what_is_strange_is_unfamiliar(model: DRMM, known: Familiarity, kind: str) -> None:
    p, ordinary = p_values(model, known, strange()[kind]), p_values(model, known, TEST)
    assert roc_auc_score(np.r_[np.zeros(len(ordinary)), np.ones(len(p))], -np.r_[ordinary, p]) > 0.95
    assert np.median(p) <= 0.02


def test_control_the_pixels_alone_find_nothing_more_likely_than_a_blank(model: DRMM) -> None:
    with torch.no_grad():
        likely = [model.log_likelihood(v, model.infer(v)) for v in (pixels(TEST), pixels(strange()["black"]))]
    assert likely[1].min() > likely[0].max()


def test_p_values_of_familiar_pictures_are_uniform(model: DRMM, known: Familiarity) -> None:
    p = p_values(model, known, TEST)
    assert 0 < p.min() <= p.max() <= 1
    for level in (0.05, 0.2, 0.5):
        assert abs((p < level).mean() - level) < 0.1


def test_parts_that_never_vary_do_not_count_until_they_do() -> None:
    """Of two classes' features, with nothing drawn at all."""
    looks = np.r_[np.tile([0.0, 0, 0, 1, 0], (30, 1)), np.tile([0.0, 0, 0, 0, 1], (30, 1))]
    known = replace(_typical(looks, np.repeat([0, 1], 30), 2), reference=np.zeros((99, 4)), sums=np.zeros(99))
    p, parts = known.p_values(np.array([[0.0, 0, 0, 1, 0], [100, 0, 0, 1, 0], [0, 0, 0, -1, 0]]))
    assert p == pytest.approx([0.01, 0.01, 0.01])
    assert parts[:, 0] == pytest.approx([1, 0.01, 1])
    assert parts[:, 3] == pytest.approx([1, 1, 0.01])


def test_each_part_is_strange_in_its_own_way(model: DRMM, known: Familiarity) -> None:
    p, parts = of_parts(model, known, TEST)
    for column in parts.T:
        assert abs((column < 0.2).mean() - 0.2) < 0.1
    looks = looks_of_pictures(model, pixels(TEST), model.infer(pixels(TEST)))
    for part, where in {"pixels": slice(3), "switches": slice(3, len(known.mean))}.items():
        strange = looks.copy()
        strange[:, where] += 100 * np.abs(looks[:, where]).max()
        found, of_each = known.p_values(strange)
        assert (of_each.argmin(1) == PARTS.index(part)).mean() > 0.95
        assert np.median(found) < np.median(p) / 5


def test_a_picture_is_no_company_to_itself_nor_are_its_copies(model: DRMM) -> None:
    """One stranger among the pictures that were learned from, many times."""
    noise = strange()["noise"][:1]
    known = fit_familiarity(model, torch.cat([TRAIN[:300], noise.expand(3, -1, -1, -1)]))
    apart = fit_familiarity(model, TRAIN[:300])
    assert of_parts(model, known, noise)[1][0, 2] < 0.03
    assert of_parts(model, apart, noise)[1][0, 2] < 0.03, "control"


def test_the_prior_falls_into_its_choices(model: DRMM) -> None:
    latents = model.infer(pixels(TEST[:5]))
    assert model.prior is not None
    total = torch.stack(list(model.prior.log_probs(latents.switches))).sum(0)
    assert torch.allclose(total, model.prior.log_prob(latents.switches))


def test_equal_pictures_are_familiar(model: DRMM) -> None:
    """A constant part has no variance to divide by."""
    known = fit_familiarity(model, TRAIN[:1].expand(12, -1, -1, -1))
    assert p_values(model, known, TRAIN[:1])[0] > 0.1
    assert p_values(model, known, TRAIN[1:2])[0] < 0.25


@pytest.mark.parametrize("n", [2, 3, 7])
def test_few_pictures_call_nothing_unfamiliar(model: DRMM, n: int) -> None:
    assert p_values(model, fit_familiarity(model, TRAIN[:n]), strange()["noise"]).min() >= 1 / (n + 1) - 1e-9
