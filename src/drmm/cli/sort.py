"""`drmm sort`: a folder of pictures into a sorted one, and back."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drmm.cli.console import complain, say
from drmm.cli.fit import asked_for, cross_fitted
from drmm.cli.predictions import notes_of
from drmm.data.base import summary
from drmm.data.images import as_images
from drmm.data.index import indexed
from drmm.data.label_files import matched, read_labels
from drmm.data.listing import Listing, check_losses, listed
from drmm.data.tables import cell
from drmm.display.text import one_line
from drmm.errors import InputError, RunError
from drmm.files import NOT_SORTED, RUN, TEMPORARY, read_bytes
from drmm.learning.allocator import tune_allocator
from drmm.predicting.rows import FACTS, Rows
from drmm.progress import track
from drmm.report import write_report
from drmm.report.answers import Answer, Sorting
from drmm.runs.experiment import Experiment
from drmm.runs.fit import fit_run
from drmm.runs.run import Run
from drmm.sorting.apply import finish_sorting, known_digests, sort_files
from drmm.sorting.journal import Decision, How, Journal, Plan, Step, check_ours
from drmm.sorting.plan import Choice, check_apart, planned
from drmm.sorting.undo import undo
from drmm.trust.assessment import Assessment
from drmm.trust.promise import check_promise

__all__ = ["asked_way", "show_undo", "sort"]

_Read = tuple[Path, str, npt.NDArray[np.uint8]]  # a picture, its digest, its levels

_AT_ONCE = 256  # pictures
_SHOWN, _EXAMPLES = 10, 3  # files in a list, and beside a count
_REPORT = "report.html"
_SAID_OTHERWISE = {"data.source", "data.labels", "data.digest"}  # what may differ from the model's settings


def asked_way(**ways: bool) -> How | None:
    """The way that was asked for, if one was.

    Raises:
        InputError: if several were.
    """
    asked: list[How] = [name for name in ("copy", "link", "move") if ways[name]]
    if len(asked) > 1:
        raise InputError(f"choose one of {' and '.join(f'--{name}' for name in asked)}")
    return asked[0] if asked else None


def sort(
    pictures: Path,
    into: Path,
    *,
    run: Path | None,
    recipe: str | None,
    asked: Mapping[str, Any],
    assignments: Sequence[str],
    promise: float,
    how: How,
    dry_run: bool,
    command: str,
) -> None:
    """Sort the new pictures of a folder.

    Args:
        pictures: the folder.
        into: folder of the sorted pictures.
        run: folder of the model; None trains one, or takes the one that was trained before.
        recipe: what to train by; None is what suits the pictures.
        asked: settings of the training that have an option of their own, by "table.name", the folder among them.
        assignments: other ones, "table.name=value".
        promise: share of the sorted pictures that is to be right.
        how: the way in which they get there.
        dry_run: only show what would be done.
        command: the command line, kept with the model that is trained.

    Raises:
        InputError: if the promise is none, or the pictures cannot be used.
        RunError: if a folder cannot be used.
    """
    _check(pictures, into, run, promise)
    if not dry_run and (done := finish_sorting(into)):
        say(f"finished what was stopped before: {len(done.steps) - len(done.left or {}):,} pictures are in {into}")
    with listed(pictures) as found, TemporaryDirectory(prefix="drmm-") as nowhere:
        known = known_digests(into)
        digests = _new(found, known, is_move=how == "move")
        folder = Path(nowhere) / RUN if dry_run else into / RUN
        train = partial(_trained, found, folder, recipe, asked, assignments, command)
        model = (train() if run is None else Run.open(run)) if digests else None
        choices = (
            list(_choices(model, Rows(model, promise=promise, inference=False), found, digests)) if model else []
        )
        with warnings.catch_warnings(action="ignore"):  # what was skipped is said in the end
            check_losses(found.skipped, len(choices) + len(known), pictures)
        if dry_run:
            _show(planned(choices, into, how, Journal(into).plans)[1])
            say("nothing was written" + ("" if run else ", and the model was not kept: drmm fit trains one"))
            return
        made: dict[str, bytes] = {}
        if model:
            answers = tuple(_answer(found, choice) for choice in choices)
            shown = Sorting(pictures, into, promise, answers, tuple(found.skipped))
            made = _report(model, shown, Path(nowhere))  # before the pictures that it shows are moved
    skipped = [(str(pictures / one.file), one.reason) for one in found.skipped]
    plan = sort_files(choices, into, how, skipped, made)
    if found.skipped:
        say(f"{summary(found.skipped)}; {into / 'skipped.csv'} names them")
    _tell(plan, pictures, into)
    if model:
        _tell_of_trust(model.assessment, promise)
    if plan:
        _tell_next(plan, into)


def _check(pictures: Path, into: Path, run: Path | None, promise: float) -> None:
    """Refuse what cannot be, before any work; errors as of `sort`."""
    check_promise(promise)
    if not pictures.is_dir():
        raise RunError(f"{pictures} is no folder: name a folder of pictures, and unpack an archive first")
    check_apart(pictures, into)
    check_ours(into)
    if run is not None and not Run.open(run).has_model:
        raise RunError(f"{run} has not finished: go on with drmm fit --out {run} --resume")


def _tell(plan: Plan | None, pictures: Path, into: Path) -> None:
    """What was done."""
    if plan is None:
        say(f"no new pictures in {pictures}")
        return
    left = plan.left or {}
    _show([step for step in plan.steps if step.target not in left])
    for target, reason in list(left.items())[:_SHOWN]:
        complain("warning", f"{target} was not made: {reason}", "bold yellow")
    if len(left) > _SHOWN:
        complain("warning", f"nor were {len(left) - _SHOWN:,} others: skipped.csv names them", "bold yellow")
    about = f", {_REPORT} is about the model" * (into / _REPORT).exists()
    say(f"written to {into}: sort.csv has a line for each picture{about}")


def _tell_of_trust(assessment: Assessment | None, promise: float) -> None:
    """What to expect of the model's answers."""
    if assessment and (expected := assessment.error()):
        say(f"expected error of the model's own answers, before any go to _unsure: {cross_fitted(**expected)}")
    for note in notes_of(assessment, promise):
        say(note)


