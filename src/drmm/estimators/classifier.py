"""The scikit-learn face of the model: few labels in, classes, features, pictures and samples out."""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import ClassifierMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from drmm.data.labels import UNLABELLED, check_labels, is_unlabelled
from drmm.errors import InputError
from drmm.estimators.base import ImageEstimator, seed_of
from drmm.learning.config import Initialisation, Learning
from drmm.learning.objective import KLSign, Objective
from drmm.learning.train import Training, train
from drmm.model.constraints import set_weight
from drmm.model.deep import DRMM
from drmm.model.presets import Constraint, resolve
from drmm.model.storage import Recipe, misfit

__all__ = ["DRMMClassifier"]

Array = npt.NDArray[Any]

_CHUNK = 500  # images per forward pass when predicting
_DRAWS = 16  # switches per picture in inverse_transform


class DRMMClassifier(ClassifierMixin, TransformerMixin, ImageEstimator):  # type: ignore[misc]
    """Few-label image classifier, and generative model of its images.

    X is (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or float, or 2-D with `image_shape`. Two-dimensional X
    without `image_shape` is taken as vectors: they are standardised and the preset is "dense".

    Args:
        preset: "auto", "conv_small" (images from 8×8), "conv_large" (from 12×12, slow on a CPU) or "dense". "auto"
            takes conv_small for images of 8×8 or more, and dense otherwise.
        learning: "sgd" (backprop), "eg" (E-step and G-step on the complete-data log-joint) or "em" (without
            derivatives: every dictionary by regression).
        initialisation: "default", "data", "orthonormal" or "glorot"; None is "data" for "em", else "default".
        constraint: "soft" (a penalty on negative templates), "hard" (none exist: inference is provably exact) or
            "weight_norm" (soft, with templates as amplitude times direction).
        teacher: a classifier that is fitted first, to the same images and labels, and whose labels the images
            without one get; one that is fitted already is wrapped in `sklearn.frozen.FrozenEstimator`. The hard
            constraint learns badly from few labels, and well from a teacher.
        width: templates of the first level; None is the preset's own.
        depth: levels, from the pixels up; None is the preset's own.
        n_clusters: how many clusters, where y is -1 throughout.
        warm_start: begin with the levels of the former `fit`, on images of the same shape, whatever its classes:
            find clusters without labels first, then fit again with a few.
        image_shape: (H, W), (C, H, W) or (H, W, C) of one image, to unflatten 2-D X with.
        pixel_range: values of black and white in X; uint8 is always 0 to 255.
        epochs: passes over the images; at least `min_steps` steps are made. Iterations of EM.
        min_steps: steps of the optimiser at the least, however few the images.
        tolerance: EM stops when its objective gains less than this share of itself.
        batch_size: images in a batch, labelled ones included.
        labelled_per_batch: how many of them have a label.
        learning_rate: peak of Adam's.
        weight_average: decay of the exponential average of the weights, which is what is kept.
        reconstruction: weight of 𝓛_RC; None is 1, or 0 under the hard constraint.
        kl: weight of 𝓛_KL; None is 0.5, or 0 for "eg" and with a teacher.
        balance: weight of the batch-balance term; None is 0.5, or 0 for "eg" and with a teacher.
        nonnegativity: weight of 𝓛_NN; None is 0.5, or 0 under the hard constraint and for "eg".
        kl_sign: "confident" (the authors' code) or "printed" (the slides' formula).
        interpolation: weight of the term on blended images (`drmm.learning.objective.interpolation`).
        shift: pixels by which blended images are moved, at most: augmentation.
        collage: share of the blends in which a piece of one image is pasted into the other, from 0 to 1.
        warm_up: share of the training over which the weights of 𝓛_KL and of the blended images rise from 0.
        cool_down: share of the training over which the weight of the batch-balance term falls to 0; 0 keeps it.
        accelerator: "auto", "cpu", "gpu".
        precision: "32-true", "bf16-mixed".
        random_state: seed of weights and batches.
        verbose: 1 shows a progress bar.

    Attributes:
        classes_: class labels (K,), without -1; numbers of the clusters where there were no labels.
        teacher_: the fitted teacher, where there is one.
        model_: the trained `drmm.DRMM`, in evaluation mode.
        image_shape_: (C, H, W) that the model works on.
        n_features_in_: numbers in one image.
    """

    model_: DRMM
    recipe_: Recipe
    _fewest = 2

    def __init__(
        self,
        preset: str = "auto",
        *,
        learning: Learning = "sgd",
        initialisation: Initialisation | None = None,
        constraint: Constraint = "soft",
        teacher: Any = None,
        width: int | None = None,
        depth: int | None = None,
        n_clusters: int = 10,
        warm_start: bool = False,
        image_shape: tuple[int, ...] | None = None,
        pixel_range: tuple[float, float] = (0.0, 1.0),
        epochs: int = 20,
        min_steps: int = 200,
        tolerance: float = 1e-3,
        batch_size: int = 128,
        labelled_per_batch: int = 32,
        learning_rate: float = 3e-3,
        weight_average: float = 0.99,
        reconstruction: float | None = None,
        kl: float | None = None,
        balance: float | None = None,
        nonnegativity: float | None = None,
        kl_sign: KLSign = "confident",
        interpolation: float = 0.0,
        shift: int = 0,
        collage: float = 0.0,
        warm_up: float = 0.0,
        cool_down: float = 0.0,
        accelerator: str = "auto",
        precision: str = "32-true",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.preset = preset
        self.learning = learning
        self.initialisation = initialisation
        self.constraint = constraint
        self.teacher = teacher
        self.width = width
        self.depth = depth
        self.n_clusters = n_clusters
        self.warm_start = warm_start
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.epochs = epochs
        self.min_steps = min_steps
        self.tolerance = tolerance
        self.batch_size = batch_size
        self.labelled_per_batch = labelled_per_batch
        self.learning_rate = learning_rate
        self.weight_average = weight_average
        self.reconstruction = reconstruction
        self.kl = kl
        self.balance = balance
        self.nonnegativity = nonnegativity
        self.kl_sign = kl_sign
        self.interpolation = interpolation
        self.shift = shift
        self.collage = collage
        self.warm_up = warm_up
        self.cool_down = cool_down
        self.accelerator = accelerator
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: object, y: object) -> Self:
        """Learn from images of which few have a label, or none: then the classes are clusters.

        Args:
            X: images.
            y: labels (N,); -1 means unlabelled.

        Raises:
            InputError: images or labels that cannot be used; the message says what to do.
        """
        before: tuple[DRMM, Recipe] | None = None
        if self.warm_start and hasattr(self, "model_"):
            before = self.model_, self.recipe_
        x = self._images(X, fitting=True)
        self.classes_, codes, names = self._classes(y, len(x))
        if self.teacher is not None:
            codes = self._taught(X, y, codes)
        labels = torch.from_numpy(codes)
        seed = seed_of(self.random_state)
        self.recipe_ = Recipe(
            preset=resolve(self.preset, self.image_shape_),
            image_shape=self.image_shape_,
            classes=names,
            constraint=self.constraint,
            width=self.width,
            depth=self.depth,
        )
        training = self._training(seed, "default" if before is not None else self.initialisation)
        model = self.recipe_.build(seed)
        if before is not None:
            _go_on(model, before[0], x, None if before[1].classes == names else labels)
        objective = Objective.of(
            self.constraint,
            self.learning,
            taught=self.teacher is not None,
            reconstruction=self.reconstruction,
            kl=self.kl,
            balance=self.balance,
            nonnegativity=self.nonnegativity,
            kl_sign=self.kl_sign,
            interpolation=self.interpolation,
            shift=self.shift,
            collage=self.collage,
            warm_up=self.warm_up,
            cool_down=self.cool_down,
        )
        self.model_ = train(model, x, labels, objective=objective, config=training, progress=self.verbose > 0)
        return self

    def _classes(self, y: object, n_images: int) -> tuple[Array, Array, tuple[str, ...]]:
        """Classes, codes and names; numbers of clusters where no image has a label."""
        if not is_unlabelled(y, n_images):
            classes, codes = check_labels(y, n_images)
            return classes, codes, tuple(str(name) for name in classes)
        if self.n_clusters < 2:
            raise InputError(f"n_clusters must be at least 2, not {self.n_clusters}")
        clusters = np.arange(self.n_clusters)
        return clusters, np.full(n_images, UNLABELLED), tuple(f"cluster {i}" for i in clusters)

    def _taught(self, X: object, y: object, codes: Array) -> Array:
        """Codes as they are, and where there is none that of what the teacher says."""
        if (codes == UNLABELLED).all():
            raise InputError("a teacher needs labels to learn from: label some images, or leave the teacher out")
        self.teacher_ = clone(self.teacher).fit(X, y)
        said = np.asarray(self.teacher_.predict(X))
        if not np.isin(said, self.classes_).all():
            raise InputError("the teacher knows classes that y does not have: fit it to the same labels")
        return np.where(codes == UNLABELLED, np.searchsorted(self.classes_, said), codes)

    def _training(self, seed: int, initialisation: Initialisation | None) -> Training:
        return Training(
            learning=self.learning,
            initialisation=initialisation,
            epochs=self.epochs,
            min_steps=self.min_steps,
            tolerance=self.tolerance,
            batch_size=self.batch_size,
            labelled_per_batch=self.labelled_per_batch,
            learning_rate=self.learning_rate,
            weight_average=self.weight_average,
            seed=seed,
            accelerator=self.accelerator,
            precision=self.precision,
        )

    def predict(self, X: object) -> Array:
        """Labels (N,) of images: always one of `classes_`, never -1."""
        logits = self._run(X, "logits")
        return np.asarray(self.classes_[logits.argmax(1)])

    def predict_proba(self, X: object) -> Array:
        """Posterior q(c|I) of each class, (N, K)."""
        return np.asarray(torch.from_numpy(self._run(X, "logits")).double().softmax(1).numpy())

    def decision_function(self, X: object) -> Array:
        """Max-sum score of each class, (N, K); for two classes the second's lead over the first, (N,)."""
        logits = self._run(X, "logits")
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def transform(self, X: object) -> Array:
        """Top-level features I^(L), (N, D)."""
        return self._run(X, "features")

    @torch.no_grad()
    def inverse_transform(self, features: object) -> Array:
        """Pictures that features are drawn as, averaged over the prior of the switches, in the layout of X.

        Args:
            features: (N, D), as from `transform`.
        """
        check_is_fitted(self)
        z = torch.as_tensor(np.asarray(features, dtype=np.float32))
        if z.ndim != 2 or z.shape[1] != self.model_.templates.in_features:
            raise InputError(
                f"features must be (N, {self.model_.templates.in_features}), as transform returns them"
            )
        generator = torch.Generator().manual_seed(0)
        latents = self.model_.sample_latents(_DRAWS, 0, generator)
        pictures = [
            self.model_.levels.render(z[i : i + 1].expand(_DRAWS, -1), latents.switches).mean(0)
            for i in range(len(z))
        ]
        return self._layout(self.model_.amplitude * torch.stack(pictures))

    def sample(
        self, n_samples: int = 1, label: object = None, random_state: int | None = None
    ) -> tuple[Array, Array]:
        """Draw images from the model, with their labels, as in `sklearn.mixture.GaussianMixture.sample`.

        Args:
            n_samples: how many.
            label: one of `classes_`, or None for any.
            random_state: seed.

        Returns:
            Images in the layout of X, and labels (n_samples,).
        """
        check_is_fitted(self)
        generator = torch.Generator().manual_seed(seed_of(random_state))
        if label is None:
            codes = torch.multinomial(self.model_.class_prior, n_samples, replacement=True, generator=generator)
        else:
            found = np.flatnonzero(self.classes_ == label)
            if len(found) != 1:
                raise InputError(f"label {label!r} is not among the classes {list(self.classes_)}")
            codes = torch.full((n_samples,), int(found[0]))
        return self._layout(self.model_.sample(n_samples, codes, generator)), self.classes_[codes.numpy()]

    @torch.no_grad()
    def _run(self, X: object, what: str) -> Array:
        """Features or logits of all images, chunk by chunk."""
        check_is_fitted(self)
        images, model = self._images(X), self.model_
        if images.dtype == torch.float64:
            # Vectors: in double precision the last bits do not depend on the batch's size.
            model = copy.deepcopy(model).double()
        parts = []
        for x in images.split(_CHUNK):
            features = model.levels(x)
            parts.append(features if what == "features" else model.templates(features))
        return np.asarray(torch.cat(parts).float().numpy())

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may expect."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _rebuilt(self, weights: dict[str, Tensor]) -> DRMM:
        model = self.recipe_.build().eval()
        model.load_state_dict(weights)
        return model


@torch.no_grad()
def _go_on(model: DRMM, before: DRMM, x: Tensor, labels: Tensor | None) -> None:
    """Take over the levels of a former model, and its class templates.

    Args:
        model: fresh.
        before: what to go on from, in evaluation mode.
        x: images.
        labels: where the classes are other ones now: a class starts with the mean of the templates that explained
            its labelled images. A class without a label starts afresh.
    """
    levels = before.levels.state_dict()
    if misfit(model.levels.state_dict(), levels) is not None:
        raise InputError("warm_start needs the same images, preset, width and depth as before: set it to False")
    model.levels.load_state_dict(levels)
    if labels is None:
        model.templates.load_state_dict(before.templates.state_dict())
        return
    known = labels >= 0
    if not bool(known.any()):
        return
    explained, y = before(x[known]).argmax(1), labels[known]
    fresh = model.templates.weight.clone()
    weight = fresh.clone()
    for c in y.unique().tolist():
        weight[c] = before.templates.weight[explained[y == c]].mean(0)
    # What classes have in common tells none apart, and learning by gradient wants templates of the usual length.
    weight -= weight.mean(0)
    set_weight(model.templates, weight * (fresh.norm() / weight.norm().clamp(min=1e-12)))
