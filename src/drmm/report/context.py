"""What all sections of a report are written from: the model, its predictions, and the sprites."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from drmm.data import Dataset
from drmm.data.images import pixels
from drmm.display.text import one_line
from drmm.report.blocks import Picture, Tone
from drmm.report.evaluation import Evaluation, Indices, worst
from drmm.report.sprites import Sprites, SpriteSheet, room
from drmm.runs.run import Run

__all__ = ["Context", "decimal", "percent"]

_SHEET_BYTES = 1_800_000  # of the evaluated images that can be opened, before compression
_FEATURED = 12  # hardest images, and as many least confident ones


@dataclass(frozen=True, eq=False)
class Context:
    """What a report is written from.

    Attributes:
        source: the folder.
        data: the images; None if they are gone.
        why_no_data: in one line.
        evaluation: predictions for images; None if these are gone.
        seed: of all that is drawn.
        sprites: where pictures go.
    """

    source: Run
    data: Dataset | None
    why_no_data: str
    evaluation: Evaluation | None
    seed: int = 0
    sprites: Sprites = field(default_factory=Sprites)

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
        """Rows of the images whose true class has the least probability."""
        if self.evaluation is None or self.source.clusters:
            return np.zeros(0, np.int64)
        return worst(self.evaluation.loss, _FEATURED, np.flatnonzero(self.evaluation.known))

    @cached_property
    def least_confident(self) -> Indices:
        """Rows of the images with the smallest margin between the two best classes."""
        if self.evaluation is None:
            return np.zeros(0, np.int64)
        return worst(-self.evaluation.margin, _FEATURED, np.arange(len(self.evaluation.index)))

    @cached_property
    def featured(self) -> Indices:
        """Rows that are explained in full: the hardest, the least confident and the examples."""
        rows = [*self.hardest.tolist(), *self.least_confident.tolist(), *self.examples.tolist()]
        return np.array(list(dict.fromkeys(rows)), np.int64)

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
        wrong = np.flatnonzero(evaluation.known & (evaluation.predicted != evaluation.truth))
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
        alt = self.caption(row)
        return Picture(self.image_sheet, index, alt, alt if caption is None else caption, tone, index)

    def caption(self, row: int) -> str:
        """The true class of an image, and the predicted one where that is another."""
        if self.evaluation is None:
            raise IndexError(row)
        predicted = self.predicted_names[self.evaluation.predicted[row]]
        truth = int(self.evaluation.truth[row])
        if truth < 0:
            return f"predicted {predicted}"
        true = self.class_names[truth]
        if self.source.clusters:
            return f"{true}, in {predicted}"
        return true if truth == self.evaluation.predicted[row] else f"{true}, predicted {predicted}"

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
