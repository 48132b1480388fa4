"""What lies between the page and what is known: which pictures it is shown, and what a person did to them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import shlex
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from drmm.display.text import one_line
from drmm.errors import DrmmError, InputError, RunError
from drmm.files import read_bytes
from drmm.labelling.asking import Audit
from drmm.labelling.session import Question, Session, Standing
from drmm.labelling.store import Event
from drmm.trust.promise import PROMISE

if TYPE_CHECKING:
    from drmm.labelling.server.explaining import Explained, Explainer

__all__ = ["Desk"]

_KEYS = "123456789abcdefhijklmnopqrstvwyz"  # of classes by number; g, u and x are for other things
_EVERY = 1.0  # seconds between looks at whether the table is behind
_BEST, _TURNED = 3, 50  # classes that are named, pictures that undoing brings back to the page
_WHY = {
    "random": "it was drawn at random. Such pictures tell the error, so that no class is proposed",
    "spread": "it stands for many others",
    "unsure": "the model is unsure of it and of others like it",
    "strange": "it is unlike all that have a label",
    "doubt": "its label does not fit what it looks like",
    "audit": "it would be sorted so",
}
_NO_MODEL = (
    "Evidence and reconstructions are drawn by a model that renders: drmm sort trains one, and --run SORTED/_run "
    "shows them here."
)
_DEEDS = {
    "label": "a label",
    "skip": "a skipped picture",
    "class": "a new class",
    "rename": "a new name",
    "merge": "two classes made one",
    "import": "a table of labels",
}


class Desk:
    """Answers the page; nothing of it waits for learning.

    Args:
        session: the pictures, the labels and what is learned.
        table: file that the labels are written into as they come.
        explainer: a model that explains pictures; None where there is none.

    Attributes:
        title: of the page.
        name: of the store, by which a browser knows what waits for it.
    """

    def __init__(self, session: Session, table: Path, explainer: Explainer | None = None) -> None:
        self.pool, self._session, self._store = session.pool, session, session.store
        self._table, self._explainer = table, explainer
        self.title = one_line(self.pool.folder.resolve().name)
        self.name = hashlib.sha256(os.fsencode(self._store.file.absolute())).hexdigest()[:16]
        self._edition = secrets.token_hex(8)
        self._audit: tuple[Audit, int] | None = None
        self._numbers: dict[str, int] = {}
        self._drawings: dict[int, bytes] = {}
        self._written, self._table_says = -1, "is written as soon as all pictures have been looked at"
        self._is_over = threading.Event()
        self._writer = threading.Thread(target=self._keep_table, daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Write the table for the last time."""
        self._is_over.set()
        self._writer.join()
        self._write_table()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    @property
    def command(self) -> str:
        """What sorts the pictures by their labels, into a folder that is not there yet."""
        folder, table = (Path(os.path.abspath(path)) for path in (self.pool.folder, self._table))  # noqa: PTH100
        into, n = folder.with_name(f"{folder.name}-sorted"), 1
        while into.exists():
            n += 1
            into = folder.with_name(f"{folder.name}-sorted-{n}")
        return shlex.join(["drmm", "sort", str(folder), "--into", str(into), "--labels", str(table)])

    @property
    def table_line(self) -> str:
        """What is in the table of labels."""
        return f"{self._table} {self._table_says}"

    # --- what is shown ---

    def state(self) -> dict[str, Any]:
        """All that is to be seen beside the pictures."""
        state, standing = self._store.state, self._session.standing()
        classes = [
            {"id": number, "name": name, "key": _KEYS[number : number + 1], "pictures": standing.counts[number]}
            for number, name in state.classes.items()
            if number in standing.counts
        ]
        return {
            "edition": self._edition,
            "version": state.version,
            "answers": f"{standing.learned} {standing.seen}",
            "classes": classes,
            "keys": _KEYS[max(state.classes, default=-1) + 1 :],
            "labelled": len(state.labels),
            "quality": _quality(standing),
            "learning": self._learning(standing),
            "table": f"{self.table_line}.",
            "command": self.command,
        }

    def _learning(self, standing: Standing) -> str:
        labels, of = sum(standing.counts.values()), len(self.pool)
        if standing.trouble:
            return f"{standing.trouble[:1].upper()}{standing.trouble[1:]}."
        parts = [f"{labels:,} of {of:,} pictures have a label."]
        if standing.seen < of:
            parts.append(f"{standing.seen:,} different ones were looked at.")
        if sum(n > 0 for n in standing.counts.values()) < 2:
            parts.append("With labels of two classes it begins to learn.")
        else:
            parts.append(
                "Learning …" if standing.learned < standing.version else "It has learned from all of them."
            )
        return " ".join(parts)

    def pictures(self, mode: str, n: int, but: Collection[int]) -> dict[str, Any]:
        """Some pictures to look at, and what to know of all of them.

        Args:
            mode: "next", "strangers", "doubts" or "audit".
            n: how many; of strangers, a whole group.
            but: numbers of pictures that the page has already.
        """
        try:
            match mode:
                case "strangers":
                    questions, note = self._strangers()
                case "doubts":
                    found = self._session.doubts()
                    questions = [one for one in found if one.picture not in but][:n]
                    note = _doubts_note(len(found))
                case "audit":
                    questions, note = self._audited(n, but)
                case _:
                    questions, note = self._session.next(n, but), ""
        except InputError as error:
            return {"pictures": [], "note": f"{str(error)[:1].upper()}{str(error)[1:]}."}
        return {"pictures": list(self._shown(questions)), "note": note}

    def _strangers(self) -> tuple[Sequence[Question], str]:
        groups = self._session.strangers()
        if not groups:
            return (), "Nothing here is unlike the pictures that have a label, as far as is known."
        more = f"; this is the first of {len(groups)} groups" if len(groups) > 1 else ""
        return groups[0], (
            f"{len(groups[0])} alike, and unlike all that have a label{more}. + makes a class of the chosen ones, "
            "the key of a class puts them there, and a click leaves one out."
        )

    def _audited(self, n: int, but: Collection[int]) -> tuple[Sequence[Question], str]:
        """Pictures as they would be sorted, in random order; a new audit is of a model that has learned more."""
        state, learned = self._store.state, self._session.standing().learned
        if self._audit is not None and not but and self._audit[1] != learned:
            verdict = self._audit[0].verdict(state.labels, state.skipped)
            self._audit = None if verdict.outcome != "open" else self._audit
        if self._audit is None:
            self._audit = (self._session.audit(PROMISE), learned)
        audit, _ = self._audit
        verdict = audit.verdict(state.labels, state.skipped)
        note = (
            f"{verdict.of:,} pictures would be sorted, {100 * audit.promise:g} % of them right: {verdict.wrong} "
            f"of {verdict.looked} were wrong, so that {verdict.low:,} to {verdict.high:,} of all are. "
        )
        if verdict.outcome != "open":
            return (), f"{note}The promise is {verdict.outcome}."
        numbers = (self._number(digest) for digest in audit.remaining({*state.labels, *state.skipped}))
        asked = [number for number in numbers if number is not None and number not in but][:n]
        answers = [self._session.answer(number) for number in asked]
        labels = [audit.sorted[self.pool.digest(number)] for number in asked]
        questions = [
            Question(number, is_drawn=False, why="audit", proposal=label, confidence=answer.get(label, 0.0))
            for number, label, answer in zip(asked, labels, answers, strict=True)
        ]
        return questions, f"{note}Enter: it is right; else press the key of its class."

    def _shown(self, questions: Iterable[Question]) -> Iterable[dict[str, Any]]:
        labels = self._store.labels
        for one in questions:
            with suppress(RunError):  # broken by now
                digest = self.pool.digest(one.picture)
                self._numbers[digest] = one.picture
                yield {
                    "number": one.picture,
                    "digest": digest,
                    "file": one_line(str(self.pool.files[one.picture]), 200),
                    "label": labels.get(digest),
                    "proposal": None if one.is_drawn else one.proposal,
                    "sure": one.confidence,
                    "why": _WHY.get(one.why, ""),
                    "drawn": one.is_drawn,
                }

    def _number(self, digest: str) -> int | None:
        known = self._numbers.get(digest)
        return self._session.number(digest) if known is None and self.pool.is_ready else known

    # --- what is done ---

    def do(self, told: dict[str, Any]) -> dict[str, Any]:
        """What a person did, in its order, each deed once however often it comes.

        Returns:
            Names of the deeds that are on the disk, what is refused and why, why it stopped, if it did, and what
            undoing has brought back.
        """
        done: list[str] = []
        refused: dict[str, str] = {}
        turned: list[dict[str, Any]] = []
        error = ""
        for deed in _listed(told.get("deeds")):
            once = str(deed.get("once", ""))
            try:
                event = self._one(deed, once)
            except (InputError, KeyError, TypeError, ValueError) as reason:
                refused[once] = str(reason) if isinstance(reason, InputError) else "the page is of another version"
                continue
            except RunError as reason:
                error = str(reason)
                break
            done.append(once)
            if deed["kind"] in {"undo", "redo"}:
                turned.append(self._turned(event, deed["kind"]))
        self._session.learn()
        return {"done": done, "refused": refused, "error": error, "turned": turned, "state": self.state()}

    def _one(self, deed: dict[str, Any], once: str) -> Event | None:
        pictures = [str(digest) for digest in deed.get("pictures", ())]
        event: Event | None = None
        match deed["kind"]:
            case "label":
                by = "proposal" if deed.get("by") == "proposal" else "person"
                event = self._label(pictures, int(deed["class"]), by=by, drawn=bool(deed["drawn"]), once=once)
            case "class":
                event = self._label_anew(pictures, str(deed["name"]), drawn=bool(deed["drawn"]), once=once)
            case "skip":
                event = self._store.skip(pictures, once=once)
            case "undo":
                event = self._store.undo(once=once)
            case "redo":
                event = self._store.redo(once=once)
            case "rename":
                event = self._store.rename_class(int(deed["class"]), str(deed["name"]), once=once)
            case "merge":
                event = self._store.merge_classes(int(deed["class"]), int(deed["into"]), once=once)
            case other:
                raise InputError(f"{other!r} is nothing that can be done: reload the page")
        return event

    def _label(self, pictures: Sequence[str], label: int, **how: Any) -> Event:
        if not pictures:
            raise InputError("no picture is named: reload the page")
        return self._store.label(pictures, label, **how)

    def _label_anew(self, pictures: Sequence[str], name: str, *, drawn: bool, once: str) -> Event | None:
        """A class that the page did not know, which may be there by now, and its first pictures."""
        known = next((number for number, other in self._store.classes.items() if other == name), None)
        if known is None and not drawn:
            self._store.add_class(name, pictures, once=once)
        elif known is None:
            known = self._store.add_class(name, once=f"{once} class")
        return self._label(pictures, known, drawn=drawn, once=once) if known is not None and pictures else None

    def _turned(self, event: Event | None, kind: str) -> dict[str, Any]:
        if event is None:
            return {"what": f"There is nothing to {kind}.", "pictures": []}
        numbers = [self._number(digest) for digest in list(event.labels)[:_TURNED]]
        questions = [Question(n, is_drawn=event.drawn, why="") for n in numbers if n is not None]
        what = f"{'Undone' if kind == 'undo' else 'Done again'}: {_DEEDS.get(event.kind, event.kind)}."
        return {"what": what, "pictures": list(self._shown(questions))}

    # --- what is explained ---

    def explained(self, number: int) -> dict[str, Any]:
        """What is known of a picture: its classes, how it was seen, and the labelled ones most like it."""
        path, answers = self.pool.path(number), self._session.learner.answers
        if self._explainer is not None:
            told = self._told(self._explainer.explained(read_bytes(path), path.name))
        else:
            told = _nothing(self._named(self._session.answer(number)))
        if answers is not None:
            told["near"] = list(self._near(answers.nearest[number].tolist()))
            told["notes"].append(
                f"Familiarity {answers.familiarity[number]:.2f}: the share of the pictures with a label that are "
                "at least as far from all others with one."
            )
        return told

    def answer(self, told: dict[str, Any]) -> dict[str, Any]:
        """Of a picture that is not in the folder, as base64; it is not kept."""
        try:
            content = base64.b64decode(told["picture"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise InputError("no picture came: choose another one") from error
        if self._explainer is None:
            return _nothing(self._named(self._session.guess(content)))
        return self._told(self._explainer.explained(content, "picture"))

    def _named(self, answer: Mapping[int, float]) -> list[tuple[str, float]]:
        """The best classes by their names."""
        names = self._store.classes
        return [(names[label], share) for label, share in list(answer.items())[:_BEST] if label in names]

    def drawing(self, number: int) -> bytes:
        """A PNG of an explanation.

        Raises:
            InputError: if there is none of that number any more.
        """
        if number not in self._drawings:
            raise InputError("that drawing is not kept any more: explain the picture again")
        return self._drawings[number]

    def _told(self, explained: Explained) -> dict[str, Any]:
        told = _nothing(explained.answers)
        told["notes"] = list(explained.notes)
        first = max(self._drawings, default=-1) + 1
        self._drawings = dict(list(self._drawings.items())[-_TURNED:])
        for i, (caption, png) in enumerate(explained.drawings, first):
            self._drawings[i] = png
            told["drawings"].append({"number": i, "caption": caption})
        return told

    def _near(self, numbers: Sequence[int]) -> Iterable[dict[str, Any]]:
        state = self._store.state
        for number in numbers:
            label = state.labels.get(self.pool.digest(number)) if number >= 0 else None
            if label is not None:
                yield {"number": number, "caption": state.classes[label]}

    # --- the table ---

    def _keep_table(self) -> None:
        while not self._is_over.wait(_EVERY):
            self._write_table()

    def _write_table(self) -> None:
        version = self._store.version
        if not self.pool.is_ready or version == self._written or (self._written < 0 and version == 0):
            return
        try:
            rows, _, unnamed = self._store.export(self._table, self.pool)
        except DrmmError as error:
            self._table_says = f"is behind: {error}"
            return
        have = "file has a name" if len(unnamed) == 1 else "files have names"
        left = f"; {len(unnamed)} {have} that no table can hold" if unnamed else ""
        self._written, self._table_says = version, f"holds {rows:,} labels{left}"


def _quality(standing: Standing) -> str:
    wrong, n, low, high = standing.error
    if not n:
        return "Not known yet: every tenth picture is drawn at random to tell."
    return f"{wrong} of {n} random pictures were wrong, so that {100 * low:.0f} to {100 * high:.0f} % of all are."


def _doubts_note(n: int) -> str:
    if not n:
        return "No label looks wrong, as far as is known."
    return f"{n} labels may be wrong. Enter takes the model's word; the key of its class keeps the label."


def _nothing(answers: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """An explanation of classes alone."""
    return {
        "answers": [{"name": name, "probability": share} for name, share in answers],
        "drawings": [],
        "near": [],
        "notes": [_NO_MODEL],
    }


def _listed(deeds: object) -> Sequence[dict[str, Any]]:
    if not isinstance(deeds, list) or not all(isinstance(deed, dict) for deed in deeds):
        raise InputError("that is no list of deeds: reload the page")
    return deeds
