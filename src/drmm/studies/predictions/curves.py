"""Curves over the levels of a net, with bands of 95 % confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drmm.display.figure import canvas
from drmm.display.text import literal
from drmm.studies.predictions.verdict import interval

__all__ = ["Panel", "curves"]

_COLOURS = ("#0072b2", "#d55e00", "#7f7f7f", "#009e73")  # distinct to those who cannot tell red from green
_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        title: above it.
        unit: what is shown, on the vertical axis.
        lines: values (M, N, L) of M nets and N images at L levels, by name; they may have NaN.
        levels: names of the L levels, or of what else there is one value for.
        floor: a line to compare with, and its name.
        along: what the horizontal axis is.
    """

    title: str
    unit: str
    lines: Mapping[str, npt.NDArray[np.float64]]
    levels: Sequence[str]
    floor: tuple[float, str] | None = None
    along: str = "level, pixels first"


def curves(panels: Sequence[Panel]) -> Figure:
    """Panels side by side: means over nets and images, bands over images, thin lines of each net."""
    figure = canvas(4.6 * len(panels), 3.6)
    for axis, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        _draw(axis, panel)
    return figure


def _draw(axis: Axes, panel: Panel) -> None:
    drawn = []
    for (name, values), colour, style in zip(panel.lines.items(), _COLOURS, _STYLES, strict=False):
        means = [_mean(level) for level in np.moveaxis(values, 2, 0)]
        measured = [level for level, mean in enumerate(means) if len(mean)]
        bands = [interval(means[level]) for level in measured]
        drawn += axis.plot(measured, [band.mean for band in bands], style, color=colour, label=name, linewidth=2)
        axis.fill_between(
            measured,
            [band.low for band in bands],
            [band.high for band in bands],
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
        for net in values if len(values) > 1 else ():
            ones = [_known_mean(level) for level in net.T]
            axis.plot(range(len(ones)), ones, style, color=colour, linewidth=0.5, alpha=0.6)
    if panel.floor is not None:
        axis.axhline(panel.floor[0], color="black", linewidth=0.6)
        corner, name = (0.99, panel.floor[0]), literal(panel.floor[1])
        axis.annotate(name, corner, xycoords=("axes fraction", "data"), fontsize=8, ha="right", va="bottom")
    axis.set_xticks(range(len(panel.levels)), [literal(name) for name in panel.levels])
    axis.set(title=literal(panel.title), xlabel=literal(panel.along), ylabel=literal(panel.unit))
    axis.legend(drawn, [literal(name) for name in panel.lines], frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Over nets, of values (M, N) that may be missing: of those images (at most N) of which one net has any."""
    known = np.isfinite(values)
    some = known.any(0)
    means: npt.NDArray[np.float64] = np.where(known, values, 0)[:, some].sum(0) / known[:, some].sum(0)
    return means


def _known_mean(values: npt.NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan
