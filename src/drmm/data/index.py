"""What is known of every picture of a folder, kept from one time to the next: only what has changed is opened.

It lies in the user's cache folder, a database for each folder of pictures, and may be removed at any time. Nothing
is ever written into the folders themselves.
"""

__all__ = ["Entry", "indexed"]

import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn

from drmm.data.base import digest
from drmm.data.caches import database
from drmm.data.decoding import UnreadableError, decode_picture, quiet
from drmm.data.listing import Listing
from drmm.data.parallel import ahead
from drmm.errors import InputError
from drmm.progress import track

_FORM = 2  # of the table: another one is another file
_LOOK = (32, 32)  # pixels that a picture is looked at with
_UNSURE = 2_000_000_000  # ns: what has changed since may change again without a later time to tell
_KEPT_AT_ONCE = 500


class Entry(NamedTuple):
    """What is known of a picture.

    Attributes:
        bytes: of the file.
        changed: when, in ns since 1970; within an archive, the checksum.
        digest: of the bytes, 32 hexadecimal digits.
        kind: its format, as Pillow calls it.
        height: in pixels, upright.
        width: likewise.
        channels: 1 for grey, else 3.
        has_more: whether it has further frames, which do not count.
        chroma: levels between the highest and the lowest channel, in the mean of its pixels.
        phash: perceptual hash, 16 hexadecimal digits: pictures that look alike differ in few of the 64 bits.
        reason: why it cannot be read; empty where it can.
    """

    bytes: int
    changed: int
    digest: str = ""
    kind: str = ""
    height: int = 0
    width: int = 0
    channels: int = 0
    has_more: bool = False
    chroma: float = 0.0
    phash: str = ""
    reason: str = ""


def indexed(found: Listing) -> dict[PurePosixPath, Entry]:
    """What is known of each picture that can be read; the others are skipped as losses.

    A file whose length and time of change are as before is not opened. New ones are decoded, in threads.

    Args:
        found: a folder or archive; what cannot be read moves to its `skipped`.

    Returns:
        By relative path, in order.
    """
    names = {member: os.fsencode(str(member)) for member in found.pictures}
    table, known = _remembered(found.root)
    with closing(table):
        entries = {member: known[name] for member, name in names.items() if name in known}
        new = [
            member
            for member, file in found.pictures.items()
            if member not in entries or entries[member][:2] != (file.bytes, file.changed)
        ]
        _forget(table, known.keys() - set(names.values()))
        looking = track(ahead(partial(_examined, found), new), f"Looking at {found.root.name}", len(new))
        fresh: dict[bytes, Entry] = {}
        with quiet():
            for member, entry in zip(new, looking, strict=True):
                entries[member] = fresh[names[member]] = entry
                if len(fresh) == _KEPT_AT_ONCE:
                    _keep(table, fresh)
                    fresh.clear()
        _keep(table, fresh)
    for member in list(found.pictures):
        if reason := entries[member].reason:
            found.skip(member, reason, is_loss=True)
    return {member: entries[member] for member in found.pictures}


def _examined(found: Listing, member: PurePosixPath) -> Entry:
    file = found.pictures[member]
    entry = Entry(file.bytes, file.changed)
    try:
        content = found.read(member)
        levels, (height, width), has_more, kind = decode_picture(content, str(member), size=_LOOK)
    except UnreadableError as error:
        return entry._replace(reason=error.reason)
    except InputError as error:  # levels of which no format says how they look
        return entry._replace(reason=str(error).removeprefix(f"{member} "))
    chroma, phash = float(np.ptp(levels, axis=0).mean()), _perceptual_hash(levels)
    return Entry(*entry[:2], digest(content).hex(), kind, height, width, len(levels), has_more, chroma, phash)


def _perceptual_hash(levels: npt.NDArray[np.uint8]) -> str:
    """Which of the 64 lowest frequencies are above their median: robust to size, format and brightness."""
    lowest = dctn(levels.mean(0), norm="ortho")[:8, :8].round(3)  # no rounding error decides
    return np.packbits(lowest > np.median(lowest)).tobytes().hex()


# --- the database ------------------------------------------------------------------------------------------------


def _remembered(root: Path) -> tuple[sqlite3.Connection, dict[bytes, Entry]]:
    """The database of a folder of pictures, and what it holds."""
    name = f"folders/{digest(os.fsencode(root.resolve())).hex()}-{_FORM}.sqlite"
    table = database(name, f"files (path BLOB PRIMARY KEY, {', '.join(Entry._fields)})")
    return table, {name: Entry(*entry) for name, *entry in table.execute("SELECT * FROM files")}


def _forget(table: sqlite3.Connection, names: Iterable[bytes]) -> None:
    with suppress(sqlite3.OperationalError), table:
        table.executemany("DELETE FROM files WHERE path = ?", ((name,) for name in names))


def _keep(table: sqlite3.Connection, entries: Mapping[bytes, Entry]) -> None:
    """Keep what is sure to be the same next time: a file that cannot be read may be readable by then."""
    sure = time.time_ns() - _UNSURE
    rows = [(name, *entry) for name, entry in entries.items() if not entry.reason and entry.changed < sure]
    marks = ", ".join("?" * (1 + len(Entry._fields)))
    with suppress(sqlite3.OperationalError), table:  # a full disk, or another process at work
        table.executemany(f"INSERT OR REPLACE INTO files VALUES ({marks})", rows)  # noqa: S608
