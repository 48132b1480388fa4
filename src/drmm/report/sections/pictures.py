"""Sections on pictures that somebody should look at, by name: what was sorted, what may be wrong, what to do."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from drmm.display.text import one_line, printable
from drmm.report.advice import State, advice
from drmm.report.answers import Answer
from drmm.report.blocks import Fact, Facts, Gallery, Picture, Section, Steps, Table
from drmm.report.context import Context, percent
from drmm.report.evaluation import confusion_matrix
from drmm.report.health import finding_gallery, skipped_files

__all__ = ["findings", "next_steps", "skipped", "sorted_pictures"]

_SHOWN, _FOLDERS = 24, 30  # pictures in a strip, classes in a table


def sorted_pictures(context: Context) -> Section | None:
    """How many pictures went where, and those whose place is least certain."""
    sorting = context.sorting
    if sorting is None:
        return None
    by_model, unsure, strange = (sorting.decided(name) for name in ("sorted", "unsure", "unfamiliar"))
    facts = (
        Fact(
            f"{len(by_model):,}", "sorted by the model", f"so that {percent(sorting.promise, 0)} should be right"
        ),
        Fact(f"{len(sorting.decided('labelled')):,}", "sorted by their labels"),
        Fact(f"{len(unsure):,}", "in _unsure/", "the model is not sure enough of their class"),
        Fact(f"{len(strange):,}", "in _unfamiliar/", "unlike what the model learned from"),
    )
    strips = (
        _strip(context, by_model, "Sorted, but least sure", "Check these first.", _confidence, _two_classes),
        _strip(context, unsure, "Unsure", "A label on these helps the model most.", _confidence, _two_classes),
        _strip(context, strange, "Unfamiliar", "Do they belong here?", _familiarity, _strangeness),
    )
    lead = f"What went where: {one_line(sorting.into.name)}/sort.csv has a line for each picture."
    folders = (_folders(sorting.answers),) if by_model or sorting.decided("labelled") else ()
    there = (strip for strip in strips if strip is not None)
    return Section("sorted", "What was sorted", lead, (Facts(facts), *folders, *there))


def _folders(answers: Sequence[Answer]) -> Table:
    """The pictures of each class, the most first."""
    counts = {name: Counter(a.label for a in answers if a.decision == name) for name in ("labelled", "sorted")}
    both = counts["labelled"] + counts["sorted"]
    rows = tuple(
        (one_line(label), f"{counts['labelled'][label]:,}", f"{counts['sorted'][label]:,}", f"{n:,}")
        for label, n in both.most_common(_FOLDERS)
    )
    more = f": the {_FOLDERS} largest of {len(both):,}" if len(both) > _FOLDERS else ""
    head = ("class", "by label", "by the model", "pictures")
    return Table(head, rows, f"Pictures in each folder{more}", heading=True)


def _strip(
    context: Context,
    answers: Sequence[Answer],
    title: str,
    lead: str,
    order: Callable[[Answer], float],
    caption: Callable[[Answer], str],
) -> Gallery | None:
    """The first of some pictures, the least certain first."""
    shown = sorted(answers, key=lambda answer: (order(answer), answer.file))[:_SHOWN]
    if not shown:
        return None
    sheet = context.sprites.photographs(context.thumbnails([answer.file for answer in shown]))
    pictures = tuple(
        Picture(sheet, i, one_line(answer.file), caption(answer), printable(answer.file))
        for i, answer in enumerate(shown)
    )
    left = len(answers) - len(shown)
    more = f" And {left:,} more: in sort.csv." if left else ""
    return Gallery(pictures, f"{title}: {len(answers):,}", lead + more, large=True)


def _confidence(answer: Answer) -> float:
    return 0.0 if answer.confidence is None else answer.confidence


def _familiarity(answer: Answer) -> float:
    return 0.0 if answer.familiarity is None else answer.familiarity


def _two_classes(answer: Answer) -> str:
    second = f", or {one_line(answer.second, 24)}" if answer.second else ""
    return f"{one_line(answer.label, 24)} ({percent(_confidence(answer), 0)}){second}"


def _strangeness(answer: Answer) -> str:
    where = f"strangest in {one_line(answer.strange_in)}; " if answer.strange_in else ""
    return f"{where}as strange: {percent(_familiarity(answer))} of what it learned from"


def findings(context: Context) -> Section | None:
    """Labels that may be wrong, copies, blanks, outliers: the pictures of each kind."""
    data = context.data
    there = [finding for finding in context.findings if finding.found]
    if data is None or not context.findings:
        return None
    files, folder = (*data.files, *data.test_files), shlex.quote(printable(data.name))
    galleries = []
    for finding in there:
        index = [one.index for one in finding.found[:_SHOWN]]
        levels, named = context.levels(index), [files[i] for i in index]
        galleries.append(
            finding_gallery(finding, named, levels, context.sprites, f"check.csv of drmm check {folder}")
        )
    none = ", ".join(one.title for one in context.findings if not one.found and not one.unknown)
    unknown = "".join(f" Not known: {one.title} ({one.unknown})." for one in context.findings if one.unknown)
    lead = f"Of {len(files):,} pictures." + (f" None: {none}." if none else "") + unknown
    return Section("pictures", "Pictures to look at", lead, tuple(galleries))


def skipped(context: Context) -> Section | None:
    """Which files were not read, and why."""
    sorting, data = context.sorting, context.data
    files = sorting.skipped if sorting is not None else data.skipped if data is not None else ()
    if not files:
        return None
    return Section(
        "skipped", "Skipped files", "They were not read, nor moved. skipped.csv names all.", skipped_files(files)
    )


def next_steps(context: Context) -> Section | None:
    """What to do next, if something stands out."""
    steps = advice(_state(context))
    if not steps:
        return None
    return Section("next", "What to do next", "What is most urgent first.", (Steps(steps),))


def _state(context: Context) -> State:
    source, sorting, evaluation = context.source, context.sorting, context.evaluation
    assessment, strange = source.assessment, (0, 0)
    if sorting is not None:
        strange = (len(sorting.decided("unfamiliar")), len(sorting.answers))
    elif evaluation is not None:
        strange = (len(context.unfamiliar), len(evaluation.index))
    losses = sorting.skipped if sorting is not None else () if context.data is None else context.data.skipped
    return State(
        Counter(name for _, name in source.labels or ()),
        context.promise,
        None if assessment is None or source.clusters else assessment.surest(context.promise),
        _recall(context),
        _found(context, "label", "contradiction"),
        _found(context, "leak"),
        strange,
        sum(one.is_loss for one in losses),
        shlex.quote(printable(str(sorting.into))) if sorting is not None and sorting.decided("sorted") else "",
        0 if sorting is None else len(sorting.decided("unsure")),
        0 if assessment is None else assessment.strangers,
    )


def _found(context: Context, *kinds: str) -> int:
    """How many pictures some kinds of findings name."""
    return len({one.index for finding in context.findings if finding.kind in kinds for one in finding.found})


def _recall(context: Context) -> dict[str, tuple[int, int]]:
    """Of each class, how many pictures were found and how many there are."""
    if context.evaluation is None or context.source.clusters:
        return {}
    counts = confusion_matrix(context.evaluation, len(context.class_names))
    each = zip(context.class_names, np.diag(counts).tolist(), counts.sum(1).tolist(), strict=True)
    return {name: (found, of) for name, found, of in each}
