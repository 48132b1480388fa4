"""SVHN's cropped digits, as published: MATLAB files `train_32x32.mat` and `test_32x32.mat`.

Source: Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning", 2011.
"""

__all__ = ["read_svhn"]

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io

from drmm.errors import RunError


def read_svhn(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read one SVHN file.

    Args:
        path: The `.mat` file, with `X` (H, W, 3, N) and `y` (N, 1) in 1..10.

    Returns:
        Images uint8 (N, 3, H, W) and labels int64 (N,), where the file's label 10 has become the digit 0.

    Raises:
        RunError: The file is unreadable, truncated, or not in this format.
    """
    variables = _variables(path)
    if not {"X", "y"} <= variables.keys():
        raise _broken(path, "it lacks X or y")
    x, y = np.asarray(variables["X"]), np.asarray(variables["y"]).ravel()
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[2] != 3 or not x.size:
        raise _broken(path, f"X is {x.dtype} of shape {x.shape}, not uint8 (H, W, 3, N)")
    if y.dtype.kind not in "uif" or len(y) != x.shape[3] or not np.isin(y, range(1, 11)).all():
        raise _broken(path, f"y is not {x.shape[3]} labels from 1 to 10")
    return np.ascontiguousarray(x.transpose(3, 2, 0, 1)), y.astype(np.int64) % 10


def _variables(path: Path) -> dict[str, Any]:
    try:
        return dict(scipy.io.loadmat(path, appendmat=False, variable_names=("X", "y")))
    except Exception as error:  # SciPy raises TypeError, ValueError, zlib.error, ... on broken files
        raise _broken(path, f"not a MATLAB 5 file, or truncated ({type(error).__name__})") from error


def _broken(path: Path, reason: str) -> RunError:
    return RunError(f"cannot read {path}: {reason}; download the file again or replace it")
