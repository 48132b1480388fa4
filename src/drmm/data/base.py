"""What every loader returns."""

__all__ = ["Dataset", "digest_of"]

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

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
        files: Names of the training pictures' files in their folder or archive, (N,); () where images are arrays.
        content: Digest of the names and bytes of all files that were read; "" where images are arrays.
    """

    name: str
    x_train: npt.NDArray[np.uint8]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.uint8]
    y_test: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    files: tuple[str, ...] = ()
    content: str = ""

    @cached_property
    def digest(self) -> str:
        """Says whether these are the same images with the same labels, in 32 hexadecimal digits."""
        if self.content:
            return self.content
        arrays = (self.x_train, self.y_train, self.x_test, self.y_test)
        sizes = " ".join(str(array.shape) for array in arrays)
        return digest_of(
            [(sizes + " ".join(self.classes)).encode(), *(np.ascontiguousarray(a).data for a in arrays)]
        )


def digest_of(parts: Iterable[bytes | memoryview]) -> str:
    """One digest of several pieces in their order, 32 hexadecimal digits."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        total.update(hashlib.blake2b(part, digest_size=16).digest())
    return total.hexdigest()
