"""Folders of pictures, one subfolder per class: how users keep their own images, on disk or zipped."""

__all__ = ["UNLABELLED_FOLDER", "load_folder", "load_folder_splits"]

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from drmm.data.base import Dataset, digest_of
from drmm.data.decoding import PICTURE_SUFFIXES, decode_picture, is_picture
from drmm.data.labels import UNLABELLED
from drmm.errors import InputError, RunError
from drmm.progress import track

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Opener = Callable[[PurePath], Path | BinaryIO]

UNLABELLED_FOLDER = "unlabelled"

_SPLITS = ("train", "test")
_LIKE_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}
_MISSPELT = {"unlabeled", "_unlabelled", "_unlabeled"}


def load_folder(path: str | Path, size: tuple[int, int] | None = None) -> tuple[Images, Labels, tuple[str, ...]]:
    """Read `path/<class>/**` as labelled images, and `path/unlabelled/**` as unlabelled ones.

    Args:
        path: A folder, or a zip archive of one.
        size: (H, W) to resize all pictures to; without it they must have one size.

    Returns:
        Images uint8 (N, C, H, W), grey if all pictures are, in sorted order of their paths; labels
        int64 (N,), −1 for the unlabelled; and the class names, sorted.

    Raises:
        InputError: No pictures, pictures outside a class folder, of different sizes, or split into train/ and
            test/, which are no classes.
        RunError: A file is corrupt or truncated; the message names it.
    """
    with _tree(Path(path)) as (members, opener):
        if _are_split(members, Path(path)):
            raise InputError(f"{path} is split into train/ and test/: read it with load_folder_splits")
        labels = [_label(member, Path(path)) for member in members]
        images, _ = _decoded(members, opener, Path(path), size)
    classes = tuple(sorted(set(labels) - {UNLABELLED_FOLDER}))
    return images, _encoded(labels, classes, Path(path)), classes


def load_folder_splits(path: str | Path, size: tuple[int, int] | None = None) -> Dataset:
    """Read `path/train/<class>/**` and `path/test/<class>/**`, or else `path/<class>/**` without a test set.

    A folder called train or test that holds pictures itself, beside other classes, is a class of that name.

    Args:
        path: A folder, or a zip archive of one.
        size: (H, W) to resize all pictures to; without it they must have one size.

    Returns:
        The data set, named like the folder. `train/unlabelled/` holds unlabelled images.

    Raises:
        InputError: As `load_folder`; also a test class that has no training folder, or folders that may be meant
            as classes or as parts of a split.
        RunError: A file is corrupt or truncated; the message names it.
    """
    path = Path(path)
    with _tree(path) as (members, opener):
        has_splits = _are_split(members, path)
        inner = [
            PurePosixPath(*member.parts[1:]) if has_splits and len(member.parts) > 1 else member
            for member in members
        ]
        labels = [_label(member, path) for member in inner]
        images, content = _decoded(members, opener, path, size)
    is_test = np.array([has_splits and member.parts[0] == "test" for member in members], dtype=bool)
    named = {label for label, test in zip(labels, is_test, strict=True) if not test}
    classes = tuple(sorted(named - {UNLABELLED_FOLDER}))
    y = _encoded(labels, classes, path)
    name = path.resolve().name.removesuffix(".zip")
    files = tuple(str(member) for member, test in zip(members, is_test, strict=True) if not test)
    return Dataset(name, images[~is_test], y[~is_test], images[is_test], y[is_test], classes, files, content)


def _are_split(members: Sequence[PurePosixPath], root: Path) -> bool:
    """Whether the folders at the top are train/ and test/, with class folders inside, and not classes themselves.

    Raises:
        InputError: if they may be meant as either.
    """
    tops = {member.parts[0] for member in members if len(member.parts) > 1}
    parts = {top for top in tops if top.lower() in _LIKE_SPLITS}
    nested = {member.parts[0] for member in members if len(member.parts) > 2} & parts
    mixed = {member.parts[0] for member in members if len(member.parts) == 2} & nested
    if mixed:
        odd = min(mixed)
        raise InputError(f"{root}: {odd}/ holds pictures beside folders: move them into {odd}/<class>/")
    if parts and not nested and tops <= parts | {UNLABELLED_FOLDER}:
        names = " and ".join(f"{top}/" for top in sorted(parts))
        raise InputError(
            f"{root}: {names} may be parts or classes: move pictures to train/<class>/, or rename the classes"
        )
    if not nested:
        return False
    if nested - set(_SPLITS) or "train" not in nested:
        odd = min(nested - set(_SPLITS) or nested)
        raise InputError(
            f"{root}: {odd}/ holds folders: rename it, parts are called train/ and test/, with train/"
        )
    if tops - nested:
        odd = min(tops - nested)
        raise InputError(
            f"{root} holds {odd}/ beside train/: move it into train/ or test/, or, if train is a class, put its "
            "pictures into train/ itself"
        )
    return True


