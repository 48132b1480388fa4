"""Columns in, columns out: the form that Ray Data, Spark, Dask and Hugging Face's data sets give to a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drmm.errors import InputError, RunError
from drmm.predicting.rows import REASON, Rows
from drmm.runs.run import Run
from drmm.trust.promise import PROMISE

__all__ = ["Predictor"]


class Predictor:
    """Answers for batches of pictures, as `drmm predict` gives them.

    The model is loaded when it is made. It is pickled as the folder that it loads, which has to be where it goes,
    and as a digest of what is there: engines that remember answers know a new model by it.

    Attributes:
        digest: `drmm.runs.run.Run.digest` of the model.

    Args:
        run: folder of a trained model.
        image: name of the column of pictures.
        prefix: before the names of the columns that are added, where there is one of the same name.
        promise: share of the pictures decided as sorted that is to be right.
        all_classes: a column for the probability of each class, and for the familiarity of each part of a picture.

    Raises:
        InputError: if the promise is no share between 0 and 1.
        RunError: if there is no model, or a file is damaged.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        image: str = "image",
        prefix: str = "",
        promise: float = PROMISE,
        all_classes: bool = False,
    ) -> None:
        folder = Path(run).absolute()
        self._image, self._prefix = image, prefix
        opened = Run.open(folder)
        self._rows = Rows(opened, promise=promise, all_classes=all_classes)
        how = {"image": image, "prefix": prefix, "promise": promise, "all_classes": all_classes}
        self.digest = opened.digest
        self._again = folder, self.digest, how

    def __reduce__(self) -> tuple[Callable[..., Predictor], tuple[Any, ...]]:
        return _unpickled, self._again

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The answers for a batch of N pictures.

        Args:
            batch: columns by name. Pictures are levels 0..255 as uint8 (N, H, W, 3), or each of its own kind and
                size: levels (H, W) or (H, W, C), a file's content or path, a mapping with `bytes` or `path`,
                or a Pillow picture.

        Returns:
            The other columns as they are, and those of `drmm predict`, (N,): text, numbers, and `certified`, bool.
            A picture that cannot be read has a `reason`, and answers that are "", NaN and False.

        Raises:
            InputError: if it is no dictionary, has no column of pictures, or has one that would be added.
        """
        if not hasattr(batch, "keys"):
            raise InputError(f"a batch is a dictionary of columns, not a {type(batch).__name__}")
        columns = dict(batch)
        if self._image not in columns:
            there = ", ".join(map(str, columns)) or "none"
            raise InputError(f"the batch has no column {self._image!r} ({there}): name that of pictures, image=")
        pictures = columns.pop(self._image)
        types = {**self._rows.types, REASON: str}
        if taken := [name for name in types if self._prefix + name in columns]:
            raise InputError(
                f"the batch has a column {self._prefix + taken[0]!r} already: rename it, or give the answers "
                f"other names, as prefix='{self._prefix}drmm_' does"
            )
        named = ((f"{self._image}[{i}]", picture) for i, picture in enumerate(_each(pictures)))
        rows = self._rows.of_decoded([decoded for _, decoded in self._rows.decoded(named)])
        found = zip(*rows, strict=True) if rows else [()] * len(types)
        added = zip(types.items(), found, strict=True)
        return {**columns, **{self._prefix + name: _column(cells, kind) for (name, kind), cells in added}}


def _unpickled(folder: Path, digest: str, how: Mapping[str, Any]) -> Predictor:
    predictor = Predictor(folder, **how)
    if predictor.digest != digest:
        raise RunError(f"{folder} holds another model than when the Predictor was pickled: make it anew")
    return predictor


def _each(pictures: Any) -> Any:
    """One by one; NumPy's texts of bytes end before their last zeros, which may be a picture's."""
    if isinstance(pictures, np.ndarray) and pictures.dtype.kind == "S":
        return [one.ljust(pictures.itemsize, b"\0") for one in pictures.tolist()]
    return pictures


def _column(cells: Sequence[object], kind: type) -> npt.NDArray[Any]:
    """One type, whatever is empty, and where all is: engines take it from the first batch."""
    return np.array([cell or kind() for cell in cells] if kind is not float else cells, kind)
