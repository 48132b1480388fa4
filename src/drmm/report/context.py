"""What all sections of a report are written from: the model, what it found, and the sheet of images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from drmm.data.images import pixels
from drmm.report.blocks import Picture, Tone, shorten
from drmm.report.evaluation import Evaluation, Indices, worst
from drmm.report.sprites import Sheet, Sheets, room
from drmm.runs.folder import Source

__all__ = ["Material", "decimal", "percent"]

_SHEET_BYTES = 1_800_000  # of the evaluated images that can be opened, before compression
_FEATURED = 12  # hardest images, and as many least certain ones


@dataclass(frozen=True, eq=False)
class Material:
    """What a report is written from.

    Attributes:
        source: the folder.
        seen: what the model makes of images; None if they are gone.
        seed: of all that is drawn.
        sheets: where pictures go.
    """

    source: Source
    seen: Evaluation | None
    seed: int = 0
    sheets: Sheets = field(default_factory=Sheets)

    @cached_property
    def found_names(self) -> tuple[str, ...]:
        """Names of the model's classes or clusters, as shown."""
        return tuple(shorten(name) for name in self.source.recipe.classes)

    @cached_property
    def true_names(self) -> tuple[str, ...]:
        """Names of the images' classes, as shown."""
        data = self.source.data
        return self.found_names if data is None else tuple(shorten(name) for name in data.classes)

    @cached_property
    def hardest(self) -> Indices:
        """Rows of the images whose true class seemed least probable."""
        if self.seen is None or self.source.clusters:
            return np.zeros(0, np.int64)
        return worst(self.seen.loss, _FEATURED, np.flatnonzero(self.seen.known))

    @cached_property
    def least_certain(self) -> Indices:
        """Rows of the images whose two best classes were nearly as probable."""
        if self.seen is None:
            return np.zeros(0, np.int64)
        return worst(-self.seen.margin, _FEATURED, np.arange(len(self.seen.index)))

    @cached_property
    def featured(self) -> Indices:
        """Rows that are explained in full: the hardest, the least certain and the examples."""
        rows = [*self.hardest.tolist(), *self.least_certain.tolist(), *self.examples.tolist()]
        return np.array(list(dict.fromkeys(rows)), np.int64)

    @cached_property
    def examples(self) -> Indices:
        """Rows of one image of each class, ten at most, the first that was found right; of clusters likewise."""
        seen = self.seen
        if seen is None:
            return np.zeros(0, np.int64)
        of = seen.truth if seen.known.any() else seen.found
        right = np.ones(len(of), bool) if self.source.clusters else seen.found == of
        rows = []
        for c in np.unique(of[of >= 0])[:10]:
            mine = np.flatnonzero(of == c)
            rows.append(int(mine[np.argmax(right[mine])]))
        return np.array(rows, np.int64)

    @cached_property
    def opened(self) -> Indices:
        """Rows of the images that are in the page: featured ones, then mistakes, then some of every cell."""
        seen = self.seen
        if seen is None:
            return np.zeros(0, np.int64)
        most = room(tuple(seen.images.shape[1:]), _SHEET_BYTES)
        wrong = np.flatnonzero(seen.known & (seen.found != seen.truth))
        cell = seen.truth * seen.probability.shape[1] + seen.found
        turns = np.zeros(len(cell), np.int64)
        for value in np.unique(cell):
            mine = np.flatnonzero(cell == value)
            turns[mine] = np.arange(len(mine))
        first = [] if self.source.clusters else wrong.tolist()
        order = [*self.featured.tolist(), *first, *np.argsort(turns, kind="stable").tolist()]
        return np.array(list(dict.fromkeys(order))[:most], np.int64)

    @cached_property
    def image_sheet(self) -> Sheet | None:
        """The sheet of the opened images."""
        if self.seen is None or not len(self.opened):
            return None
        return self.sheets.pictures(self.seen.images[self.opened])

    def image(self, row: int, caption: str | None = None) -> Picture:
        """An opened image as a picture that opens its details."""
        if self.seen is None or self.image_sheet is None:
            raise IndexError(row)
        place = int(np.flatnonzero(self.opened == row)[0])
        tone: Tone = ""
        if self.seen.truth[row] >= 0 and not self.source.clusters:
            tone = "right" if self.seen.truth[row] == self.seen.found[row] else "wrong"
        told = self.told(row)
        return Picture(self.image_sheet, place, told, told if caption is None else caption, tone, place)

    def told(self, row: int) -> str:
        """What an image is, and what was found, in words."""
        if self.seen is None:
            raise IndexError(row)
        found = self.found_names[self.seen.found[row]]
        truth = int(self.seen.truth[row])
        if truth < 0:
            return f"found {found}"
        true = self.true_names[truth]
        if self.source.clusters:
            return f"{true}, in {found}"
        return true if truth == self.seen.found[row] else f"{true}, taken for {found}"

    def inputs(self, rows: Iterable[int] | Indices) -> Tensor:
        """Images (N, C, H, W) as the model takes them."""
        if self.seen is None:
            raise IndexError("no images")
        x = pixels(self.seen.images[torch.as_tensor(list(rows))])
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
