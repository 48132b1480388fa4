"""The scikit-learn face of the model: few labels in, classes, features, pictures and samples out."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load as weights_from_bytes
from safetensors.torch import save as weights_to_bytes
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from drmm.errors import InputError
from drmm.images import as_images
from drmm.labels import check_labels
from drmm.objective import KLSign, Objective
from drmm.presets import Constraint, Shape, resolve
from drmm.storage import Recipe
from drmm.training import Training, train

__all__ = ["DRMMClassifier"]

Array = npt.NDArray[Any]

_CHUNK = 500  # images per forward pass when predicting
_DRAWS = 16  # switches per picture in inverse_transform


class DRMMClassifier(ClassifierMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Few-label image classifier, and generative model of its images.

    X is (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or float, or 2-D with `image_shape`. Two-dimensional X
    without `image_shape` is taken as vectors: they are standardised and the preset is "dense".

    Args:
        preset: "auto", "conv_small" (images from 8×8), "conv_large" (from 12×12, slow on a CPU) or "dense". "auto"
            takes conv_small for images of 8×8 or more, and dense otherwise.
        constraint: "soft" (a penalty on negative templates) or "hard" (none exist: inference is provably exact).
        width: templates of the first level; None is the preset's own.
        image_shape: (H, W), (C, H, W) or (H, W, C) of one image, to unflatten 2-D X with.
        pixel_range: values of black and white in X; uint8 is always 0 to 255.
        epochs: passes over the images; at least `min_steps` steps are made.
        min_steps: steps of the optimiser at the least, however few the images.
        batch_size: images in a batch, labelled ones included.
        labelled_per_batch: how many of them have a label.
        learning_rate: peak of Adam's.
        reconstruction: weight of 𝓛_RC; None is 1, or 0 under the hard constraint.
        kl: weight of 𝓛_KL.
        balance: weight of the batch-balance term.
        nonnegativity: weight of 𝓛_NN; None is 0.5, or 0 under the hard constraint.
        kl_sign: "confident" (the authors' code) or "printed" (the slides' formula).
        accelerator: "auto", "cpu", "gpu".
        precision: "32-true", "bf16-mixed".
        random_state: seed of weights and batches.
        verbose: 1 shows a progress bar.

    Attributes:
        classes_: class labels (K,), without -1.
        model_: the trained `drmm.DRMM`, in evaluation mode.
        image_shape_: (C, H, W) that the model works on.
        n_features_in_: numbers in one image.
    """

    def __init__(
        self,
        preset: str = "auto",
        *,
        constraint: Constraint = "soft",
        width: int | None = None,
        image_shape: tuple[int, ...] | None = None,
        pixel_range: tuple[float, float] = (0.0, 1.0),
        epochs: int = 20,
        min_steps: int = 200,
        batch_size: int = 128,
        labelled_per_batch: int = 32,
        learning_rate: float = 3e-3,
        reconstruction: float | None = None,
        kl: float = 0.5,
        balance: float = 0.5,
        nonnegativity: float | None = None,
        kl_sign: KLSign = "confident",
        accelerator: str = "auto",
        precision: str = "32-true",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.preset = preset
        self.constraint = constraint
        self.width = width
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.epochs = epochs
        self.min_steps = min_steps
        self.batch_size = batch_size
        self.labelled_per_batch = labelled_per_batch
        self.learning_rate = learning_rate
        self.reconstruction = reconstruction
        self.kl = kl
        self.balance = balance
        self.nonnegativity = nonnegativity
        self.kl_sign = kl_sign
        self.accelerator = accelerator
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: object, y: object) -> Self:
        """Learn from images of which few have a label.

        Args:
            X: images.
            y: labels (N,); -1 means unlabelled.

        Raises:
            InputError: images or labels that cannot be used; the message says what to do.
        """
        x = self._images(X, fitting=True)
        self.classes_, codes = check_labels(y, len(x))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.recipe_ = Recipe(
            preset=resolve(self.preset, self.image_shape_),
            image_shape=self.image_shape_,
            classes=tuple(str(name) for name in self.classes_),
            constraint=self.constraint,
            width=self.width,
        )
        model = self.recipe_.build(seed)
        steps = math.ceil(len(x) / max(1, self.batch_size - self.labelled_per_batch))
        training = Training(
            epochs=max(self.epochs, math.ceil(self.min_steps / steps)),
            batch_size=self.batch_size,
            labelled_per_batch=self.labelled_per_batch,
            learning_rate=self.learning_rate,
            seed=seed,
            accelerator=self.accelerator,
            precision=self.precision,
        )
        objective = Objective.of(
            self.constraint,
            reconstruction=self.reconstruction,
            kl=self.kl,
            balance=self.balance,
            nonnegativity=self.nonnegativity,
            kl_sign=self.kl_sign,
        )
        labels = torch.from_numpy(codes)
        self.model_ = train(model, x, labels, objective=objective, config=training, progress=self.verbose > 0)
        return self

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
        generator = torch.Generator()
        generator.manual_seed(int(check_random_state(random_state).randint(2**31 - 1)))
        if label is None:
            codes = torch.multinomial(self.model_.class_prior, n_samples, replacement=True, generator=generator)
        else:
            found = np.flatnonzero(self.classes_ == label)
            if len(found) != 1:
                raise InputError(f"label {label!r} is not among the classes {list(self.classes_)}")
            codes = torch.full((n_samples,), int(found[0]))
        return self._layout(self.model_.sample(n_samples, codes, generator)), self.classes_[codes.numpy()]

    def _images(self, X: object, *, fitting: bool = False) -> Tensor:
        """X as the model sees it, checked; remembers the layout when fitting."""
        if self._is_vectors(X):
            return self._vectors(X, fitting=fitting)
        x = as_images(X, image_shape=self.image_shape, pixel_range=self.pixel_range)
        shape: Shape = (x.shape[1], x.shape[2], x.shape[3])
        if fitting:
            self.image_shape_, self.n_features_in_ = shape, math.prod(shape)
            self.layout_ = tuple(X.shape[1:] if hasattr(X, "shape") else np.asarray(X).shape[1:])
        elif shape != self.image_shape_:
            raise InputError(f"images are {shape}, but the model was fitted on {self.image_shape_} (C, H, W)")
        return x

    def _is_vectors(self, X: object) -> bool:
        return self.image_shape is None and getattr(X, "ndim", 2) <= 2

    def _vectors(self, X: object, *, fitting: bool) -> Tensor:
        """Standardised vectors as (N, 1, 1, D)."""
        values = validate_data(self, X, reset=fitting, dtype=np.float64, ensure_min_samples=2 if fitting else 1)
        side = math.isqrt(values.shape[1])
        if fitting:
            if side >= 8 and side * side == values.shape[1]:
                warnings.warn(
                    f"X is taken as vectors of {side * side} numbers: if they are {side}x{side} images, pass "
                    f"image_shape=({side}, {side})",
                    UserWarning,
                    stacklevel=3,
                )
            self.image_shape_, self.layout_ = (1, 1, values.shape[1]), values.shape[1:]
            self.mean_, self.scale_ = values.mean(0), values.std(0)
            self.scale_[self.scale_ == 0] = 1.0
        standard = ((values - self.mean_) / self.scale_).astype(np.float32)
        return torch.from_numpy(standard)[:, None, None, :]

    def _layout(self, images: Tensor) -> Array:
        """Images (N, C, H, W) in [0, 1] as X was given: its axes, its range."""
        if hasattr(self, "mean_"):
            return np.asarray(images.flatten(1).double().numpy() * self.scale_ + self.mean_)
        low, high = self.pixel_range
        scaled = (low + (high - low) * images).numpy()
        channels_last = (*self.image_shape_[1:], self.image_shape_[0])
        if self.layout_ == channels_last and self.layout_ != self.image_shape_:
            scaled = scaled.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(scaled.reshape(len(scaled), *self.layout_))

    @torch.no_grad()
    def _run(self, X: object, what: str) -> Array:
        """Features or logits of all images, chunk by chunk."""
        check_is_fitted(self)
        images, model = self._images(X), self.model_
        if self._is_vectors(X):
            # Small enough for double precision, in which the last bits do not depend on the batch's size.
            images, model = images.double(), copy.deepcopy(model).double()
        parts = []
        for x in images.split(_CHUNK):
            features = model.levels(x)
            parts.append(features if what == "features" else model.templates(features))
        return np.asarray(torch.cat(parts).float().numpy())

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may expect."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Weights as safetensors bytes: pickles of torch modules break between versions."""
        state = dict(super().__getstate__())
        if "model_" in state:
            state["model_"] = weights_to_bytes(
                {k: v.contiguous() for k, v in state["model_"].state_dict().items()}
            )
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the model and fill in the weights."""
        state = dict(state)
        weights = state.pop("model_", None)
        super().__setstate__(state)
        if weights is not None:
            self.model_ = self.recipe_.build().eval()
            self.model_.load_state_dict(weights_from_bytes(weights))