def _tell_next(plan: Plan, into: Path) -> None:
    """What a person may do now."""
    say("next:")
    if any(step.decision == "sorted" for step in plan.steps):
        say(f"  drmm audit {into}: look at some of the sorted pictures, to know how many are wrong")
    if any(step.decision == "unsure" for step in plan.steps):
        unsure = into / NOT_SORTED["unsure"]
        say(f"  look into {unsure}: with labels for some of these, a sort into another folder leaves fewer there")
    say(
        f"  drmm sort --undo {into}: take everything back; the model stays, to sort anew by another --promise, say"
    )


def show_undo(into: Path) -> None:
    """Take back all that was sorted into a folder, and say what could not be.

    Raises:
        RunError: if some of it can be tried again.
    """
    undone = undo(into)
    say(f"{undone.back:,} pictures are where they were")
    for name, reason in list(undone.kept.items())[:_SHOWN]:
        say(f"kept {into / name}: {reason}")
    if len(undone.kept) > _SHOWN:
        say(f"and kept {len(undone.kept) - _SHOWN:,} more files")
    if undone.gone:
        some = ", ".join(undone.gone[:_SHOWN])
        complain("warning", f"{len(undone.gone):,} pictures are in neither folder: {some}", "bold yellow")
    if undone.to_try_again:
        raise RunError(f"some pictures could not go back: make room for them, then drmm sort --undo {into} again")


def _new(found: Listing, known: set[str], *, is_move: bool) -> dict[PurePosixPath, str]:
    """Digests of the pictures that were not sorted before."""
    root = found.root.resolve()
    found.read_once(lambda same: next((one for one in same if (root / one).resolve() == root / one), same[0]))
    for member in list(found.pictures):
        if is_move and not (root / member).parent.resolve().is_relative_to(root):
            found.skip(member, "not moved, as it lies elsewhere, in a folder that a link leads to")
    entries = indexed(found)
    if not entries and not known:
        skipped = f" ({summary(found.skipped)})" if found.skipped else ""
        raise InputError(f"{found.root} holds no pictures that can be read{skipped}: add some")
    return {member: entry.digest for member, entry in entries.items() if entry.digest not in known}


def _trained(
    found: Listing,
    folder: Path,
    recipe: str | None,
    asked: Mapping[str, Any],
    assignments: Sequence[str],
    command: str,
) -> Run:
    """The model to sort by, trained into a folder, unless one has been."""
    for part in folder.glob(f"{TEMPORARY}*"):  # of a kill before it began
        part.unlink()
    begun = not _is_free(folder)
    experiment = asked_for(recipe, folder if begun else None, asked, assignments)
    if begun and (opened := Run.open(folder)).finished:
        say(f"sorting by the model in {folder}, which was trained before")
        _check_same(opened, experiment)
        _tell_of_other_labels(opened, asked.get("data.labels"), found)
        return opened
    say(f"training a model first, into {folder}: give the same command to go on after a stop")
    tune_allocator()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "cannot read picture")  # which is said with all that was skipped
            fit_run(experiment, folder, resume=begun, command=command, tell=say)
    finally:
        with suppress(OSError):  # something was learned
            folder.parent.rmdir()
    return Run.open(folder)


