"""The table: mean and standard deviation over label draws, beside the published column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from drmm.errors import RunError
from drmm.reproduce.protocol import METHODS, PUBLISHED
from drmm.storage import read_json

__all__ = ["Row", "figure", "markdown", "rows"]


@dataclass(frozen=True)
class Row:
    """One method at one number of labels.

    Attributes:
        dataset: its name.
        labels: how many.
        method: name.
        errors: test error of each seed, in percent.
        seconds: of each seed.
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
            found.setdefault(place, []).append({key: float(run[key]) for key in ("test_error", "seconds", "seed")})
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error}): remove it and run its cell again") from error
    order = list(METHODS)
    return [
        Row(
            dataset,
            labels,
            method,
            tuple(run["test_error"] for run in runs),
            tuple(run["seconds"] for run in runs),
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
        published = "–" if row.published is None else f"{row.published:.2f}"
        lines.append(
            f"| {row.dataset} | {row.labels:,} | {title} | {row.said} | {len(row.errors)} "
            f"| {np.median(row.seconds) / 60:.1f} | {published} |"
        )
    return "\n".join(lines) + "\n"


def figure(table: Sequence[Row]) -> Figure:
    """Every draw as a point, means as bars, published figures as lines; a panel for each number of labels."""
    places = list(dict.fromkeys((row.dataset, row.labels) for row in table))
    drawn = Figure(figsize=(4.2 * max(1, len(places)), 3.6), layout="constrained")
    axes = drawn.subplots(1, max(1, len(places)), squeeze=False)[0]
    for axis, place in zip(axes, places, strict=False):
        mine = [row for row in table if (row.dataset, row.labels) == place]
        for i, row in enumerate(mine):
            axis.barh(i, np.mean(row.errors), color="#9fb8d8")
            axis.plot(row.errors, [i] * len(row.errors), ".", color="#20456e", markersize=5)
            if row.published is not None:
                axis.plot([row.published] * 2, [i - 0.4, i + 0.4], color="#c0392b", linewidth=1.5)
        axis.set_yticks(
            range(len(mine)),
            [METHODS[row.method].title if row.method in METHODS else row.method for row in mine],
            fontsize=8,
        )
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.set_xlabel("test error, %")
        axis.set_title(f"{place[0]}, {place[1]:,} labels", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    drawn.supxlabel("bars: mean; points: label draws; red: the slides", fontsize=8)
    return drawn
