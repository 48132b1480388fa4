"""Which picture goes where, and whether it can: decided before any is touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rich.filesize import decimal

from drmm.errors import RunError
from drmm.files import NOT_SORTED
from drmm.sorting.journal import RESERVED, Decision, How, Plan, Step
from drmm.sorting.names import Names, folder_names

__all__ = ["Choice", "check_apart", "check_room", "is_link", "planned"]

_BLOCK = 4096  # bytes that files take a multiple of


@dataclass(frozen=True)
class Choice:
    """What was decided about a picture.

    Attributes:
        source: its file.
        digest: of its content (`drmm.sorting.disk.file_digest`).
        label: its class, by a label or by the model.
        decision: whose word that is.
        facts: further columns of the table, by name: all choices have the same.
    """

    source: Path
    digest: str
    label: str
    decision: Decision
    facts: dict[str, str] = field(default_factory=dict)


def check_apart(pictures: Path, into: Path) -> None:
    """Refuse to sort pictures into a folder among them, or out of the folder that they are sorted into.

    Raises:
        RunError: if one of the folders lies in the other.
    """
    for inner, outer in ((into, pictures), (pictures, into)):
        if outer.exists() and any(
            above.exists() and above.samefile(outer) for above in (inner.resolve(), *inner.resolve().parents)
        ):
            raise RunError(f"{inner} lies in {outer}: sort into a folder beside the pictures")


def planned(
    choices: Iterable[Choice], into: Path, how: How, before: Sequence[Plan]
) -> tuple[dict[str, str], list[Step]]:
    """Where each picture goes: into the folder of its class, of the unsure or of the unfamiliar ones.

    Of files that are called the same, the first in the order of their paths keeps its name
    (`drmm.sorting.names.Names`); nothing that is there is replaced.

    Args:
        choices: what was decided.
        into: folder of the sorted pictures.
        how: the way in which they get there.
        before: what was sorted into it before.

    Returns:
        The folder of each class, and the steps.

    Raises:
        InputError: if a class has a name that no folder can have.
        RunError: if a picture is gone, or a file is where a folder is to be.
    """
    ordered = sorted(choices, key=lambda choice: str(choice.source))
    labels = {label: None for plan in before for label in plan.folders} | {
        choice.label: None for choice in sorted(ordered, key=lambda choice: choice.label)
    }
    folders = folder_names(labels, RESERVED)
    used: dict[str, Names] = {}
    earlier = [PurePosixPath(step.target) for plan in before for step in plan.steps]
    steps = []
    for choice in ordered:
        folder = NOT_SORTED.get(choice.decision, folders[choice.label])
        if folder not in used:
            taken = [target.name for target in earlier if target.parts[0] == folder]
            used[folder] = Names([*taken, *_names_in(into / folder)])
        steps.append(_step(choice, f"{folder}/{used[folder].free(choice.source.name)}"))
    if how == "move":
        _check_removable(steps)
    return folders, steps


def _names_in(folder: Path) -> list[str]:
    if os.path.lexists(folder) and not folder.is_dir():
        raise RunError(f"{folder} is a file, where a folder is to be: move it away")
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def _step(choice: Choice, target: str) -> Step:
    source = Path(os.path.realpath(choice.source.parent), choice.source.name)
    try:
        link, n_bytes = str(source.readlink()) if source.is_symlink() else "", source.stat().st_size
    except OSError as error:
        raise RunError(f"cannot read {source}: {error.strerror}") from error
    return Step(str(source), target, choice.digest, n_bytes, link, choice.label, choice.decision, choice.facts)


def is_link(step: Step, how: How) -> bool:
    """Whether a link is what a step makes: where that is wanted, and where a link is moved."""
    return how == "link" or (how == "move" and bool(step.link))


def _check_removable(steps: Iterable[Step]) -> None:
    for folder in sorted({Path(step.source).parent for step in steps}):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise RunError(f"no file can be moved out of {folder}, which is read-only: copy or link the pictures")


def check_room(steps: Iterable[Step], into: Path, how: How) -> None:
    """Refuse what the disk has no room for.

    Args:
        steps: what is still to be done.
        into: folder of the sorted pictures, which is there.
        how: the way in which they get there.

    Raises:
        RunError: if there is not enough.
    """
    device = into.stat().st_dev
    needed = sum(
        -(-step.n_bytes // _BLOCK) * _BLOCK
        for step in steps
        if not is_link(step, how) and (how == "copy" or _device(step.source) not in {device, None})
    )
    free = shutil.disk_usage(into).free
    if needed > free:
        raise RunError(
            f"the pictures take {decimal(needed)}, and the disk of {into} has {decimal(free)} left: free space, "
            "sort into another disk, or link the pictures"
        )


def _device(path: str) -> int | None:
    try:
        return Path(path).stat().st_dev
    except OSError:
        return None
