"""The table: mean and standard deviation over label draws, beside the published column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from drmm.errors import RunError
from drmm.reproduce.protocol import METHODS, PUBLISHED
from drmm.storage import read_json

__all__ = ["Row", "figure", "markdown", "rows"]

_MEAN, _PUBLISHED = "#20456e", "#c0392b"


@dataclass(frozen=True)
class Row:
    """One method at one number of labels.

    Attributes:
        dataset: its name.
        labels: how many.
        method: name.
        errors: test error of each seed, in percent.
        seconds: of each seed that ran without a stop.
        published: test error on the slides, or None.
    """

    dataset: str
    labels: int
    method: str
    errors: tuple[float, ...]
    seconds: tuple[float, ...]
    published: float | None

    @property
    def said(self) -> str:
        """Mean ± standard deviation, in percent."""
        mean = f"{np.mean(self.errors):.2f}"
        return mean if len(self.errors) == 1 else f"{mean} ± {np.std(self.errors, ddof=1):.2f}"

    @property
    def minutes(self) -> float | None:
        """Of a run that went without a stop, the median; None if all were stopped."""
        return float(np.median(self.seconds)) / 60 if self.seconds else None


def rows(out: Path) -> list[Row]:
    """All that has been run into a folder, in the order of the table.

    Raises:
        RunError: if a file is damaged.
    """
    found: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for path in sorted(out.glob("*/*/*.json")):
        run = read_json(path)
        try:
            place = (path.parent.parent.name, int(run["labels"]), str(run["method"]))
            figures = {key: float(run[key]) for key in ("test_error", "seconds", "seed")}
            found.setdefault(place, []).append(figures | {"resumed": bool(run.get("resumed"))})
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error}): remove it and run its cell again") from error
    order = list(METHODS)
    return [
        Row(
            dataset,
            labels,
            method,
            tuple(run["test_error"] for run in runs),
            tuple(run["seconds"] for run in runs if not run["resumed"]),
            PUBLISHED.get(dataset, {}).get(method, {}).get(labels),
        )
        for (dataset, labels, method), runs in sorted(
            found.items(),
            key=lambda item: (
                item[0][0],
                item[0][1],
                order.index(item[0][2]) if item[0][2] in order else len(order),
            ),
        )
    ]


def markdown(table: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| data | labels | method | test error (%) | draws | minutes a run | published (%) |",
        "|---|--:|---|--:|--:|--:|--:|",
    ]
    for row in table:
        title = METHODS[row.method].title if row.method in METHODS else row.method
        minutes = "–" if row.minutes is None else f"{row.minutes:.1f}"
        published = "–" if row.published is None else f"{row.published:.2f}"
        lines.append(
            f"| {row.dataset} | {row.labels:,} | {title} | {row.said} | {len(row.errors)} "
            f"| {minutes} | {published} |"
        )
    return "\n".join(lines) + "\n"


def figure(table: Sequence[Row]) -> Figure:
    """Every draw as a point, means and published figures as lines; a panel for each number of labels."""
    places = list(dict.fromkeys((row.dataset, row.labels) for row in table))
    most = max((sum((row.dataset, row.labels) == place for row in table) for place in places), default=0)
    drawn = Figure(figsize=(4.6 * max(1, len(places)), 1.6 + 0.42 * most), layout="constrained")
    axes = drawn.subplots(1, max(1, len(places)), squeeze=False)[0]
    for axis, place in zip(axes, places, strict=False):
        mine = [row for row in table if (row.dataset, row.labels) == place]
        for i, row in enumerate(mine):
            axis.plot([np.mean(row.errors)] * 2, [i - 0.3, i + 0.3], color=_MEAN, linewidth=5, alpha=0.5)
            axis.plot(row.errors, [i] * len(row.errors), ".", color=_MEAN, markersize=6)
            if row.published is not None:
                axis.plot([row.published] * 2, [i - 0.4, i + 0.4], color=_PUBLISHED, linewidth=1.5)
        _percent_axis(axis, [value for row in mine for value in (*row.errors, row.published or row.errors[0])])
        names = [METHODS[row.method].title if row.method in METHODS else row.method for row in mine]
        axis.set_yticks(range(len(mine)), [fill(name, 24) for name in names], fontsize=8)
        axis.set_ylim(len(mine) - 0.5, -0.5)
        axis.set_title(f"{place[0]}, {place[1]:,} labels", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    drawn.supxlabel("points: label draws; blue: their mean; red: the slides", fontsize=8)
    return drawn


def _percent_axis(axis: Axes, values: Sequence[float]) -> None:
    """Errors in percent on a logarithmic scale, with room at both ends and ticks that can be read."""
    axis.set_xscale("log")
    axis.set_xlim(max(0.01, 0.6 * min(values)), min(100.0, 1.6 * max(values)))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(axis="x", color="#e4e8ee", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlabel("test error, %", fontsize=8)