@contextmanager
def _tree(path: Path) -> Iterator[tuple[list[PurePosixPath], Opener]]:
    """The pictures in a folder or zip archive by relative path, sorted, and how to open one."""
    if path.is_dir():
        files = (PurePosixPath(file.relative_to(path).as_posix()) for file in path.rglob("*"))
        yield _pictures(files, path), lambda member: path / member
        return
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise RunError(f"cannot read {path}: not a folder or complete zip archive ({error})") from error
    with archive:
        members = _pictures(map(PurePosixPath, archive.namelist()), path)
        # Zipping a folder often wraps it: my-set.zip holds my-set/cat/1.png.
        wrapped = len({member.parts[0] for member in members}) == 1 and all(len(m.parts) > 2 for m in members)
        top = members[0].parts[0] if wrapped else ""
        yield (
            [member.relative_to(top) for member in members],
            lambda member: _unzipped(archive, str(top / member)),
        )


def _pictures(paths: Iterator[PurePosixPath], root: Path) -> list[PurePosixPath]:
    members = sorted(path for path in paths if is_picture(path))
    if not members:
        raise InputError(f"{root} holds no pictures ({', '.join(PICTURE_SUFFIXES)}): add some")
    return members


def _unzipped(archive: zipfile.ZipFile, member: str) -> BinaryIO:
    try:
        return BytesIO(archive.read(member))
    except Exception as error:  # zipfile adds zlib.error, RuntimeError, NotImplementedError to its own
        reason = f"{member} does not unpack ({type(error).__name__})"
        raise RunError(f"cannot read {archive.filename}: {reason}; replace the archive") from error


def _label(member: PurePosixPath, root: Path) -> str:
    if len(member.parts) < 2:
        raise InputError(
            f"{root}: picture {member} is in no class folder: move it to <class>/ or {UNLABELLED_FOLDER}/"
        )
    label = member.parts[0]
    if label.lower() in _MISSPELT:
        raise InputError(f"{root}: rename folder {label}/ to {UNLABELLED_FOLDER}/, or it would be a class")
    return label


def _encoded(labels: Sequence[str], classes: tuple[str, ...], root: Path) -> Labels:
    codes = {UNLABELLED_FOLDER: UNLABELLED} | {label: code for code, label in enumerate(classes)}
    strangers = sorted(set(labels) - codes.keys())
    if strangers:
        raise InputError(f"{root}: test class {strangers[0]} has no training folder: add or rename one")
    return np.array([codes[label] for label in labels], np.int64)


def _decoded(
    members: Sequence[PurePosixPath], opener: Opener, root: Path, size: tuple[int, int] | None
) -> tuple[Images, str]:
    """The pictures, and the digest of their names and bytes."""
    pictures, digests = [], []
    for member in track(members, f"Reading {root.name}"):
        content = _bytes(opener(member), f"{root / member}")
        digests.append(digest_of([str(member).encode("utf-8", "surrogateescape"), content]).encode())
        pictures.append(decode_picture(BytesIO(content), f"{root / member}", size=size)[0])
    height, width = pictures[0].shape[1:]
    for member, picture in zip(members, pictures, strict=True):
        if picture.shape[1:] != (height, width):
            got = f"{picture.shape[1]}x{picture.shape[2]}, {members[0]} is {height}x{width}"
            raise InputError(f"{root}: {member} is {got}: pass size=(H, W) to resize all pictures")
    channels = max(len(picture) for picture in pictures)
    images = np.empty((len(pictures), channels, height, width), np.uint8)
    for row, picture in enumerate(pictures):
        images[row] = picture  # a grey picture among colour ones fills all channels
    return images, digest_of(digests)


def _bytes(source: Path | BinaryIO, name: str) -> bytes:
    try:
        return source.read_bytes() if isinstance(source, Path) else source.read()
    except OSError as error:
        raise RunError(f"cannot read picture {name} ({error.strerror}): repair, replace or remove it") from error
