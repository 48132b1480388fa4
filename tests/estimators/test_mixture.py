"""The shallow model as a scikit-learn mixture: conventions, layouts, densities, pickles."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from drmm.errors import InputError
from drmm.estimators.mixture import RenderingMixture

QUICK = {"n_components": 3, "reach": 1, "random_state": 0}


@pytest.mark.filterwarnings("ignore:EM has not converged")
@parametrize_with_checks([RenderingMixture(n_components=2, random_state=0)])
def test_scikit_learn_conventions(estimator, check) -> None:
    check(estimator)


def crosses(n: int = 90, channels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Three shapes, each anywhere within a pixel of the middle, in any brightness: uint8."""
    rng = np.random.default_rng(0)
    shapes = np.zeros((3, 10, 10))
    shapes[0, 4:6, 2:8] = shapes[0, 2:8, 4:6] = 1
    shapes[1, 2:8, 2] = shapes[1, 2:8, 7] = shapes[1, 2, 2:8] = 1
    shapes[2, [2, 3, 4, 5, 6, 7], [2, 3, 4, 5, 6, 7]] = shapes[2, 7, 2:8] = 1
    y = np.arange(n) % 3
    x = np.stack([np.roll(shapes[c], rng.integers(-1, 2, 2), (0, 1)) * rng.uniform(120, 200) for c in y])
    x = x + rng.uniform(0, 40, x.shape)
    return (x if channels is None else np.repeat(x[..., None], channels, -1)).astype(np.uint8), y


@pytest.fixture(scope="module")
def fitted() -> RenderingMixture:
    return RenderingMixture(**QUICK).fit(crosses()[0])


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a.tolist())) == len(set(b.tolist()))


@pytest.mark.parametrize("algorithm", ["soft", "hard"])
def test_it_finds_what_shifts(algorithm: str) -> None:
    x, y = crosses()
    model = RenderingMixture(**QUICK, algorithm=algorithm)
    assert same_partition(model.fit_predict(x), y)
    assert model.converged_
    assert model.n_iter_ == len(model.trace_.objective) <= 100
    assert model.lower_bound_ == model.trace_.objective[-1]
    np.testing.assert_allclose(model.weights_, 1 / 3, atol=0.01)


def test_control_gaussian_mixtures_do_not() -> None:
    x, y = crosses()
    flat = x.reshape(90, -1) / 255
    assert not same_partition(GaussianMixture(3, covariance_type="spherical", random_state=0).fit_predict(flat), y)
    assert not same_partition(RenderingMixture(3, reach=0, random_state=0).fit_predict(x), y)


def test_posteriors_are_distributions(fitted: RenderingMixture) -> None:
    x, _ = crosses(30)
    probabilities = fitted.predict_proba(x)
    assert probabilities.shape == (30, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(1), fitted.predict(x))


def test_densities_and_criteria_agree(fitted: RenderingMixture) -> None:
    x, _ = crosses(30)
    scores = fitted.score_samples(x)
    assert fitted.score(x) == pytest.approx(scores.mean())
    free = 3 * 100 + 3 + 3 + 1 + 2 + 8  # templates, mean loadings, switches, noise, π, π_t
    assert fitted.aic(x) == pytest.approx(-2 * scores.sum() + 2 * free)
    assert fitted.bic(x) == pytest.approx(-2 * scores.sum() + free * np.log(30))
    assert fitted.score(crosses()[0]) == pytest.approx(fitted.lower_bound_, rel=1e-5)


def test_vectors_have_densities_in_their_own_units() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal((0, 0), 1, (500, 2)), rng.normal((40, 40), 1, (500, 2))]) * [5.0, 0.2]
    ours = RenderingMixture(2, random_state=0).fit(x)
    theirs = GaussianMixture(2, covariance_type="diag", random_state=0).fit(x)
    assert ours.score(x) == pytest.approx(theirs.score(x), abs=0.2)
    np.testing.assert_allclose(np.sort(ours.means_, 0), np.sort(theirs.means_, 0), atol=1.0)
    scaled = RenderingMixture(2, random_state=0).fit(10 * x)
    assert scaled.score(10 * x) == pytest.approx(ours.score(x) - 2 * np.log(10))


