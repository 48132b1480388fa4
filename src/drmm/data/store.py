"""Decoded pictures in one file: they are decoded once and need no memory, as the system fetches what is read."""

__all__ = ["forget_pixels", "keep_pixels", "kept_pixels", "taken"]

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt

from drmm.errors import RunError
from drmm.files import TEMPORARY, read_json, replacing, write_json

Images = npt.NDArray[np.uint8]

_PIXELS, _ABOUT = "pixels.bin", "pixels.json"
_ROWS = 1000  # images copied at once


def kept_pixels(folder: Path, about: Mapping[str, Any]) -> Images | None:
    """What `keep_pixels` wrote, if it is of the same pictures.

    Args:
        folder: where.
        about: what decides the pixels; with "images", the (N, C, H, W).
    """
    pixels = folder / _PIXELS
    with suppress(RunError, OSError):
        if read_json(folder / _ABOUT) == about and pixels.stat().st_size == math.prod(about["images"]):
            return _mapped(pixels, about["images"])
    return None


def keep_pixels(folder: Path | None, about: Mapping[str, Any], images: Iterable[Images]) -> Images:
    """Write images one by one, and map the file into memory; what is written to the array stays out of the file.

    Args:
        folder: where; it is made. None, or one that holds others, keeps them in memory.
        about: as for `kept_pixels`; fewer images than it says are kept, though not found again.
        images: levels, each (C, H, W).

    Returns:
        Levels (N, C, H, W).

    Raises:
        RunError: if they cannot be written.
    """
    if folder is None or (folder / _ABOUT).exists():
        return np.stack(list(images))
    pixels, n = folder / _PIXELS, 0
    with replacing(pixels) as temporary, temporary.open("wb") as file:
        for image in images:
            file.write(np.ascontiguousarray(image).data)
            n += 1
    write_json(folder / _ABOUT, about)
    return _mapped(pixels, [n, *about["images"][1:]])


def forget_pixels(folder: Path) -> None:
    """Remove what `keep_pixels` has written, whole or not; a folder that holds anything else stays as it is."""
    files = list(folder.iterdir()) if folder.is_dir() else []
    if all(file.name in {_PIXELS, _ABOUT} or file.name.startswith(TEMPORARY) for file in files):
        for file in files:
            file.unlink()
        with suppress(OSError):
            folder.rmdir()


def taken(images: Images, rows: npt.NDArray[np.int64]) -> Images:
    """Some of the images, (len(rows), C, H, W); of a mapped file as another one, which goes with its last use."""
    source = getattr(images, "filename", None)
    if source is None or not len(rows):
        return images[rows]
    if np.array_equal(rows, np.arange(len(images))):
        return images
    with TemporaryFile(dir=Path(source).parent) as file:
        for start in range(0, len(rows), _ROWS):
            file.write(images[rows[start : start + _ROWS]].tobytes())
        file.flush()
        return np.memmap(file, np.uint8, "c", shape=(len(rows), *images.shape[1:]))


def _mapped(file: Path, shape: Iterable[int]) -> Images:
    """Copy on write: PyTorch wants arrays that could be written to."""
    return np.memmap(file, np.uint8, "c", shape=tuple(shape))
