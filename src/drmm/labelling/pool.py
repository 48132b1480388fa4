"""The pictures of a folder by number, small enough to be sent to a page."""

from __future__ import annotations

import io
import sqlite3
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from drmm.data.base import Skipped, digest
from drmm.data.caches import database
from drmm.data.decoding import decode_picture
from drmm.data.index import Entry, indexed
from drmm.data.listing import Listing, listed, nfc
from drmm.errors import InputError, RunError

__all__ = ["Known", "Pool"]

_THUMBNAIL, _PICTURE = 256, 1024  # pixels of the longer side
_QUALITY = 90
_TABLE = "thumbnails (picture TEXT, side INTEGER, jpeg BLOB, PRIMARY KEY (picture, side))"


class Known(NamedTuple):
    """What is known of a folder's pictures once they have been looked at.

    Attributes:
        found: the folder; what cannot be read is among the skipped.
        entries: of each picture that can be read.
        digests: of what each picture's file holds, by its number in the pool; "" of a broken one.
    """

    found: Listing
    entries: Mapping[PurePosixPath, Entry]
    digests: Sequence[str]


class Pool:
    """The pictures of a folder, numbered from 0 in the order of their names for as long as this object lives.

    It is there as soon as they are listed. What is in them is looked at meanwhile, by a thread; a picture that is
    found to be broken keeps its number and is among the `skipped`.

    Args:
        folder: which.

    Raises:
        RunError: if it is no folder.
        InputError: if there is no picture in it.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise RunError(f"{folder} is no folder: name a folder of pictures, and unpack an archive first")
        self.folder = folder
        with listed(folder) as found:
            found.read_once()
            self._found = found
        self.files: tuple[PurePosixPath, ...] = tuple(found.pictures)
        if not self.files:
            raise InputError(f"{folder} holds no pictures: add some")
        self._looked: Future[Known] = Future()
        threading.Thread(target=self._look, daemon=True).start()  # which an end of the process does not wait for

    def __len__(self) -> int:
        return len(self.files)

    @property
    def is_ready(self) -> bool:
        """Whether all pictures have been looked at."""
        return self._looked.done()

    @property
    def known(self) -> Known:
        """What is known of the pictures; it waits for them all."""
        return self._looked.result()

    @property
    def digests(self) -> Sequence[str]:
        """Of what each picture's file holds, 32 hexadecimal digits, "" of a broken one; it waits for them all."""
        return self.known.digests

    @property
    def skipped(self) -> Sequence[Skipped]:
        """Everything in the folder that is not asked for, and why; of broken pictures once it is ready."""
        return (self.known.found if self.is_ready else self._found).skipped

    @cached_property
    def unnameable(self) -> frozenset[PurePosixPath]:
        """Files whose name no table holds: no Unicode, spaces at its ends, or one that reads like another's."""
        counts = Counter(nfc(str(member)) for member in self.files)
        return frozenset(
            member
            for member in self.files
            if (name := str(member)) != name.strip()
            or counts[nfc(name)] > 1
            or name != name.encode("utf-8", "ignore").decode()
        )

    def digest(self, number: int) -> str:
        """Of what a picture's file holds, without a wait for the others.

        Raises:
            InputError: if there is no such picture.
            RunError: if it cannot be read.
        """
        self._check(number)
        known = self.digests[number] if self.is_ready else ""
        return known or digest(self._found.read(self.files[number])).hex()

    def path(self, number: int) -> Path:
        """Where a picture is.

        Raises:
            InputError: if there is no such picture.
        """
        self._check(number)
        return self.folder / self.files[number]

    def thumbnail(self, number: int, side: int = _THUMBNAIL) -> bytes:
        """A small picture as JPEG, upright, which is kept in the user's cache folder.

        Args:
            number: which picture.
            side: pixels of the longer side at the most; nothing is enlarged.

        Raises:
            InputError: if there is no such picture, or what its numbers mean is not known.
            RunError: if it cannot be read.
        """
        name = self.digest(number)
        with closing(database(f"thumbnails/{name[:2]}.sqlite", _TABLE)) as table:
            query = "SELECT jpeg FROM thumbnails WHERE picture = ? AND side = ?"
            if (row := table.execute(query, (name, side)).fetchone()) is not None:
                return bytes(row[0])
            content = self._found.read(self.files[number])
            jpeg = self._jpeg(content, number, side)
            with suppress(sqlite3.OperationalError), table:  # a full disk, or another process at work
                row = (digest(content).hex(), side, jpeg)  # it may have changed since it was looked at
                table.execute("INSERT OR REPLACE INTO thumbnails VALUES (?, ?, ?)", row)
        return jpeg

    def picture(self, number: int, side: int = _PICTURE) -> bytes:
        """The same at a larger size, which is not kept."""
        self._check(number)
        return self._jpeg(self._found.read(self.files[number]), number, side)

    def _check(self, number: int) -> None:
        if not 0 <= number < len(self.files):
            raise InputError(f"there is no picture {number}: they go from 0 to {len(self.files) - 1}")

    def _jpeg(self, content: bytes, number: int, side: int) -> bytes:
        levels = decode_picture(content, str(self.path(number)), size=(side, side), shape="within").levels
        file = io.BytesIO()
        planes = levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, 2)
        Image.fromarray(planes).save(file, "JPEG", quality=_QUALITY, subsampling=0)
        return file.getvalue()

    def _look(self) -> None:
        own = replace(self._found, pictures=dict(self._found.pictures), skipped=list(self._found.skipped))
        try:
            entries = indexed(own)
        except Exception as error:  # noqa: BLE001  (who asks is told)
            self._looked.set_exception(error)
        else:
            digests = [entries[member].digest if member in entries else "" for member in self.files]
            self._looked.set_result(Known(own, entries, digests))
