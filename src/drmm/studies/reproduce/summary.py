"""The table: mean and standard deviation over label draws beside the published columns, and paired comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

from drmm.display.figure import canvas, readable_log
from drmm.display.text import literal
from drmm.errors import InputError, RunError
from drmm.files import read_json
from drmm.learning.recipes import names, read_recipe
from drmm.runs.experiment import Experiment
from drmm.studies.reproduce.tables import BENCHMARKS, COMPARED, PUBLISHED, ROWS

__all__ = ["Comparison", "Row", "comparisons", "figure", "markdown", "rows", "spread", "title"]

_MEAN, _PUBLISHED = "#20456e", "#c0392b"
_ACROSS = 3  # panels in a line of the picture


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, or the value where there is but one."""
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.2f}"


@dataclass(frozen=True)
class Row:
    """One method at one number of labels.

    Attributes:
        dataset: its name.
        labels: how many.
        method: name.
        seeds: of the label draws.
        errors: test error of each seed, in percent.
        seconds: of each seed that ran without a stop.
        published: test error on the slides, or None.
        scaled: what keeps the row from being compared with the slides, in words; "" if nothing does.
    """

    dataset: str
    labels: int
    method: str
    seeds: tuple[int, ...]
    errors: tuple[float, ...]
    seconds: tuple[float, ...]
    published: float | None
    scaled: str = ""

    @property
    def text(self) -> str:
        """Mean ± standard deviation, in percent."""
        return spread(self.errors)

    @property
    def minutes(self) -> float | None:
        """Of a run that went without a stop, the median; None if all were stopped."""
        return float(np.median(self.seconds)) / 60 if self.seconds else None


def rows(out: Path) -> list[Row]:
    """All that has been run into a folder, in the order of the table.

    Raises:
        RunError: if a file is damaged.
    """
    runs: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for path in sorted(out.glob("*/*/*.json")):
        run = read_json(path)
        try:
            key = (path.parent.parent.name, int(run["labels"]), str(run["method"]))
            figures = {key: float(run[key]) for key in ("test_error", "seconds", "seed")}
            others = {"resumed": bool(run.get("resumed")), "scaled": _scaled(run)}
            runs.setdefault(key, []).append(figures | others)
        except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"{path} is damaged ({error}): remove it and run its cell again") from error
    order = sorted(runs, key=lambda key: (_place(key[0], BENCHMARKS), key[1], _place(key[2], ROWS)))
    return [_row(*key, runs[key]) for key in order]


def _row(dataset: str, labels: int, method: str, runs: Sequence[dict[str, Any]]) -> Row:
    scaled = "; ".join(_once(run["scaled"] for run in runs))
    return Row(
        dataset,
        labels,
        method,
        tuple(int(run["seed"]) for run in runs),
        tuple(run["test_error"] for run in runs),
        tuple(run["seconds"] for run in runs if not run["resumed"]),
        None if scaled else PUBLISHED.get(dataset, {}).get(method, {}).get(labels),
        scaled,
    )


def _scaled(run: dict[str, Any]) -> str:
    """In what a run differs from its benchmark in full size."""
    experiment = Experiment.of_tables(run["experiment"])
    full, width, images = BENCHMARKS.get(experiment.data.source), experiment.model.width, experiment.data.images
    epochs, row, seed = experiment.training.epochs, str(run["method"]), experiment.training.seed
    usual = epochs
    if full is not None and row in ROWS:
        usual = full.experiment(row, int(run["labels"]), seed).training.epochs
    differences = {
        f"on {run.get('dataset')}": full is not None and run.get("dataset") != full.dataset,
        f"{width} wide": width is not None,
        f"{images} images": images is not None,
        f"{epochs} epochs": epochs != usual,
    }
    return ", ".join(difference for difference, differs in differences.items() if differs)


def _place(name: str, order: Iterable[str]) -> tuple[int, str]:
    """Of a data set or a row among those there are; what is none of them any more comes last."""
    known = list(order)
    return (known.index(name) if name in known else len(known)), name


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same label draws.

    Attributes:
        dataset: its name.
        labels: how many.
        method: name of the one.
        against: name of the other.
        differences: test error of the one less that of the other, in points, for each seed that both have.
    """

    dataset: str
    labels: int
    method: str
    against: str
    differences: tuple[float, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the mean difference (Student's t), in points."""
        n = len(self.differences)
        half = float(student.ppf(0.975, n - 1) * np.std(self.differences, ddof=1) / np.sqrt(n))
        return float(np.mean(self.differences)) - half, float(np.mean(self.differences)) + half

    @property
    def text(self) -> str:
        """Mean difference [95 % confidence interval], in points."""
        low, high = self.interval
        return f"{np.mean(self.differences):+.2f} [{low:+.2f}, {high:+.2f}]"


def comparisons(table: Sequence[Row]) -> list[Comparison]:
    """What `COMPARED` asks for, wherever two rows share two or more draws."""
    row_of = {(row.dataset, row.labels, row.method): row for row in table}
    made = []
    for (dataset, labels, method), row in row_of.items():
        for against in COMPARED.get(method, ()):
            other = row_of.get((dataset, labels, against))
            errors = {} if other is None else dict(zip(other.seeds, other.errors, strict=True))
            mine = zip(row.seeds, row.errors, strict=True)
            differences = tuple(error - errors[seed] for seed, error in mine if seed in errors)
            if len(differences) > 1:
                made.append(Comparison(dataset, labels, method, against, differences))
    return made


