"""How frequent classes are among the images to learn from: as among the labels, as estimated, or equally.

Where the labels were not drawn at random, as 25 of each class are not, their shares say nothing of the images.
The unlabelled images do: a classifier of the labelled ones sees more of a frequent class among them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import nnls
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from torch import Tensor

from drmm.data.images import reduced

__all__ = ["REFUTES", "Prior", "Shares", "bbse_prior", "class_prior", "em_prior", "estimate_shares"]

Prior = Literal["labels", "estimate", "uniform", "auto"]
Figures = npt.NDArray[np.float64]

_COMPONENTS = 20  # principal ones, of the images
_MOST = 2000  # images that an estimate is made from, of each kind
_STRENGTHS = np.logspace(-4, 2, 7)  # of the regression, which cross-validation chooses among
_FOLDS, _ROUNDS, _ITERATIONS = 5, 50, 1000
_TAILS = (2.5, 97.5)  # percentiles
_ENOUGH = 1e-7  # change of a share at which EM stops
_IMAGES = 4  # axes
REFUTES = 5
"""Labels of each class, below which an interval says less than it seems to."""


@dataclass(frozen=True, eq=False)
class Shares:
    """Shares of C classes among unlabelled images, each array (C,).

    Attributes:
        em: maximum likelihood, by EM.
        low: where the 95 % bootstrap interval of `em` begins: the lower of what percentiles and their mirror
            images say, since a classifier of redrawn images is biased towards its labels.
        high: where it ends.
        bbse: from the confusion matrix, a second opinion.
        refuted: whether the unlabelled images are not as frequent as the labels, bool: `em` is outside what it is,
            in 95 % of redrawn samples, of labelled images that the classifier did not learn from. One that tells
            classes badly finds some of them nowhere, wherever it looks.
    """

    em: Figures
    low: Figures
    high: Figures
    bbse: Figures
    refuted: npt.NDArray[np.bool_]

    def nearest(self, shares: Figures) -> Figures:
        """Of the labels' shares (C,) the nearest that the intervals allow; the same if not refuted."""
        allowed = np.where(self.refuted, np.clip(shares, self.low, self.high), shares)
        return shares if np.array_equal(allowed, shares) else np.asarray(allowed / allowed.sum())


def em_prior(posterior: Figures, prior: Figures) -> Figures:
    """Shares of classes that make posteriors most likely (Saerens, Latinne and Decaestecker, 2002).

    Args:
        posterior: of images whose shares are sought, (N, C), by a classifier that learned with `prior`.
        prior: shares of the classes that it learned from, all positive, (C,).

    Returns:
        Shares (C,).
    """
    shares, likelihood = prior, posterior / prior
    for _ in range(_ITERATIONS):
        joint = likelihood * shares
        before, shares = shares, (joint / joint.sum(1, keepdims=True)).mean(0)
        if np.abs(shares - before).max() < _ENOUGH:
            break
    return shares


def bbse_prior(held_out: Figures, y: npt.NDArray[np.int64], posterior: Figures) -> Figures:
    """Shares of classes that explain the mean posterior (black box shift estimation; Lipton et al., 2018).

    Args:
        held_out: posteriors of labelled images that the classifier did not learn from, (M, C).
        y: their classes, every class at least once, (M,).
        posterior: of images whose shares are sought, (N, C).

    Returns:
        Shares (C,), none negative.
    """
    confusion = np.stack([held_out[y == c].mean(0) for c in range(held_out.shape[1])], 1)
    shares, _ = nnls(confusion, posterior.mean(0))
    return np.asarray(shares / shares.sum())


