"""Probabilities are as often right as they say, for any number of labels."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from drmm.errors import InputError
from drmm.trust.calibration import Calibration, fit_calibration, log_losses, reliability


def world(n: int, classes: int, seed: int, too_sure: float = 1.0, offset: float = 0.0):
    """Logits that are `too_sure` times those of the labels' distribution; class 0 leads by `offset`."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(n, classes)) * 2
    labels = (softmax(true, 1).cumsum(1) < rng.random((n, 1))).sum(1).clip(max=classes - 1)
    return too_sure * true + offset * (np.arange(classes) == 0), labels


def error_of(calibration: Calibration, logits: np.ndarray, labels: np.ndarray) -> float:
    p = np.exp(calibration.log_probability(logits))
    return reliability(p.max(1), p.argmax(1) == labels).error


@pytest.mark.parametrize("calibration", [Calibration(), Calibration(3.0), Calibration(0.5, (0.4, -1.0, 0.2))])
def test_what_was_calibrated_can_be_undone(calibration: Calibration) -> None:
    logits, _ = world(50, 3, 0, too_sure=3)
    calibrated = calibration.log_probability(logits)
    np.testing.assert_allclose(calibration.undone(calibrated), log_softmax(logits, 1), rtol=1e-10)
    if calibration != Calibration():
        assert np.abs(calibrated - log_softmax(logits, 1)).max() > 0.1, "control"


@pytest.mark.parametrize("too_sure", [0.3, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("classes", [2, 4, 10])
def test_a_hundred_labels_calibrate(too_sure: float, classes: int) -> None:
    calibration = fit_calibration(*world(100, classes, 1, too_sure))
    logits, labels = world(5000, classes, 2, too_sure)
    assert error_of(calibration, logits, labels) < 0.07
    if too_sure != 1:
        assert error_of(Calibration(), logits, labels) > 0.08, "control: nothing was wrong before"


def test_offsets_are_learned_where_a_class_is_preferred_and_only_there() -> None:
    preferred, even = world(1000, 4, 1, offset=3.0), world(1000, 4, 1)
    calibration = fit_calibration(*preferred)
    assert calibration.offset
    assert calibration.offset[0] < min(calibration.offset[1:]) - 2
    assert fit_calibration(*even).offset == ()
    assert log_losses(calibration, *preferred).mean() < log_losses(fit_calibration(*even), *preferred).mean()


def test_labels_as_many_of_each_class_calibrate_images_of_which_one_class_is_rare() -> None:
    """The net knows that class 0 is rare; that it finds too few of these labels is no fault of it."""
    logits, labels = world(4000, 2, 3, offset=-2.0)
    rare, equal = np.array([0.1, 0.9]), np.full(2, 0.5)
    shift = np.log(equal / rare)
    as_labelled = softmax(logits + shift, 1)
    drawn = (as_labelled.cumsum(1) < np.random.default_rng(0).random((len(labels), 1))).sum(1).clip(max=1)
    told, untold = fit_calibration(logits, drawn, shift), fit_calibration(logits, drawn)
    assert told.offset == ()
    assert told.temperature == pytest.approx(1, abs=0.1)
    assert untold.offset[0] - untold.offset[1] == pytest.approx(shift[0] - shift[1], abs=0.5), "control"


@pytest.mark.parametrize("n", [1, 3, 9])
def test_few_labels_change_little(n: int) -> None:
    logits, _ = world(n, 3, 0)
    calibration = fit_calibration(100 * logits, logits.argmax(1))  # all are right, by far
    assert 0.5 < calibration.temperature < 1.1
    assert calibration.offset == ()


def test_a_net_that_is_always_right_stays_sure_and_one_that_guesses_does_not() -> None:
    logits, _ = world(200, 3, 0, too_sure=10)
    sure = fit_calibration(logits, logits.argmax(1))
    guessing = fit_calibration(logits, np.random.default_rng(0).integers(3, size=200))
    assert np.exp(sure.log_probability(logits)).max(1).mean() > 0.9
    assert np.exp(guessing.log_probability(logits)).max(1).mean() < 0.5


def test_probabilities_sum_to_one_whatever_the_logits() -> None:
    p = np.exp(Calibration(2.0, (0.0, 1.0)).log_probability([[1e30, -1e30], [0.0, 0.0], [-5.0, 800.0]]))
    assert p.sum(1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((0, 2)), np.zeros(0, int)),
        (np.zeros((2, 2)), [0]),
        ([[np.nan, 0.0]], [0]),
        ([[np.inf, 0.0]], [0]),
    ],
)
def test_what_cannot_be_calibrated_is_refused(logits: object, labels: object) -> None:
    with pytest.raises(InputError, match="finite logits"):
        fit_calibration(logits, labels)


def test_reliability_by_hand() -> None:
    bins = reliability([0.9, 0.9, 1.0, 0.55], [True, False, True, True], bins=2)
    assert bins.counts.tolist() == [0, 4]
    assert bins.error == pytest.approx(abs(0.8375 - 0.75))
    with pytest.raises(InputError, match="no image has a label"):
        reliability([], [])
