"""Few labels inside scikit-learn: what -1 in y does to scores, splits and estimators that hold others."""

import warnings
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.semi_supervised import SelfTrainingClassifier

from drmm import DRMMClassifier, EvolutionaryClassifier, SemiSupervisedKFold
from drmm.errors import InputError, UnlabelledWarning
from drmm.estimators.few_labels import FewLabelsMixin

# --- scores ---


class Reads(BaseEstimator):
    """A classifier that reads its answer off the image: what is right about it is known beforehand."""

    def __init__(self, sure: float = 0.8) -> None:
        self.sure = sure

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Reads":
        self.seen_ = len(X)
        self.classes_ = np.unique(y[y != -1])
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return X[:, 0].astype(int)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return np.where(X[:, [0]] == np.arange(2), self.sure, 1 - self.sure)


class Ours(FewLabelsMixin, Reads):
    """With the score of few labels."""


class Plain(ClassifierMixin, Reads):
    """Control: with scikit-learn's."""


def answers() -> tuple[np.ndarray, np.ndarray]:
    """Eighty images of which twenty have a label; of each five labelled ones, one is read wrongly."""
    truth = np.arange(80) % 2
    wrong = np.arange(80) % 10 < 2
    X = np.where(wrong, 1 - truth, truth)[:, None].astype(float)
    return X, np.where(np.arange(80) < 20, truth, -1)


SEARCHES: dict[str, Callable[[Any, np.ndarray, np.ndarray, Any], Any]] = {
    "cross_val_score": lambda model, X, y, cv: cross_val_score(model, X, y, cv=cv),
    "cross_validate": lambda model, X, y, cv: cross_validate(model, X, y, cv=cv)["test_score"],
    "GridSearchCV": lambda model, X, y, cv: GridSearchCV(model, {"sure": [0.7, 0.9]}, cv=cv).fit(X, y).best_score_,
    "HalvingGridSearchCV": lambda model, X, y, cv: (
        HalvingGridSearchCV(model, {"sure": [0.7, 0.9]}, cv=cv, min_resources=60, factor=1.3, random_state=0)
        .fit(X, y)
        .best_score_
    ),
    "learning_curve": lambda model, X, y, cv: learning_curve(model, X, y, cv=cv, train_sizes=[1.0])[2],
    "Pipeline": lambda model, X, y, cv: cross_val_score(make_pipeline(FunctionTransformer(), model), X, y, cv=cv),
}


@pytest.mark.filterwarnings("ignore::drmm.errors.UnlabelledWarning")
@pytest.mark.parametrize("cv", [4, SemiSupervisedKFold(2)])
@pytest.mark.parametrize("search", SEARCHES)
def test_images_without_a_label_are_no_errors(search: str, cv: Any) -> None:
    X, y = answers()
    assert np.mean(SEARCHES[search](Ours(), X, y, cv)) == pytest.approx(0.8, abs=0.1)
    if isinstance(cv, int):
        assert np.mean(SEARCHES[search](Plain(), X, y, cv)) < 0.3, "control: they were"


def test_the_score_is_the_accuracy_of_the_labelled_images() -> None:
    X, y = answers()
    with pytest.warns(UnlabelledWarning, match="do not count in score"):
        assert Ours().score(X, y) == 0.8
    assert Ours().score(X[:20], y[:20]) == 0.8, "where all have a label nothing is said"
    assert Plain().score(X, y) == 0.2, "control"
    weight = np.where(Ours().predict(X) == y, 3.0, 1.0)
    assert Ours().score(X[:20], y[:20], sample_weight=weight[:20]) == pytest.approx(48 / 52)
    weight[20:] = 1000
    with pytest.warns(UnlabelledWarning):
        assert Ours().score(X, y, sample_weight=weight) == pytest.approx(48 / 52)


