"""Plans into deeds. What has been done is what the disk says: a step that was done does nothing again."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from drmm.errors import RunError
from drmm.files import write_csv
from drmm.progress import track
from drmm.sorting.disk import copy, holds, move, remove_source
from drmm.sorting.journal import How, Journal, Plan, Step, check_ours
from drmm.sorting.plan import Choice, check_room, is_link, planned

__all__ = ["finish_sorting", "is_done", "known_digests", "leads_to", "sort_files", "source_is_there"]

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # no later file fares better


class _LeftError(Exception):
    """A picture that stays where it is; why."""


def known_digests(into: Path) -> set[str]:
    """Of pictures that were sorted into a folder before; those that were left are not among them.

    Raises:
        RunError: if a plan is damaged, or all is being taken back.
    """
    journal = Journal(into)
    journal.check_not_being_undone()
    return {step.digest for plan in journal.plans for step in plan.steps if step.target not in (plan.left or {})}


def finish_sorting(into: Path) -> Plan | None:
    """Go on with a plan that was stopped.

    Returns:
        The plan, done; None if there is none.

    Raises:
        RunError: as of `sort_files`.
    """
    if not Journal(into).is_there:
        return None
    with Journal.opened(into) as journal:
        return _finished(journal)


def sort_files(
    choices: Iterable[Choice],
    into: Path,
    how: How,
    skipped: Iterable[tuple[str, str]] = (),
    made: Mapping[str, bytes] = MappingProxyType({}),
) -> Plan | None:
    """Sort pictures into folders by what was decided about them; those that are there already are left out.

    The plan is written down first. Killed at any time and called again, it ends in the same state. Sources are
    read, and with "move" removed once their content is in its new place; they are never written to.

    Args:
        choices: what was decided.
        into: a new folder, or one that was sorted into before.
        how: copy (with times and permissions); link (symbolic, to the file, or to what it leads to); or move,
            where a link is moved, not what it leads to.
        skipped: other files and why they are none of these, for `skipped.csv`.
        made: content of files to write into the folder beside them, by name.

    Returns:
        The plan that was carried out, with what was left; None if there was nothing new.

    Raises:
        InputError: if a class has a name that no folder can have.
        RunError: if the folder holds anything else, is in use, is being undone or has no room; or pictures cannot
            be moved away. Nothing has been touched then.
    """
    check_ours(into)
    with Journal.opened(into) as journal:
        done = _finished(journal)
        known = known_digests(into)
        new = [choice for choice in choices if choice.digest not in known]
        if new:
            folders, steps = planned(new, into, how, journal.plans)
            check_room(steps, into, how)
            for name, content in made.items():
                journal.write_made(name, content)
            journal.add(how, folders, steps)
            done = _finished(journal)
        _write_tables(journal, skipped)
    return done


def _finished(journal: Journal) -> Plan | None:
    journal.check_not_being_undone()
    plan = journal.unfinished
    if plan is None:
        return None
    into = journal.into
    check_room([step for step in plan.steps if not os.path.lexists(into / step.target)], into, plan.how)
    left = {}
    for step in track(plan.steps, "sorting"):
        try:
            _do(step, plan.how, journal)
        except _LeftError as reason:
            left[step.target] = str(reason)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise RunError(
                    f"cannot write {into / step.target}: {error.strerror}; mend that and give the same command "
                    "again: it goes on from here"
                ) from error
            left[step.target] = error.strerror or str(error)
    journal.finish(plan, left)
    return journal.plans[-1]


def _do(step: Step, how: How, journal: Journal) -> None:
    """Carry out a step, or what is missing of it.

    Raises:
        OSError: if a file cannot be read or written.
        _LeftError: if its picture stays where it is.
    """
    source, target = Path(step.source), journal.into / step.target
    if not is_done(step, how, target):
        if os.path.lexists(target):
            raise _LeftError(f"another file is at {target}")
        if not holds(source, step.digest, step.n_bytes):
            raise _LeftError("changed since it was looked at" if source.exists() else "gone")
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_link(step, how):
            target.symlink_to(leads_to(step))
        elif not (move if how == "move" else copy)(source, target, journal.part, step.digest):
            raise _LeftError("changed since it was looked at")
    if how == "move" and source_is_there(step, source):
        remove_source(source, target)


def is_done(step: Step, how: How, target: Path) -> bool:
    """Whether a target is what a step makes."""
    if is_link(step, how):
        return target.is_symlink() and str(target.readlink()) == leads_to(step)
    return not target.is_symlink() and holds(target, step.digest, step.n_bytes)


def source_is_there(step: Step, source: Path) -> bool:
    """Whether a source is what was planned with, and not something newer in its place."""
    if step.link:
        return source.is_symlink() and str(source.readlink()) == step.link
    return not source.is_symlink() and holds(source, step.digest, step.n_bytes)


def leads_to(step: Step) -> str:
    """Where a link leads that stands for a source: to the file, or to what the source itself leads to."""
    return str(Path(step.source).parent / step.link) if step.link else step.source


def _write_tables(journal: Journal, skipped: Iterable[tuple[str, str]]) -> None:
    """Write `sort.csv`, a line a picture, and `skipped.csv`, with what was left among them."""
    steps = [(step, (plan.left or {}).get(step.target)) for plan in journal.plans for step in plan.steps]
    facts = list(dict.fromkeys(name for step, _ in steps for name in step.facts))
    rows: list[list[str]] = []
    lost: dict[str, str] = {}
    for step, reason in steps:
        if reason is None:
            cells = [step.facts.get(name, "") for name in facts]
            rows.append([step.source, step.target, step.decision, step.label, *cells])
            lost.pop(step.source, None)  # at a second try
        else:
            lost[step.source] = reason
    for name, header, table in (
        ("sort.csv", ["file", "sorted", "decision", "label", *facts], rows),
        ("skipped.csv", ["file", "reason"], [*skipped, *lost.items()]),
    ):
        write_csv(journal.into / name, header, table)
        journal.keep_made(name)
