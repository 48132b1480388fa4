"""Folders of pictures, one subfolder per class: how users keep their own images, on disk or zipped."""

__all__ = ["UNLABELLED_FOLDER", "load_folder", "load_folder_splits"]

import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from drmm.data.base import Dataset, digest_of, summary
from drmm.data.labels import UNLABELLED
from drmm.data.listing import Listing, check_losses, listed, nfc
from drmm.errors import InputError
from drmm.progress import track

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

UNLABELLED_FOLDER = "unlabelled"

_SPLITS = {"train", "test"}
_LIKE_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}
_UNLABELLED_WORDS = {UNLABELLED_FOLDER, "unlabeled"}
_BEGINS_UNLABELLED = "unlab"  # misspelt, or with more after it
_DECLARE = "declare a class of that name (setting data.classes)"
_SHOWN = 5  # names in a warning


def load_folder(
    path: str | Path, size: tuple[int, int] | None = None, classes: Collection[str] = ()
) -> tuple[Images, Labels, tuple[str, ...]]:
    """Read `path/<class>/**` as labelled images, and `path/unlabelled/**` as unlabelled ones.

    Arguments, errors and warnings are those of `load_folder_splits`.

    Returns:
        Images uint8 (N, C, H, W), grey if all pictures are, in sorted order of their paths; labels
        int64 (N,), −1 for the unlabelled; and the class names, sorted.

    Raises:
        InputError: Also if there is a test set.
    """
    data = load_folder_splits(path, size, classes)
    if len(data.x_test):
        raise InputError(f"{path} is split into train/ and test/: read it with load_folder_splits")
    return data.x_train, data.y_train, data.classes


def load_folder_splits(
    path: str | Path, size: tuple[int, int] | None = None, classes: Collection[str] = ()
) -> Dataset:
    """Read `path/train/<class>/**` and `path/test/<class>/**`, or else `path/<class>/**` without a test set.

    Pictures in `unlabelled/` beside the classes have no label. The names `unlabelled` (or `unlabeled`), `train`
    and `test` are known in any case, and whatever spaces and signs are around them. A folder called train or
    test that holds pictures itself, beside other classes, is a class of that name.

    Every file counts as a picture by its content, or is in `skipped` with a reason. Links are followed, and a
    file that several lead to is read once. Classes are called like their folders, in Unicode's composed form.

    Args:
        path: A folder, or a zip archive of one.
        size: (H, W) to resize all pictures to; without it they must have one size.
        classes: Names of folders that are classes, though they are called like a part or like `unlabelled`.

    Returns:
        The data set, named like the folder.

    Raises:
        InputError: No pictures, pictures outside a class folder, of different sizes, or whose levels have no set
            black and white; a test class that has no training folder, folders that may be meant as classes or as
            parts of a split, one file in two classes.
        RunError: The archive or more than half of the pictures cannot be read; the message names the first.

    Warns:
        UserWarning: Pictures that cannot be read were skipped; a class folder holds none, or one; a file has
            several frames, of which the first counts; two folders make one class.
    """
    path = Path(path)
    declared = {_name(name) for name in classes}
    with listed(path) as found:
        reading = _Reading(path, declared, 2 if _are_split(found.pictures, path, declared) else 1)
        places = {member: reading.place(member) for member in found.pictures}
        reading.check_within_classes(places)
        if absent := declared - {place.label for place in places.values()}:
            raise InputError(f"{path} holds no pictures of class {min(absent)}: leave it out of the classes")
        _read_once(found, places)
        pictures, content = _decoded(found, size)
    read = [places[member] for member in pictures]
    named = tuple(sorted({place.label for place in read if place.label and not place.is_test}))
    is_test = np.array([place.is_test for place in read], dtype=bool)
    images, labels = _stacked(pictures, path), _encoded([place.label for place in read], named, path)
    train, test = (images[~is_test], labels[~is_test]), (images[is_test], labels[is_test])
    reading.warn_of_classes(found.folders, pictures)
    files = tuple(str(member) for member, place in zip(pictures, read, strict=True) if not place.is_test)
    name = path.resolve().name.removesuffix(".zip")
    return Dataset(name, *train, *test, named, files, content, tuple(found.skipped))


class _Place(NamedTuple):
    """What folders say of a picture: whether it is to test with, and its class, None if it has no label."""

    is_test: bool
    label: str | None


