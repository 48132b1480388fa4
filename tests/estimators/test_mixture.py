"""The shallow model as a scikit-learn mixture: conventions, layouts, densities, pickles."""

import copy
import math
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from pictures import in_layout
from sklearn.base import clone
from sklearn.datasets import load_digits
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


# Of `crosses`: X, how the estimator is told, and what one number in [0, 1] is in X.
IN_UNITS = {
    "uint8": (lambda x: x, {}, 255),
    "float": (lambda x: x / 255, {}, 1),
    "uint16": (lambda x: x.astype(np.uint16) * 257, {}, 65535),
    "range": (lambda x: x / 255 * 16 - 3, {"pixel_range": (-3, 13)}, 16),
    "flat": (lambda x: x.reshape(len(x), -1), {"image_shape": (10, 10)}, 255),
    "channels last": (lambda x: x[..., None], {}, 255),
    "list": (list, {}, 255),
}


@pytest.mark.parametrize("kind", IN_UNITS)
def test_every_density_is_in_the_units_of_x(kind: str) -> None:
    change, options, white = IN_UNITS[kind]
    x = change(crosses()[0])
    model = RenderingMixture(**QUICK, **options).fit(x)
    of_floats = RenderingMixture(**QUICK).fit(crosses()[0] / 255)
    assert model.lower_bound_ == model.trace_.objective[-1] == pytest.approx(model.score(x), rel=1e-6)
    assert model.score(x) == pytest.approx(of_floats.lower_bound_ - 100 * math.log(white), abs=0.01)
    assert model.noise_ == pytest.approx(of_floats.noise_ * white**2, rel=1e-4)
    free = model.model_.n_parameters
    assert model.bic(x) == pytest.approx(-2 * 90 * model.lower_bound_ + free * math.log(90), rel=1e-6)
    unscaled = float(model.model_.log_prob(model._images(x)).mean())  # control: of pixels in [0, 1]
    assert (unscaled == pytest.approx(model.score(x), abs=1)) == (white == 1)


def test_the_hard_bound_is_one() -> None:
    x = np.random.default_rng(0).random((30, 4, 4))  # of which no component is sure
    model = RenderingMixture(**QUICK, algorithm="hard").fit(x)
    assert model.lower_bound_ < model.score(x) - 1e-6


def test_vectors_have_densities_in_their_own_units() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal((0, 0), 1, (500, 2)), rng.normal((40, 40), 1, (500, 2))]) * [5.0, 0.2]
    ours = RenderingMixture(2, random_state=0).fit(x)
    theirs = GaussianMixture(2, covariance_type="diag", random_state=0).fit(x)
    assert ours.score(x) == pytest.approx(theirs.score(x), abs=0.2)
    np.testing.assert_allclose(np.sort(ours.means_, 0), np.sort(theirs.means_, 0), atol=1.0)
    assert ours.lower_bound_ == pytest.approx(ours.score(x))
    for unit in (10, 1e6, 1e-6):
        scaled = RenderingMixture(2, random_state=0).fit(unit * x)
        assert scaled.score(unit * x) == pytest.approx(ours.score(x) - 2 * np.log(unit))
        assert scaled.lower_bound_ == pytest.approx(ours.lower_bound_ - 2 * np.log(unit))
        np.testing.assert_allclose(scaled.noise_, unit**2 * ours.noise_)


@pytest.mark.parametrize(
    "layout",
    ["NHW", "NHWC1", "NCHW1", "NHWC3", "NCHW3", "ND", "tensor", "float", "float255"],
)
def test_every_layout_is_welcome_and_comes_back(layout: str) -> None:
    x, y = crosses(45, 3 if "3" in layout else None)
    x, data, options = in_layout(x, layout)
    model = RenderingMixture(**QUICK, **options).fit(data)
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
    changed = copy.deepcopy(fitted).set_params(n_components=7, elements=3, reach=0, algorithm="hard", max_iter=1)
    twin = pickle.loads(pickle.dumps(changed))  # the options are those of the next fit
    np.testing.assert_array_equal(twin.score_samples(x), fitted.score_samples(x))
    np.testing.assert_array_equal(twin.sample(3, 0)[0], fitted.sample(3, 0)[0])
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
        ({"algorithm": "medium"}, lambda x: x, "'algorithm' parameter of RenderingMixture must be a str among"),
        ({"max_iter": 0}, lambda x: x, r"'max_iter' parameter of RenderingMixture .* \[1, inf\). Got 0"),
        ({"max_iter": 2.5}, lambda x: x, "Got 2.5"),
        ({"n_init": 1.5}, lambda x: x, "'n_init'"),
        ({"tol": -1}, lambda x: x, "'tol'"),
        ({"tol": float("nan")}, lambda x: x, "'tol'"),
        ({"n_components": "3"}, lambda x: x, "'n_components'"),
        ({"n_components": 2.0}, lambda x: x, "'n_components'"),
        ({"elements": None}, lambda x: x, "'elements'"),
        ({"reach": 1.0}, lambda x: x, "'reach'"),
        ({"reach": (0.5, 1)}, lambda x: x, "one number or \\(rows, columns\\), got \\(0.5, 1\\)"),
        ({"reach": (1, 1, 1)}, lambda x: x, "one number or"),
        ({"image_shape": 10}, lambda x: x, "'image_shape'"),
        ({"random_state": 2**32}, lambda x: x, "'random_state'"),
        ({"random_state": np.random.default_rng(0)}, lambda x: x, "'random_state'"),
        ({"n_components": 100}, lambda x: x, "less than n_components"),
        ({"n_components": 0}, lambda x: x, "'n_components'"),
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


