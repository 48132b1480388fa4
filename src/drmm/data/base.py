"""What every loader returns."""

__all__ = ["Dataset"]

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, split once and for all into training and test sets.

    Attributes:
        name: What to call it where a figure on it is quoted.
        x_train: Levels 0..255, uint8 (N, C, H, W).
        y_train: Indices into `classes`, int64 (N,); −1 means unlabelled.
        x_test: Like `x_train`; it has no images if the source has no test set.
        y_test: Like `y_train`.
        classes: Names of the K classes.
    """

    name: str
    x_train: npt.NDArray[np.uint8]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.uint8]
    y_test: npt.NDArray[np.int64]
    classes: tuple[str, ...]