@pytest.mark.parametrize(
    "layout",
    ["NHW", "NHWC1", "NCHW1", "NHWC3", "NCHW3", "ND", "tensor", "float", "float255"],
)
def test_every_layout_is_welcome_and_comes_back(layout: str) -> None:
    x, y = crosses(45, 3 if "3" in layout else None)
    options = dict(QUICK)
    if layout == "NHWC1":
        x = x[..., None]
    elif layout == "NCHW1":
        x = x[:, None]
    elif layout == "NCHW3":
        x = x.transpose(0, 3, 1, 2)
    elif layout == "ND":
        x, options["image_shape"] = x.reshape(len(x), -1), (10, 10)
    elif layout == "float":
        x = x / 255
    elif layout == "float255":
        x, options["pixel_range"] = x.astype(float), (0, 255)
    data = torch.from_numpy(x) if layout == "tensor" else x
    model = RenderingMixture(**options).fit(data)
    assert same_partition(model.predict(data), y)
    assert model.means_.shape == (3, *x.shape[1:])
    pictures, components = model.sample(4, random_state=1)
    assert pictures.shape == (4, *x.shape[1:])
    assert set(components) <= {0, 1, 2}
    np.testing.assert_array_equal(pictures, model.sample(4, random_state=1)[0])
    assert (pictures.max() > 2) == (layout != "float")


def test_pickle_copy_and_clone(fitted: RenderingMixture) -> None:
    x, _ = crosses(9)
    vectors = RenderingMixture(2, random_state=0).fit(np.random.default_rng(0).normal(size=(50, 3)))
    for model, data in ((fitted, x), (vectors, np.eye(3))):
        for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            np.testing.assert_array_equal(twin.score_samples(data), model.score_samples(data))
            np.testing.assert_array_equal(twin.sample(3, 0)[0], model.sample(3, 0)[0])
    fresh = clone(fitted)
    assert not hasattr(fresh, "model_")
    assert fresh.get_params() == fitted.get_params()


def test_a_fit_forgets_the_former_one(fitted: RenderingMixture) -> None:
    x, _ = crosses()
    model = RenderingMixture(**QUICK).fit(np.random.default_rng(0).normal(size=(50, 3)))
    np.testing.assert_array_equal(model.fit(x).means_, fitted.means_)


def test_grid_search_finds_the_reach() -> None:
    search = GridSearchCV(RenderingMixture(**QUICK), {"reach": [0, 1]}, cv=2).fit(crosses()[0])
    assert search.best_params_ == {"reach": 1}


def test_the_seed_decides_and_more_starts_are_no_worse() -> None:
    x, _ = crosses()
    torch.manual_seed(1)
    one = RenderingMixture(**QUICK, max_iter=3, tol=0.5).fit(x)
    torch.manual_seed(2)
    same = RenderingMixture(**QUICK, max_iter=3, tol=0.5).fit(x)
    many = RenderingMixture(**QUICK, max_iter=3, tol=0.5, n_init=4).fit(x)
    np.testing.assert_array_equal(one.means_, same.means_)
    assert many.lower_bound_ >= one.lower_bound_


def test_elements_are_added_to_grown_classes() -> None:
    x, y = crosses()
    model = RenderingMixture(**QUICK, elements=2).fit(x)
    assert same_partition(model.predict(x), y)
    assert model.lower_bound_ > RenderingMixture(**QUICK).fit(x).lower_bound_


def test_randomness_of_torch_is_left_alone() -> None:
    x, _ = crosses(9)
    before = torch.get_rng_state()
    model = pickle.loads(pickle.dumps(RenderingMixture(**QUICK).fit(x)))
    model.sample(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_too_few_iterations_are_a_warning() -> None:
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        RenderingMixture(**QUICK, max_iter=2, tol=0).fit(crosses()[0])


@pytest.mark.parametrize(
    ("options", "spoil", "message"),
    [
        ({"algorithm": "medium"}, lambda x: x, "'soft' or 'hard'"),
        ({"max_iter": 0}, lambda x: x, "1 or more"),
        ({"n_components": 100}, lambda x: x, "less than n_components"),
        ({"n_components": 0}, lambda x: x, "one class or more"),
        ({"elements": 7}, lambda x: x, "elements must be 1 to 6"),
        ({"reach": 10}, lambda x: x, "less than the picture"),
        ({"reach": (0, -1)}, lambda x: x, "0 or more"),
        ({}, lambda x: np.where(x > 150, np.nan, x / 255), "NaN"),
        ({}, lambda x: x.astype(float), "0-255"),
    ],
)
def test_bad_input_gets_one_clear_line(options, spoil, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        RenderingMixture(**{**QUICK, **options}).fit(spoil(crosses()[0]))
    assert "\n" not in str(caught.value)


def test_other_shapes_are_refused_when_predicting(fitted: RenderingMixture) -> None:
    with pytest.raises(InputError, match="fitted on"):
        fitted.predict(crosses(9, channels=3)[0])


def test_flattened_images_without_a_shape_are_noticed() -> None:
    with pytest.warns(UserWarning, match="image_shape"):
        RenderingMixture(**QUICK).fit(crosses()[0].reshape(90, -1))