def _check_same(run: Run, experiment: Experiment) -> None:
    """Refuse settings that a model was not trained with.

    Raises:
        InputError: if there are any.
    """
    before = experiment if run.experiment is None else run.experiment
    changed = [name for name in before.differences(experiment.filled_in(before)) if name not in _SAID_OTHERWISE]
    if changed:
        raise InputError(
            f"{run.folder} was trained with another {changed[0]}: leave that out, or train anew by sorting into "
            "another folder"
        )


def _tell_of_other_labels(run: Run, table: str | None, found: Listing) -> None:
    """Say how many labels of a table a model was not trained with."""
    if table is None:
        return
    labels = Path(table)
    rows = read_labels(labels)
    with warnings.catch_warnings(action="ignore"), suppress(InputError):  # of pictures that were moved away
        told, _ = matched(rows, found.pictures, found.root, labels)
        learned = {(PurePosixPath(file), label) for file, label in run.labelled_files.items()}
        if others := {file for file, _ in told.items() ^ learned if file in found.pictures}:
            say(
                f"{len(others):,} labels in {labels} are not as the model has learned them, and it is used as it "
                "is: to train anew, sort into another folder"
            )


def _is_free(folder: Path) -> bool:
    try:
        Run.check_free(folder)
    except RunError:
        return False
    return True


def _choices(run: Run, rows: Rows, found: Listing, digests: dict[PurePosixPath, str]) -> Iterator[Choice]:
    """What is decided about each picture that can be read: by its label, if the run knows one, or by the model."""
    labelled = _labelled(run)
    decoded = found.decoded(list(digests), **run.decoding)
    batch: list[_Read] = []
    for member, picture in track(decoded, "predicting", len(digests)):
        path = found.root / member
        label = labelled.get(path.resolve())
        if label is not None:
            yield Choice(path, digests[member], label, "labelled", dict.fromkeys(FACTS, ""))
            continue
        batch.append((path, digests[member], picture.levels))
        if len(batch) == _AT_ONCE:
            yield from _decided(rows, batch)
            batch = []
    if batch:
        yield from _decided(rows, batch)


def _labelled(run: Run) -> dict[Path, str]:
    """Class of each picture that the run learned from with its label."""
    folder = Path(run.asked.source).resolve()
    return {(folder / file).resolve(): label for file, label in run.labelled_files.items()}


def _decided(rows: Rows, batch: list[_Read]) -> Iterator[Choice]:
    """By the model; where its run does not say how far to trust it, by the net's own confidence."""
    images = np.stack([levels for *_, levels in batch])
    found = rows.of(as_images(images, channels=images.shape[1]))
    for (path, digest, _), row in zip(batch, found, strict=True):
        answer: dict[str, Any] = dict(zip(rows.types, row, strict=True))
        by_net: Decision = "sorted" if answer["confidence"] >= rows.promise else "unsure"
        facts = {name: "" if answer[name] is None else str(cell(answer[name])) for name in FACTS}
        yield Choice(path, digest, answer["label"], answer["decision"] or by_net, facts)


def _answer(found: Listing, choice: Choice) -> Answer:
    """What the report needs to know of a picture."""
    confidence, familiarity = (choice.facts[name] for name in ("confidence", "familiarity"))
    return Answer(
        str(choice.source.relative_to(found.root)),
        choice.label,
        choice.decision,
        float(confidence) if confidence else None,
        choice.facts["second"],
        float(familiarity) if familiarity else None,
        choice.facts["strange_in"],
    )


def _report(run: Run, shown: Sorting, nowhere: Path) -> dict[str, bytes]:
    """The report of what is sorted, by its name; of a model that was trained here, the first time only."""
    if (shown.into / _REPORT).exists() and run.folder == shown.into / RUN:
        return {}
    try:
        with warnings.catch_warnings(action="ignore"):  # of the pictures, which were said
            write_report(run.folder, nowhere / _REPORT, sorting=shown)
    except (InputError, RunError) as error:
        complain("warning", f"no {_REPORT}: {error}", "bold yellow")
        return {}
    return {_REPORT: read_bytes(nowhere / _REPORT)}


def _show(steps: Iterable[Step]) -> None:
    """How many pictures go into each folder, and some of them."""
    names: dict[str, list[str]] = {}
    for step in steps:
        folder, _, name = step.target.partition("/")
        names.setdefault(folder, []).append(name)
    table = Table("folder", "pictures", "such as", box=None)
    table.columns[1].justify = "right"
    for folder, found in sorted(names.items(), key=lambda item: (item[0].startswith("_"), item[0])):
        examples = ", ".join(one_line(name, 30) for name in found[:_EXAMPLES])
        table.add_row(Text(one_line(folder)), f"{len(found):,}", Text(examples))
    Console().print(table)
