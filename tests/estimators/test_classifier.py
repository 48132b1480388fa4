"""The scikit-learn face: conventions, layouts, ranges, pickles, pipelines, learning rules, clusters."""

import copy
import csv
import pickle
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pictures import hidden, in_layout, thirds
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from drmm import DRMM, DRMMClassifier, Objective, SemiSupervisedKFold, as_images
from drmm.cli.apply import predict as predict_files
from drmm.cli.fit import asked_for
from drmm.data import load
from drmm.errors import InputError, RunError
from drmm.learning.config import Machine, Training
from drmm.learning.metrics import cluster_accuracy, name_clusters
from drmm.learning.recipes import names
from drmm.runs.experiment import Experiment
from drmm.runs.fit import fit_run
from drmm.runs.run import Run
from drmm.storage.models import Recipe, save_model

QUICK = {
    "epochs": 2,
    "model": {"width": 4},
    "training": {"min_steps": 30, "batch_size": 32, "labelled_per_batch": 8, "learning_rate": 0.01},
    "random_state": 0,
}


def quick(**changes: object) -> DRMMClassifier:
    """A small one that learns for a short time, with other parameters."""
    return DRMMClassifier(**QUICK).set_params(**changes)


EXPECTED_FAILURES = {
    "check_classifiers_classes": "the check uses -1 as a class; here it means unlabelled, as in semi_supervised",
}


