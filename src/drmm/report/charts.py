"""Charts as SVG inside of the page: they take its colours and its type, and need no script.

All have the same width, so that their type is as large on a phone as on a desk. Text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from drmm.display.text import one_line

__all__ = ["bars", "heat", "histogram", "levels_by_power", "lines", "power", "reliability_diagram"]

_WIDTH, _HEIGHT = 360, 220
_NAME = 22  # characters of a name beside a bar
_TICKS = 5

Figures = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Frame:
    """Where data lies in a chart: x and y from least to largest, in pixels from the top left."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: int = 48
    right: int = 14
    top: int = 28
    bottom: int = 38

    def across(self, x: float) -> float:
        low, high = self.x
        return round(self.left + (x - low) / (high - low) * (_WIDTH - self.left - self.right), 1)

    def down(self, y: float) -> float:
        low, high = self.y
        return round(_HEIGHT - self.bottom - (y - low) / (high - low) * (_HEIGHT - self.top - self.bottom), 1)

    def axes(self, x_label: str, y_label: str, x_ticks: Iterable[float], y_ticks: Iterable[float]) -> list[str]:
        """Grid, ticks and labels."""
        parts = []
        for y in y_ticks:
            at = self.down(y)
            parts.append(f'<path class="grid" d="M{self.left} {at}H{_WIDTH - self.right}"/>')
            parts.append(_text(self.left - 6, at + 4, _number(y), "end"))
        parts += [_text(self.across(x), _HEIGHT - self.bottom + 16, _number(x), "middle") for x in x_ticks]
        middle = (self.left + _WIDTH - self.right) / 2
        parts.append(_text(middle, _HEIGHT - 6, x_label, "middle", "label"))
        return [*parts, _text(4, 12, y_label, "start", "label")]


def lines(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str) -> Markup:
    """Curves by name: x and y of each; a single point is drawn as one."""
    xs = [x for curve in series.values() for x in curve[0]]
    ys = [y for curve in series.values() for y in curve[1]]
    y_ticks = _ticks(min(ys), max(ys))
    frame = _Frame(_span(xs), (y_ticks[0], y_ticks[-1]))
    whole = [x for x in _ticks(*_span(xs), whole=True) if frame.x[0] <= x <= frame.x[1]]
    parts = frame.axes(x_label, y_label, whole, y_ticks)
    for i, (name, (x, y)) in enumerate(series.items()):
        points = [(frame.across(a), frame.down(b)) for a, b in zip(x, y, strict=True)]
        parts.append(f'<path class="line c{i}" d="M{"L".join(f"{a} {b}" for a, b in points)}"/>')
        for (across, down), a, b in zip(points, x, y, strict=True):
            point = escape(f"{name}, {x_label} {_number(a)}: {b:.4g}")
            parts.append(
                f'<circle class="dot c{i}" cx="{across}" cy="{down}" r="3"><title>{point}</title></circle>'
            )
    ends = "; ".join(f"{name} from {y[0]:.3g} to {y[-1]:.3g}" for name, (_, y) in series.items())
    return _svg(parts, f"{y_label} by {x_label}: {ends}")


def reliability_diagram(confidence: Figures, accuracy: Figures, counts: npt.NDArray[np.int64]) -> Markup:
    """Accuracy by confidence: bins of equal width, with the diagonal of perfect calibration.

    Args:
        confidence: mean of each bin, (B,).
        accuracy: share of its images that are classified correctly, (B,).
        counts: of images, (B,); empty bins are left out.
    """
    frame = _Frame((0, 1), (0, 1))
    ticks = (0, 0.25, 0.5, 0.75, 1)
    parts = frame.axes("confidence", "accuracy", ticks, ticks)
    width = frame.across(1 / len(counts)) - frame.across(0) - 2
    for i, (mean, correct, n) in enumerate(zip(confidence, accuracy, counts, strict=True)):
        if n:
            left, top = frame.across(i / len(counts)) + 1, frame.down(correct)
            tooltip = f"{n} images, confidence {mean:.3f}, accuracy {correct:.3f}"
            parts.append(_bar(left, top, width, frame.down(0), tooltip))
            parts.append(f'<path class="gap" d="M{left + width / 2:.1f} {frame.down(mean)}V{top}"/>')
    parts.append(f'<path class="ideal" d="M{frame.across(0)} {frame.down(0)}L{frame.across(1)} {frame.down(1)}"/>')
    full = [(m, a) for m, a, n in zip(confidence, accuracy, counts, strict=True) if n]
    values = ", ".join(f"{correct:.2f} at {mean:.2f}" for mean, correct in full)
    return _svg(parts, f"Accuracy by confidence: {values}")


def histogram(values: Figures, x_label: str, *, span: tuple[float, float] | None = None, bins: int = 20) -> Markup:
    """How many images have which value."""
    counts, edges = np.histogram(values, bins=bins, range=span or _span(values.tolist()))
    y_ticks = _ticks(0, float(counts.max()), whole=True)
    frame = _Frame((float(edges[0]), float(edges[-1])), (0, y_ticks[-1]))
    x_ticks = [x for x in _ticks(*frame.x) if frame.x[0] <= x <= frame.x[1]]
    parts = frame.axes(x_label, "images", x_ticks, y_ticks)
    for n, (low, high) in zip(counts, pairwise(edges), strict=True):
        if n:
            left, right = frame.across(low), frame.across(high)
            tooltip = f"{low:.4g} to {high:.4g}: {n} images"
            parts.append(_bar(left + 0.5, frame.down(n), right - left - 1, frame.down(0), tooltip))
    summary = f"from {values.min():.3g} to {values.max():.3g}, median {np.median(values):.3g}"
    return _svg(parts, f"Histogram of {x_label}: {summary}")


