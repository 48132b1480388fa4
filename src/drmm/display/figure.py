"""Figures on canvases of their own: no window, no pyplot, no state that figures share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from matplotlib.axis import Axis
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from drmm.files import replacing

__all__ = ["canvas", "readable_log", "save_figure"]


@final
class _Figure(Figure):
    """A figure whose text may have letters that no font has: they are drawn as boxes, without a warning."""

    def draw(self, renderer: RendererBase) -> None:
        with _missing_glyphs():
            super().draw(renderer)

    def get_tightbbox(self, *args: Any, **options: Any) -> Bbox:
        with _missing_glyphs():
            return super().get_tightbbox(*args, **options)


def canvas(width: float, height: float, *, constrained: bool = True) -> Figure:
    """An empty figure that is drawn as pixels, whatever backend is chosen for windows.

    Args:
        width: in inches.
        height: in inches.
        constrained: make room for titles and labels; without it axes lie where they are put.
    """
    figure = _Figure(figsize=(width, height), layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        RunError: if it cannot be written.
    """
    with replacing(path) as temporary, _missing_glyphs():
        figure.savefig(temporary, dpi=150, format="png")


def readable_log(scale: Axis) -> None:
    """Ticks of a logarithmic scale at 1, 2 and 5 times the powers of ten, as plain numbers."""
    scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
    scale.set_major_formatter(FormatStrFormatter("%g"))
    scale.set_minor_locator(NullLocator())


@contextmanager
def _missing_glyphs() -> Iterator[None]:
    """Letters without a glyph are no news to those who chose the names."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        yield