class _Reading(NamedTuple):
    """How the names of folders are understood.

    Attributes:
        root: The folder or archive.
        declared: Names that are classes whatever they sound like.
        depth: Of class folders: 1, or 2 below train/ and test/.
    """

    root: Path
    declared: Collection[str]
    depth: int

    def place(self, member: PurePosixPath) -> _Place:
        """Where a picture belongs."""
        if len(member.parts) <= self.depth:
            advice = f"move it to <class>/ or {UNLABELLED_FOLDER}/"
            raise InputError(f"{self.root}: picture {member} is in no class folder: {advice}")
        is_test = self.depth == 2 and _word(member.parts[0]) == "test"
        return _Place(is_test, self.label(member.parts[self.depth - 1]))

    def label(self, folder: str) -> str | None:
        """The class that a folder stands for."""
        name, word = _name(folder), _word(folder)
        if name in self.declared:
            return name
        if word in _UNLABELLED_WORDS:
            return None
        if word.startswith(_BEGINS_UNLABELLED):
            advice = f"rename it to {UNLABELLED_FOLDER}/, or {_DECLARE}"
            raise InputError(f"{self.root}: {folder}/ may be a class or pictures without a label: {advice}")
        return name

    def check_within_classes(self, places: Mapping[PurePosixPath, _Place]) -> None:
        """Refuse parts within classes, which would all be learned from."""
        inner = {
            _word(folder)
            for member, place in places.items()
            if place.label
            for folder in member.parts[self.depth : -1]
        }
        if odd := inner & _UNLABELLED_WORDS or (_SPLITS if inner >= _SPLITS else set()):
            raise InputError(
                f"{self.root}: class folders hold {min(odd)}/: move its pictures up, to {UNLABELLED_FOLDER}/ or "
                "to train/<class>/ and test/<class>/"
            )

    def warn_of_classes(self, folders: Sequence[PurePosixPath], pictures: Collection[PurePosixPath]) -> None:
        """Say which class folders make no class, one of a single picture, or one class together."""
        spelt: dict[str | None, Counter[str]] = {}
        for member in pictures:
            place = self.place(member)
            if not place.is_test:
                spelt.setdefault(place.label, Counter())[member.parts[self.depth - 1]] += 1
        spelt.pop(None, None)
        homes = {folder: self.place(folder / "any") for folder in folders if len(folder.parts) == self.depth}
        known = {None, *spelt}
        empty = [f"{home}/" for home, place in homes.items() if not place.is_test and place.label not in known]
        single = [label for label, counts in spelt.items() if label and counts.total() == 1]
        if empty:
            _warn(f"{self.root}: no class for {_some(empty)}, where no picture can be read")
        if single:
            _warn(f"{self.root}: a single picture in class {_some(single)}")
        for label, counts in spelt.items():
            if len(counts) > 1:
                _warn(f"{self.root}: folders {_some([repr(name) for name in counts])} are one class, {label}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)


def _name(folder: str) -> str:
    """A folder's name as that of a class."""
    return nfc(folder).strip() or folder


def _word(folder: str) -> str:
    """What a folder's name says, in whatever case and between whatever signs."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", folder).casefold()))


def _are_split(members: Collection[PurePosixPath], root: Path, declared: Collection[str]) -> bool:
    """Whether the folders at the top are train/ and test/, with class folders inside, and not classes themselves.

    Raises:
        InputError: if they may be meant as either.
    """
    tops = {member.parts[0] for member in members if len(member.parts) > 1}
    parts = {top for top in tops if _word(top) in _LIKE_SPLITS and _name(top) not in declared}
    nested = {member.parts[0] for member in members if len(member.parts) > 2} & parts
    mixed = {member.parts[0] for member in members if len(member.parts) == 2} & nested
    if mixed:
        odd = min(mixed)
        raise InputError(f"{root}: {odd}/ holds pictures beside folders: move them into {odd}/<class>/")
    if parts and not nested and all(top in parts or _word(top) in _UNLABELLED_WORDS for top in tops):
        names = " and ".join(f"{top}/" for top in sorted(parts))
        raise InputError(
            f"{root}: {names} may be parts or classes: move pictures to train/<class>/, or {_DECLARE}"
        )
    if not nested:
        return False
    strange = {top for top in nested if _word(top) not in _SPLITS}
    if strange or "train" not in map(_word, nested):
        odd = min(strange or nested)
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


def _read_once(found: Listing, places: Mapping[PurePosixPath, _Place]) -> None:
    """Count a file that links lead to once; where it has a label, there."""
    for same in found.repeats():
        labelled = [member for member in same if places[member] != _Place(is_test=False, label=None)]
        if len({places[member] for member in labelled}) > 1:
            names = " and ".join(map(str, labelled))
            raise InputError(f"{found.root}: {names} are one file in two places: keep one")
        kept = (labelled or same)[0]
        for member in same:
            if member != kept:
                found.skip(member, f"read already (as {kept})")


def _encoded(labels: Sequence[str | None], classes: tuple[str, ...], root: Path) -> Labels:
    codes = {None: UNLABELLED} | {label: code for code, label in enumerate(classes)}
    strangers = sorted({label for label in labels if label} - codes.keys())
    if strangers:
        raise InputError(f"{root}: test class {strangers[0]} has no training folder: add or rename one")
    return np.array([codes[label] for label in labels], np.int64)


def _decoded(found: Listing, size: tuple[int, int] | None) -> tuple[dict[PurePosixPath, Images], str]:
    """The pictures, each (C, H, W), and the digest of their names and bytes."""
    pictures, digests, longer = {}, [], []
    reading = track(found.decoded(size=size), f"Reading {found.root.name}", len(found.pictures))
    for member, content, picture in reading:
        pictures[member] = picture.levels
        digests.append(digest_of([nfc(str(member)).encode("utf-8", "surrogateescape"), content]).encode())
        longer += [str(member)] if picture.has_more else []
    check_losses(found.skipped, len(pictures), found.root)
    if not pictures:
        skipped = f" ({summary(found.skipped)})" if found.skipped else ""
        raise InputError(f"{found.root} holds no pictures{skipped}: add some")
    if longer:
        _warn(f"{found.root}: the first frame counts of each file with several: {_some(longer)}")
    return pictures, digest_of(digests)


def _stacked(pictures: Mapping[PurePosixPath, Images], root: Path) -> Images:
    first, *_ = pictures
    height, width = pictures[first].shape[1:]
    for member, picture in pictures.items():
        if picture.shape[1:] != (height, width):
            got = f"{picture.shape[1]}x{picture.shape[2]}, {first} is {height}x{width}"
            raise InputError(f"{root}: {member} is {got}: set one size for all (--size on the command line)")
    channels = max(len(picture) for picture in pictures.values())
    images = np.empty((len(pictures), channels, height, width), np.uint8)
    for row, picture in enumerate(pictures.values()):
        images[row] = picture  # a grey picture among colour ones fills all channels
    return images
