"""A person's labels: a database beside the folder of pictures, to which events are added and nothing is changed.

An event is on the disk before its call returns. Labels belong to what a picture's file holds, so that they are
found again wherever it has moved. One process at a time has a store, and its threads take turns.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from drmm.data.label_files import matched, read_labels
from drmm.data.labels import NO_CLASSES
from drmm.data.listing import nfc
from drmm.display.text import one_line
from drmm.errors import InputError, RunError
from drmm.files import write_csv
from drmm.labelling.pool import Pool
from drmm.sorting.journal import RESERVED
from drmm.sorting.names import folder_names

__all__ = ["Event", "Exported", "Kind", "State", "Store", "store_file"]

Kind = Literal["label", "skip", "class", "rename", "merge", "import", "undo", "redo"]

_FORM = 1  # of the events; a store of a later one is for a later version
_OURS = 0x64726D6D  # "drmm", in the file's header
_TABLE = "events (number INTEGER PRIMARY KEY, time REAL, kind TEXT, deed TEXT, once TEXT UNIQUE)"
_PICTURE = re.compile("[0-9a-f]{32}")
_JOINERS = str.maketrans("", "", "\u200c\u200d")  # within words of Persian and Hindi, and within emoji


@dataclass(frozen=True)
class Event:
    """One deed of a person.

    Attributes:
        number: from 1, in the order in which they came.
        kind: what it is.
        labels: the class that each picture got, by digest; None where it was skipped.
        names: of classes that it made or renamed, by their number.
        merged: the class that each one has become.
        by: whose word the labels are, such as "person", "proposal" (the model's, accepted) or "table".
        drawn: whether the pictures were asked for at random (`drmm.labelling.asking`).
        of: number of the event that was undone or redone.
    """

    number: int
    kind: Kind
    labels: Mapping[str, int | None] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    merged: Mapping[int, int] = field(default_factory=dict)
    by: str = ""
    drawn: bool = False
    of: int = 0


@dataclass
class State:
    """What the events have led to.

    Attributes:
        version: number of the last event.
        classes: names by number, in the order in which they were added; numbers are never used again.
        labels: the class of each labelled picture, by digest.
        drawn: labelled pictures that were asked for at random, before they had a label.
        skipped: digests of pictures of which the person could not tell.
        merged: the class that each one has become which is no more.
    """

    version: int = 0
    classes: dict[int, str] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    drawn: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    merged: dict[int, int] = field(default_factory=dict)

    def copy(self) -> State:
        """Another one with the same content."""
        return State(
            self.version,
            dict(self.classes),
            dict(self.labels),
            set(self.drawn),
            set(self.skipped),
            dict(self.merged),
        )

    def take(self, event: Event) -> None:
        """Go on by an event."""
        self.classes.update(event.names)
        for old, new in event.merged.items():
            del self.classes[old]
            self.merged[old] = new
            self.labels.update({picture: new for picture, label in self.labels.items() if label == old})
        for picture, label in event.labels.items():
            if label is None:
                self.labels.pop(picture, None)
                self.drawn.discard(picture)
                self.skipped.add(picture)
                continue
            if event.drawn and picture not in self.labels:
                self.drawn.add(picture)
            self.labels[picture] = label
            self.skipped.discard(picture)


class Exported(NamedTuple):
    """What became of the labels.

    Attributes:
        rows: how many files are in the table.
        elsewhere: how many labelled pictures are not in the folder.
        unnamed: files with a label whose name a table cannot hold: they are not in it.
    """

    rows: int
    elsewhere: int
    unnamed: tuple[PurePosixPath, ...]


def store_file(folder: Path) -> Path:
    """Where the labels of a folder of pictures lie, unless another place is chosen: beside it.

    Raises:
        InputError: if there is no place beside it.
    """
    whole = Path(os.path.abspath(folder))  # noqa: PTH100  (a link keeps its own name and place)
    if not whole.name:
        raise InputError(f"no place is beside {whole}: choose a file for the labels")
    return whole.with_name(f"{whole.name}.labels.sqlite")


class Store:
    """The labels of a person.

    Args:
        file: the database; it is made if it is not there.

    Raises:
        RunError: if another process has it, it is damaged, of a later version or no store of labels, or cannot be
            written.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._turn = threading.RLock()
        self._events: list[Event] = []
        self._by_token: dict[str, Event] = {}
        self._done: list[Event] = []
        self._undone: list[Event] = []
        with self._named_errors():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._table = sqlite3.connect(file, timeout=0, isolation_level=None, check_same_thread=False)
            try:
                self._open()
            except BaseException:
                self._table.close()
                raise
        self._state = self._folded()

    def close(self) -> None:
        """Let others have it."""
        with self._turn:
            self._table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    # --- what there is ---

    @property
    def state(self) -> State:
        """All of it as of one moment, a copy."""
        with self._turn:
            return self._state.copy()

    @property
    def version(self) -> int:
        """Number of the last event; 0 before the first."""
        return self._state.version

    @property
    def classes(self) -> dict[int, str]:
        """Names of the classes by number, in the order in which they were added."""
        with self._turn:
            return dict(self._state.classes)

    @property
    def labels(self) -> dict[str, int]:
        """The class of each labelled picture, by digest."""
        with self._turn:
            return dict(self._state.labels)

    @property
    def skipped(self) -> set[str]:
        """Digests of pictures that were skipped."""
        with self._turn:
            return set(self._state.skipped)

    def since(self, version: int) -> list[Event]:
        """The events after that number."""
        with self._turn:
            return self._events[max(version, 0) :]

    # --- what is done; errors: InputError for what cannot be meant, RunError if it cannot be written ---

    def label(
        self,
        pictures: str | Collection[str],
        class_id: int,
        *,
        by: str = "person",
        drawn: bool = False,
        once: str = "",
    ) -> Event:
        """Give a picture, or several at once, a class.

        Args:
            pictures: digests (`drmm.labelling.pool.Pool.digest`).
            class_id: number of the class; that of one which has been merged means the class that it is now.
            by: whose word it is.
            drawn: whether they were asked for at random.
            once: any name for this very deed: if it comes a second time, nothing happens.

        Raises:
            InputError: if there is no such class, or a digest is none.
            RunError: if it cannot be written.
        """
        with self._turn:
            if said := self._said(once):
                return said
            label = self._class(class_id)
            return self._add(Event(0, "label", dict.fromkeys(_digests(pictures), label), by=by, drawn=drawn), once)

    def skip(self, pictures: str | Collection[str], *, once: str = "") -> Event:
        """A person cannot tell the class: it has no label, and is not asked for again. Arguments as of `label`."""
        with self._turn:
            return self._said(once) or self._add(
                Event(0, "skip", dict.fromkeys(_digests(pictures)), by="person"), once
            )

    def add_class(self, name: str, pictures: str | Collection[str] = (), *, once: str = "") -> int:
        """A new class, and its first pictures if there are any, by one deed.

        Returns:
            Its number.

        Raises:
            InputError: if the name is none, or taken, or a digest is none.
            RunError: if it cannot be written.
        """
        with self._turn:
            event = self._said(once)
            if event is None:
                name, number = self._free(name), self._next_class()
                labels = dict.fromkeys(_digests(pictures), number)
                event = self._add(Event(0, "class", labels, {number: name}, by="person"), once)
            return next(iter(event.names))

    def rename_class(self, class_id: int, name: str, *, once: str = "") -> Event:
        """Another name for a class; errors as of `add_class` and `label`."""
        with self._turn:
            if said := self._said(once):
                return said
            number = self._class(class_id)
            return self._add(Event(0, "rename", names={number: self._free(name, but=number)}), once)

    def merge_classes(self, class_id: int, into: int, *, once: str = "") -> Event:
        """All pictures of a class are of another one; errors as of `label`."""
        with self._turn:
            if said := self._said(once):
                return said
            old, new = self._class(class_id), self._class(into)
            if old == new:
                raise InputError(f"{self._state.classes[old]} is one class already: choose two to merge")
            return self._add(Event(0, "merge", merged={old: new}), once)

    def undo(self, *, once: str = "") -> Event | None:
        """Take the last deed back that has not been.

        Returns:
            What was taken back; None if there is nothing.
        """
        return self._turn_back("undo", self._done, once)

    def redo(self, *, once: str = "") -> Event | None:
        """Do again what was taken back last, unless something else has been done since; likewise."""
        return self._turn_back("redo", self._undone, once)

    # --- tables ---

    def export(self, file: Path, pool: Pool) -> Exported:
        """Write a table of files and labels, as `drmm sort --labels` reads it.

        Raises:
            RunError: if it cannot be written.
        """
        state = self.state
        named = {
            member: state.classes[state.labels[digest]]
            for member, digest in zip(pool.files, pool.digests, strict=True)
            if digest in state.labels
        }
        unnamed = pool.unnameable & named.keys()
        rows = [(str(member), label) for member, label in named.items() if member not in unnamed]
        write_csv(file, ["file", "label"], rows)
        return Exported(len(rows), len(state.labels.keys() - set(pool.digests)), tuple(sorted(unnamed)))

    def import_table(self, file: Path, pool: Pool, *, once: str = "") -> int:
        """Take the labels of a table, by one deed; classes that are not there are added.

        Returns:
            How many pictures have another label than before.

        Raises:
            InputError: if the table does not fit, or a class has a name that cannot be.
            RunError: if it cannot be read, or the labels cannot be written.

        Warns:
            UserWarning: if some rows cannot be used.
        """
        told, _ = matched(read_labels(file), pool.files, pool.folder, file)
        digests = dict(zip(pool.files, pool.digests, strict=True))
        with self._turn:
            if said := self._said(once):
                return len(said.labels)
            numbers = {name: number for number, name in self._state.classes.items()}
            first = self._next_class()
            new = {name: None for name in map(_checked_name, told.values()) if name not in numbers}
            added = dict(enumerate(new, first))
            numbers |= {name: number for number, name in added.items()}
            labels = {digests[member]: numbers[_checked_name(name)] for member, name in told.items()}
            labels = {digest: label for digest, label in labels.items() if self._state.labels.get(digest) != label}
            if labels:
                self._add(Event(0, "import", labels, added, by="table"), once)
            return len(labels)

    # --- within a turn ---

    def _said(self, once: str) -> Event | None:
        """The event of that name, if it has come already."""
        return self._by_token.get(once)

    def _class(self, class_id: int) -> int:
        number = class_id
        while number in self._state.merged:
            number = self._state.merged[number]
        if number not in self._state.classes:
            raise InputError(
                f"there is no class of number {class_id}: choose one of {sorted(self._state.classes)}"
            )
        return number

    def _next_class(self) -> int:
        return 1 + max((number for event in self._events for number in event.names), default=-1)

    def _free(self, name: str, but: int | None = None) -> str:
        name = _checked_name(name)
        if any(name == other for number, other in self._state.classes.items() if number != but):
            raise InputError(f"there is a class {name} already: take another name, or merge the two")
        return name

    def _turn_back(self, kind: Literal["undo", "redo"], deeds: list[Event], once: str) -> Event | None:
        with self._turn:
            if said := self._said(once):
                return self._events[said.of - 1]
            if not deeds:
                return None
            last = deeds[-1]
            self._add(Event(0, kind, of=last.number), once)
            return last

    def _add(self, event: Event, once: str) -> Event:
        """Write an event, and only then count it."""
        event = replace(event, number=self._state.version + 1)
        deed = json.dumps({key: getattr(event, key) for key in _KEPT if getattr(event, key)})
        with self._named_errors():
            try:
                self._table.execute(
                    "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
                    (event.number, time.time(), event.kind, deed, once or None),
                )
            except sqlite3.Error:
                with suppress(sqlite3.Error):
                    self._table.rollback()
                raise
        self._count(event, once)
        if event.kind == "undo":
            self._state = self._folded()
        else:
            self._state.take(self._done[-1])
            self._state.version = event.number
        return event

    def _count(self, event: Event, once: str | None) -> None:
        self._events.append(event)
        if once:
            self._by_token[once] = event
        if event.kind == "undo":
            self._undone.append(self._done.pop())
        elif event.kind == "redo":
            self._done.append(self._undone.pop())
        else:
            self._done.append(event)
            self._undone.clear()

    def _folded(self) -> State:
        state = State()
        for event in self._done:
            state.take(event)
        state.version = len(self._events)
        return state

    def _open(self) -> None:
        """Take the lock, which ends with the process; look whether all is well; read the events."""
        self._table.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._table.execute("PRAGMA journal_mode = DELETE")
        # EXTRA is FULL, and the folder is written to the disk as well.
        self._table.execute("PRAGMA synchronous = EXTRA")
        self._table.execute("BEGIN EXCLUSIVE")
        ours, form = (
            self._table.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        is_new = not self._table.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not is_new and ours != _OURS:
            raise RunError(f"{self.file} is no store of labels: choose another file")
        if form > _FORM:
            raise RunError(f"{self.file} was written by a later version of drmm: update drmm")
        if is_new:
            self._table.execute(f"CREATE TABLE {_TABLE}")
            self._table.execute(f"PRAGMA application_id = {_OURS}")
            self._table.execute(f"PRAGMA user_version = {_FORM}")
        self._table.execute("COMMIT")
        if (found := self._table.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)
        rows = self._table.execute("SELECT number, kind, deed, once FROM events ORDER BY number")
        try:
            for number, kind, deed, once in rows:
                self._count(_event(number, kind, json.loads(deed)), once)
            self._folded()
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise sqlite3.DatabaseError(f"events cannot be read: {error!r}") from error
        if self._events and self._events[-1].number != len(self._events):
            raise sqlite3.DatabaseError("an event is missing")

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Those of the system and of SQLite in one line."""
        try:
            yield
        except OSError as error:
            raise RunError(f"cannot write {self.file}: {error.strerror}; choose another place") from error
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise RunError(f"another drmm label has {self.file}: close it first") from error
            raise RunError(f"cannot write {self.file} ({error}): free space, or choose another place") from error
        except sqlite3.Error as error:
            raise RunError(
                f"{self.file} is damaged ({error}): put it back from a backup, or choose another file"
            ) from error


_KEPT = ("labels", "names", "merged", "by", "drawn", "of")


def _event(number: int, kind: Kind, deed: dict[str, Any]) -> Event:
    """As it was written: the keys of JSON are text."""
    for name in ("names", "merged"):
        if name in deed:
            deed[name] = {int(key): value for key, value in deed[name].items()}
    return Event(number, kind, **deed)


def _digests(pictures: str | Collection[str]) -> list[str]:
    found = [pictures] if isinstance(pictures, str) else list(pictures)
    if odd := [one for one in found if not _PICTURE.fullmatch(one)]:
        raise InputError(f"{one_line(odd[0])!r} is no digest of a picture: take it from the pool")
    return found


def _checked_name(name: str) -> str:
    """A name as it is kept.

    Raises:
        InputError: if no class can be called so: not by the table of labels, nor by a folder.
    """
    name = nfc(name).strip()
    shown = name.translate(_JOINERS)
    if not shown.isprintable() or shown.lower() in NO_CLASSES:
        raise InputError(f"{one_line(name)!r} is no name of a class: give it another one, of one line")
    folder_names([name], RESERVED)
    return name