# --- images that repeat --------------------------------------------------------------------------------------

GLYPHS = np.rint(load_digits().images[:5] * 255 / 16).astype(np.uint8)
REPEATED = {
    "copies": (np.repeat(GLYPHS, 20, 0), 5),
    "as many images as components": (GLYPHS, 5),
    "two glyphs": (np.repeat(GLYPHS[:2], 20, 0), 2),
    "two images": (GLYPHS[:2], 2),
    "one image": (GLYPHS[:1], 1),
    "float": (np.repeat(GLYPHS / 255, 3, 0), 5),
    "of one pixel": (np.repeat([10, 250], 9).astype(np.uint8)[:, None, None], 1),
    "constant pixels": (np.full((20, 6, 6), 0.5), 1),
    "black": (np.zeros((20, 6, 6)), 1),
    "vectors": (np.repeat(np.eye(3), 7, 0), 3),
}


@pytest.mark.parametrize("algorithm", ["soft", "hard"])
@pytest.mark.parametrize("kind", REPEATED)
def test_images_that_repeat_are_clusters(kind: str, algorithm: str) -> None:
    x, components = REPEATED[kind]
    model = RenderingMixture(components, reach=0, max_iter=50, random_state=0, algorithm=algorithm).fit(x)
    trace = np.array(model.trace_.objective)
    assert (np.diff(trace) >= -1e-6 * np.abs(trace[1:]).clip(1)).all()
    unit = (255.0 if x.dtype == np.uint8 else 1.0) if model.scale_ is None else model.scale_
    assert np.min(model.noise_ / np.square(unit)) >= (1 - 1e-6) / 12 / 255**2
    assert model.lower_bound_ <= -0.5 * np.log(2 * np.pi * model.noise_ * np.ones(x[0].size)).sum() + 1e-6
    assert model.score(x) >= model.lower_bound_ - 1e-6
    assert len(set(model.predict(x).tolist())) == components


def test_fewer_different_images_than_components_are_a_warning() -> None:
    x = np.repeat(GLYPHS[:2], 5, 0)
    with pytest.warns(ConvergenceWarning, match="X holds 2 different images, n_components=4: some will be alike"):
        model = RenderingMixture(4, reach=0, random_state=0).fit(x)
    assert np.isfinite(model.score(x))
    assert len(set(model.predict(x[[0, 5]]).tolist())) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RenderingMixture(2, reach=0, random_state=0).fit(x)  # control


def test_numbers_that_do_not_vary_tell_nothing_but_for_rounding() -> None:
    x = np.random.default_rng(0).normal(size=(30, 2))
    constant = np.c_[x, np.full(30, 0.1)]
    assert constant.std(0)[2] > 0  # control: by rounding alone, by which the density would be divided
    model = RenderingMixture(1, random_state=0).fit(constant)
    assert model.noise_[2] > 1e-7
    assert model.score(constant) == pytest.approx(model.lower_bound_)
    with pytest.raises(InputError, match="squares are not finite: divide X"):
        model.fit(1e200 * x)


# --- samples, seeds, threads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [0, -1, 2.5, "many", None])
def test_a_number_of_samples_that_is_none(fitted: RenderingMixture, n_samples: object) -> None:
    with pytest.raises(
        InputError, match=r"'n_samples' parameter of sample must be an int in the range \[1, inf\)"
    ):
        fitted.sample(n_samples)
    assert len(fitted.sample(np.int64(2))[0]) == len(fitted.sample(n_samples=2)[1]) == 2


@pytest.mark.parametrize("seed", [2**32 - 1, np.int64(7), np.random.RandomState(3)])
def test_fits_in_threads_are_fits_alone(seed: object) -> None:
    x, _ = crosses(30)
    models = [RenderingMixture(2, reach=1, elements=2, random_state=copy.deepcopy(seed)) for _ in range(3)]
    numpys = np.random.get_state()[1].copy()  # noqa: NPY002  (which fit must leave alone)
    torchs = torch.get_rng_state()
    alone = clone(models[0]).fit(x).score_samples(x)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda model: model.fit(x).score_samples(x), models))
    for densities in found:
        np.testing.assert_array_equal(densities, alone)
    np.testing.assert_array_equal(np.random.get_state()[1], numpys)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torchs)
    other = RenderingMixture(2, reach=1, elements=2, random_state=5).fit(x).score_samples(x)
    assert (other != alone).any()  # control