@pytest.mark.parametrize(
    ("y", "weight", "message"),
    [
        (np.full(80, -1), None, r"no image has a label to compare with \(y is -1\)"),
        (np.full(80, np.nan), None, "use -1 for unlabelled"),
        (np.zeros(79), None, "80 images but 79 labels"),
        (np.arange(80) % 2, np.ones(7), "inconsistent numbers of samples"),
        (np.arange(80) % 2, np.full(80, np.nan), "NaN"),
        (np.full(80, "a"), None, "(?i)mix of label"),
    ],
)
def test_what_cannot_be_scored_is_one_clear_line(y: np.ndarray, weight: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Ours().score(answers()[0], y, sample_weight=weight)
    assert "\n" not in str(caught.value)


def test_it_is_said_once_for_each_line_that_asks() -> None:
    X, y = answers()

    class Trains(Ours):
        def fit(self, X: np.ndarray, y: np.ndarray) -> Reads:
            with warnings.catch_warnings():  # as training does: it makes Python's record of what was said void
                return super().fit(X, y)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cross_val_score(Trains(), X, y, cv=4)
        assert [one.category for one in said] == [UnlabelledWarning]
        assert said[0].filename == __file__
        cross_val_score(Trains(), X, y, cv=4)
        assert len(said) == 2, "control: another line is told, too"


# --- splits ---


LABELS = {
    "numbers": np.array([0, 1, 2] * 6 + [-1] * 12),
    "mixed": np.random.default_rng(0).permutation([0, 1, 2] * 6 + [-1] * 12),
    "floats": np.array([1.0, 2.0] * 9 + [-1.0] * 12),
    "names": np.array(["a", "b"] * 9 + [-1] * 12, dtype=object),
    "series": pd.Series(["a", "b"] * 9 + [-1] * 12, index=range(100, 130)),
    "list": [0, 1] * 9 + [-1] * 12,
    "booleans": np.array([True, False] * 9 + [-1] * 12, dtype=object),
    "all labelled": np.array(["a", "b", "c"] * 10),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_unlabelled_images_are_in_every_training_part_and_in_no_test_part(kind: str, shuffle: bool) -> None:
    y = LABELS[kind]
    cv = SemiSupervisedKFold(3, shuffle=shuffle, random_state=0 if shuffle else None)
    unlabelled = {i for i, label in enumerate(y) if label == -1}
    parts = [(set(train.tolist()), set(test.tolist())) for train, test in cv.split(np.zeros((30, 2, 2)), y)]
    assert len(parts) == cv.get_n_splits() == 3
    for train, test in parts:
        assert unlabelled <= train
        assert train | test == set(range(30))
        assert not train & test
    assert sorted(i for _, test in parts for i in test) == sorted(set(range(30)) - unlabelled)
    again = [set(test.tolist()) for _, test in cv.split(np.zeros(30), y)]
    assert again == [test for _, test in parts]


def test_the_labelled_images_are_split_as_by_scikit_learn() -> None:
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    both = [list(cv(4, shuffle=True, random_state=3).split(y, y)) for cv in (SemiSupervisedKFold, StratifiedKFold)]
    for (train, test), (theirs, other) in zip(*both, strict=True):
        np.testing.assert_array_equal(train, theirs)
        np.testing.assert_array_equal(test, other)
    few = np.append(y, [-1] * 20)
    assert any(-1 in few[test] for _, test in StratifiedKFold(4).split(few, few)), "control"


def test_what_cannot_be_split_is_one_clear_line() -> None:
    for y, message in (
        (np.full(9, -1), "no image has a label to test on"),
        (np.zeros(8), "9 images but 8 labels"),
    ):
        with pytest.raises(InputError, match=message):
            next(SemiSupervisedKFold(3).split(np.zeros(9), y))
    with pytest.raises(ValueError, match="n_splits=5 cannot be greater"):
        next(SemiSupervisedKFold(5).split(np.zeros(9), [0, 1] * 3 + [-1] * 3))


def test_every_scorer_is_right_on_these_splits() -> None:
    X, y = answers()
    names = ["accuracy", "balanced_accuracy", "neg_log_loss", "roc_auc"]
    scores = cross_validate(Plain(), X, y, cv=SemiSupervisedKFold(2), scoring=names, return_estimator=True)
    assert scores["test_accuracy"].mean() == accuracy_score(y[:20], Plain().predict(X[:20])) == 0.8
    assert scores["test_balanced_accuracy"].mean() == pytest.approx(0.8)
    expected = -log_loss(y[:20], Plain().predict_proba(X[:20]))
    assert scores["test_neg_log_loss"].mean() == pytest.approx(expected)
    assert scores["test_roc_auc"].mean() == pytest.approx(0.8)
    assert [model.seen_ for model in scores["estimator"]] == [70, 70]
    wrong = cross_val_score(Plain(), X, y, cv=KFold(4, shuffle=True, random_state=0), scoring="accuracy")
    assert wrong.mean() < 0.3, "control: the same scorer on other folds"


# --- estimators that hold others ---


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is learned: what is tried here is who is called with which labels."""
    monkeypatch.setattr("drmm.estimators.classifier.train", lambda model, *_, **__: model.eval())


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Flat, as some of scikit-learn's estimators need them."""
    x = np.random.default_rng(0).integers(0, 256, (60, 16)).astype(np.uint8)
    return x, np.where(np.arange(60) < 24, np.arange(60) % 3, -1)


def small(**options: object) -> DRMMClassifier:
    return DRMMClassifier(
        model={"preset": "dense", "width": 4}, image_shape=(4, 4), random_state=0, epochs=1, **options
    )


HOLDERS: dict[str, Callable[[Any, np.ndarray, np.ndarray], Any]] = {
    "CalibratedClassifierCV": lambda model, x, y: CalibratedClassifierCV(model, cv=3).fit(x, y),
    "without an ensemble": lambda model, x, y: CalibratedClassifierCV(model, cv=3, ensemble=False).fit(x, y),
    "on our splits": lambda model, x, y: CalibratedClassifierCV(model, cv=SemiSupervisedKFold(3)).fit(x, y),
    "of a fitted one": lambda model, x, y: CalibratedClassifierCV(FrozenEstimator(model.fit(x, y))).fit(x, y),
    "VotingClassifier": lambda model, x, y: VotingClassifier([("a", model)]).fit(x, y),
    "StackingClassifier": lambda model, x, y: StackingClassifier([("a", model)], cv=3).fit(x, y),
    "BaggingClassifier": lambda model, x, y: BaggingClassifier(model, 2).fit(x, y),
    "OneVsRestClassifier": lambda model, x, y: OneVsRestClassifier(model).fit(x, y),
    "cross_val_predict": lambda model, x, y: cross_val_predict(model, x, y, cv=3, method="predict_proba"),
}


@pytest.mark.usefixtures("untrained")
@pytest.mark.filterwarnings("ignore:Number of classes:RuntimeWarning")
@pytest.mark.parametrize("holder", HOLDERS)
def test_nobody_takes_unlabelled_for_a_class(holder: str) -> None:
    x, y = pictures()
    with pytest.raises(InputError, match="takes -1 in y for a class: fit the classifier first") as caught:
        HOLDERS[holder](small(), x, y)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("untrained")
def test_control_unguarded_the_class_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drmm.estimators.base.check_nobody_counts_unlabelled", lambda: None)
    x, y = pictures()
    assert list(HOLDERS["CalibratedClassifierCV"](small(), x, y).classes_) == [-1, 0, 1, 2]
    with pytest.warns(UserWarning, match="every image is labelled"):  # -1 has become class 0
        assert list(HOLDERS["VotingClassifier"](small(), x, y).classes_) == [-1, 0, 1, 2]


@pytest.mark.usefixtures("untrained")
def test_the_way_that_the_message_says_is_right() -> None:
    x, y = pictures()
    model = FrozenEstimator(small().fit(x, y))
    for holder in (CalibratedClassifierCV(model, cv=3), VotingClassifier([("a", model)], voting="soft")):
        holder.fit(x[:24], y[:24])
        assert list(holder.classes_) == [0, 1, 2]
        np.testing.assert_allclose(holder.predict_proba(x).sum(1), 1)


@pytest.mark.usefixtures("untrained")
@pytest.mark.filterwarnings("ignore:every image is labelled:UserWarning")
def test_self_training_and_labelled_images_alone_need_no_guard() -> None:
    x, y = pictures()
    assert list(SelfTrainingClassifier(small(), max_iter=2).fit(x, y).classes_) == [0, 1, 2]
    assert list(CalibratedClassifierCV(small(), cv=3).fit(x[:24], y[:24]).classes_) == [0, 1, 2]


@pytest.mark.usefixtures("untrained")
def test_in_a_thread_of_its_own_it_is_noticed_when_predicting() -> None:
    x, y = pictures()
    with joblib.parallel_config("threading", n_jobs=2):
        holder = CalibratedClassifierCV(small(), cv=3).fit(x, y)
    with pytest.raises(InputError, match=r"CalibratedClassifierCV \(in predict_proba\) takes -1 in y for a class"):
        holder.predict(x)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("labels", [np.asarray, list, pd.Series])
def test_a_scorer_by_name_needs_test_parts_with_labels(labels: Callable[[Any], Any]) -> None:
    x, y = pictures()
    with pytest.raises(InputError, match=r"pass cv=drmm\.SemiSupervisedKFold"):
        cross_val_score(small(), x, labels(y), cv=3, scoring="accuracy", error_score="raise")
    scores = cross_val_score(small(), x, labels(y), cv=SemiSupervisedKFold(3), scoring="accuracy")
    assert np.isfinite(scores).all()


def test_trees_score_and_are_guarded_as_well() -> None:
    x, y = pictures()
    tree = EvolutionaryClassifier(3, min_steps=1, epochs=1, max_iter=1, image_shape=(4, 4), random_state=0).fit(
        x, y
    )
    with pytest.warns(UnlabelledWarning):
        assert tree.score(x, y) == accuracy_score(y[:24], tree.predict(x[:24]))
    with pytest.raises(InputError, match="takes -1 in y for a class"):
        CalibratedClassifierCV(clone(tree), cv=3).fit(x, y)


@pytest.mark.usefixtures("untrained")
def test_clusters_have_no_score() -> None:
    x, y = pictures()
    model = small(n_clusters=3).fit(x, np.full(60, -1))
    with pytest.raises(InputError, match="clusters have no labels to compare with y"):
        model.score(x[:24], y[:24])
    assert 0 <= small().fit(x, y).score(torch.from_numpy(x[:24]), y[:24]) <= 1, "control"
