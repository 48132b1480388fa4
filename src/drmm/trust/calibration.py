"""Calibrated confidence: temperature and offsets, learned from images whose label the net has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from drmm.errors import InputError

__all__ = ["Calibration", "Reliability", "fit_calibration", "log_losses", "reliability"]

Figures = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

# Standard deviations of normal priors, in nats. Few labels that are all right are no reason to be surer: log T has
# two halves.
_SURER, _LESS_SURE, _OFFSETS = 0.3, 1.0, 0.5
_FOLDS = 5


@dataclass(frozen=True)
class Calibration:
    """What makes probabilities of logits: softmax(logits / temperature + offset).

    Temperature scaling (Guo et al., 2017), with offsets bias-corrected (Alexandari et al., 2020).

    Attributes:
        temperature: above 1 where the net is surer than it is right.
        offset: added for each class, in nats, (C,); () adds nothing.
    """

    temperature: float = 1.0
    offset: tuple[float, ...] = ()

    def log_probability(self, logits: npt.ArrayLike) -> Figures:
        """Log of the calibrated probability of each class, in nats, (N, C), of logits (N, C)."""
        scaled = np.asarray(logits, float) / self.temperature + np.asarray(self.offset or 0.0)
        return np.asarray(log_softmax(scaled, 1))

    def undone(self, log_probability: Figures) -> Figures:
        """Log of the net's own probability of each class, in nats, (N, C), of a calibrated one (N, C)."""
        return np.asarray(log_softmax(self.temperature * (log_probability - np.asarray(self.offset or 0.0)), 1))


def fit_calibration(logits: npt.ArrayLike, labels: npt.ArrayLike, shift: npt.ArrayLike = 0.0) -> Calibration:
    """Learn the temperature, and offsets too where they lower the cross-validated log-loss by its standard error.

    Maximum a posteriori, so that few labels change little: log T is normal, with a standard deviation of 1 above 0
    and of 0.3 below, and each offset with one of 0.5.

    Args:
        logits: of images that the net has not learned the label of, (N, C).
        labels: class indices (N,).
        shift: log ratio of the classes' shares among these labels to those among the images that will be asked
            for, (C,): the former follow another posterior, by Bayes' rule.

    Raises:
        InputError: if there are no images, or the logits are not finite.
    """
    scores, y = np.asarray(logits, float), np.asarray(labels, np.int64)
    if not len(y) or scores.shape[:1] != y.shape or not np.isfinite(scores).all():
        raise InputError("a calibration needs finite logits (N, C) and as many labels, one at the least")
    turn = np.arange(len(y)) % _FOLDS
    losses = np.zeros((2, len(y)))
    for fold in range(_FOLDS if len(y) >= 2 * _FOLDS else 0):
        out = turn == fold
        for row, offsets in enumerate((False, True)):
            found = _fitted(scores[~out], y[~out], shift, offsets=offsets)
            of_labels = scores[out] + found.temperature * np.asarray(shift)
            losses[row, out] = log_losses(found, of_labels, y[out])
    gain = losses[0] - losses[1]
    return _fitted(scores, y, shift, offsets=bool(gain.mean() > gain.std() / np.sqrt(len(y))))


def log_losses(calibration: Calibration, logits: npt.ArrayLike, labels: npt.ArrayLike) -> Figures:
    """-log of the true class's probability, in nats, (N,)."""
    y = np.asarray(labels, np.int64)
    return -calibration.log_probability(logits)[np.arange(len(y)), y]


def _fitted(logits: Figures, y: Indices, shift: npt.ArrayLike, *, offsets: bool) -> Calibration:
    truth = np.eye(logits.shape[1])[y]

    def objective(theta: Figures) -> tuple[float, Figures]:
        """Negative log-posterior of -log T and the offsets, and its gradient."""
        scaled = logits * np.exp(theta[0]) + theta[1:] + shift
        excess = softmax(scaled, 1) - truth
        penalty = theta / np.r_[_SURER if theta[0] > 0 else _LESS_SURE, np.full(len(theta) - 1, _OFFSETS)] ** 2
        loss = -(log_softmax(scaled, 1) * truth).sum() + 0.5 * (penalty * theta).sum()
        slope = np.r_[(excess * logits).sum() * np.exp(theta[0]), excess.sum(0)] + penalty
        slope[1:] *= offsets
        return float(loss), slope

    best = minimize(objective, np.zeros(1 + logits.shape[1]), jac=True, method="L-BFGS-B").x
    return Calibration(float(np.exp(-best[0])), tuple(best[1:].tolist()) if offsets else ())


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence and accuracy in bins, as a reliability diagram shows them.

    Attributes:
        confidence: mean of each bin, (B,); 0 where it is empty.
        accuracy: share of its images that are classified correctly, (B,).
        counts: of images, (B,).
        error: expected calibration error: the bins' mean distance of the two, weighted by their images.
    """

    confidence: Figures
    accuracy: Figures
    counts: Indices
    error: float


def reliability(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 10) -> Reliability:
    """Compare confidence and accuracy in bins of equal width (Guo et al., 2017).

    Args:
        confidence: probability of the best class, (N,).
        correct: whether it was the true one, (N,).
        bins: how many.

    Raises:
        InputError: if there are no images.
    """
    sure, right = np.asarray(confidence, float), np.asarray(correct, float)
    if not len(sure):
        raise InputError("no image has a label to compare with: label some")
    chosen = np.minimum((sure * bins).astype(int), bins - 1)
    counts = np.bincount(chosen, minlength=bins)
    full = counts.clip(1)
    mean, accuracy = (np.bincount(chosen, values, bins) / full for values in (sure, right))
    return Reliability(mean, accuracy, counts, float((counts * np.abs(mean - accuracy)).sum() / len(sure)))
