"""The scikit-learn face: conventions, layouts, ranges, pickles, pipelines, learning rules, clusters."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from drmm import DRMMClassifier, Objective, as_images
from drmm.errors import InputError
from drmm.learning.metrics import cluster_accuracy, name_clusters

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


def test_every_weight_reaches_the_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {
        "reconstruction": 0.1, "kl": 0.2, "balance": 0.3, "nonnegativity": 0.4, "interpolation": 0.6,
        "warm_up": 0.7, "cool_down": 0.8, "shift": 2, "collage": 0.9, "kl_sign": "printed",
    }  # fmt: skip
    seen = []
    monkeypatch.setattr(
        "drmm.estimators.classifier.train", lambda model, *_, objective, **__: seen.append(objective) or model
    )
    x, y = thirds(9)
    DRMMClassifier(width=2, **weights).fit(x, [*y[:6], -1, -1, -1])
    assert seen == [Objective(**weights)]


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


class Says(ClassifierMixin, BaseEstimator):
    """A teacher whose mind is made up: what it says of an image is its number in a list."""

    def __init__(self, words: tuple[object, ...]) -> None:
        self.words = words

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Says":
        del X, y
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(self.words)[: len(X)]


def test_images_without_a_label_learn_from_the_teacher_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def watched(model, x, labels, *, objective, **options):
        seen.update(labels=labels.tolist(), objective=objective)
        return model.eval()

    monkeypatch.setattr("drmm.estimators.classifier.train", watched)
    x, _ = thirds(6)
    y = np.array(["b", "a", -1, "b", -1, "c"], dtype=object)
    model = DRMMClassifier(teacher=Says(("c", "c", "c", "c", "b", "a")), random_state=0).fit(x, y)
    assert seen["labels"] == [1, 0, 2, 1, 1, 2], "its labels fill the gaps alone"
    assert seen["objective"].kl == seen["objective"].balance == 0
    assert isinstance(model.teacher_, Says)
    DRMMClassifier(teacher=Says(("a",) * 6), kl=0.3, random_state=0).fit(x, y)
    assert (seen["objective"].kl, seen["objective"].balance) == (0.3, 0)


def test_a_hard_model_has_a_teacher_of_its_own() -> None:
    x, y = thirds()
    model = DRMMClassifier(**QUICK, constraint="hard", teacher=DRMMClassifier(**QUICK)).fit(x, hidden(y))
    images = as_images(x)
    assert bool(model.model_.infer(images).certified().all())
    assert not bool(model.teacher_.model_.infer(images).certified().all())


def test_a_teacher_that_is_fitted_stays_as_it_is_in_cross_validation(fitted: DRMMClassifier) -> None:
    x, y = thirds()
    model = DRMMClassifier(epochs=1, min_steps=1, width=2, teacher=FrozenEstimator(fitted), random_state=0)
    found = clone(model).fit(x, hidden(y))
    assert found.teacher_.estimator is fitted
    assert len(cross_val_score(model, x, hidden(y), cv=2, error_score="raise")) == 2


def test_who_cannot_teach() -> None:
    x, _ = thirds(6)
    with pytest.raises(InputError, match="a teacher needs labels"):
        DRMMClassifier(teacher=Says((0,) * 6)).fit(x, np.full(6, -1))
    with pytest.raises(InputError, match="knows classes that y does not have"):
        DRMMClassifier(teacher=Says((9,) * 6)).fit(x, np.array([0, 1, 2, 0, 1, -1]))


def test_no_unlabelled_images_is_a_warning() -> None:
    x, y = thirds()
    with pytest.warns(UserWarning, match="every image is labelled"):
        DRMMClassifier(**QUICK).fit(x, y)


def test_flattened_images_without_a_shape_are_noticed() -> None:
    x, y = thirds()
    with pytest.warns(UserWarning, match="image_shape"):
        DRMMClassifier(**QUICK).fit(x.reshape(60, -1), hidden(y))


# --- learning rules, starts, clusters ---


def digits(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    bunch = load_digits()
    return (bunch.images[:n] * 15.9).astype(np.uint8), bunch.target[:n]


def cluster_score(model: DRMMClassifier, x: np.ndarray, y: np.ndarray) -> float:
    """Share of images whose cluster is mostly of their class."""
    found = model.predict(x)
    return cluster_accuracy(found, y, name_clusters(found, y)) / 100


RULES = {
    "em": {"learning": "em", "epochs": 4},
    "eg": {"learning": "eg", "epochs": 6, "learning_rate": 0.02},
    "sgd": {"learning": "sgd", "epochs": 6, "learning_rate": 0.02},
}


@pytest.mark.filterwarnings("ignore:every image is labelled:UserWarning")
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_learns_digits(rule: str) -> None:
    x, y = digits()
    supervised = DRMMClassifier(**{**QUICK, **RULES[rule], "width": 8}).fit(x, y)
    assert supervised.score(x, y) > 0.7
    semi = DRMMClassifier(**{**QUICK, **RULES[rule], "width": 8}).fit(x, hidden(y, 50))
    assert semi.score(x[50:], y[50:]) > 0.4
    again = pickle.loads(pickle.dumps(semi))
    np.testing.assert_array_equal(again.predict_proba(x), semi.predict_proba(x))
    twin = clone(semi).fit(x, hidden(y, 50))
    np.testing.assert_array_equal(twin.predict_proba(x), semi.predict_proba(x))


@pytest.mark.parametrize("rule", RULES)
def test_without_any_label_the_classes_are_clusters(rule: str) -> None:
    x, y = digits()
    options = {**QUICK, **RULES[rule], "width": 8, "n_clusters": 12, "min_steps": 120}
    model = DRMMClassifier(**options).fit(x, np.full_like(y, -1))
    np.testing.assert_array_equal(model.classes_, np.arange(12))
    assert model.predict_proba(x).shape == (200, 12)
    assert len(np.unique(model.predict(x))) > 3
    rng = np.random.default_rng(0)
    chance = np.mean([cluster_score(model, x, rng.permutation(y)) for _ in range(10)])
    assert cluster_score(model, x, y) > chance + 0.1
    images, labels = model.sample(3)
    assert images.shape == (3, 8, 8)
    assert set(labels) <= set(range(12))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(x), model.predict(x))


def test_the_default_is_ten_clusters() -> None:
    x, y = thirds()
    model = DRMMClassifier(**{**QUICK, "learning": "em"}).fit(x, np.full(60, -1))
    np.testing.assert_array_equal(model.classes_, np.arange(10))
    with pytest.raises(InputError, match="n_clusters must be at least 2"):
        DRMMClassifier(**QUICK, n_clusters=1).fit(x, np.full(60, -1))
    with pytest.raises(InputError, match="clusters: ask for fewer"):
        DRMMClassifier(**{**QUICK, "learning": "em", "n_clusters": 70}).fit(x, np.full(60, -1))
    labelled = DRMMClassifier(**QUICK, n_clusters=7).fit(x, hidden(y))
    assert len(labelled.classes_) == 3  # where there are labels, they decide


@pytest.mark.parametrize("rule", RULES)
def test_clusters_first_and_a_few_labels_later(rule: str) -> None:
    x, y = digits(300)
    model = DRMMClassifier(**{**QUICK, **RULES[rule], "width": 8, "warm_start": True})
    model.fit(x, np.full_like(y, -1))
    before = copy.deepcopy(model.model_)
    model.fit(x, hidden(y, 100))
    assert list(model.classes_) == list(range(10))
    assert model.score(x[100:], y[100:]) > 0.3  # chance is 0.1
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), model.model_.parameters(), strict=True))


def test_a_warm_start_begins_with_the_former_levels() -> None:
    x, y = thirds()
    options = {**QUICK, "learning": "em", "epochs": 1, "warm_start": True}
    model = DRMMClassifier(**options, n_clusters=4).fit(x, np.full(60, -1))
    before = [level.dictionary.weight.detach().clone() for level in model.model_.levels[:4]]
    model.fit(x, hidden(y))  # one E-step: no dictionary is fitted
    assert all(torch.equal(a, b.dictionary.weight) for a, b in zip(before, model.model_.levels[:4], strict=True))
    assert list(model.classes_) == [0, 1, 2]
    cold = model.set_params(warm_start=False, random_state=3).fit(x, hidden(y))
    assert not torch.equal(before[0], cold.model_.levels[0].dictionary.weight)  # the control


@pytest.mark.parametrize("change", [{"width": 5}, {"depth": 2}, {"preset": "dense"}])
def test_a_warm_start_needs_the_same_levels(change: dict[str, object]) -> None:
    x, y = thirds()
    model = DRMMClassifier(**QUICK, warm_start=True).fit(x, hidden(y))
    with pytest.raises(InputError, match="warm_start needs the same images, preset, width and depth"):
        model.set_params(**change).fit(x, hidden(y))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning": "backprop"}, "no learning 'backprop'"),
        ({"initialisation": "zeros"}, "no initialisation 'zeros'"),
        ({"constraint": "firm"}, "choose from soft, hard, weight_norm"),
        ({"depth": 9}, "choose from 1 to 4 levels"),
        ({"learning": "em", "constraint": "hard"}, "learn a hard model by 'sgd' or 'eg'"),
        ({"constraint": "hard", "initialisation": "orthonormal"}, "templates of both signs"),
    ],
)
def test_options_that_do_not_exist_get_one_clear_line(options: dict[str, object], message: str) -> None:
    x, y = thirds()
    with pytest.raises(InputError, match=message) as caught:
        DRMMClassifier(**{**QUICK, **options}).fit(x, hidden(y))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("constraint", ["soft", "weight_norm"])
def test_every_depth_and_constraint_learns_by_em(depth: int, constraint: str) -> None:
    x, y = thirds()
    options = {**QUICK, "learning": "em", "depth": depth, "constraint": constraint}
    model = DRMMClassifier(**options).fit(x, hidden(y))
    assert len(model.model_.levels) == depth + 2  # and the mean over places, flattened
    assert model.predict_proba(x).shape == (60, 3)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(x), model.predict_proba(x))


def test_the_tolerance_stops_em() -> None:
    x, y = thirds()
    options = {**QUICK, "learning": "em", "epochs": 6}
    models = [DRMMClassifier(**options, tolerance=t).fit(x, hidden(y)).model_ for t in (1e9, 1e9, 0)]
    weights = [model.levels[0].dictionary.weight for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
