"""The shallow model in scikit-learn's conventions: clusters and densities of pictures that shift."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from drmm.errors import InputError
from drmm.estimators.base import ImageEstimator, seed_of
from drmm.estimators.options import NOT_NEGATIVE, StrOptions, check_options, whole
from drmm.learning.em.loop import Trace, run_em
from drmm.learning.em.shallow import ShallowLearner, grow, seed
from drmm.model.randomness import seeded
from drmm.model.shallow import RMM

__all__ = ["RenderingMixture"]

Array = npt.NDArray[Any]

_WARM_UP = 20  # iterations with one element a class, before the others are added


class RenderingMixture(DensityMixin, ImageEstimator):  # type: ignore[misc]
    """A mixture model of pictures, as `sklearn.mixture.GaussianMixture` is one of vectors.

    A component is a template that may be drawn anywhere within reach and in any brightness; with more elements it
    is a factor analyser that may shift. Learnt by exact EM in closed form, without a learning rate.

    X is (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or float, or 2-D with `image_shape`. Two-dimensional X
    without `image_shape` is taken as vectors: they are standardised, and do not shift.

    Every density, `score`, `bic` and the trace too, is one of X in the units that `fit` saw: of uint8, per
    level. The noise σ² is no less than what rounding to 8 bits leaves, 1/12 of a level squared (a level is a
    255th from black to white, or of a standard deviation), and a component's brightness varies by a 255th of its
    mean at least. So the density of images that repeat is bounded, and says no more than these bounds. There is
    no `sample_weight`.

    Args:
        n_components: classes C.
        reach: the largest shift in pixels, one number or (rows, columns). Time grows with the number of shifts.
        elements: K, templates of a class; time grows with 2^K. More of them explain the images better; more
            components usually make purer clusters.
        algorithm: "soft" (maximum likelihood) or "hard" (each image counts for its best explanation; quicker).
        image_shape: (H, W), (C, H, W) or (H, W, C) of one image, to unflatten 2-D X with.
        pixel_range: values of black and white in X; uint8 is always 0 to 255.
        max_iter: EM iterations at the most.
        tol: stop when the objective gains less than this share of its absolute value.
        n_init: starts, of which the best is kept.
        random_state: seed.
        verbose: 1 shows a progress bar.

    Attributes:
        model_: the fitted `drmm.model.shallow.RMM`; `model_.explain` finds class, position, switches and loadings.
        weights_: π, (C,).
        means_: the mean picture of each component, unshifted, in the layout of X.
        noise_: σ², in the units of X squared: one number, or (D,) for vectors.
        trace_: objective after each iteration, in nats per image. But for rounding it never falls.
        lower_bound_: its last value. With "soft" it is `score` of the images learnt from, with "hard" no more.
        n_iter_: EM iterations of the best start.
        converged_: whether it met the tolerance.
        image_shape_: (C, H, W) that the model works on.
        n_features_in_: numbers in one image.
    """

    _parameter_constraints: ClassVar[dict[str, list[object]]] = {
        "n_components": [whole(1)],
        "reach": [whole(0), "array-like"],
        "elements": [whole(1)],
        "algorithm": [StrOptions({"soft", "hard"})],
        "image_shape": ["array-like", None],
        "max_iter": [whole(1)],
        "tol": [NOT_NEGATIVE],
        "n_init": [whole(1)],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_components: int = 10,
        *,
        reach: int | tuple[int, int] = 2,
        elements: int = 1,
        algorithm: Literal["soft", "hard"] = "soft",
        image_shape: tuple[int, ...] | None = None,
        pixel_range: tuple[float, float] = (0.0, 1.0),
        max_iter: int = 100,
        tol: float = 1e-4,
        n_init: int = 1,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.reach = reach
        self.elements = elements
        self.algorithm = algorithm
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.max_iter = max_iter
        self.tol = tol
        self.n_init = n_init
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: object, y: object = None) -> Self:
        """Learn from images.

        Args:
            X: images.
            y: ignored.

        Raises:
            InputError: images or options that cannot be used; the message says what to do.

        Warns:
            ConvergenceWarning: if `max_iter` was not enough, or there are fewer different images than components.
        """
        del y
        check_options(self._parameter_constraints, self.get_params(deep=False), type(self).__name__)
        x = self._images(X, fitting=True)
        self.reach_ = self.reach if self.mean_ is None else 0  # vectors have no places
        if len(x) < self.n_components:
            raise InputError(f"n_samples={len(x)} is less than n_components={self.n_components}: pass more images")
        distinct = _distinct(x, self.n_components)
        if distinct < self.n_components:
            message = f"X holds {distinct} different images, n_components={self.n_components}: some will be alike"
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        state = check_random_state(self.random_state)
        fits = (self._learn(x, seed_of(state)) for _ in range(self.n_init))
        self.model_, trace = max(fits, key=lambda candidate: candidate[1].objective[-1])
        self.trace_ = replace(trace, objective=tuple(nats - self._log_volume() for nats in trace.objective))
        self.n_iter_, self.converged_ = len(trace.objective), trace.converged
        self.lower_bound_ = self.trace_.objective[-1]
        self.weights_ = np.asarray(self.model_.class_prior.numpy())
        self.means_ = self._layout(self.model_.means.detach())
        noise = float(self.model_.noise) * self._units()[1] ** 2
        self.noise_ = float(noise[0]) if self.mean_ is None else noise
        if not self.converged_ and self.max_iter > 1:
            message = f"EM has not converged after max_iter={self.max_iter} iterations: allow more, or raise tol"
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        return self

    def fit_predict(self, X: object, y: object = None) -> Array:
        """Learn from images, and return the component of each, (N,)."""
        return self.fit(X, y).predict(X)

    def predict(self, X: object) -> Array:
        """The most probable component of each image, (N,)."""
        return np.asarray(self.predict_proba(X).argmax(1))

    def predict_proba(self, X: object) -> Array:
        """p(c | I), (N, C)."""
        check_is_fitted(self)
        x = self._images(X)
        return np.asarray(torch.cat([self.model_.responsibilities(part) for part in x.split(self.model_.chunk)]))

    def score_samples(self, X: object) -> Array:
        """Log p(I) of each image, (N,), in nats: a density in the units of the X that `fit` saw."""
        check_is_fitted(self)
        x = self._images(X)
        log_density = torch.cat([self.model_.log_prob(part) for part in x.split(self.model_.chunk)])
        return np.asarray(log_density) - self._log_volume()

    def score(self, X: object, y: object = None) -> float:
        """Mean log p(I) of the images, in nats."""
        del y
        return float(self.score_samples(X).mean())

    def bic(self, X: object) -> float:
        """Bayesian information criterion of the model on images: the lower, the better."""
        log_density = self.score_samples(X)
        return float(-2 * log_density.sum() + self.model_.n_parameters * math.log(len(log_density)))

    def aic(self, X: object) -> float:
        """Akaike information criterion of the model on images: the lower, the better."""
        return float(-2 * self.score_samples(X).sum() + 2 * self.model_.n_parameters)

    def sample(self, n_samples: int = 1, random_state: int | None = None) -> tuple[Array, Array]:
        """Draw images from the model.

        Args:
            n_samples: how many.
            random_state: seed.

        Returns:
            Images in the layout of X, and components (n_samples,).

        Raises:
            InputError: if `n_samples` is no number of images.
        """
        check_is_fitted(self)
        check_options({"n_samples": [whole(1)]}, {"n_samples": n_samples}, "sample")
        generator = torch.Generator().manual_seed(seed_of(random_state))
        pictures, latents = self.model_.sample(int(n_samples), generator)
        return self._layout(pictures), np.asarray(latents.label)

    def _learn(self, x: Tensor, number: int) -> tuple[RMM, Trace]:
        """One start: a single element for each class first, then the others."""
        generator = torch.Generator().manual_seed(number)
        with seeded(number):  # for the first weights, which torch draws and nobody keeps
            model = RMM(int(self.n_components), self.image_shape_, reach=self.reach_).to(x.dtype)
            seed(model, x, generator)
        few = self.max_iter if self.elements == 1 else min(self.max_iter, _WARM_UP)
        trace = self._run_em(model, x, few)
        if self.elements > 1:
            with seeded(number):
                model = grow(model, x, int(self.elements), generator)
            trace = self._run_em(model, x, self.max_iter)
        return model.requires_grad_(requires_grad=False), trace

    def _run_em(self, model: RMM, x: Tensor, max_iter: int) -> Trace:
        learner = ShallowLearner(model, x, soft=self.algorithm == "soft")
        return run_em(learner, max_iter=max_iter, tolerance=self.tol, progress=self.verbose > 0)

    def _log_volume(self) -> float:
        """Log of the volume in the units of X that is 1 in the model's, in nats."""
        return float(np.log(self._units()[1]).sum())

    def _rebuilt(self, weights: dict[str, Tensor]) -> RMM:
        n_classes, elements = weights["mean_loading"].shape
        with seeded(0):
            model = RMM(n_classes, self.image_shape_, elements=elements, reach=self.reach_)
        model = model.to(weights["noise"].dtype).requires_grad_(requires_grad=False)
        model.load_state_dict(weights)
        return model


def _distinct(images: Iterable[Tensor], enough: int) -> int:
    """How many of the images differ, counted up to `enough`."""
    seen: set[bytes] = set()
    for image in images:
        seen.add(image.numpy().tobytes())
        if len(seen) == enough:
            break
    return len(seen)
