"""What all sections of a report are written from: the model, its predictions, and the sprites."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drmm.data import Dataset
from drmm.data.images import pixels
from drmm.data.survey import thumbnails
from drmm.display.text import one_line, printable
from drmm.report.answers import Sorting
from drmm.report.blocks import Picture, Tone
from drmm.report.evaluation import Evaluation, Indices, worst
from drmm.report.sprites import Sprites, SpriteSheet, room
from drmm.runs.run import Run
from drmm.trust.decisions import UNFAMILIAR
from drmm.trust.health import Finding
from drmm.trust.promise import PROMISE

__all__ = ["FEATURED", "LEAST_DRAWN", "Context", "decimal", "percent"]

_SHEET_BYTES = 900_000  # of the evaluated images that can be opened, before compression
LEAST_DRAWN = 1e-5
"""Of a picture's energy: a model that explains less draws nothing."""
FEATURED = 12
"""Images of a kind that are shown with all that explains them: mistakes, least confident and unfamiliar ones."""


@dataclass(frozen=True, eq=False)
class Context:
    """What a report is written from.

    Attributes:
        source: the folder.
        data: the images; None if they are gone.
        why_no_data: in one line.
        evaluation: predictions for images; None if these are gone.
        seed: of all that is drawn.
        findings: what may be wrong with its pictures, by index among those to learn from and then those to test
            with; none where images are arrays.
        sorting: what the run has sorted, if the report is of that.
        sprites: where pictures go.
    """

    source: Run
    data: Dataset | None
    why_no_data: str
    evaluation: Evaluation | None
    seed: int = 0
    findings: tuple[Finding, ...] = ()
    sorting: Sorting | None = None
    sprites: Sprites = field(default_factory=Sprites)

    @property
    def promise(self) -> float:
        """Share of the sorted pictures that is to be right."""
        return PROMISE if self.sorting is None else self.sorting.promise

    @cached_property
    def draws(self) -> bool:
        """Whether the model draws something of its pictures, as far as is known."""
        return self.evaluation is None or float(np.median(self.evaluation.explained)) >= LEAST_DRAWN

    @cached_property
    def predicted_names(self) -> tuple[str, ...]:
        """Names of the classes or clusters that the model predicts, as shown."""
        return tuple(one_line(name) for name in self.source.recipe.classes)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the true classes, as shown."""
        data = self.data
        return self.predicted_names if data is None else tuple(one_line(name) for name in data.classes)

    @cached_property
    def hardest(self) -> Indices:
        """Rows of the misclassified images, the surest first."""
        if self.evaluation is None or self.source.clusters:
            return np.zeros(0, np.int64)
        return worst(self.evaluation.confidence, FEATURED, np.flatnonzero(self.evaluation.wrong))

    @cached_property
    def least_confident(self) -> Indices:
        """Rows of the images with the smallest margin between the two best classes; of those held out, none."""
        if self.evaluation is None:
            return np.zeros(0, np.int64)
        return worst(-self.evaluation.margin, FEATURED, np.flatnonzero(~self.evaluation.held_out))

    @cached_property
    def unfamiliar(self) -> Indices:
        """Rows of the images that the model does not know, the strangest first."""
        if self.evaluation is None:
            return np.zeros(0, np.int64)
        strange = np.flatnonzero(self.evaluation.familiarity < UNFAMILIAR)
        return strange[np.argsort(self.evaluation.familiarity[strange], kind="stable")]

    @cached_property
    def featured(self) -> Indices:
        """Rows that are explained in full: the mistakes, the least confident, the unfamiliar and the examples."""
        kinds = (self.hardest, self.least_confident, self.unfamiliar[:FEATURED], self.examples)
        return np.array(list(dict.fromkeys(np.concatenate(kinds).tolist())), np.int64)

    @cached_property
    def examples(self) -> Indices:
        """Rows of one image of each class (or cluster), ten at most, the first that is classified correctly."""
        evaluation = self.evaluation
        if evaluation is None:
            return np.zeros(0, np.int64)
        group = evaluation.truth if evaluation.known.any() else evaluation.predicted
        correct = np.ones(len(group), bool) if self.source.clusters else evaluation.predicted == group
        rows = []
        for c in np.unique(group[group >= 0])[:10]:
            mine = np.flatnonzero(group == c)
            rows.append(int(mine[np.argmax(correct[mine])]))
        return np.array(rows, np.int64)

    @cached_property
    def opened(self) -> Indices:
        """Rows of the images that are in the page: featured, then misclassified, then some of every cell."""
        evaluation = self.evaluation
        if evaluation is None:
            return np.zeros(0, np.int64)
        most = room(tuple(evaluation.images.shape[1:]), _SHEET_BYTES)
        wrong = np.flatnonzero(evaluation.wrong)
        cell = evaluation.truth * evaluation.probability.shape[1] + evaluation.predicted
        turns = np.zeros(len(cell), np.int64)
        for value in np.unique(cell):
            mine = np.flatnonzero(cell == value)
            turns[mine] = np.arange(len(mine))
        first = [] if self.source.clusters else wrong.tolist()
        order = [*self.featured.tolist(), *first, *np.argsort(turns, kind="stable").tolist()]
        return np.array(list(dict.fromkeys(order))[:most], np.int64)

    @cached_property
    def image_sheet(self) -> SpriteSheet | None:
        """The sheet of the opened images."""
        if self.evaluation is None or not len(self.opened):
            return None
        return self.sprites.pictures(self.evaluation.images[self.opened])

    def image(self, row: int, caption: str | None = None) -> Picture:
        """An opened image as a picture that opens its details."""
        if self.evaluation is None or self.image_sheet is None:
            raise IndexError(row)
        index = int(np.flatnonzero(self.opened == row)[0])
        tone: Tone = ""
        if self.evaluation.truth[row] >= 0 and not self.source.clusters:
            tone = "right" if self.evaluation.truth[row] == self.evaluation.predicted[row] else "wrong"
        alt, name = self.caption(row), printable(self.evaluation.names[row]) if caption else ""
        return Picture(self.image_sheet, index, alt, alt if caption is None else caption, name, tone, index)

    def levels(self, found: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Of pictures by the index that findings have, (N, C, H, W)."""
        if self.data is None:
            raise IndexError("no images")
        x, n = self.data, len(self.data.x_train)
        return np.stack([x.x_train[i] if i < n else x.x_test[i - n] for i in found])

    def thumbnails(self, files: Sequence[str]) -> npt.NDArray[np.uint8]:
        """Of pictures that were sorted, (N, C, H, W): as they were learned from, or else from their files."""
        index = {} if self.data is None else {file: i for i, file in enumerate(self.data.files)}
        if index.keys() >= set(files):
            return self.levels([index[file] for file in files])
        return thumbnails(Path() if self.sorting is None else self.sorting.pictures, files)

    def caption(self, row: int, label: int | None = None) -> str:
        """The true class of an image, and the predicted one where that is another; None takes the evaluation's."""
        if self.evaluation is None:
            raise IndexError(row)
        found = int(self.evaluation.predicted[row]) if label is None else label
        predicted = self.predicted_names[found]
        truth = int(self.evaluation.truth[row])
        if truth < 0:
            return f"predicted {predicted}"
        true = self.class_names[truth]
        if self.source.clusters:
            return f"{true}, in {predicted}"
        return true if truth == found else f"{true}, predicted {predicted}"

    def inputs(self, rows: Iterable[int] | Indices) -> Tensor:
        """Images (N, C, H, W) as the model takes them."""
        if self.evaluation is None:
            raise IndexError("no images")
        x = pixels(self.evaluation.images[torch.as_tensor(list(rows))])
        return x.to(self.source.model.templates.weight.dtype)


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage; what is not 0 or all does not look so."""
    if share in {0, 1}:
        return f"{100 * share:.0f}\u00a0%"
    value = 100 * share
    least = 10.0**-digits
    if 0 < value < least:
        return f"< {least:g}\u00a0%"
    if 100 - least < value < 100:
        return f"> {100 - least:g}\u00a0%"
    return f"{value:.{digits}f}\u00a0%"


def decimal(value: float) -> str:
    """A figure of any size, short."""
    if math.isinf(value):
        return "∞"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
