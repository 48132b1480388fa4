"""Folders of pictures, one subfolder per class: how users keep their own images, on disk or zipped."""

__all__ = ["UNLABELLED_FOLDER", "load_folder", "load_folder_splits"]

import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from drmm.data.base import Dataset, Skipped, digest, digest_of, joined, summary
from drmm.data.decoding import Shape, quiet
from drmm.data.index import Entry, indexed
from drmm.data.label_files import matched, read_labels
from drmm.data.labels import UNLABELLED
from drmm.data.listing import Listing, check_losses, listed, nfc
from drmm.data.places import PARTS, UNLABELLED_FOLDER, Place, Reading, name_of, some, word_of
from drmm.data.sizes import RULE, working_size
from drmm.data.store import keep_pixels, kept_pixels
from drmm.errors import InputError
from drmm.files import expanded
from drmm.progress import track

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

_HOW: dict[Shape, str] = {"stretch": "stretched", "pad": "padded", "crop": "cropped"}


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
    path: str | Path,
    size: tuple[int, int] | None = None,
    classes: Collection[str] = (),
    *,
    shape: Shape = "stretch",
    labels: str | Path | None = None,
    store: Path | None = None,
) -> Dataset:
    """Read `path/train/<class>/**` and `path/test/<class>/**`, or else `path/<class>/**` without a test set.

    Pictures in `unlabelled/` beside the classes have no label, nor have those in no folder at all. The names
    `unlabelled` (or `unlabeled`), `train` and `test` are known in any case, and whatever spaces and signs are
    around them. A folder called train or test that holds pictures itself, beside other classes, is a class of
    that name.

    With `labels`, those of that table are all there are, and folders are no classes; `test/` beside `train/` is to
    test with.

    Every file counts as a picture by its content, or is in `skipped` with a reason. Links are followed, and a
    file that several lead to is read once. Classes are called like their folders, in Unicode's composed form.

    Args:
        path: A folder, or a zip archive of one.
        size: (H, W) to resize all pictures to; by default what `drmm.data.sizes.working_size` says.
        classes: Names of folders that are classes, though they are called like a part or like `unlabelled`.
        shape: How to fill the size where the aspect ratio is another.
        labels: A table of files and labels (see `drmm.data.label_files`).
        store: A folder to keep the decoded pictures in, unless it holds others, and to find them in again; the
            images are then mapped from a file there and take no memory.

    Returns:
        The data set, named like the folder.

    Raises:
        InputError: No pictures; a test class that has no training folder, folders that may be meant as classes or
            as parts of a split, one file in two classes; a table of labels that does not fit.
        RunError: The archive, the table or more than half of the pictures cannot be read; the message names the
            first.

    Warns:
        UserWarning: Pictures that cannot be read were skipped; a class folder holds none, or one; a file has
            several frames, of which the first counts; two folders make one class; labels that cannot be used.
    """
    path = Path(path)
    declared = {name_of(name) for name in classes}
    with listed(path) as found:
        reading = Reading.of(found, declared) if labels is None else None
        places, odd = _told(found, expanded(labels or "")) if reading is None else (reading.places(found), ())
        _read_once(found, places)
        entries = indexed(found)
        _check_read(found, entries)
        order = sorted(found.pictures, key=lambda member: places[member].is_test)
        working = size or working_size([(entries[member].height, entries[member].width) for member in order])
        images = _pixels(found, order, entries, working, shape, store)
        order = [member for member in order if member in found.pictures]
    n_train = sum(not places[member].is_test for member in order)
    read = [places[member] for member in order]
    named = tuple(sorted({place.label for place in read[:n_train] if place.label}))
    codes = _encoded([place.label for place in read], named, path)
    if reading is not None:
        reading.warn_of_classes(found)
    return Dataset(
        path.resolve().name.removesuffix(".zip"),
        images[:n_train],
        codes[:n_train],
        images[n_train:],
        codes[n_train:],
        named,
        tuple(map(str, order[:n_train])),
        _content(found, entries, places if labels else {}),
        (*found.skipped, *odd),
        _resized(entries.values(), working, shape, "" if size else f" (by {RULE})"),
        tuple(map(str, order[n_train:])),
    )


