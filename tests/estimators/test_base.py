"""What comes out of an estimator it takes again; forms of X; warm starts; seeds; fits in several threads."""

import copy
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pictures import hidden, thirds
from PIL import Image
from sklearn.exceptions import NotFittedError

from drmm import DRMMClassifier, EvolutionaryClassifier, RenderingMixture
from drmm.errors import InputError
from drmm.estimators.classifier import _go_on
from drmm.storage.models import Recipe


def quick(steps: int = 30, random_state: int = 0, **options: object) -> DRMMClassifier:
    training = {"min_steps": steps, "batch_size": 32, "labelled_per_batch": 8, "learning_rate": 0.01}
    return DRMMClassifier(
        model={"width": 4}, training=training, machine={"accelerator": "cpu"}, epochs=2, random_state=random_state,
        **options,
    )  # fmt: skip


# --- what comes out is like what went in ---


# What the images are made of those of `thirds`, and how the estimator has to be told.
GREY = {
    "uint8": (lambda x: x, {}),
    "float": (lambda x: x / 255, {}),
    "int64": (lambda x: x.astype(np.int64), {}),
    "uint16": (lambda x: x.astype(np.uint16) * 257, {}),
    "bool": (lambda x: x > 100, {}),
    "range": (lambda x: x / 255 * 7 - 3, {"pixel_range": (-3.0, 4.0)}),
    "uint8 beside a range": (lambda x: x, {"pixel_range": (0.0, 16.0)}),
    "list": (lambda x: (x / 255).tolist(), {}),
    "tensor": (torch.from_numpy, {}),
}
COLOUR = {
    "channels last": (lambda x: x, {}),
    "channels first": (lambda x: x.transpose(0, 3, 1, 2), {}),
    "channels last, flat": (lambda x: x.reshape(len(x), -1), {"image_shape": (12, 12, 3)}),
}


@pytest.mark.parametrize("kind", [*GREY, *COLOUR])
def test_an_estimator_takes_its_own_pictures(kind: str) -> None:
    x, y = thirds(45, 3 if kind in COLOUR else None)
    change, options = (GREY | COLOUR)[kind]
    x = change(x)
    array = np.asarray(x)
    model = quick(steps=10, **options).fit(x, hidden(y))
    mixture = RenderingMixture(3, reach=1, max_iter=100, tol=0.01, random_state=0, **options).fit(x)
    made = (
        model.sample(20, random_state=0)[0],
        model.inverse_transform(model.transform(x)),
        mixture.sample(20, random_state=0)[0],
        mixture.means_,
    )
    low, high = float(array.min()), float(array.max())
    for pictures in made:
        assert pictures.shape[1:] == array.shape[1:]
        assert pictures.dtype == (np.float32 if array.dtype.kind == "f" else array.dtype)
        for estimator in (model, mixture):
            estimator.predict(pictures)
    assert float(made[0].max()) > low + 0.3 * (high - low)  # the units are those of X
    middle = np.asarray(mixture.means_).astype(float).mean()
    assert abs(middle - array.astype(float).mean()) < 0.25 * (high - low)


def test_control_noise_lies_beyond_black_and_is_cut_off() -> None:
    x, y = thirds(45)
    x = x / 255
    model = quick(steps=10).fit(x, hidden(y))
    raw = model.model_.sample(20, generator=torch.Generator().manual_seed(0))
    assert raw.min() < 0
    with pytest.raises(InputError, match="pixels run from -"):
        model.predict(raw.numpy())
    assert model.sample(20, random_state=0)[0].min() == 0


