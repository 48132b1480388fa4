"""The IDX format of MNIST and the sets made in its likeness: a magic number, the dimensions, the bytes.

Format: http://yann.lecun.com/exdb/mnist/
"""

__all__ = ["read_idx", "read_idx_pair"]

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from drmm.errors import RunError

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or not, whatever its name says.

    Args:
        path: The file.

    Returns:
        The array, of the 1 to 4 dimensions that the file declares.

    Raises:
        RunError: The file is unreadable, truncated, too long, or not IDX.
    """
    content = _content(path)
    if len(content) < 4 or content[:2] != b"\0\0" or not 1 <= content[3] <= 4:
        raise _broken(path, "it does not start like an IDX file")
    element, rank = content[2], content[3]
    if element != _UNSIGNED_BYTE:
        raise _broken(path, f"its elements have type 0x{element:02X}, not unsigned bytes (0x08)")
    start = 4 + 4 * rank
    if len(content) < start:
        raise _broken(path, "it ends within its header")
    shape = struct.unpack(f">{rank}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise _broken(path, f"it declares {math.prod(shape)} bytes but holds {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()  # writable, unlike the buffer


def read_idx_pair(images: Path, labels: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read the two IDX files of a labelled set.

    Args:
        images: File of grey images (N, H, W).
        labels: File of labels (N,).

    Returns:
        Images uint8 (N, 1, H, W) and labels int64 (N,).

    Raises:
        RunError: Either file is broken, has another number of dimensions, or they do not match.
    """
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3 or not x.size:
        raise _broken(images, f"it holds an array of shape {x.shape}, not grey images (N, H, W)")
    if y.shape != x.shape[:1]:
        raise _broken(labels, f"it holds labels of shape {y.shape} for {len(x)} images")
    return x[:, None], y.astype(np.int64)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP_MAGIC) else content
    except (EOFError, zlib.error, OSError) as error:
        raise _broken(path, str(error)) from error


def _broken(path: Path, reason: str) -> RunError:
    return RunError(f"cannot read {path}: {reason}; download the file again or replace it")