@pytest.mark.filterwarnings("ignore:every image is labelled:UserWarning")
@parametrize_with_checks(
    [DRMMClassifier(epochs=2, training={"min_steps": 60}, model={"width": 32}, random_state=0)],
    expected_failed_checks=lambda _: EXPECTED_FAILURES,
)
def test_scikit_learn_conventions(estimator, check) -> None:
    check(estimator)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What training was asked for, each time; nothing is learned."""
    asked: list[dict[str, Any]] = []

    def train(model: DRMM, x: torch.Tensor, labels: torch.Tensor, **options: Any) -> DRMM:
        asked.append({"x": x, "labels": labels, **options})
        return model.eval()

    monkeypatch.setattr("drmm.estimators.classifier.train", train)
    return asked


@pytest.fixture(scope="module")
def fitted() -> DRMMClassifier:
    x, y = thirds()
    return quick(training__min_steps=150).fit(x, hidden(y))


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


def test_every_weight_reaches_the_objective(calls: list[dict[str, Any]]) -> None:
    weights = {
        "reconstruction": 0.1, "kl": 0.2, "balance": 0.3, "nonnegativity": 0.4, "mixup": 0.6,
        "warm_up": 0.7, "cool_down": 0.8, "translation": 2, "cutmix": 0.9, "kl_sign": "printed",
    }  # fmt: skip
    weights |= {"agreement": 0.15, "views": ("affine",)}
    x, y = thirds(9)
    DRMMClassifier(model={"width": 2}, objective=weights).fit(x, [*y[:6], -1, -1, -1])
    assert [call["objective"] for call in calls] == [Objective(**weights, prior="auto")], (
        "which is the default recipe's"
    )


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
    for odd in (features[:, :3], features[0], features[:0], features * np.nan):
        with pytest.raises(InputError, match=r"features must be \(N, 16\), and finite, as transform returns them"):
            fitted.inverse_transform(odd)


def test_no_image_at_all_can_be_drawn_and_less_cannot(fitted: DRMMClassifier) -> None:
    for label in (None, 2):
        images, labels = fitted.sample(0, label=label)
        assert (images.shape, images.dtype, labels.shape) == ((0, 12, 12), np.uint8, (0,))
    for n_samples in (-1, 1.5, "2"):
        with pytest.raises((ValueError, TypeError), match="n_samples"):
            fitted.sample(n_samples)


def test_log_probabilities_are_those_of_the_probabilities(fitted: DRMMClassifier) -> None:
    x, _ = thirds(9)
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba(x)), fitted.predict_proba(x), rtol=1e-12)
    twin = copy.deepcopy(fitted)
    twin.model_.templates.weight.data *= 1e4
    assert np.isfinite(twin.predict_log_proba(x)).all()
    with np.errstate(divide="ignore"):
        assert np.isinf(np.log(twin.predict_proba(x))).any(), "control: the logarithm of the probabilities"


def test_features_have_names_and_come_as_data_frames(fitted: DRMMClassifier) -> None:
    x, y = thirds(12)
    assert list(fitted.get_feature_names_out()) == [f"drmmclassifier{i}" for i in range(16)]
    frame = pd.DataFrame(x.reshape(12, -1), index=range(100, 112)).add_prefix("p")
    options = {"image_shape": (12, 12), "epochs": 1, "training__min_steps": 1}
    model = quick(**options).set_output(transform="pandas").fit(frame, hidden(y, 6))
    features = model.transform(frame)
    assert list(features.index) == list(range(100, 112))
    assert list(features.columns) == list(model.get_feature_names_out())
    assert model.inverse_transform(features).shape == (12, 144)
    assert list(model.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[frame.columns[::-1]])
    bare = quick(**options).fit(frame.to_numpy(), hidden(y, 6))
    assert not hasattr(bare, "feature_names_in_"), "control"
    np.testing.assert_array_equal(bare.predict(frame.to_numpy()), model.predict(frame))


@pytest.mark.parametrize(
    "layout",
    [
        "NHW", "NHWC1", "NCHW1", "NHWC3", "NCHW3", "ND", "tensor", "float", "float255",
    ],
)  # fmt: skip
def test_every_layout_is_welcome_and_comes_back(layout: str) -> None:
    colour = 3 if "3" in layout else None
    x, y = thirds(45, colour)
    x, data, options = in_layout(x, layout)
    model = quick(**options).fit(data, hidden(y))
    assert model.predict(data).shape == (45,)
    assert model.sample(2)[0].shape == (2, *x.shape[1:])
    assert model.inverse_transform(model.transform(data)).shape == x.shape


def test_pictures_come_back_in_the_range_of_x() -> None:
    x, y = thirds()
    model = quick(pixel_range=(0.0, 255.0)).fit(x.astype(float), hidden(y))
    assert model.inverse_transform(model.transform(x.astype(float))).max() > 2


def test_pickle_copy_and_clone(fitted: DRMMClassifier) -> None:
    x, _ = thirds(9)
    for twin in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        np.testing.assert_array_equal(twin.predict_proba(x), fitted.predict_proba(x))
    many, y = thirds()
    hard = quick(model__constraint="hard").fit(many, hidden(y))
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
        search = GridSearchCV(quick(), {"model__constraint": ["soft", "hard"]}, cv=2).fit(x, y)
        assert search.best_params_["model__constraint"] in {"soft", "hard"}
        assert cross_val_score(DRMMClassifier(**QUICK), x, y, cv=2).shape == (2,)


def test_the_seed_decides() -> None:
    x, y = thirds()
    one, same = (DRMMClassifier(**QUICK).fit(x, hidden(y)).predict_proba(x) for _ in range(2))
    other = quick(random_state=1).fit(x, hidden(y)).predict_proba(x)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_hard_models_are_certified_and_soft_ones_are_not() -> None:
    x, y = thirds()
    hard = quick(model__constraint="hard").fit(x, hidden(y))
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
        (lambda x, y: (None, y), "X has dtype object, not numbers: convert it first"),
        (lambda x, y: ({"pixels": x}, y), "X has dtype object, not numbers: convert it first"),
        (lambda x, y: ((image for image in x), y), "X has dtype object, not numbers: convert it first"),
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
        quick(model__preset="conv_small").fit(x, y)
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


def test_images_without_a_label_learn_from_the_teacher_and_others_do_not(calls: list[dict[str, Any]]) -> None:
    x, _ = thirds(6)
    y = np.array(["b", "a", -1, "b", -1, "c"], dtype=object)
    model = DRMMClassifier(teacher=Says(("c", "c", "c", "c", "b", "a")), random_state=0).fit(x, y)
    assert calls[0]["labels"].tolist() == [1, 0, 2, 1, 1, 2], "its labels fill the gaps alone"
    assert calls[0]["objective"].kl == calls[0]["objective"].balance == 0
    assert isinstance(model.teacher_, Says)
    DRMMClassifier(teacher=Says(("a",) * 6), objective={"kl": 0.3}, random_state=0).fit(x, y)
    assert (calls[1]["objective"].kl, calls[1]["objective"].balance) == (0.3, 0)


def test_a_hard_model_has_a_teacher_of_its_own() -> None:
    x, y = thirds()
    model = quick(model__constraint="hard", teacher=quick()).fit(x, hidden(y))
    images = as_images(x)
    assert bool(model.model_.infer(images).certified().all())
    assert not bool(model.teacher_.model_.infer(images).certified().all())


def test_a_teacher_that_is_fitted_stays_as_it_is_in_cross_validation(fitted: DRMMClassifier) -> None:
    x, y = thirds()
    model = quick(epochs=1, training__min_steps=1, teacher=FrozenEstimator(fitted))
    student = clone(model).fit(x, hidden(y))
    assert student.teacher_.estimator is fitted
    assert len(cross_val_score(model, x, hidden(y), cv=SemiSupervisedKFold(2), error_score="raise")) == 2


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


def test_a_class_of_few_labels_is_a_warning() -> None:
    x, y = thirds()
    with pytest.warns(UserWarning, match="fewer than 3 labels: 0 has 2, 1 has 2, 2 has 2; .* label 3 or more"):
        DRMMClassifier(**QUICK).fit(x, hidden(y, 6))
    with warnings.catch_warnings(action="error"):  # control; pyproject ignores it elsewhere
        DRMMClassifier(**QUICK).fit(x, hidden(y, 9))
        DRMMClassifier(**QUICK, n_clusters=3).fit(x, np.full(60, -1))


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
    "em": {"training__learning": "em", "epochs": 4},
    "eg": {"training__learning": "eg", "epochs": 6, "training__learning_rate": 0.02},
    "sgd": {"training__learning": "sgd", "epochs": 6, "training__learning_rate": 0.02},
}


@pytest.mark.filterwarnings("ignore:every image is labelled:UserWarning")
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_learns_digits(rule: str) -> None:
    x, y = digits()
    supervised = quick(**RULES[rule], model__width=8).fit(x, y)
    assert supervised.score(x, y) > 0.7
    semi = quick(**RULES[rule], model__width=8).fit(x, hidden(y, 50))
    assert semi.score(x[50:], y[50:]) > 0.4
    again = pickle.loads(pickle.dumps(semi))
    np.testing.assert_array_equal(again.predict_proba(x), semi.predict_proba(x))
    twin = clone(semi).fit(x, hidden(y, 50))
    np.testing.assert_array_equal(twin.predict_proba(x), semi.predict_proba(x))


@pytest.mark.parametrize("rule", RULES)
def test_without_any_label_the_classes_are_clusters(rule: str) -> None:
    x, y = digits()
    options = {**RULES[rule], "model__width": 8, "n_clusters": 12, "training__min_steps": 120}
    model = quick(**options).fit(x, np.full_like(y, -1))
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
    model = quick(training__learning="em").fit(x, np.full(60, -1))
    np.testing.assert_array_equal(model.classes_, np.arange(10))
    for n_clusters in (1, 2.5, "3"):
        with pytest.raises(InputError, match="n_clusters must be at least 2, and whole, not"):
            DRMMClassifier(**QUICK, n_clusters=n_clusters).fit(x, np.full(60, -1))
    with pytest.raises(InputError, match="clusters: ask for fewer"):
        quick(training__learning="em", n_clusters=70).fit(x, np.full(60, -1))
    labelled = DRMMClassifier(**QUICK, n_clusters=7).fit(x, hidden(y))
    assert len(labelled.classes_) == 3  # where there are labels, they decide


@pytest.mark.parametrize("rule", RULES)
def test_clusters_first_and_a_few_labels_later(rule: str) -> None:
    x, y = digits(300)
    model = quick(**RULES[rule], model__width=8, warm_start=True)
    model.fit(x, np.full_like(y, -1))
    before = copy.deepcopy(model.model_)
    model.fit(x, hidden(y, 100))
    assert list(model.classes_) == list(range(10))
    assert model.score(x[100:], y[100:]) > 0.3  # chance is 0.1
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), model.model_.parameters(), strict=True))


def test_a_warm_start_begins_with_the_former_levels() -> None:
    x, y = thirds()
    model = quick(training__learning="em", epochs=1, warm_start=True, n_clusters=4).fit(x, np.full(60, -1))
    before = [level.dictionary.weight.detach().clone() for level in model.model_.levels[:4]]
    model.fit(x, hidden(y))  # one E-step: no dictionary is fitted
    assert all(torch.equal(a, b.dictionary.weight) for a, b in zip(before, model.model_.levels[:4], strict=True))
    assert list(model.classes_) == [0, 1, 2]
    cold = model.set_params(warm_start=False, random_state=3).fit(x, hidden(y))
    assert not torch.equal(before[0], cold.model_.levels[0].dictionary.weight)  # the control


@pytest.mark.parametrize("change", [{"model__width": 5}, {"model__depth": 2}, {"model__preset": "dense"}])
def test_a_warm_start_needs_the_same_levels(change: dict[str, object]) -> None:
    x, y = thirds()
    model = DRMMClassifier(**QUICK, warm_start=True).fit(x, hidden(y))
    with pytest.raises(InputError, match="warm_start needs the same images, preset, width and depth"):
        model.set_params(**change).fit(x, hidden(y))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"training__learning": "backprop"}, "learning cannot be 'backprop': it is sgd, eg, em"),
        ({"training__initialisation": "zeros"}, "initialisation cannot be 'zeros'"),
        ({"model__constraint": "firm"}, "constraint cannot be 'firm': it is soft, hard, weight_norm"),
        ({"model__depth": 9}, "choose from 1 to 4 levels"),
        ({"training__learning": "em", "model__constraint": "hard"}, "learn a hard model by 'sgd' or 'eg'"),
        ({"model__constraint": "hard", "training__initialisation": "orthonormal"}, "templates of both signs"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"recipe": "few-label"}, "no recipe 'few-label': did you mean 'few-labels'?"),
        ({"objective": 3}, "objective is a drmm Objective or a dictionary of its settings, not 3"),
        ({"objective": {"kll": 1}}, "objective: no setting 'kll': did you mean 'kl'?"),
        ({"recipe": 3}, "recipe is a name or the path of a TOML file, not 3"),
        ({"epochs": 2.5}, "epochs cannot be 2.5: it is a whole number"),
        ({"image_shape": 12}, "image_shape must be (H, W), (H, W, C) or (C, H, W): got 12"),
        ({"training": {"epochs": "many"}}, "training: epochs cannot be 'many': it is a whole number"),
        ({"objective__cutmix": 0.5}, "objective: cutmix is a part of mixup"),
    ],
)
def test_options_that_do_not_exist_get_one_clear_line(options: dict[str, object], message: str) -> None:
    x, y = thirds()
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        quick(**options).fit(x, hidden(y))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("constraint", ["soft", "weight_norm"])
def test_every_depth_and_constraint_learns_by_em(depth: int, constraint: str) -> None:
    x, y = thirds()
    model = quick(training__learning="em", model__depth=depth, model__constraint=constraint).fit(x, hidden(y))
    assert len(model.model_.levels) == depth + 2  # and the mean over places, flattened
    assert model.predict_proba(x).shape == (60, 3)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(x), model.predict_proba(x))


def test_the_tolerance_stops_em() -> None:
    x, y = thirds()
    options = {"training__learning": "em", "epochs": 6}
    models = [quick(**options, training__tolerance=t).fit(x, hidden(y)).model_ for t in (1e9, 1e9, 0)]
    weights = [model.levels[0].dictionary.weight for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# --- settings: recipes, records, dictionaries ---


def few(n: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Images, of which six have a label."""
    x, y = thirds(n)
    return x, hidden(y, 6)


