"""The discriminative relaxation in closed form: class templates that tell classes apart.

Slide "Strategy: Let's find a generative model": a generative classifier, then the discriminative relaxation. The
features I^(L) of a class are taken as Gaussian about the class's mean m_c, with one covariance Σ for all. Then the
posterior is a convnet's, q(c | I) = softmax(⟨W_c, I^(L)⟩ + b_c) with W_c = Σ⁻¹ m_c, which is linear discriminant
analysis.
"""

from __future__ import annotations

import warnings
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn import functional as F

from drmm.data.images import pixels
from drmm.errors import InputError
from drmm.model.constraints import set_weight
from drmm.model.deep import DRMM

__all__ = ["relax"]

Floats = npt.NDArray[np.float64]

_ROUNDS = 5
_DIRECTIONS = 20  # of the features, in which clusters are looked for
_SURE = 0.9  # posterior above which an unlabelled image counts for its class
_COMMON = 10.0  # length of the common template, relative to the longest difference from it
_FLAT = 1e-10  # a direction with less than this share of the largest variance tells nothing apart
_CHUNK = 500


@torch.no_grad()
def relax(model: DRMM, x: Tensor, y: Tensor) -> DRMM:
    """Replace the class templates, in place, by those that tell labelled images apart.

    Where no image has a label the classes are clusters: of k-means in the whitened leading directions of the
    features. Otherwise unlabelled images take part as in hard EM: those whose class is beyond doubt count for it
    in the next round. What all templates have in common does not change the posterior (law T16), and its scale is
    free, since every picture has its own amplitude. So the mean template is kept from the rendering model, large
    enough for the model to go on drawing about what it drew.

    Args:
        model: in evaluation mode.
        x: images (N, C, H, W), uint8 or float in [0, 1].
        y: class indices (N,), -1 where there is no label; every class has a label, or none has.

    Returns:
        The same model.

    Raises:
        InputError: if some classes have labels and others have none, if the images are fewer than the clusters, or
            if the class templates have no bias.
    """
    check_classes(model, y)
    dtype = model.templates.weight.dtype
    features = torch.cat([model.levels(pixels(part).to(dtype)) for part in x.split(_CHUNK)]).double().numpy()
    if bool((y < 0).all()):
        _replace(model, *_clusters(features, model.n_classes))
        return model
    labels = y.numpy()
    counted, classes = labels >= 0, labels.copy()
    for _ in range(_ROUNDS if bool((~counted).any()) else 1):
        weight, bias = _discriminant(features[counted], classes[counted], model.n_classes)
        posterior = torch.from_numpy(features @ weight.T + bias).softmax(1).numpy()
        classes = np.where(labels >= 0, labels, posterior.argmax(1))
        counted = (labels >= 0) | (posterior.max(1) > _SURE)
    _replace(model, weight, bias)
    return model


def check_classes(model: DRMM, y: Tensor) -> None:
    """Whether the relaxation will be possible: `relax` learns that late, after the levels.

    Raises:
        InputError: as `relax`.
    """
    if model.templates.bias is None:
        raise InputError("class templates need a bias to tell classes apart: give the last layer bias=True")
    counts = torch.bincount(y[y >= 0], minlength=model.n_classes)
    if not bool(counts.any()) and len(y) < model.n_classes:
        raise InputError(f"{len(y)} images cannot fall into {model.n_classes} clusters: ask for fewer")
    if bool(counts.any()) and not bool(counts.all()):
        raise InputError(f"class {int(counts.argmin())} has no label: label at least one image of it")


def _replace(model: DRMM, weight: Floats, bias: Floats) -> None:
    """Take templates that tell classes apart, and keep what all had in common."""
    common = (model.class_prior @ model.templates.weight).double()
    apart = torch.from_numpy(weight - weight.mean(0))
    shared = _COMMON * apart.norm(dim=1).amax() * F.normalize(common, dim=0)
    set_weight(model.templates, (apart + shared).to(model.templates.weight.dtype))
    cast("Tensor", model.templates.bias).copy_(torch.from_numpy(bias))


def _clusters(features: Floats, n_classes: int) -> tuple[Floats, Floats]:
    """W (C, D) and b (C,) of the nearest centre, which is linear in the features."""
    with np.errstate(invalid="ignore"):  # constant features: 0/0 in a share that is not needed here
        leading = PCA(min(_DIRECTIONS, *features.shape), random_state=0).fit(features)
    variance = leading.explained_variance_
    informative = variance > _FLAT * variance.max()
    stretch = np.where(informative, 1 / np.sqrt(np.where(informative, variance, 1.0)), 0.0)
    whitening = leading.components_ * stretch[:, None]
    with warnings.catch_warnings():
        # Fewer distinct images than clusters: some clusters stay empty, which is the answer.
        warnings.simplefilter("ignore", ConvergenceWarning)
        points = (features - leading.mean_) @ whitening.T
        centres = KMeans(n_classes, n_init=5, random_state=0).fit(points).cluster_centers_
    weight = centres @ whitening
    return weight, -0.5 * (centres**2).sum(1) - weight @ leading.mean_


def _discriminant(features: Floats, classes: Floats, n_classes: int) -> tuple[Floats, Floats]:
    """W (C, D) and b (C,)."""
    if len(features) <= n_classes:  # a single image a class says nothing about the covariance
        means = np.stack([features[classes == c].mean(0) for c in range(n_classes)])
        return means, -0.5 * (means**2).sum(1)
    with warnings.catch_warnings():
        # A class with a single image adds nothing to the covariance, and scikit-learn says so.
        warnings.filterwarnings("ignore", "Only one sample available", UserWarning)
        fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(features, classes)
    if n_classes > 2:
        return fitted.coef_, fitted.intercept_
    # For two classes scikit-learn keeps the difference alone.
    zero = np.zeros_like(fitted.coef_)
    return np.concatenate([zero, fitted.coef_]), np.concatenate([np.zeros(1), fitted.intercept_])
