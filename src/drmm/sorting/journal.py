"""What a folder of sorted pictures knows of itself, in its `.drmm/`: written down before any file is touched.

`1.json`, `2.json` … are the plans, one for each time that new pictures were sorted; `1.left.json` says that the
first plan is done, and what could not be. `undo` says that all is being taken back. `made.json` has the digests of
tables and pages, `audit.json` what was drawn to be looked at. `part` is a copy that is not whole yet.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from drmm.errors import RunError
from drmm.files import JOURNAL, RUN, check_new, locked, read_json, write_bytes, write_json
from drmm.sorting.disk import file_digest

__all__ = ["RESERVED", "Decision", "How", "Journal", "Plan", "Step"]

Decision = Literal["labelled", "sorted", "unsure", "unfamiliar"]
"""Whose word decided: a label that was there; the model; nobody, as it is unsure or knows no such pictures."""

How = Literal["copy", "link", "move"]

_UNDO, _MADE, _AUDIT = "undo", "made.json", "audit.json"
_DAMAGED = "put it back from a backup; sort.csv says where each picture was"

RESERVED = {RUN, "sort.csv", "skipped.csv", "report.html", "audit.csv", "audit.html"}
"""Names in the folder of sorted pictures that are no class's, in lower case."""


@dataclass(frozen=True)
class Step:
    """One picture and where it goes.

    Attributes:
        source: where it was, absolute, without links in its folder.
        target: where it goes, below the folder of sorted pictures, with / between folders.
        digest: of its content (`drmm.sorting.disk.file_digest`).
        n_bytes: size of its content.
        link: what the source leads to, as it says itself, if it is a link; else "".
        label: its class, by a label or by the model.
        decision: whose word that is.
        facts: further columns of the table, by name.
    """

    source: str
    target: str
    digest: str
    n_bytes: int
    link: str
    label: str
    decision: Decision
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What is done at one time.

    Attributes:
        number: from 1.
        how: the way in which the pictures get there.
        folders: name of the folder of each class so far.
        steps: in order.
        left: why a step could not be done, by its target; None before the plan is done.
    """

    number: int
    how: How
    folders: dict[str, str]
    steps: tuple[Step, ...]
    left: dict[str, str] | None = None


class Journal:
    """Of one folder of sorted pictures; use `opened`.

    Args:
        into: the folder.

    Attributes:
        into: likewise.
    """

    def __init__(self, into: Path) -> None:
        self.into = into
        self._folder = into / JOURNAL

    @classmethod
    def of(cls, into: Path) -> Journal:
        """Of a folder that pictures have been sorted into, to read from.

        Raises:
            RunError: if it is none.
        """
        journal = cls(into)
        if not journal.is_there and not (into.is_dir() and not any(into.iterdir())):  # stopped at the very end
            raise RunError(f"{into} is no folder of drmm sort: nothing was sorted into it")
        return journal

    @classmethod
    @contextmanager
    def opened(cls, into: Path) -> Iterator[Journal]:
        """To write to, for one process at a time; the folder is made if it is not there.

        Raises:
            RunError: if the folder holds what is not from sorting, or another process has it.
        """
        check_ours(into)
        journal = cls(into)
        journal._folder.mkdir(parents=True, exist_ok=True)
        with locked(into):
            journal._remove_parts()
            try:
                yield journal
            finally:
                with suppress(OSError):  # there are plans
                    journal._folder.rmdir()
                    into.rmdir()

    @property
    def is_there(self) -> bool:
        """Whether anything has been sorted into the folder, or was begun to be."""
        return self._folder.is_dir()

    @property
    def part(self) -> Path:
        """Where a copy lies that is not whole yet."""
        return self._folder / "part"

    @cached_property
    def plans(self) -> tuple[Plan, ...]:
        """All plans, from the first.

        Raises:
            RunError: if one is damaged.
        """
        found: list[Plan] = []
        while (path := self._plan(len(found) + 1)).exists():
            left = self._left(len(found) + 1)
            found.append(_plan(path, len(found) + 1, read_json(left, _DAMAGED) if left.exists() else None))
        return tuple(found)

    @property
    def unfinished(self) -> Plan | None:
        """The plan that is not done yet."""
        return next((plan for plan in self.plans if plan.left is None), None)

    def add(self, how: How, folders: Mapping[str, str], steps: Sequence[Step]) -> None:
        """Write down a plan."""
        content = {"how": how, "folders": dict(folders), "steps": [vars(step) for step in steps]}
        write_json(self._plan(len(self.plans) + 1), content)
        self.__dict__.pop("plans", None)

    def finish(self, plan: Plan, left: Mapping[str, str]) -> None:
        """Write down that a plan is done, and what was left, with reasons by target."""
        write_json(self._left(plan.number), left)
        self.__dict__.pop("plans", None)

    def begin_undo(self) -> None:
        """Write down that all is to be taken back."""
        (self._folder / _UNDO).touch()

    def check_not_being_undone(self) -> None:
        """Refuse to go on with what is being taken back.

        Raises:
            RunError: if it is.
        """
        if (self._folder / _UNDO).exists():
            raise RunError(f"{self.into} is being taken back: finish that with drmm sort --undo {self.into}")

    @property
    def audit(self) -> dict[str, Any]:
        """What was drawn to be looked at; empty before."""
        return self._json(_AUDIT)

    def keep_audit(self, content: Mapping[str, Any]) -> None:
        """Write down what was drawn."""
        write_json(self._folder / _AUDIT, content)

    def write_made(self, name: str, content: bytes) -> None:
        """Write a table or page, and remember it."""
        write_bytes(self.into / name, content)
        self.keep_made(name)

    def keep_made(self, name: str) -> None:
        """Remember a table or page as it is now, to know later whether it is still as it was made."""
        write_json(self._folder / _MADE, self._made | {name: file_digest(self.into / name)})

    def remove(self) -> None:
        """Remove tables and pages that are as they were made, then, the mark of being undone last, all else."""
        for name, digest in self._made.items():
            path = self.into / name
            if path.is_file() and file_digest(path) == digest:
                path.unlink()
        for plan in reversed(self.plans):
            self._left(plan.number).unlink(missing_ok=True)
            self._plan(plan.number).unlink()
        shutil.rmtree(self._folder)

    def _remove_parts(self) -> None:
        """What a kill left of files that were not whole yet: of pictures, and of what `drmm.files` writes."""
        self.part.unlink(missing_ok=True)
        for folder in (self.into, self._folder):
            for part in folder.glob(".drmm-" + 16 * "[0-9a-f]"):
                part.unlink()

    @property
    def _made(self) -> dict[str, str]:
        return self._json(_MADE)

    def _json(self, name: str) -> dict[str, Any]:
        path = self._folder / name
        return read_json(path, _DAMAGED) if path.exists() else {}

    def _plan(self, number: int) -> Path:
        return self._folder / f"{number}.json"

    def _left(self, number: int) -> Path:
        return self._folder / f"{number}.left.json"


def check_ours(into: Path) -> None:
    """Refuse to sort into what holds anything else; a model that was trained for it may be there.

    Raises:
        RunError: if it does, is a file, or cannot be written.
    """
    if not (into / JOURNAL).is_dir() and not (into.is_dir() and {path.name for path in into.iterdir()} == {RUN}):
        check_new(into, "it holds what is not from sorting; choose another --into")


def _plan(path: Path, number: int, left: dict[str, str] | None) -> Plan:
    content = read_json(path, _DAMAGED)
    try:
        steps = tuple(Step(**step) for step in content["steps"])
        return Plan(number, content["how"], content["folders"], steps, left)
    except (KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}): {_DAMAGED}") from error