def bars(values: Mapping[str, float], shown: Mapping[str, str], label: str) -> Markup:
    """A horizontal bar for each name, with its value written beside it."""
    largest = max([abs(value) for value in values.values()] or [0]) or 1.0
    left = 14 + round(6.2 * min(_NAME, max(map(len, values), default=0)))
    step, right = 22, 64
    parts = []
    for i, (name, value) in enumerate(values.items()):
        top = i * step + 4
        parts.append(_text(left - 8, top + 12, one_line(name, _NAME), "end", title=name))
        width = max(1.0, abs(value) / largest * (_WIDTH - left - right))
        parts.append(_bar(left, top, width, top + step - 6, f"{name}: {shown[name]}"))
        parts.append(_text(left + width + 6, top + 12, shown[name], "start", "value"))
    names = ", ".join(f"{name} {shown[name]}" for name in list(values)[:20])
    return _svg(parts, f"{label}: {names}", height=len(values) * step + 8)


def levels_by_power(rows: Mapping[str, tuple[float, float]], label: str) -> Markup:
    """For each name a smaller and a larger number as exponents of 10, the smaller inside of the larger."""
    largest = max([high for _, high in rows.values()] or [0]) or 1.0
    step, left, right = 30, 60, 124
    parts = []
    for i, (name, (low, high)) in enumerate(rows.items()):
        top = i * step + 4
        parts.append(_text(left - 8, top + 15, one_line(name, _NAME), "end", title=name))
        for value, inset, kind in ((high, 0, "bar pale"), (low, 5, "bar")):
            width = max(1.0, value / largest * (_WIDTH - left - right))
            tooltip = f"{name}: 10^{value:.2f}"
            parts.append(_bar(left, top + inset, width, top + step - 8 - inset, tooltip, kind))
        parts.append(
            _text(
                left + max(1.0, high / largest * (_WIDTH - left - right)) + 6,
                top + 15,
                f"{power(low)} of {power(high)}",
                "start",
                "value",
            )
        )
    values = ", ".join(f"{name} {power(low)} of {power(high)}" for name, (low, high) in rows.items())
    return _svg(parts, f"{label}: {values}", height=len(rows) * step + 8)


def heat(counts: npt.NDArray[np.int64], rows: Sequence[str], columns: Sequence[str]) -> Markup:
    """A confusion matrix as squares, for more classes than a table can show; empty cells are left out."""
    side = _WIDTH / max(counts.shape)
    totals = counts.sum(1)
    parts = []
    for i, j in np.argwhere(counts).tolist():
        strength = round(float(counts[i, j] / totals[i]) ** 0.5, 3)
        kind = "bar" if rows[i] == columns[j] else "bar wrong"
        cell = escape(f"{rows[i]}, predicted {columns[j]}: {counts[i, j]}")
        parts.append(
            f'<rect class="{kind}" x="{j * side:.2f}" y="{i * side:.2f}" width="{side:.2f}" height="{side:.2f}" '
            f'fill-opacity="{strength}"><title>{cell}</title></rect>'
        )
    outline = f'<rect class="frame" width="{counts.shape[1] * side:.2f}" height="{counts.shape[0] * side:.2f}"/>'
    label = f"Confusion matrix: {len(rows)} true classes down, predicted classes across"
    return _svg([outline, *parts], label, height=math.ceil(counts.shape[0] * side))


def power(exponent: float) -> str:
    """10 to an exponent, in words that fit: 1,234 or 5.6·10⁷."""
    if exponent < 5:
        return f"{10**exponent:,.0f}"
    whole = math.floor(exponent)
    raised = str(whole).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{10 ** (exponent - whole):.1f}·10{raised}"


def _svg(parts: Iterable[str], label: str, height: int = _HEIGHT) -> Markup:
    head = f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(parts) + "</svg>")  # noqa: S704 - text was escaped where it was put in


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick", *, title: str = "") -> str:
    tooltip = f"<title>{escape(title)}</title>" if title else ""
    head = f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
    return f"{head}{escape(text)}{tooltip}</text>"


def _bar(x: float, top: float, width: float, bottom: float, tooltip: str, kind: str = "bar") -> str:
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}">'
        f"<title>{escape(tooltip)}</title></rect>"
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Least and largest, a little apart if they are one."""
    low, high = min(values), max(values)
    pad = 0.0 if high > low else 0.5 * abs(low) or 0.5
    return low - pad, high + pad


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers that hold the range between the first and the last."""
    low, high = _span([low, high])
    return [float(t) for t in MaxNLocator(_TICKS, integer=whole, min_n_ticks=2).tick_values(low, high)]


def _number(x: float) -> str:
    x = 0.0 if abs(x) < 1e-12 else x
    if 0 < abs(x) < 1e-3:
        return f"{x:.1e}".replace("e-0", "e-")
    return f"{x:,.0f}" if abs(x) >= 1000 and x == round(x) else f"{x:.4g}"
