"""With `calibrate` the classifier says how sure it is, what it knows, and what may be sorted."""

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

from drmm import DRMMClassifier
from drmm.data import load, mask_labels, stratified_labels
from drmm.errors import InputError
from drmm.estimators import classifier as module

DATA = load("digits")
X = DATA.x_train[:400, 0]
Y = mask_labels(DATA.y_train[:400], stratified_labels(DATA.y_train[:400], 8, seed=0))
TEST = DATA.x_test[:, 0]
QUICK: dict[str, Any] = {
    "epochs": 2,
    "model": {"width": 8},
    "training": {"min_steps": 60, "batch_size": 64, "labelled_per_batch": 16},
    "random_state": 0,
}


@pytest.fixture(scope="module")
def fitted() -> DRMMClassifier:
    return DRMMClassifier(**QUICK, calibrate=True).fit(X, Y)


def test_probabilities_are_calibrated_by_option(fitted: DRMMClassifier) -> None:
    plain = DRMMClassifier(**QUICK).fit(X, Y)
    np.testing.assert_array_equal(plain.decision_function(TEST), fitted.decision_function(TEST))
    assert fitted.assessment_ is not None
    temperature = fitted.assessment_.calibration.temperature
    assert abs(temperature - 1) > 0.01, "control"
    assert not np.allclose(plain.predict_proba(TEST), fitted.predict_proba(TEST))
    np.testing.assert_allclose(fitted.predict_proba(TEST).sum(1), 1)
    np.testing.assert_array_equal(fitted.classes_[fitted.predict_proba(TEST).argmax(1)], fitted.predict(TEST))


def test_noise_is_unfamiliar_and_digits_are_not(fitted: DRMMClassifier) -> None:
    noise = np.random.default_rng(0).integers(0, 256, TEST.shape).astype(np.uint8)
    assert np.median(fitted.familiarity(noise)) < 0.01
    assert np.median(fitted.familiarity(TEST)) > 0.2
    assert (fitted.decide(noise) == "unfamiliar").mean() > 0.95
    assert (fitted.decide(TEST) == "unfamiliar").mean() < 0.1


def test_a_smaller_promise_sorts_more(fitted: DRMMClassifier) -> None:
    shares = [(fitted.decide(TEST, promise=promise) == "sorted").mean() for promise in (0.3, 0.9, 0.999)]
    assert shares[0] >= shares[1] >= shares[2]
    assert shares[0] > shares[2]
    with pytest.raises(InputError, match="share of sorted pictures"):
        fitted.decide(TEST, promise=98)


def test_it_survives_a_pickle_and_is_gone_from_a_clone(fitted: DRMMClassifier) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.decide(TEST), fitted.decide(TEST))
    assert not hasattr(clone(fitted), "assessment_")


@pytest.mark.parametrize("ask", ["familiarity", "decide"])
def test_without_it_nothing_is_known(ask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "train", lambda model, *_, **__: model.eval())
    plain = DRMMClassifier(**QUICK).fit(X, Y)
    with pytest.raises(InputError, match="calibrate=True"):
        getattr(plain, ask)(TEST)


@pytest.mark.parametrize("labels", ["none", "taught"])
def test_where_there_is_nothing_to_calibrate_by(labels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "train", lambda model, *_, **__: model.eval())
    options = {"teacher": DRMMClassifier(**QUICK)} if labels == "taught" else {}
    model = DRMMClassifier(**QUICK, calibrate=True, **options).fit(X, np.full(400, -1) if labels == "none" else Y)
    assert model.assessment_ is not None
    assert model.assessment_.error() is None
    assert model.assessment_.calibration.temperature == 1
    assert model.familiarity(TEST[:5]).shape == (5,)


def test_vectors_are_calibrated_too() -> None:
    """In double precision."""
    vectors = X.reshape(400, -1) / 255.0
    model = DRMMClassifier(epochs=1, training={"min_steps": 10}, calibrate=True, random_state=0)
    with pytest.warns(UserWarning, match="X is taken as vectors"):
        model.fit(vectors, Y)
    assert model.decide(vectors).shape == (400,)
    assert 0 < model.familiarity(vectors).min() <= 1