def of_grey(objective: Objective) -> Objective:
    """With the views that are usual for such images by name, as a run has them."""
    return objective.for_pictures((1, 12, 12), labelled=True)


@pytest.mark.parametrize("name", names())
def test_a_recipe_is_the_same_here_and_on_the_command_line(name: str, calls: list[dict[str, Any]]) -> None:
    times = 3 if name.startswith("photos") else 1  # whose net does not take images of 12 x 12
    x, y = few()
    model = DRMMClassifier(name, random_state=0).fit(x.repeat(times, 1).repeat(times, 2), y)
    experiment = Experiment.read(name).resolved()
    asked = calls[-1]  # the teacher comes first
    assert asked["objective"] == of_grey(experiment.objective)
    assert replace(asked["config"], seed=0) == experiment.training
    assert asked["machine"] == experiment.machine
    assert model.recipe_ == experiment.model.fitted((1, 12 * times, 12 * times), ("0", "1", "2"))


def test_the_defaults_are_those_of_the_command_line(calls: list[dict[str, Any]]) -> None:
    default = asked_for(None, None, {"data.source": "digits"}, []).resolved()
    other = asked_for("best", None, {"data.source": "digits"}, []).resolved()
    DRMMClassifier(random_state=0).fit(*few())
    asked = calls[0]["objective"], replace(calls[0]["config"], seed=0), calls[0]["machine"]
    assert asked == (of_grey(default.objective), default.training, default.machine)
    assert asked != (other.objective, other.training, other.machine), "control: another recipe"


