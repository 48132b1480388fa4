"""Names of folders for classes, and of files that meet in one folder.

A folder is called like its class, but for what some system does not take in a name: that is written as in URLs,
%2F for /, so that `urllib.parse.unquote` gives the class back. Names that differ in nothing but their case, or how
accents are written, count as the same, as some systems have it.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import PurePath

from drmm.errors import InputError

__all__ = ["Names", "folder_names", "same"]

_LONGEST = 255  # bytes of a name that nearly every file system takes
_FORBIDDEN = set('%/\\:*?"<>|\x7f') | {chr(code) for code in range(32)}
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³")}


def same(name: str) -> str:
    """What names that some system takes for the same have in common."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def folder_names(labels: Iterable[str], reserved: Collection[str]) -> dict[str, str]:
    """The folder of each class.

    Args:
        labels: names of classes; of several that some system takes for the same the first keeps its own.
        reserved: names that no class gets, in lower case.

    Raises:
        InputError: if a class has no name, or one too long.
    """
    folders: dict[str, str] = {}
    taken: set[str] = set()
    for label in labels:
        if not label:
            raise InputError("a class has an empty name, which no folder can have: give it one")
        folder = _escaped(label, reserved)
        if same(folder) in taken:
            folder = "".join(map(_code, label))
        if len(os.fsencode(folder)) > _LONGEST:
            raise InputError(f"class {label[:30]}… has too long a name for a folder: shorten it")
        taken.add(same(folder))
        folders[label] = folder
    return folders


def _escaped(label: str, reserved: Collection[str]) -> str:
    first, last = label[0], len(label) - 1
    is_taken = same(label) in reserved or same(label).partition(".")[0].rstrip() in _DEVICES
    odd_start = is_taken or first in "._"  # hidden, or ours
    return "".join(
        _code(c) if c in _FORBIDDEN or (i == 0 and odd_start) or (i == last and c in " .") else c
        for i, c in enumerate(label)
    )


def _code(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogateescape"))


class Names:
    """Names of files in one folder: the first of a name keeps it, the next ones get -2, -3 … before their suffix.

    Args:
        taken: names that are there.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(map(same, taken))
        self._numbers: dict[str, int] = {}

    def free(self, name: str) -> str:
        """That name, or the next one of it that is free; it is taken from now on."""
        chosen, number = name, self._numbers.get(same(name), 1)
        while same(chosen) in self._taken:
            number += 1
            chosen = _numbered(name, number)
        self._numbers[same(name)] = number
        self._taken.add(same(chosen))
        return chosen


def _numbered(name: str, number: int) -> str:
    suffix = PurePath(name).suffix
    stem = name.removesuffix(suffix)
    while len(os.fsencode(f"{stem}-{number}{suffix}")) > _LONGEST:
        stem = stem[:-1]
    return f"{stem}-{number}{suffix}"