def test_a_mean_picture_has_its_pixels_where_x_has_them() -> None:
    x, _ = thirds(45, 3)
    x = (x * np.array([1.0, 0.5, 0.1])).astype(np.uint8)  # channels that differ
    pictures = [
        RenderingMixture(1, reach=0, max_iter=200, random_state=0, **options).fit(data).means_.reshape(shape)
        for data, options, shape in (
            (x, {}, x.shape[1:]),
            (x.reshape(45, -1), {"image_shape": x.shape[1:]}, x.shape[1:]),
            (x.transpose(0, 3, 1, 2), {}, (3, *x.shape[1:3])),
        )
    ]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    np.testing.assert_array_equal(pictures[0], pictures[2].transpose(1, 2, 0))
    assert np.abs(pictures[0].mean((0, 1)) / x.mean((0, 1, 2)) - 1).max() < 0.2  # each channel as bright as it is


@pytest.fixture(scope="module")
def fitted() -> DRMMClassifier:
    x, y = thirds()
    return quick().fit(x, hidden(y))


SAME = {
    "flat rows": lambda x: x.reshape(len(x), -1),
    "a channel last": lambda x: x[..., None],
    "a channel first": lambda x: x[:, None],
    "a list": list,
    "a list of tensors": lambda x: [torch.from_numpy(image) for image in x],
    "a list of Pillow's images": lambda x: [Image.fromarray(image) for image in x],
    "a series": lambda x: pd.Series(list(x)),
    "a data frame": lambda x: pd.DataFrame(x.reshape(len(x), -1)),
    "float": lambda x: x / 255,
    "float64 of other strides": lambda x: (x / 255)[:, ::-1][:, ::-1],
    "int64": lambda x: x.astype(np.int64),
    "uint16": lambda x: x.astype(np.uint16) * 257,
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_images_have_the_same_probabilities_in_whatever_form(kind: str, fitted: DRMMClassifier) -> None:
    x, _ = thirds(12)
    expected = fitted.predict_proba(x)
    np.testing.assert_allclose(fitted.predict_proba(SAME[kind](x)), expected, atol=1e-5)
    assert not np.allclose(fitted.predict_proba(SAME[kind](255 - x)), expected, atol=1e-5), "control"


ODD = {
    "one image": (lambda x: x[0], r"X of shape \(12, 12\) is a single image: pass X\[None\]"),
    "one of Pillow's": (lambda x: Image.fromarray(x[0]), r"is a single image: pass X\[None\]"),
    "one row": (lambda x: x[0].ravel(), r"a single image is X\[None\]"),
    "one in colour": (lambda x: np.stack([x[0]] * 3, -1), "looks like one picture"),
    "other rows": (lambda x: x.reshape(12, -1)[:, :100], "rows of X have 100 values"),
    "other images": (lambda x: x[:, :6], "but the model was fitted on"),
    "none": (lambda x: x[:0], "at least one image"),
    "NaN": (lambda x: np.where(np.arange(12)[:, None, None] == 3, np.nan, x / 255), "image 3 of X contains NaN"),
    "infinity": (lambda x: np.where(x == x.max(), np.inf, x / 255), "contains NaN or inf"),
    "levels in float": (lambda x: x.astype(float), r"pass uint8 or pixel_range=\(0, 255\)"),
    "standardised": (lambda x: (x - x.mean()) / x.std(), r"pass pixel_range=\("),
    "a path": (lambda x: "folder", "load_image_files"),
    "paths": (lambda x: ["a.png", "b.png"], "load_image_files"),
    "Paths": (lambda x: [Path("a.png"), Path("b.png")], "load_image_files"),
    "nothing": (lambda x: None, "not numbers"),
    "objects": (lambda x: x.astype(object), "not numbers"),
    "a palette": (lambda x: [Image.fromarray(image).convert("P") for image in x], "palette's colours"),
    "sizes": (lambda x: [x[0], x[1, :6]], "differ in size or channels"),
    "masked": (lambda x: np.ma.array(x, mask=x > 200), "masked pixels"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_batch_of_its_images_is_one_clear_line(kind: str, fitted: DRMMClassifier) -> None:
    change, message = ODD[kind]
    x, _ = thirds(12)
    with pytest.raises(InputError, match=message) as caught:
        fitted.predict(change(x))
    assert "\n" not in str(caught.value)


def test_vectors_are_checked_as_images_are() -> None:
    x = np.random.default_rng(0).normal(size=(30, 5))
    mixture = RenderingMixture(2, max_iter=1, random_state=0).fit(x)
    x[7, 2] = np.nan
    with pytest.raises(InputError, match="row 7 of X contains NaN or inf") as caught:
        mixture.predict(x)
    assert "\n" not in str(caught.value)


# 1x1 and 2x2 images, which dense nets alone can see.
TINY = {
    "1x1": ((1, 1), {}),
    "1x1, a channel": ((1, 1, 1), {}),
    "1x1, flat": ((1,), {"image_shape": (1, 1)}),
    "1x1, flat, a channel": ((1,), {"image_shape": (1, 1, 1)}),
    "2x2": ((2, 2), {}),
}


@pytest.mark.parametrize("kind", TINY)
def test_the_smallest_images(kind: str) -> None:
    shape, options = TINY[kind]
    x = np.random.default_rng(0).integers(0, 256, (40, *shape)).astype(np.uint8)
    model = quick(steps=2, **options).fit(x, hidden(np.arange(40) % 2))
    assert model.recipe_.preset == "dense"
    assert model.predict(model.sample(3, random_state=0)[0]).shape == (3,)
    assert model.inverse_transform(model.transform(x)).shape == x.shape
    if kind == "2x2":
        with pytest.raises(InputError, match="it needs 8x8; use larger images or preset 'dense'"):
            model.set_params(model__preset="conv_small").fit(x, hidden(np.arange(40) % 2))


# What a model is fitted on, and the same pictures as they are given by mistake.
SCALES = {
    "levels of 255 in float, then 0 to 1": (lambda x: x * 1.0, lambda x: x / 255, {"pixel_range": (0.0, 255.0)}),
    "levels of 16 in float, then 0 to 1": (lambda x: x / 16, lambda x: x / 255, {"pixel_range": (0.0, 16.0)}),
    "levels of 16 in float, then as uint8": (lambda x: x / 16, lambda x: x // 16, {"pixel_range": (0.0, 16.0)}),
    "bool, then 0 and 1 as uint8": (lambda x: x > 100, lambda x: (x > 100).astype(np.uint8), {}),
    "uint8, then as uint16": (lambda x: x, lambda x: x.astype(np.uint16), {}),
}


@pytest.mark.filterwarnings("ignore:all pixels are 0")
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("n", [1, 12])
def test_another_scale_than_when_fitting_is_said(scale: str, n: int) -> None:
    x, y = thirds(12)
    right, wrong, options = SCALES[scale]
    model = quick(steps=1, **options).fit(right(x), hidden(y, 6))
    with pytest.warns(UserWarning, match="ten times darker than what the model was fitted on"):
        model.predict(wrong(x[:n]))
    model.predict(right(x[:n]))  # control: nothing is said
    model.predict(np.zeros_like(right(x[:n])))  # black is black


# --- a fit that fails; warm starts, threads, seeds ---


FAILS = {
    "classifier": (lambda: quick(steps=2), {}),
    "mixture": (lambda: RenderingMixture(2, reach=0, max_iter=2, tol=1e9, random_state=0), {"n_components": 99}),
    "tree": (lambda: EvolutionaryClassifier(3, min_steps=1, epochs=1, max_iter=1, random_state=0), {}),
}


@pytest.mark.parametrize("kind", FAILS)
def test_a_fit_that_fails_leaves_the_former_one_whole(kind: str) -> None:
    make, mistake = FAILS[kind]
    x, y = thirds()
    model = make().fit(x, hidden(y))
    expected, names = model.predict_proba(x), set(vars(model))
    other, labels = x[:, ::2, ::2] / 255, np.where(hidden(y) < 0, -1, 7)  # one class, which mixtures ignore
    model.set_params(**mistake)
    with pytest.raises(ValueError, match=r".") as caught:
        model.fit(other, labels)
    assert not isinstance(caught.value, NotFittedError)
    np.testing.assert_array_equal(model.predict_proba(x), expected)
    assert set(vars(model)) == names
    with pytest.raises(ValueError, match=r"."):
        type(model).fit.__wrapped__(model, other, labels)  # control: half of another fit
    with pytest.raises(InputError, match="fitted on"):
        model.predict_proba(x)


def test_a_fit_that_is_stopped_leaves_the_former_one_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = thirds()
    model = quick(steps=2).fit(x, hidden(y))

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("drmm.estimators.classifier.train", stopped)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, np.where(hidden(y) < 0, -1, 7 - y))
    assert list(model.classes_) == [0, 1, 2]


@pytest.mark.parametrize("seed", [0, 2**31, 2**32 - 1, np.int64(7), np.uint32(7), np.random.RandomState(7)])
def test_every_seed_of_scikit_learn_is_one(seed: object) -> None:
    x, y = thirds(12)
    first, second = (quick(steps=1, random_state=copy.deepcopy(seed)).fit(x, hidden(y, 6)) for _ in range(2))
    np.testing.assert_array_equal(first.predict_proba(x), second.predict_proba(x))
    for state in (first.sample(3, random_state=copy.deepcopy(seed)), second.sample(3, random_state=seed)):
        assert state[0].shape == (3, 12, 12)
    other = quick(steps=1, random_state=8).fit(x, hidden(y, 6))
    assert not np.array_equal(first.predict_proba(x), other.predict_proba(x)), "control"


def test_nobody_else_s_randomness_is_touched() -> None:
    x, y = thirds(12)

    def states() -> list[bytes]:
        kept = random.getstate(), np.random.get_state(), torch.get_rng_state().numpy().tobytes()  # noqa: NPY002
        return [pickle.dumps(state) for state in kept]

    before = states()
    model = quick(steps=2).fit(x, hidden(y, 6))
    model.sample(3, random_state=0)
    model.inverse_transform(model.transform(x))
    assert states() == before
    torch.rand(1)
    assert states() != before, "control"


@pytest.mark.parametrize("constraint", ["soft", "hard", "weight_norm"])
def test_a_warm_start_keeps_what_tells_its_templates_apart(constraint: str) -> None:
    x = torch.rand(60, 1, 12, 12)
    options = {"preset": "conv_small", "image_shape": (1, 12, 12), "constraint": constraint, "width": 4}
    before = Recipe(classes=("a", "b", "c", "d"), **options).build(0).eval()
    before.templates.bias.data -= before(x).mean(0)
    explained = before(x).argmax(1)
    labels = (explained >= 2).long()
    assert len(explained.unique()) == 4
    model = Recipe(classes=("0", "1"), **options).build(1).eval()
    _go_on(model, before, x, labels)
    wanted = torch.stack([before.templates.weight[explained[labels == c]].mean(0) for c in (0, 1)])
    apart, wanted = (w - w.mean(0) for w in (model.templates.weight, wanted))
    cosine = (apart * wanted).sum() / (apart.norm() * wanted.norm())
    assert cosine > 0.999
    if constraint == "hard":
        assert model.templates.weight.min() > 0  # an entry of 0 would never move
        inverted = wanted.abs() - wanted.abs().mean(0)  # control: what the parametrisation made of it
        assert (inverted * wanted).sum() / (inverted.norm() * wanted.norm() + 1e-12) < 0.9


def test_two_threads_that_fit_at_once_fit_as_one_after_the_other() -> None:
    x, y = thirds()
    alone = quick().fit(x, hidden(y)).model_.state_dict()
    models = [quick() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda model: model.fit(x, hidden(y)), models))
    for model in models:
        assert all(torch.equal(alone[name], value) for name, value in model.model_.state_dict().items())
    other = quick(random_state=7).fit(x, hidden(y)).model_.state_dict()
    assert not all(torch.equal(alone[name], value) for name, value in other.items())  # control
