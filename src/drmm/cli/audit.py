"""`drmm audit`: a draw of sorted pictures to look at, and what the answers say about all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drmm.cli.console import say
from drmm.errors import InputError, RunError
from drmm.files import read_csv, write_csv
from drmm.report.audit import audit_page
from drmm.sorting.audit import drawn, most_wrong, pictures_needed, wrong_allowed
from drmm.sorting.journal import Journal
from drmm.trust.promise import check_promise

__all__ = ["audit"]

_ANSWERS, _PAGE = "audit.csv", "audit.html"
_WORDS = dict.fromkeys(("yes", "y", "right", "true", "1"), "right") | dict.fromkeys(
    ("no", "n", "wrong", "false", "0"), "wrong"
)
_RISK = 5  # percent, of each look


def audit(into: Path, *, n: int | None, promise: float, seed: int, force: bool) -> None:
    """Draw pictures that the model sorted, or say what the answers on those that were drawn show.

    Args:
        into: folder of the sorted pictures.
        n: how many to look at in all; None takes as many as show the promise with one wrong among them.
        promise: share that is right.
        seed: of the draw.
        force: draw anew.

    Raises:
        InputError: if the promise is none, or an answer is neither yes nor no.
        RunError: if nothing was sorted, or the answers do not belong to the pictures that were drawn.
    """
    check_promise(promise)
    Journal.of(into)
    with Journal.opened(into) as journal:
        journal.check_not_being_undone()
        before = journal.audit if (into / _ANSWERS).exists() and not force else {}
        answers = _answers(into, before) if before else {}
        if before and min(n or 0, before["of"]) <= len(answers):
            _conclude(into, answers, before, promise)
            return
        if not before and not force and (into / _ANSWERS).exists():
            raise RunError(f"{into / _ANSWERS} is of no audit here: move it away, or --force replaces it")
        there = _sorted_by_model(journal)
        asked = n or pictures_needed(min(1, wrong_allowed(len(there), promise)), len(there), promise) or 0
        new = drawn([target for target in there if target not in answers], asked - len(answers), seed)
        answers |= dict.fromkeys(sorted(new, key=lambda target: (there[target], target)), "")
        _write(journal, answers, there)
        of, looks = before.get("of", len(there)), before.get("looks", 0) + 1
        journal.keep_audit({"of": of, "looks": looks, "drawn": list(answers), "plans": len(journal.plans)})
    say(f"{len(new):,} of {of:,} pictures to look at: open {into / _PAGE}, and fill in {into / _ANSWERS}:")
    say(f"yes or no in the column right; then drmm audit {into} says what that shows")


def _sorted_by_model(journal: Journal) -> dict[str, str]:
    """The class of each picture that the model sorted, and that is where it was put, by its path."""
    labels = {
        step.target: step.label
        for plan in journal.plans
        for step in plan.steps
        if step.decision == "sorted" and (journal.into / step.target).is_file()
    }
    if not labels:
        raise RunError(f"no picture in {journal.into} was sorted by a model: there is nothing to look at")
    return labels


def _answers(into: Path, before: Mapping[str, Any]) -> dict[str, str]:
    """right, wrong or nothing for each picture that was drawn."""
    path = into / _ANSWERS
    advice = "put it back as it was, or draw anew with --force"
    rows = read_csv(path, advice)
    try:
        words = {int(row["number"]): (row["right"] or "").strip().lower() for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} has no columns number and right, with commas between: {advice}") from error
    pictures = dict(enumerate(before["drawn"], 1))
    if len(rows) != len(words) or words.keys() != pictures.keys():
        raise RunError(f"{path} has other pictures than were drawn: {advice}")
    for number, word in words.items():
        if word and word not in _WORDS:
            raise InputError(f"{path} says {word!r} of number {number}: write yes or no into the column right")
    return {picture: _WORDS.get(words[number], "") for number, picture in pictures.items()}


def _conclude(into: Path, answers: Mapping[str, str], before: Mapping[str, Any], promise: float) -> None:
    said, n, of, looks = Counter(answers.values()), len(answers), before["of"], before["looks"]
    if said[""] == n:
        say(f"{into / _ANSWERS} has no answers yet: look at {into / _PAGE}, and fill in its column right")
        return
    blank = f"; {said['']:,} are not filled in, and count as wrong" if said[""] else ""
    say(f"looked at {n - said['']:,} of {of:,} pictures: {said['wrong']:,} wrong{blank}")
    not_right = said["wrong"] + said[""]
    most, allowed = most_wrong(not_right, n, of), wrong_allowed(of, promise)
    risk = f"{100 - _RISK * looks} % confidence" + (f", for {looks} looks" if looks > 1 else "")
    promised = f"the promise of {100 * promise:g} %"
    say(f"at most {100 * most / of:.2f} % of them all are wrong ({most:,}), at {risk}")
    needed = pictures_needed(said["wrong"], of, promise)
    if most <= allowed:
        say(f"{promised} holds")
    elif needed is None:
        say(f"{promised} does not hold: it allows {allowed:,} wrong ones")
    elif blank:
        say(f"{promised} is not shown yet: fill in the others")
    else:
        more = f"{needed - n:,} more that are all right"
        say(f"{promised} is not shown: it takes {more}, drmm audit {into} --n {needed}")


def _write(journal: Journal, answers: Mapping[str, str], labels: Mapping[str, str]) -> None:
    """The table to fill in, then the page."""
    words = {"right": "yes", "wrong": "no", "": ""}
    groups: dict[str, list[tuple[int, str]]] = {}
    rows = []
    for number, (target, answer) in enumerate(answers.items(), 1):
        label = labels.get(target, "no longer there")
        rows.append((number, target, label, words[answer]))
        groups.setdefault(label, []).append((number, target))
    write_csv(journal.into / _ANSWERS, ["number", "file", "class", "right"], rows)
    journal.keep_made(_ANSWERS)
    journal.write_made(_PAGE, audit_page(journal.into, dict(sorted(groups.items()))).encode("utf-8", "replace"))
