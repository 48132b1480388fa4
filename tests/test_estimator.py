"""The scikit-learn face: conventions, layouts, ranges, pickles, pipelines."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from drmm import DRMMClassifier
from drmm.errors import InputError

QUICK = {
    "width": 4,
    "epochs": 2,
    "min_steps": 30,
    "batch_size": 32,
    "labelled_per_batch": 8,
    "learning_rate": 0.01,
    "random_state": 0,
}

EXPECTED_FAILURES = {
    "check_classifiers_classes": "the check uses -1 as a class; here it means unlabelled, as in semi_supervised",
}


@pytest.mark.filterwarnings("ignore:every image is labelled:UserWarning")
@parametrize_with_checks(
    [DRMMClassifier(epochs=2, min_steps=60, width=32, random_state=0)],
    expected_failed_checks=lambda _: EXPECTED_FAILURES,
)
def test_scikit_learn_conventions(estimator, check) -> None:
    check(estimator)


def thirds(n: int = 60, channels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Three classes of bright thirds, uint8."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    x = rng.integers(0, 60, (n, 12, 12) if channels is None else (n, 12, 12, channels)).astype(np.uint8)
    for i in range(n):
        x[i, 4 * y[i] : 4 * y[i] + 4] += 160
    return x, y


def hidden(y: np.ndarray, labelled: int = 12) -> np.ndarray:
    return np.where(np.arange(len(y)) < labelled, y, -1)


@pytest.fixture(scope="module")
def fitted() -> DRMMClassifier:
    x, y = thirds()
    return DRMMClassifier(**{**QUICK, "min_steps": 150}).fit(x, hidden(y))


def test_it_learns(fitted: DRMMClassifier) -> None:
    x, y = thirds(90)
    assert fitted.score(x, y) > 0.8
    assert list(fitted.classes_) == [0, 1, 2]
    probabilities = fitted.predict_proba(x)
    assert probabilities.shape == (90, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(fitted.classes_[probabilities.argmax(1)], fitted.predict(x))


def test_names_of_classes_come_back() -> None:
    x, y = thirds()
    names = np.array(["low", "mid", "top"], dtype=object)[y]
    names[12:] = -1
    model = DRMMClassifier(**QUICK).fit(x, names)
    assert set(model.predict(x)) <= {"low", "mid", "top"}


def test_features_and_pictures_have_the_shapes_of_the_contract(fitted: DRMMClassifier) -> None:
    x, _ = thirds(9)
    features = fitted.transform(x)
    assert features.shape == (9, 16)
    assert fitted.inverse_transform(features).shape == x.shape
    images, labels = fitted.sample(5, random_state=1)
    assert images.shape == (5, 12, 12)
    assert set(labels) <= {0, 1, 2}
    again, _ = fitted.sample(5, random_state=1)
    np.testing.assert_array_equal(images, again)
    _, twos = fitted.sample(4, label=2)
    assert list(twos) == [2] * 4
    with pytest.raises(InputError, match="not among the classes"):
        fitted.sample(1, label=7)
    with pytest.raises(InputError, match="features must be"):
        fitted.inverse_transform(features[:, :3])


@pytest.mark.parametrize(
    "layout",
    [
        "NHW", "NHWC1", "NCHW1", "NHWC3", "NCHW3", "ND", "tensor", "float", "float255",
    ],
)  # fmt: skip
def test_every_layout_is_welcome_and_comes_back(layout: str) -> None:
    colour = 3 if "3" in layout else None
    x, y = thirds(45, colour)
    options = dict(QUICK)
    if layout == "NHWC1":
        x = x[..., None]
    elif layout == "NCHW1":
        x = x[:, None]
    elif layout == "NCHW3":
        x = x.transpose(0, 3, 1, 2)
    elif layout == "ND":
        x, options["image_shape"] = x.reshape(len(x), -1), (12, 12)
    elif layout == "float":
        x = x / 255
    elif layout == "float255":
        x, options["pixel_range"] = x.astype(float), (0, 255)
    data = torch.from_numpy(x) if layout == "tensor" else x
    model = DRMMClassifier(**options).fit(data, hidden(y))
    assert model.predict(data).shape == (45,)
    assert model.sample(2)[0].shape == (2, *x.shape[1:])
    assert model.inverse_transform(model.transform(data)).shape == x.shape


def test_pictures_come_back_in_the_range_of_x() -> None:
    x, y = thirds()
    options = {**QUICK, "pixel_range": (0.0, 255.0)}
    model = DRMMClassifier(**options).fit(x.astype(float), hidden(y))
    assert model.inverse_transform(model.transform(x.astype(float))).max() > 2


def test_pickle_copy_and_clone(fitted: DRMMClassifier) -> None:
    x, _ = thirds(9)
    for twin in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        np.testing.assert_array_equal(twin.predict_proba(x), fitted.predict_proba(x))
    many, y = thirds()
    hard = DRMMClassifier(**QUICK, constraint="hard").fit(many, hidden(y))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(hard)).predict_proba(x), hard.predict_proba(x))
    fresh = clone(fitted)
    assert not hasattr(fresh, "model_")
    assert fresh.get_params() == fitted.get_params()


def test_pipelines_and_grid_search() -> None:
    x, y = thirds()
    pipeline = make_pipeline(FunctionTransformer(lambda images: 255 - images), DRMMClassifier(**QUICK))
    assert pipeline.fit(x, hidden(y)).predict(x).shape == (60,)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "every image is labelled")
        search = GridSearchCV(DRMMClassifier(**QUICK), {"constraint": ["soft", "hard"]}, cv=2).fit(x, y)
        assert search.best_params_["constraint"] in {"soft", "hard"}
        assert cross_val_score(DRMMClassifier(**QUICK), x, y, cv=2).shape == (2,)


def test_the_seed_decides() -> None:
    x, y = thirds()
    one, same = (DRMMClassifier(**QUICK).fit(x, hidden(y)).predict_proba(x) for _ in range(2))
    other = DRMMClassifier(**{**QUICK, "random_state": 1}).fit(x, hidden(y)).predict_proba(x)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_hard_models_are_certified_and_soft_ones_are_not() -> None:
    x, y = thirds()
    hard = DRMMClassifier(**QUICK, constraint="hard").fit(x, hidden(y))
    soft = DRMMClassifier(**QUICK).fit(x, hidden(y))
    images = torch.from_numpy(x).float()[:, None] / 255
    assert hard.model_.infer(images).certified().all()
    assert not soft.model_.infer(images).certified().all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (np.where(x > 200, np.nan, x / 255), y), "image"),
        (lambda x, y: (x.astype(float), y), "0-255"),
        (lambda x, y: (x[:, :, :, None, None], y), "not a batch of images"),
        (lambda x, y: (x, y[:-1]), "60 images but 59 labels"),
        (lambda x, y: (x, np.where(y == 1, 1, -1)), "only one class"),
        (lambda x, y: (x, np.full_like(y, -1)), "unlabelled"),
        (lambda x, y: (x, y.astype(str)), "strings"),
        (lambda x, y: (x[:, :3, :3], y), "receptive field"),
    ],
)
def test_bad_input_gets_one_clear_line(spoil, message: str) -> None:
    x, y = thirds()
    x, y = spoil(x, hidden(y))
    with pytest.raises(InputError, match=message) as caught:
        DRMMClassifier(**QUICK, preset="conv_small").fit(x, y)
    assert "\n" not in str(caught.value)


def test_other_shapes_are_refused_when_predicting(fitted: DRMMClassifier) -> None:
    x, _ = thirds(9, channels=3)
    with pytest.raises(InputError, match="fitted on"):
        fitted.predict(x)


def test_no_unlabelled_images_is_a_warning() -> None:
    x, y = thirds()
    with pytest.warns(UserWarning, match="every image is labelled"):
        DRMMClassifier(**QUICK).fit(x, y)


def test_flattened_images_without_a_shape_are_noticed() -> None:
    x, y = thirds()
    with pytest.warns(UserWarning, match="image_shape"):
        DRMMClassifier(**QUICK).fit(x.reshape(60, -1), hidden(y))
