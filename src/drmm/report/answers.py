"""What was said of pictures of a folder, by name: what a report needs to know of a sorting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from drmm.data.base import Skipped
from drmm.display.text import one_line

__all__ = ["Answer", "Sorting"]


@dataclass(frozen=True)
class Answer:
    """What was said of a picture.

    Attributes:
        file: its path in the folder.
        label: its class.
        decision: "labelled" by somebody, or what the model decided (`drmm.trust.decisions.Decision`).
        confidence: probability of the class; None where it was not asked for.
        second: the second best class; "" likewise.
        familiarity: p-value; None likewise, or where the run has none.
        strange_in: the part of an unfamiliar picture that is the strangest; "" where that is not known.
    """

    file: str
    label: str
    decision: str
    confidence: float | None = None
    second: str = ""
    familiarity: float | None = None
    strange_in: str = ""


@dataclass(frozen=True)
class Sorting:
    """What one command sorted.

    Attributes:
        pictures: the folder that they are from.
        into: the folder that they go to.
        promise: share of those sorted by the model that is to be right.
        answers: for each picture.
        skipped: all other files.
    """

    pictures: Path
    into: Path
    promise: float
    answers: tuple[Answer, ...]
    skipped: tuple[Skipped, ...] = ()

    def decided(self, decision: str) -> list[Answer]:
        """Those of one decision."""
        return [answer for answer in self.answers if answer.decision == decision]

    def in_words(self) -> str:
        """How many pictures went where."""
        labelled, by_model, unsure, strange = (
            f"{len(self.decided(name)):,}" for name in ("labelled", "sorted", "unsure", "unfamiliar")
        )
        return (
            f"{len(self.answers):,} pictures of {one_line(self.pictures.resolve().name)}: {by_model} sorted by "
            f"the model and {labelled} by their labels, {unsure} in _unsure/, {strange} in _unfamiliar/. "
        )
