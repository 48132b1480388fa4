"""The class and the part that the names of folders give to a picture; what may be meant as either is refused."""

__all__ = ["PARTS", "UNLABELLED_FOLDER", "Place", "Reading", "name_of", "some", "word_of"]

import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from drmm.data.listing import Listing, nfc
from drmm.errors import InputError
from drmm.files import NOT_SORTED, RUN

UNLABELLED_FOLDER = "unlabelled"
PARTS = {"train", "test"}

_LIKE_PARTS = {"train", "training", "test", "testing", "val", "valid", "validation"}
_UNLABELLED_WORDS = {UNLABELLED_FOLDER, "unlabeled"}
_BEGINS_UNLABELLED = "unlab"  # misspelt, or with more after it
_DECLARE = "declare a class of that name (setting data.classes)"
_SHOWN = 5  # names in a warning


class Place(NamedTuple):
    """What folders say of a picture: whether it is to test with, and its class, None if it has no label."""

    is_test: bool
    label: str | None


class Reading(NamedTuple):
    """How the names of folders are understood.

    Attributes:
        root: The folder or archive.
        declared: Names that are classes whatever they sound like.
        depth: Of class folders: 1, or 2 below train/ and test/.
        is_sorted: Whether the folder was made by `drmm sort`, which names folders in its own way.
    """

    root: Path
    declared: Collection[str]
    depth: int
    is_sorted: bool = False

    @classmethod
    def of(cls, found: Listing, declared: Collection[str]) -> "Reading":
        """How the folders of a listing are to be understood.

        Raises:
            InputError: if they may be meant in two ways.
        """
        if found.is_sorted:
            return cls(found.root, declared, 1, is_sorted=True)
        return cls(found.root, declared, 2 if _are_split(found.pictures, found.root, declared) else 1)

    def places(self, found: Listing) -> dict[PurePosixPath, Place]:
        """Where each picture belongs.

        Raises:
            InputError: if one may belong to two places, or a class that was declared has none.
        """
        places = {member: self.place(member) for member in found.pictures}
        self.check_within_classes(places)
        if absent := set(self.declared) - {place.label for place in places.values()}:
            raise InputError(f"{self.root} holds no pictures of class {min(absent)}: leave it out of the classes")
        loose = [str(member) for member in places if len(member.parts) == 1]
        if 0 < len(loose) < len(places):
            _warn(f"{self.root}: no label for pictures in no folder: {some(loose)}")
        return places

    def place(self, member: PurePosixPath) -> Place:
        """Where one belongs; beside class folders it has no label."""
        if len(member.parts) == self.depth == 1:
            return Place(is_test=False, label=None)
        if len(member.parts) <= self.depth:
            advice = f"move it to <class>/ or {UNLABELLED_FOLDER}/"
            raise InputError(f"{self.root}: picture {member} is in no class folder: {advice}")
        is_test = self.depth == 2 and word_of(member.parts[0]) == "test"
        return Place(is_test, self.label(member.parts[self.depth - 1]))

    def label(self, folder: str) -> str | None:
        """The class that a folder stands for."""
        name, word = name_of(folder), word_of(folder)
        if name in self.declared:
            return name
        if self.is_sorted:
            return (
                None if folder in {RUN, *NOT_SORTED.values()} else nfc(unquote(folder, errors="surrogateescape"))
            )
        if word in _UNLABELLED_WORDS:
            return None
        if word.startswith(_BEGINS_UNLABELLED):
            advice = f"rename it to {UNLABELLED_FOLDER}/, or {_DECLARE}"
            raise InputError(f"{self.root}: {folder}/ may be a class or pictures without a label: {advice}")
        return name

    def check_within_classes(self, places: Mapping[PurePosixPath, Place]) -> None:
        """Refuse parts within classes, which would all be learned from."""
        inner = {
            word_of(folder)
            for member, place in places.items()
            if place.label
            for folder in member.parts[self.depth : -1]
        }
        if odd := inner & _UNLABELLED_WORDS or (PARTS if inner >= PARTS else set()):
            raise InputError(
                f"{self.root}: class folders hold {min(odd)}/: move its pictures up, to {UNLABELLED_FOLDER}/ or "
                "to train/<class>/ and test/<class>/"
            )

    def warn_of_classes(self, found: Listing) -> None:
        """Say which class folders make no class, one of a single picture, or one class together."""
        spelt: dict[str | None, Counter[str]] = {}
        for member in found.pictures:
            place = self.place(member)
            if not place.is_test:
                spelt.setdefault(place.label, Counter())[member.parts[self.depth - 1]] += 1
        spelt.pop(None, None)
        homes = {folder: self.place(folder / "any") for folder in found.folders if len(folder.parts) == self.depth}
        known = {None, *spelt}
        empty = [f"{home}/" for home, place in homes.items() if not place.is_test and place.label not in known]
        single = [label for label, counts in spelt.items() if label and counts.total() == 1]
        if empty:
            _warn(f"{self.root}: no class for {some(empty)}, where no picture can be read")
        if single:
            _warn(f"{self.root}: a single picture in class {some(single)}")
        for label, counts in spelt.items():
            if len(counts) > 1:
                _warn(f"{self.root}: folders {some([repr(name) for name in counts])} are one class, {label}")


def some(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)


def name_of(folder: str) -> str:
    """A folder's name as that of a class."""
    return nfc(folder).strip() or folder


def word_of(folder: str) -> str:
    """What a folder's name says, in whatever case and between whatever signs."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", folder).casefold()))


def _are_split(members: Collection[PurePosixPath], root: Path, declared: Collection[str]) -> bool:
    """Whether the folders at the top are train/ and test/, with class folders inside, and not classes themselves.

    Raises:
        InputError: if they may be meant as either.
    """
    tops = {member.parts[0] for member in members if len(member.parts) > 1}
    parts = {top for top in tops if word_of(top) in _LIKE_PARTS and name_of(top) not in declared}
    nested = {member.parts[0] for member in members if len(member.parts) > 2} & parts
    mixed = {member.parts[0] for member in members if len(member.parts) == 2} & nested
    if mixed:
        odd = min(mixed)
        raise InputError(f"{root}: {odd}/ holds pictures beside folders: move them into {odd}/<class>/")
    if parts and not nested and all(top in parts or word_of(top) in _UNLABELLED_WORDS for top in tops):
        names = " and ".join(f"{top}/" for top in sorted(parts))
        raise InputError(
            f"{root}: {names} may be parts or classes: move pictures to train/<class>/, or {_DECLARE}"
        )
    if not nested:
        return False
    strange = {top for top in nested if word_of(top) not in PARTS}
    if strange or "train" not in map(word_of, nested):
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