def test_a_dictionary_changes_a_recipe_and_a_record_replaces_its_table(calls: list[dict[str, Any]]) -> None:
    best = Experiment.read("best").resolved()
    DRMMClassifier("best", objective={"kl": 0.3}, training={"min_steps": 1}).fit(*few())
    DRMMClassifier("best", objective=Objective(kl=0.3), training=Training(min_steps=1)).fit(*few())
    changed, replaced = calls
    assert changed["objective"] == replace(best.objective, kl=0.3)
    assert replaced["objective"] == Objective(kl=0.3).resolved()
    assert changed["config"].epochs == best.training.epochs
    assert replaced["config"].epochs == Training().epochs != best.training.epochs
    assert changed["config"].min_steps == replaced["config"].min_steps == 1


def test_epochs_and_the_seed_come_last(calls: list[dict[str, Any]]) -> None:
    for state in (3, 3, 4):
        DRMMClassifier(training=Training(epochs=7, seed=5), epochs=2, random_state=state).fit(*few())
    assert [call["config"].epochs for call in calls] == [2, 2, 2]
    assert calls[0]["config"] == calls[1]["config"] != calls[2]["config"]


ON_A_CPU = Machine("cpu", precision="bf16-mixed")


@pytest.mark.parametrize("machine", [{"accelerator": "cpu", "precision": "bf16-mixed"}, ON_A_CPU])
def test_the_machine_is_the_one_that_was_asked_for(machine: object, calls: list[dict[str, Any]]) -> None:
    DRMMClassifier(machine=machine).fit(*few())
    assert calls[0]["machine"] == ON_A_CPU