def markdown(table: Sequence[Row]) -> str:
    """A table for each data set, methods down and numbers of labels across, and the comparisons that it allows."""
    names = dict.fromkeys(row.dataset for row in table)
    parts = [_pivot([row for row in table if row.dataset == name]) for name in names]
    compared = comparisons(table)
    if compared:
        parts.append(_compared(compared))
    return "\n\n".join(parts or ["Nothing has been run yet."]) + "\n"


def _pivot(table: Sequence[Row]) -> str:
    dataset, usual = table[0].dataset, Counter(len(row.errors) for row in table).most_common(1)[0][0]
    numbers = sorted({row.labels for row in table})
    scaled = "; ".join(_once(row.scaled for row in table))
    published = {} if scaled else PUBLISHED.get(dataset, {})
    slides = {n for n in numbers if any(n in row for row in published.values())}
    draws = "one label draw" if usual == 1 else f"{usual} label draws"
    head = [f"{n:,} labels" + (" | slides" if n in slides else "") for n in numbers]
    columns = len(numbers) + len(slides) + 1
    named = f"{dataset} ({scaled}: not comparable with the slides)" if scaled else dataset
    lines = [
        f"{named}, test error in % over {draws} where nothing else is said:",
        "",
        f"| method | {' | '.join(head)} | minutes a run |",
        f"|---|{'--:|' * columns}",
    ]
    for method in _methods(table):
        mine = {row.labels: row for row in table if row.method == method}
        cells = []
        for n in numbers:
            cells.append(_cell(mine.get(n), usual))
            if n in slides:
                theirs = published.get(method, {}).get(n)
                cells.append("–" if theirs is None else f"{theirs:.2f}")
        minutes = [row.minutes for row in mine.values() if row.minutes is not None]
        cells.append(f"{np.median(minutes):.1f}" if minutes else "–")
        lines.append(f"| {title(method)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _once(texts: Iterable[str]) -> list[str]:
    """Each text once, and none that is empty."""
    return list(dict.fromkeys(filter(None, texts)))


def _cell(row: Row | None, usual: int) -> str:
    if row is None:
        return "–"
    draws = len(row.errors)
    return row.text if draws == usual else f"{row.text} ({draws} draw{'s' * (draws > 1)})"


def _compared(compared: Sequence[Comparison]) -> str:
    lines = [
        "The same label draws, test error of the first less that of the second, in points [95 % interval]:",
        "",
        "| data | labels | first | second | difference | draws |",
        "|---|--:|---|---|--:|--:|",
    ]
    lines += [
        f"| {one.dataset} | {one.labels:,} | {title(one.method)} | {title(one.against)} | {one.text} "
        f"| {len(one.differences)} |"
        for one in compared
    ]
    return "\n".join(lines)


def title(method: str) -> str:
    """What the table calls a method."""
    return read_recipe(method).title if method in names() else method


def _methods(table: Sequence[Row]) -> list[str]:
    """Those that were run, in the order of the table."""
    return sorted({row.method for row in table}, key=lambda method: _place(method, ROWS))


def figure(table: Sequence[Row]) -> Figure:
    """Every draw as a point, means and published figures as lines; a panel for each number of labels."""
    panels = list(dict.fromkeys((row.dataset, row.labels) for row in table))
    heights = {method: i for i, method in enumerate(_methods(table))}
    across, down = min(_ACROSS, max(1, len(panels))), max(1, -(-len(panels) // _ACROSS))
    drawn = canvas(2.2 + 3.0 * across, 0.8 + (0.8 + 0.36 * len(heights)) * down)
    axes = drawn.subplots(down, across, sharey=True, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes, panels, strict=False):
        shown = [row for row in table if (row.dataset, row.labels) == panel]
        for row in shown:
            i = heights[row.method]
            axis.plot([np.mean(row.errors)] * 2, [i - 0.3, i + 0.3], color=_MEAN, linewidth=5, alpha=0.5)
            axis.plot(row.errors, [i] * len(row.errors), ".", color=_MEAN, markersize=6)
            if row.published is not None:
                axis.plot([row.published] * 2, [i - 0.4, i + 0.4], color=_PUBLISHED, linewidth=1.5)
        scaled = _once(row.scaled for row in shown)
        axis.set_title(literal("\n".join([f"{panel[0]}, {panel[1]:,} labels", *scaled])), fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        mine = [row for row in table if row.dataset == panel[0]]
        _percent_axis(axis, [value for row in mine for value in (*row.errors, row.published or row.errors[0])])
    axes[0].set_yticks(range(len(heights)), [literal(fill(title(method), 24)) for method in heights], fontsize=8)
    axes[0].set_ylim(len(heights) - 0.5, -0.5)
    drawn.supxlabel("points: label draws; blue: their mean; red: the slides", fontsize=8)
    return drawn


def _percent_axis(axis: Axes, values: Sequence[float]) -> None:
    """Errors in percent on a logarithmic scale, with room at both ends and ticks that can be read."""
    axis.set_xscale("log")
    axis.set_xlim(max(0.01, 0.6 * min(values)), min(100.0, 1.6 * max(values)))
    readable_log(axis.xaxis)
    axis.grid(axis="x", color="#e4e8ee", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
    axis.set_xlabel("test error, %", fontsize=8)