def estimate_shares(x: Tensor, y: Tensor, n_classes: int, *, seed: int = 0) -> Shares | None:
    """Shares of the classes among the unlabelled images, with their uncertainty.

    The classifier is a logistic regression on the images' principal components. The bootstrap draws labelled
    images of each class, and unlabelled ones, again.

    Args:
        x: images (N, C, H, W), float in [0, 1] or uint8, or features (N, D).
        y: class indices (N,), -1 where there is no label.
        n_classes: how many there are.
        seed: of what is drawn.

    Returns:
        None where nothing can be estimated: no image without a label, or a class with fewer than two.
    """
    generator = np.random.default_rng(seed)
    labels = y.numpy()
    free, known = (_some(np.flatnonzero(mask), generator) for mask in (labels < 0, labels >= 0))
    codes = labels[known]
    counts = np.bincount(codes, minlength=n_classes)
    if not len(free) or not len(counts) or counts.min() < 2:
        return None
    scores = _scores(x[np.concatenate([known, free])])
    labelled, unlabelled, prior = scores[: len(known)], scores[len(known) :], counts / counts.sum()
    folds = StratifiedKFold(min(_FOLDS, int(counts.min())), shuffle=True, random_state=seed)
    search = GridSearchCV(LogisticRegression(), {"C": _STRENGTHS}, scoring="neg_log_loss", cv=folds)
    rounds, of_labels = [], []
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        classifier = search.fit(labelled, codes).best_estimator_
        held_out = cross_val_predict(classifier, labelled, codes, cv=folds, method="predict_proba")
        posterior = classifier.predict_proba(unlabelled)
        for _ in range(_ROUNDS):
            drawn = np.concatenate([generator.choice(np.flatnonzero(codes == c), n) for c, n in enumerate(counts)])
            again = classifier.fit(labelled[drawn], codes[drawn])
            others = generator.integers(len(unlabelled), size=len(unlabelled))
            rounds.append(em_prior(again.predict_proba(unlabelled[others]), prior))
            of_labels.append(em_prior(held_out[generator.integers(len(codes), size=len(codes))], prior))
    em = em_prior(posterior, prior)
    low, high = _interval(em, np.array(rounds))
    usual = np.percentile(of_labels, _TAILS, axis=0)
    refuted = (em < usual[0]) | (em > usual[1])
    return Shares(em, low, high, bbse_prior(held_out, codes, posterior), refuted)


def _interval(estimate: Figures, again: Figures) -> tuple[Figures, Figures]:
    """Of an estimate (C,) that redrawn images made again and again, (R, C)."""
    low, high = np.percentile(again, _TAILS, axis=0)
    return (
        np.minimum(low, 2 * estimate - high).clip(0, estimate),
        np.maximum(high, 2 * estimate - low).clip(estimate, 1),
    )


def class_prior(x: Tensor, y: Tensor, n_classes: int, how: Prior = "labels", *, seed: int = 0) -> Tensor:
    """π, (n_classes,), positive: one image of every class is added, so that no class becomes impossible.

    Args:
        x: images (N, C, H, W), float in [0, 1] or uint8, or features (N, D).
        y: class indices (N,), -1 where there is no label.
        n_classes: how many there are.
        how: "labels" takes their shares, which is right where they were drawn at random; "estimate" asks the
            unlabelled images, where these and two labels of each class are there, and the labels elsewhere;
            "uniform" takes all classes for equally frequent; "auto" takes the shares of the labels, unless every
            class has five and the unlabelled images refute them: then the nearest that these allow.
        seed: of what an estimate draws.
    """
    counts = torch.bincount(y[y >= 0], minlength=n_classes).float()
    if how == "uniform":
        counts = torch.zeros_like(counts)
    elif how == "estimate" or (how == "auto" and counts.min() >= REFUTES):
        counts = _told(estimate_shares(x, y, n_classes, seed=seed), counts, how)
    counts += 1
    return counts / counts.sum()


def _told(shares: Shares | None, counts: Tensor, how: Prior) -> Tensor:
    """As many labels of each class as shares say, if there are any, which are worth no more than the labels."""
    if shares is None:
        return counts
    total = float(counts.sum())
    found = shares.em if how == "estimate" else shares.nearest(counts.double().numpy() / total)
    return total * torch.from_numpy(found).float()


def _some(indices: npt.NDArray[np.intp], generator: np.random.Generator) -> npt.NDArray[np.intp]:
    return indices if len(indices) <= _MOST else np.sort(generator.choice(indices, _MOST, replace=False))


def _scores(x: Tensor) -> Figures:
    """Principal components of images (N, C, H, W), or of features, (N, D), the first with unit deviation."""
    flat = (reduced(x) if x.ndim == _IMAGES else x).flatten(1).double().numpy()
    solver = "covariance_eigh" if flat.shape[1] < len(flat) else "full"
    with np.errstate(invalid="ignore"):  # images that are all the same
        scores = PCA(min(_COMPONENTS, *flat.shape), svd_solver=solver).fit_transform(flat)
    return np.asarray(scores / max(float(scores.std(0).max()), np.finfo(float).tiny))
