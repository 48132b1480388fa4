"""All pictures of a folder at a glance: file, class, part, size and a small copy of each."""

__all__ = ["Survey", "survey", "surveyed", "thumbnails"]

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from drmm.data.base import Dataset, Skipped
from drmm.data.duplicates import SIDE, made_small
from drmm.data.folders import load_folder_splits
from drmm.data.index import indexed
from drmm.data.listing import listed
from drmm.errors import RunError

_THUMBNAIL = 64  # pixels a side


@dataclass(frozen=True, eq=False)
class Survey:
    """N pictures of a folder.

    Attributes:
        root: the folder or archive.
        files: their names in it, (N,).
        classes: names of the classes.
        labels: indices into `classes`, int64 (N,); -1 means unlabelled.
        is_test: whether they are to test with, (N,).
        digests: of the files' bytes, (N,).
        sizes: height and width, upright, (N, 2).
        looks: levels at 32 x 32 pixels, uint8 (N, C, 32, 32).
        skipped: all other files.
    """

    root: Path
    files: tuple[str, ...]
    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    is_test: npt.NDArray[np.bool_]
    digests: tuple[str, ...]
    sizes: npt.NDArray[np.int64]
    looks: npt.NDArray[np.uint8]
    skipped: tuple[Skipped, ...]


def survey(path: Path, classes: Collection[str] = (), labels: Path | None = None) -> Survey:
    """Look at every picture of a folder or zip archive.

    Args:
        path: as of `drmm.data.folders.load_folder_splits`; errors and warnings are as there.
        classes: likewise.
        labels: likewise.
    """
    return surveyed(path, load_folder_splits(path, (SIDE, SIDE), classes, labels=labels))


def surveyed(path: Path, data: Dataset) -> Survey:
    """The same of pictures that are loaded, at any size.

    Args:
        path: the folder or archive that they are from.
        data: all of them.

    Raises:
        RunError: if some are gone.
    """
    with listed(path) as found:
        entries = indexed(found)
    files = (*data.files, *data.test_files)
    if not {*map(PurePosixPath, files)} <= entries.keys():
        raise RunError(f"{path} changed while it was read: start again")
    each = [entries[PurePosixPath(file)] for file in files]
    return Survey(
        path,
        files,
        data.classes,
        np.concatenate([data.y_train, data.y_test]),
        np.arange(len(files)) >= len(data.files),
        tuple(entry.digest for entry in each),
        np.array([(entry.height, entry.width) for entry in each]),
        np.concatenate([made_small(data.x_train), made_small(data.x_test)]),
        data.skipped,
    )


def thumbnails(path: Path, files: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Some pictures of a folder or archive for people to look at, uint8 (N, 3, 64, 64); black if gone by now."""
    shown = np.zeros((len(files), 3, _THUMBNAIL, _THUMBNAIL), np.uint8)
    members = list(dict.fromkeys(map(PurePosixPath, files)))
    with listed(path) as found:
        size = (_THUMBNAIL, _THUMBNAIL)
        there = [member for member in members if member in found.pictures]
        levels = {m: picture.levels for m, picture in found.decoded(there, channels=3, size=size, shape="pad")}
    for row, file in enumerate(files):
        if PurePosixPath(file) in levels:
            shown[row] = levels[PurePosixPath(file)]
    return shown
