"""What estimators of images share: X in any layout goes in, pictures in the same layout come out."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load
from sklearn.base import BaseEstimator
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import Tensor

from drmm.data.images import as_images, black_white_of, nchw, numbers
from drmm.errors import InputError
from drmm.estimators.few_labels import check_nobody_counts_unlabelled
from drmm.files import tensor_bytes

__all__ = ["ImageEstimator", "seed_of"]

Array = npt.NDArray[Any]

_DARK = 0.1  # of what was fitted: levels of 16 read as such of 255 are darker still


def seed_of(random_state: int | np.random.RandomState | None) -> int:
    """A seed for torch, drawn from what scikit-learn takes as `random_state`."""
    return int(check_random_state(random_state).randint(2**31 - 1))


class ImageEstimator(BaseEstimator, ABC):  # type: ignore[misc]
    """Base of the estimators.

    X is (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or float, or 2-D with `image_shape`. Two-dimensional X
    without `image_shape` is taken as vectors, and standardised.

    Attributes:
        image_shape: parameter: shape of one image, to unflatten 2-D X with, or None.
        pixel_range: parameter: values of black and white in X; uint8 is always 0 to 255.
        image_shape_: (C, H, W) that the model works on.
        n_features_in_: numbers in one image.
        brightest_: the brightest pixel that was fitted, from 0 (black) to 1 (white).
        layout_: shape of one image in X.
        dtype_: of X: levels come back as whole numbers of its type.
        black_white_: values of black and white in X; None for vectors.
        mean_: of the vectors, (D,); None for pictures.
        scale_: their standard deviations, likewise.
    """

    image_shape: tuple[int, ...] | None
    pixel_range: tuple[float, float]
    image_shape_: tuple[int, int, int]
    brightest_: float
    layout_: tuple[int, ...]
    dtype_: np.dtype[Any]
    black_white_: tuple[float, float] | None
    mean_: Array | None
    scale_: Array | None
    _order: Array  # for each number that the model sees, its place in an image of X

    _fewest = 1  # vectors that can be learned from

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a `fit` that fails or is stopped leave the estimator as it was."""
        super().__init_subclass__(**options)
        if "fit" in vars(cls):
            cls.fit = _whole(cls.fit)

    def _images(self, X: object, *, fitting: bool = False) -> Tensor:
        """X as the model sees it, checked; remembers the layout when fitting."""
        check_nobody_counts_unlabelled()
        flat = self.image_shape is None and _dimensions(X) == 2
        if flat if fitting else self.mean_ is not None:
            return self._vectors(X, fitting=fitting)
        image_shape = self.layout_ if flat and not fitting else self.image_shape
        x = as_images(X, image_shape=image_shape, pixel_range=self.pixel_range)
        names_alone = {"skip_check_array": True, "ensure_2d": False}
        validate_data(self, X, "no_validation", reset=fitting, **names_alone)
        shape = (x.shape[1], x.shape[2], x.shape[3])
        brightest = float(x.max())
        if fitting:
            self.image_shape_, self.n_features_in_, self.brightest_ = shape, math.prod(shape), brightest
            self._remember(numbers(X))
        elif shape != self.image_shape_:
            raise InputError(f"images are {shape}, but the model was fitted on {self.image_shape_} (C, H, W)")
        elif 0 < brightest < _DARK * self.brightest_:
            message = "X is ten times darker than what the model was fitted on: give it in the same type and range"
            warnings.warn(message, UserWarning, stacklevel=3)
        return x

    def _remember(self, X: Array) -> None:
        """Layout, type and range of images, which those that come out are to have."""
        self.layout_, self.dtype_ = X.shape[1:], X.dtype
        self.black_white_ = black_white_of(X.dtype, self.pixel_range)
        number = np.arange(math.prod(self.layout_)).reshape(1, *self.layout_)
        self._order = nchw(number, self.image_shape, None).ravel()
        self.mean_ = self.scale_ = None

    def _vectors(self, X: object, *, fitting: bool) -> Tensor:
        """Standardised vectors as (N, 1, 1, D), in double precision: they are small."""
        fewest = self._fewest if fitting else 1
        options = {"dtype": np.float64, "ensure_min_samples": fewest, "ensure_all_finite": False}
        values = validate_data(self, X, reset=fitting, **options)
        finite = np.isfinite(values).all(1)
        if not finite.all():
            raise InputError(f"row {int(np.argmin(finite))} of X contains NaN or inf: repair or drop it")
        side = math.isqrt(values.shape[1])
        if fitting:
            if side >= 8 and side * side == values.shape[1]:
                warnings.warn(
                    f"X is taken as vectors of {side * side} numbers: if they are {side}x{side} images, pass "
                    f"image_shape=({side}, {side})",
                    UserWarning,
                    stacklevel=4,
                )
            self.image_shape_, self.layout_ = (1, 1, values.shape[1]), values.shape[1:]
            self.dtype_, self.black_white_, self._order = values.dtype, None, np.arange(values.shape[1])
            with np.errstate(over="ignore", invalid="ignore"):
                scaler = StandardScaler().fit(values)  # which knows what is constant but for rounding
            self.mean_, self.scale_ = scaler.mean_, scaler.scale_
            if not np.isfinite(self.scale_).all():
                raise InputError("X holds numbers whose squares are not finite: divide X by a large number")
        return torch.from_numpy((values - self.mean_) / self.scale_)[:, None, None, :]

    def _layout(self, images: Tensor) -> Array:
        """Images (N, C, H, W) as X was given, so that the estimator takes them: axes, type and range of X.

        What is darker than black or brighter than white is cut off.
        """
        if self.black_white_ is None:
            return self._in_units(images)
        values = self._in_units(images.double().clamp(0, 1))
        kind = self.dtype_
        return values.astype(np.float32) if kind.kind == "f" else np.rint(values).astype(kind)

    def _in_units(self, images: Tensor) -> Array:
        """Numbers (N, C, H, W) in the axes and the units of X, float64, whatever they are."""
        mean, scale = self._units()
        values = np.empty((len(images), len(self._order)))
        values[:, self._order] = images.flatten(1).double().numpy() * scale + mean
        return values.reshape(len(values), *self.layout_)

    def _units(self) -> tuple[Array, Array]:
        """Mean and scale of X's numbers in the model's order, (D,) each: the model sees (X - mean) / scale."""
        if self.mean_ is not None and self.scale_ is not None:
            return self.mean_, self.scale_
        black, white = (0.0, 1.0) if self.black_white_ is None else self.black_white_
        return np.full(len(self._order), black), np.full(len(self._order), white - black)

    @abstractmethod
    def _rebuilt(self, weights: dict[str, Tensor]) -> Any:
        """`model_` again, after unpickling, from its state."""

    def __getstate__(self) -> dict[str, Any]:
        """Weights as safetensors bytes: pickles of torch modules break between versions."""
        state = dict(super().__getstate__())
        if "model_" in state:
            state["model_"] = tensor_bytes(state["model_"].state_dict())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the model and fill in the weights."""
        state = dict(state)
        weights = state.pop("model_", None)
        super().__setstate__(state)
        if weights is not None:
            self.model_ = self._rebuilt(load(weights))

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may expect."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def _whole(fit: Callable[..., Any]) -> Callable[..., Any]:
    """All of a fit or nothing: the classes of one and the model of another would go together without a word."""

    @wraps(fit)
    def whole(self: ImageEstimator, *args: Any, **options: Any) -> Any:
        before = vars(self).copy()
        try:
            return fit(self, *args, **options)
        except BaseException:
            self.__dict__ = before
            raise

    return whole


def _dimensions(X: object) -> int:
    """How deep X is nested, lists of lists or of arrays too; 2 of a table that does not say."""
    depth = 0
    while isinstance(X, list | tuple) and len(X):
        X, depth = X[0], depth + 1
    is_table = hasattr(X, "__array__") or hasattr(X, "__array_interface__")
    return depth + int(getattr(X, "ndim", 2 if is_table and not depth else 0))
