"""What a page is made of: sections of blocks, which the template knows how to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from markupsafe import Markup

from drmm.report.sprites import SpriteSheet

__all__ = [
    "Block",
    "Cell",
    "Chart",
    "Charts",
    "Code",
    "Fact",
    "Facts",
    "Gallery",
    "Matrix",
    "Note",
    "Picture",
    "Section",
    "Steps",
    "Strip",
    "Table",
]

Tone = Literal["", "right", "wrong"]


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure, what it is, and a remark."""

    value: str
    label: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Figures side by side."""

    kind: ClassVar[str] = "facts"
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True, slots=True)
class Steps:
    """What to do, in order."""

    kind: ClassVar[str] = "steps"
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart and what it shows."""

    svg: Markup
    caption: str


@dataclass(frozen=True, slots=True)
class Charts:
    """Charts side by side, as many as fit."""

    kind: ClassVar[str] = "charts"
    charts: tuple[Chart, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a sprite sheet.

    Attributes:
        sheet: where it is.
        index: its number there.
        alt: what it shows, for those who do not see it.
        caption: below it.
        name: of its file, whole, below that.
        tone: colours the caption.
        details: its number among the evaluated images that can be opened; None if it is none of them.
    """

    sheet: SpriteSheet
    index: int
    alt: str
    caption: str = ""
    name: str = ""
    tone: Tone = ""
    details: int | None = None


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures in rows, as many as fit.

    Attributes:
        pictures: in order.
        caption: above them.
        lead: what they are, below the caption.
        large: show them twice as large.
    """

    kind: ClassVar[str] = "gallery"
    pictures: tuple[Picture, ...]
    caption: str = ""
    lead: str = ""
    large: bool = False


@dataclass(frozen=True, slots=True)
class Strip:
    """Rows of pictures whose columns belong together.

    Attributes:
        columns: captions.
        rows: caption, remark and pictures of each row.
        label: what the table is.
    """

    kind: ClassVar[str] = "strip"
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Picture, ...]], ...]
    label: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text; all but the first `names` columns hold figures.

    Attributes:
        head: captions of the columns.
        rows: cells.
        label: what the table is.
        names: how many columns hold words.
        heading: whether the label stands above it; else only screen readers see it.
    """

    kind: ClassVar[str] = "table"
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    label: str
    names: int = 1
    heading: bool = False


@dataclass(frozen=True, slots=True)
class Code:
    """Text to be copied."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A frequent confusion: its row and column, the names of both classes, and how many images."""

    row: int
    column: int
    true: str
    predicted: str
    count: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """A confusion matrix, and room for the images of one of its cells.

    Attributes:
        rows: names of the true classes.
        columns: names of the predicted classes or clusters.
        counts: images, a row a class.
        diagonal: whether row i and column i are the same class.
        confusions: the most frequent ones, most frequent first.
        drawing: a chart in place of the table, where there are too many classes for one.
    """

    kind: ClassVar[str] = "matrix"
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    diagonal: bool
    confusions: tuple[Cell, ...]
    drawing: Chart | None

    def shade(self, row: int, column: int) -> float:
        """How strongly a cell is coloured: the square root of its share of the row."""
        total = sum(self.counts[row])
        return round((self.counts[row][column] / total) ** 0.5, 3) if total else 0.0


Block = Facts | Note | Steps | Charts | Gallery | Strip | Table | Code | Matrix


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page.

    Attributes:
        name: in the table of contents, and for links within the page.
        title: above it.
        lead: what it shows, in a sentence or two.
        blocks: in order.
    """

    name: str
    title: str
    lead: str
    blocks: tuple[Block, ...]
