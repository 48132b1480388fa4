"""Everything back to where it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from drmm.files import RUN
from drmm.progress import track
from drmm.sorting.apply import is_done, source_is_there
from drmm.sorting.disk import file_digest, holds, move
from drmm.sorting.journal import How, Journal, Step
from drmm.sorting.plan import is_link

__all__ = ["Undone", "undo"]

_Fate = Literal["back", "changed", "gone", "occupied"]


@dataclass(frozen=True)
class Undone:
    """What came of taking everything back.

    Attributes:
        back: how many pictures are where they were.
        kept: what stays in the folder of sorted pictures, by its path there, with why.
        gone: sources of pictures that are neither there nor here.
        to_try_again: whether some of what was kept goes back once its place is free; nothing is forgotten then.
    """

    back: int
    kept: dict[str, str]
    gone: list[str]
    to_try_again: bool


def undo(into: Path) -> Undone:
    """Take back all that was sorted into a folder: pictures that are no longer at their place go there again.

    What was changed or added since is kept, and nothing is replaced. A picture that somebody moved on within the
    folder is found. A model that was trained for sorting is kept.

    Raises:
        RunError: if nothing was sorted into it, or another process has it.
    """
    Journal.of(into)
    with Journal.opened(into) as journal:
        steps = _steps(journal)
        journal.begin_undo()
        undone = _taken_back(steps, into)
        if not undone.to_try_again:
            journal.remove()
    if not undone.to_try_again:
        others = {name: "not made by sorting" for name in _others(into) if name not in undone.kept}
        undone.kept.update({**others, **dict.fromkeys(others.keys() & {RUN}, "the model that was trained")})
        with suppress(OSError):  # something is kept
            into.rmdir()
    return undone


def _steps(journal: Journal) -> list[tuple[How, Step]]:
    """All that was done, the last first."""
    return [
        (plan.how, step)
        for plan in reversed(journal.plans)
        for step in reversed(plan.steps)
        if step.target not in (plan.left or {}) or is_done(step, plan.how, journal.into / step.target)
    ]


def _taken_back(steps: list[tuple[How, Step]], into: Path) -> Undone:
    back, gone, kept, to_try_again = 0, [], {}, False
    elsewhere = _Elsewhere(into, {step.target for _, step in steps}, {step.n_bytes for _, step in steps})
    for how, step in track(steps, "taking back"):
        try:
            fate = _take_back_link(step, how, into) if is_link(step, how) else _take_back(step, into, elsewhere)
        except OSError as error:
            kept[step.target], to_try_again = f"cannot go back to {step.source} ({error.strerror})", True
            continue
        if fate == "back":
            back += 1
        elif fate == "gone":
            gone.append(step.source)
        elif fate == "changed":
            kept[step.target] = f"changed since it was sorted from {step.source}"
        else:
            kept[step.target] = f"another file is at {step.source}"
            to_try_again = to_try_again or how == "move"  # the copied file is there, as somebody has changed it
    for folder in {(into / step.target).parent for _, step in steps}:
        with suppress(OSError):  # not empty, or gone
            folder.rmdir()
    return Undone(back, kept, gone, to_try_again)


def _take_back(step: Step, into: Path, elsewhere: _Elsewhere) -> _Fate:
    source, target = Path(step.source), into / step.target
    part = source.with_name(f".drmm-{step.digest}")
    part.unlink(missing_ok=True)  # after a kill
    is_here = not target.is_symlink() and holds(target, step.digest, step.n_bytes)
    if holds(source, step.digest, step.n_bytes):
        if is_here:
            target.unlink()
        return "changed" if os.path.lexists(target) else "back"
    found = target if is_here else elsewhere.found(step)
    if found is None:
        return "changed" if os.path.lexists(target) else "gone"
    if os.path.lexists(source):
        return "occupied"
    source.parent.mkdir(parents=True, exist_ok=True)
    return "back" if move(found, source, part, step.digest) else "changed"


def _take_back_link(step: Step, how: How, into: Path) -> _Fate:
    source, target = Path(step.source), into / step.target
    is_ours = is_done(step, how, target)
    if how == "move" and not source_is_there(step, source):
        if not is_ours:
            return "changed" if os.path.lexists(target) else "gone"
        if os.path.lexists(source):
            return "occupied"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.symlink_to(step.link)
    if is_ours:
        target.unlink()
    return "changed" if os.path.lexists(target) else "back"


@dataclass(frozen=True)
class _Elsewhere:
    """Files in the folder of sorted pictures that are not where they were sorted to.

    Attributes:
        into: the folder.
        targets: where files were sorted to.
        sizes: of these files; others are none of them.
    """

    into: Path
    targets: set[str]
    sizes: set[int]

    def found(self, step: Step) -> Path | None:
        """A file with the content of a picture, each only once."""
        paths = self._by_digest.get(step.digest)
        return paths.pop() if paths else None

    @cached_property
    def _by_digest(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for name in _others(self.into):
            path = self.into / name
            if name not in self.targets and not path.is_symlink() and path.stat().st_size in self.sizes:
                found.setdefault(file_digest(path), []).append(path)
        return found


def _others(into: Path) -> Iterator[str]:
    """What lies in the folder of sorted pictures; the model is one thing."""
    for folder, folders, files in os.walk(into):
        inner = Path(folder).relative_to(into)
        if inner == Path() and RUN in folders:
            folders.remove(RUN)
            yield RUN
        yield from sorted((inner / name).as_posix() for name in files)