def test_a_file_is_a_recipe(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "best"\n[objective]\nkl = 0.3\n[model]\nwidth = 3\n')
    model = DRMMClassifier(str(path)).fit(*few())
    assert calls[0]["objective"] == replace(Experiment.read("best").resolved().objective, kl=0.3)
    assert model.recipe_.width == 3
    path.write_text("[objective]\nkll = 0.3\n")
    with pytest.raises(InputError, match="objective: no setting 'kll': did you mean 'kl'"):
        model.fit(*few())


# --- parameters that reach into the records ---

GIVEN = {"None": None, "a dictionary": {"mixup": 1.0}, "a record": Objective(mixup=1.0)}


@pytest.mark.parametrize("given", GIVEN)
def test_set_params_reaches_every_setting(given: str, calls: list[dict[str, Any]]) -> None:
    before = GIVEN[given]
    model = DRMMClassifier(objective=before)
    assert model.set_params(objective__kl="0.3", objective__warm_up=0.5, epochs=3) is model
    assert model.set_params(objective__balance=None) is model, "as a recipe leaves it open"
    model.fit(*few())
    views = () if given == "a record" else ("affine", "brightness")  # of the recipe, for grey pictures
    prior = "labels" if given == "a record" else "auto"  # likewise
    mixup = 0.0 if before is None else 1.0
    expected = Objective(mixup=mixup, kl=0.3, warm_up=0.5, views=views, prior=prior).resolved()
    assert calls[0]["objective"] == expected
    assert before == {"None": None, "a dictionary": {"mixup": 1.0}, "a record": Objective(mixup=1.0)}[given]


def test_settings_that_need_each_other_are_judged_together(calls: list[dict[str, Any]]) -> None:
    for model in (DRMMClassifier("best"), DRMMClassifier(objective={"mixup": 1})):
        model.set_params(objective__cutmix=0.5).fit(*few())
    assert [call["objective"].cutmix for call in calls] == [0.5, 0.5]
    with pytest.raises(InputError, match="cutmix is a part of mixup"):  # the control
        DRMMClassifier().set_params(objective__cutmix=0.5).fit(*few())
    with pytest.raises(InputError, match="cutmix is a part of mixup"):  # a record knows at once
        DRMMClassifier(objective=Objective()).set_params(objective__cutmix=0.5)


@pytest.mark.parametrize("before", [None, {"kl": 0.1}, Objective()])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("objective__kll", 1, "no setting 'kll': did you mean 'kl'"),
        ("objective__kll", None, "no setting 'kll': did you mean 'kl'"),
        ("objective__kl", "much", "kl cannot be 'much': it is a number or none"),
        ("objective__warm_up", None, "warm_up cannot be None: it is a number"),
    ],
)
def test_settings_that_do_not_exist_are_refused_at_once(
    before: object, name: str, value: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        DRMMClassifier(objective=before).set_params(**{name: value})


@pytest.mark.parametrize("name", ["objectives__kl", "recipe__kl", "optimiser"])
def test_parameters_that_do_not_exist_are_refused_as_by_scikit_learn(name: str) -> None:
    with pytest.raises((ValueError, AttributeError)):
        DRMMClassifier().set_params(**{name: 1})


@pytest.mark.filterwarnings("ignore:every image is labelled:UserWarning")
@pytest.mark.parametrize("given", GIVEN)
def test_a_grid_search_reaches_the_settings(given: str, calls: list[dict[str, Any]]) -> None:
    grid = {"objective__kl": [0.1, 0.7], "model__constraint": ["soft", "hard"]}
    model = DRMMClassifier(objective=GIVEN[given], model={"width": 3}, random_state=0)
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(*thirds(12))
    tried = {(call["objective"].kl, call["objective"].nonnegativity) for call in calls}
    assert tried == {(kl, nonnegativity) for kl in (0.1, 0.7) for nonnegativity in (0.5, 0.0)}
    assert {call["objective"].mixup for call in calls} == {0.0 if given == "None" else 1.0}
    best = search.best_estimator_
    assert calls[-1]["objective"].kl == search.best_params_["objective__kl"]
    assert (best.recipe_.constraint, best.recipe_.width) == (search.best_params_["model__constraint"], 3)


@pytest.mark.filterwarnings("ignore:every image is labelled:UserWarning")
def test_a_grid_search_reaches_through_a_pipeline(calls: list[dict[str, Any]]) -> None:
    pipeline = make_pipeline(FunctionTransformer(), DRMMClassifier(random_state=0, model=Recipe(width=3)))
    GridSearchCV(pipeline, {"drmmclassifier__model__width": [2, 4]}, cv=2).fit(*thirds(12))
    assert len(calls) == 5


def test_parameters_of_a_record_are_listed() -> None:
    listed = DRMMClassifier(objective=Objective(kl=0.3)).get_params()
    assert listed["objective__kl"] == 0.3
    assert "objective__kl" not in DRMMClassifier().get_params()


RECORDS = {
    "model": Recipe(width=3, channels=(3, 4)),
    "objective": Objective(kl=0.3),
    "training": Training(min_steps=1, epochs=1),
    "machine": Machine("cpu"),
}
TABLES = {
    "model": {"width": 3},
    "objective": {"kl": 0.3},
    "training": {"min_steps": 1, "epochs": 1},
    "machine": {"accelerator": "cpu"},
}


@pytest.mark.parametrize("given", [RECORDS, TABLES])
def test_a_clone_has_the_same_settings_and_shares_none_that_change(given: dict[str, Any]) -> None:
    model = DRMMClassifier("best", **given, random_state=0)
    twin = clone(model)
    assert twin.get_params() == model.get_params()
    assert all(getattr(twin, name) == value for name, value in given.items()), "what is derived too"
    twin.set_params(objective__kl=0.9)
    assert twin.get_params() != model.get_params() == clone(model).get_params()


@pytest.mark.parametrize("given", [RECORDS | {"model": Recipe(width=3)}, TABLES])
def test_a_pickle_keeps_the_settings(given: dict[str, Any]) -> None:
    x, _ = few()
    model = DRMMClassifier("best", **given, epochs=1, random_state=0).fit(*few())
    twin = pickle.loads(pickle.dumps(model))
    assert twin.get_params() == model.get_params()
    np.testing.assert_array_equal(twin.predict_proba(x), model.predict_proba(x))


def test_its_repr_says_what_was_changed() -> None:
    assert repr(DRMMClassifier()) == "DRMMClassifier()"
    assert repr(DRMMClassifier(objective={"kl": 0.3})) == "DRMMClassifier(objective={'kl': 0.3})"
    assert "kl=0.3" in repr(DRMMClassifier("best", objective=Objective(kl=0.3)))
    for model in (DRMMClassifier(**RECORDS), DRMMClassifier(**TABLES)):
        assert "DRMMClassifier" in model._repr_html_()


# --- teachers by name and by folder; validation ---


@pytest.fixture
def teacher_recipe(tmp_path: Path) -> Path:
    """A recipe that is learned in no time, by a rule of its own."""
    path = tmp_path / "teacher.toml"
    path.write_text('[training]\nlearning = "eg"\nepochs = 9\nmin_steps = 3\n[model]\nwidth = 64\n')
    return path


@pytest.mark.parametrize("kind", [str, Path])
def test_a_recipe_teaches(teacher_recipe: Path, kind: type, calls: list[dict[str, Any]]) -> None:
    """With its own schedule and rule, on the same machine, in the size of the student."""
    own = {"objective": {"kl": 0.3}, "epochs": 1, "machine": {"accelerator": "cpu"}, "random_state": 0}
    model = DRMMClassifier("hard", model={"width": 3}, teacher=kind(teacher_recipe), **own).fit(*few())
    lesson, student = calls
    assert (lesson["config"].learning, lesson["config"].epochs) == ("eg", 9)
    assert lesson["objective"] == Objective().resolved(learning="eg")
    assert lesson["machine"] == student["machine"] == Machine("cpu")
    assert lesson["config"].seed == student["config"].seed
    assert (model.teacher_.recipe_.width, model.teacher_.recipe_.constraint) == (3, "soft")
    assert (model.recipe_.width, model.recipe_.constraint) == (3, "hard")
    assert (student["objective"].kl, student["objective"].balance) == (0.3, 0)
    assert lesson["labels"].tolist() == few()[1].tolist()
    assert (student["labels"] >= 0).all(), "control: the student has no image without a label"


def test_the_teacher_of_a_recipe_teaches_unless_it_is_left_out(calls: list[dict[str, Any]]) -> None:
    model = DRMMClassifier("hard-taught", model={"width": 3}, random_state=0).fit(*few())
    assert [call["objective"].kl for call in calls] == [0.5, 0]
    assert model.teacher_.recipe == "kl"
    calls.clear()
    DRMMClassifier("hard-taught", model={"width": 3}, teacher="", random_state=0).fit(*few())
    assert [call["objective"].kl for call in calls] == [0.5]


def test_a_teacher_learns_without_one(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    path = tmp_path / "circle.toml"
    path.write_text(f'[model]\nwidth = 3\n[teacher]\nsource = "{path.as_posix()}"\n')
    DRMMClassifier(str(path)).fit(*few())
    assert len(calls) == 2


def saved(fitted: DRMMClassifier, folder: Path) -> Path:
    save_model(fitted.model_, fitted.recipe_, folder)
    return folder


@pytest.mark.parametrize("kind", [str, Path])
def test_a_run_teaches(fitted: DRMMClassifier, tmp_path: Path, kind: type, calls: list[dict[str, Any]]) -> None:
    x, y = thirds()
    DRMMClassifier(teacher=kind(saved(fitted, tmp_path / "run"))).fit(x, hidden(y))
    expected = np.where(hidden(y) >= 0, y, fitted.predict(x))
    np.testing.assert_array_equal(calls[0]["labels"].numpy(), expected)
    assert calls[0]["objective"].kl == 0


# --- what the command line trained ---


@pytest.mark.parametrize("hidden_labels", [5, 0])
def test_load_opens_a_run_of_the_command_line(hidden_labels: int, tmp_path: Path) -> None:
    experiment = Experiment(
        data={"source": "digits", "labels_per_class": hidden_labels, "images": 200},
        model={"preset": "dense", "width": 4},
        objective={"kl": 0.3},
        training={"epochs": 1, "min_steps": 5},
    )
    fit_run(experiment, tmp_path / "run", progress=False)
    x = load("digits").x_test[:20]
    np.save(tmp_path / "x.npy", x)
    predict_files(tmp_path / "run", [tmp_path / "x.npy"], tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open() as file:
        expected = [row["label"] for row in csv.DictReader(file)]
    model = DRMMClassifier.load(str(tmp_path / "run"))
    for given in (x, x[:, 0], x.reshape(20, -1), x / 255, torch.from_numpy(x)):
        assert model.predict(given).tolist() == expected
    assert list(model.classes_) == list(Run.open(tmp_path / "run").recipe.classes)
    assert (model.image_shape_, model.n_features_in_) == ((1, 8, 8), 64)
    assert (model.objective.kl, model.training.min_steps, model.teacher) == (0.3, 5, "")
    images, labels = model.sample(3, random_state=0)
    assert (images.shape, images.dtype) == ((3, 1, 8, 8), np.uint8)
    assert set(labels) <= set(model.classes_)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    other = DRMMClassifier.load(tmp_path / "run")
    other.model_.templates.weight.data *= -1
    assert other.predict(x).tolist() != expected, "control"


def test_a_loaded_classifier_learns_on_and_afresh(fitted: DRMMClassifier, tmp_path: Path) -> None:
    x, y = thirds()
    model = DRMMClassifier.load(saved(fitted, tmp_path / "run"))
    np.testing.assert_array_equal(model.predict(x), fitted.predict(x).astype(str))
    assert clone(model).set_params(**QUICK).fit(x, hidden(y)).predict(x).shape == (60,)
    levels = copy.deepcopy(model.model_.levels.state_dict())
    options = {"warm_start": True, "training__learning": "em", "epochs": 1}
    model.set_params(**options).fit(x, hidden(y))
    assert torch.equal(levels["0.dictionary.weight"], model.model_.levels.state_dict()["0.dictionary.weight"])


@pytest.mark.parametrize("name", ["gone", ".", "~/gone"])
def test_what_is_no_run_is_one_clear_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="holds no model: pass a folder of drmm fit") as caught:
        DRMMClassifier.load(name)
    assert "~" not in str(caught.value)


def test_a_recipe_is_not_taken_for_a_folder_of_its_name(
    fitted: DRMMClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, Any]]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(fitted, Path("kl"))
    model = DRMMClassifier(model={"width": 3}, teacher="kl").fit(*few())
    assert model.teacher_.recipe == "kl"
    DRMMClassifier(model={"width": 3}, teacher="./kl").fit(*few())
    assert len(calls) == 3, "control: a path is a folder"


@pytest.mark.parametrize(("shift", "border"), [(1, 0), (0, 1)])
def test_a_run_of_other_data_does_not_teach(
    fitted: DRMMClassifier, tmp_path: Path, shift: int, border: int, calls: list[dict[str, Any]]
) -> None:
    x, y = few()
    x, y = np.pad(x, [(0, 0), (border, border), (border, border)]), np.where(y >= 0, y + shift, -1)
    with pytest.raises(InputError, match="knows other classes or image sizes"):
        DRMMClassifier(teacher=saved(fitted, tmp_path / "run")).fit(x, y)
    assert calls == []


@pytest.mark.parametrize(
    ("teacher", "message"), [("kll", "no recipe 'kll': did you mean 'kl'?"), (Path("gone"), "no recipe 'gone'")]
)
def test_a_teacher_that_is_not_there_is_one_clear_line(teacher: object, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        DRMMClassifier(teacher=teacher).fit(*few())
    assert "\n" not in str(caught.value)


def test_held_out_images_are_not_learned_from(calls: list[dict[str, Any]]) -> None:
    x, y = thirds()
    quick(validation=6).fit(x, hidden(y))
    quick().fit(x, hidden(y))
    held, every = calls
    assert every["validation"] is None
    images, labels = held["validation"]
    assert (len(held["x"]), len(images)) == (54, 6)
    assert (held["labels"] >= 0).sum() == 6
    assert sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2]
    both = torch.cat([held["x"], images]).flatten(1)
    assert len(both.unique(dim=0)) == 60, "each image is in one of them"
    index = (as_images(x).flatten(1)[None] == images.flatten(1)[:, None]).all(2).float().argmax(1)
    assert labels.tolist() == y[index].tolist()


class Remembers(Says):
    """A teacher that knows what it was shown."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Remembers":
        self.X_, self.y_ = X, y
        return self


@pytest.mark.parametrize("layout", [np.asarray, torch.from_numpy])
def test_a_teacher_does_not_see_what_is_held_out(layout: Any, calls: list[dict[str, Any]]) -> None:
    x, y = thirds()
    model = DRMMClassifier(teacher=Remembers((2,) * 60), validation=6, random_state=0).fit(layout(x), hidden(y))
    labels = calls[0]["validation"][1]
    assert len(model.teacher_.X_) == len(model.teacher_.y_) == 54
    shown = as_images(np.asarray(model.teacher_.X_)).flatten(1)
    assert torch.equal(shown, calls[0]["x"].flatten(1))
    assert sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2], "labels, and not what a teacher says"
    assert (calls[0]["labels"] >= 0).all()


@pytest.mark.parametrize("validation", [10, -1])
def test_too_many_cannot_be_held_out(validation: int) -> None:
    x, y = thirds()
    with pytest.raises(InputError, match="a holdout of"):
        quick(validation=validation).fit(x, hidden(y))


def test_the_validation_error_stops_training() -> None:
    x, y = thirds()
    options = {"training__learning_rate": 1e-9, "epochs": 30, "training__patience": 1, "training__min_steps": 0}
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        step = torch.optim.Adam.step
        patch.setattr(torch.optim.Adam, "step", lambda *a, **o: (steps.append(0), step(*a, **o))[1])
        quick(**options, validation=3).fit(x, hidden(y))
        stopped = len(steps)
        quick(**options).set_params(training__patience=None).fit(x, hidden(y))
    assert stopped < len(steps) - stopped