def _told(found: Listing, table: Path) -> tuple[dict[PurePosixPath, Place], Sequence[Skipped]]:
    """What a table of labels says of the pictures, and what of it cannot be used."""
    labels, odd = matched(read_labels(table), found.pictures, found.root, table)
    tops = {word_of(member.parts[0]) for member in found.pictures if len(member.parts) > 1}
    places = {
        member: Place(tops >= PARTS and word_of(member.parts[0]) == "test", labels.get(member))
        for member in found.pictures
    }
    return places, odd


def _check_read(found: Listing, entries: Mapping[PurePosixPath, Entry]) -> None:
    check_losses(found.skipped, len(entries), found.root)
    if not entries:
        skipped = f" ({summary(found.skipped)})" if found.skipped else ""
        raise InputError(f"{found.root} holds no pictures{skipped}: add some")
    if longer := [str(member) for member, entry in entries.items() if entry.has_more]:
        message = f"{found.root}: the first frame counts of each file with several: {some(longer)}"
        warnings.warn(message, UserWarning, stacklevel=3)


def _pixels(
    found: Listing,
    order: Sequence[PurePosixPath],
    entries: Mapping[PurePosixPath, Entry],
    size: tuple[int, int],
    shape: Shape,
    store: Path | None,
) -> Images:
    """The pictures (N, C, H, W) in that order, grey if all are; those that are stored already are not decoded."""
    channels = max(entry.channels for entry in entries.values())
    about = {"content": _content(found, entries, {}), "shape": shape, "images": [len(order), channels, *size]}
    if store is not None and (images := kept_pixels(store, about)) is not None:
        return images
    decoded = found.decoded(order, channels=channels, size=size, shape=shape)
    reading = track(decoded, f"Reading {found.root.name}", len(order))
    with quiet():
        levels = (picture.levels for _, picture in reading)
        return keep_pixels(store, about, levels)


def _content(found: Listing, entries: Mapping[PurePosixPath, Entry], places: Mapping[PurePosixPath, Place]) -> str:
    """Digest of names and bytes, and of the labels that a table gives."""
    each = [
        joined([digest(_encodable(nfc(str(member)))), bytes.fromhex(entries[member].digest)]).encode()
        for member in found.pictures
    ]
    told = [_encodable(f"{member}\n{place.label}") for member, place in places.items() if place.label]
    return digest_of([*each, *told])


def _encodable(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _resized(entries: Collection[Entry], size: tuple[int, int], shape: Shape, why: str) -> str:
    """From which sizes pictures have come to theirs, and why, in words; empty where they had it."""
    heights, widths = ([getattr(entry, name) for entry in entries] for name in ("height", "width"))
    least, most = (min(heights), min(widths)), (max(heights), max(widths))
    if {least, most} == {size}:
        return ""
    sizes = " to ".join(f"{height}x{width}" for height, width in sorted({least, most}))
    return f"{_HOW[shape]} from {sizes}{why}"


def _read_once(found: Listing, places: Mapping[PurePosixPath, Place]) -> None:
    """Count a file that links lead to once; where it has a label, there."""

    def kept(same: list[PurePosixPath]) -> PurePosixPath:
        labelled = [member for member in same if places[member] != Place(is_test=False, label=None)]
        if len({places[member] for member in labelled}) > 1:
            names = " and ".join(map(str, labelled))
            raise InputError(f"{found.root}: {names} are one file in two places: keep one")
        return (labelled or same)[0]

    found.read_once(kept)


def _encoded(labels: Sequence[str | None], classes: tuple[str, ...], root: Path) -> Labels:
    codes = {None: UNLABELLED} | {label: code for code, label in enumerate(classes)}
    strangers = sorted({label for label in labels if label} - codes.keys())
    if strangers:
        raise InputError(f"{root}: test class {strangers[0]} has no training folder: add or rename one")
    return np.array([codes[label] for label in labels], np.int64)
