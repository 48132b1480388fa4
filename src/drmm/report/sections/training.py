"""Sections on a model and its training: summary, models side by side, curves, labels, size, command, versions."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import torch
from scipy.stats import binomtest

from drmm.display.text import one_line
from drmm.model.constraints import free_parameters
from drmm.report.blocks import Chart, Charts, Code, Fact, Facts, Gallery, Note, Picture, Section, Table
from drmm.report.charts import bars, lines
from drmm.report.context import Context, decimal, percent
from drmm.report.evaluation import calibration
from drmm.report.sprites import room
from drmm.runs.run import Run, number, versions

__all__ = ["comparison", "curves", "labels", "model", "provenance", "summary"]

_LABEL_BYTES = 250_000  # of the sheet of labelled images, before compression
_MOST_BARS = 30
_LONGEST_COMMAND = 2000

_TERMS = {
    "val/error": "error on validation images, in percent",
    "train/loss": "objective: the weighted sum of the terms",
    "train/cross_entropy": "cross entropy of labelled images, in nats",
    "train/reconstruction": "mean squared error of reconstructions",
    "train/kl": "KL divergence of posteriors and prior, in nats; negative where posteriors are confident",
    "train/balance": "KL divergence of the mean posterior from the prior, in nats",
    "train/agreement": "cross entropy of views from their pictures' posteriors, in nats",
    "train/nonnegativity": "non-negativity penalty: mean square of templates below 0",
    "objective": "what EM maximises",
}


def summary(context: Context) -> Section:
    """The figures that people ask for first."""
    facts = [*_errors(context), *_labels(context)]
    lead = _in_words(context)
    notes: list[Note] = []
    if context.evaluation is None:
        notes.append(
            Note(
                f"{context.why_no_data} This report says of the model what can be said without them. To see the "
                "rest, put the images back or pass --data-dir."
            )
        )
    elif context.evaluation.held_out.any():
        notes.append(
            Note(
                "No labelled picture is there to test with. What is said of labelled pictures below is what nets "
                "said that had not learned their label: each was held out in turn. The model had all labels, and "
                "is rather better."
            )
        )
    elif context.evaluation.part == "training":
        notes.append(
            Note(
                "The data set has no test images. All figures below are of training images, which flatters the "
                "model."
            )
        )
    return Section("summary", "Summary", lead, (Facts(tuple(facts)), *notes))


def comparison(context: Context) -> Section | None:
    """The demo's models side by side."""
    rows = context.source.rows
    if len(rows) < 2:
        return None
    shown = context.source.name
    cells, errors, shown_errors = [], {}, {}
    for key, row in rows.items():
        name = one_line(str(row.get("name", key)))
        figures = [number(row, what) for what in ("test_error", "certified", "seconds")]
        error, certified, seconds = figures
        cells.append(
            (
                f"{name} — in detail below" if key == shown else name,
                "unknown" if error is None else f"{error:.2f} %",
                "unknown" if certified is None else f"{certified:.0f} %",
                "unknown" if seconds is None else f"{seconds:,.0f}",
            )
        )
        if error is not None:
            errors[name], shown_errors[name] = error, f"{error:.2f} %"
    blocks: list[Table | Charts] = []
    if errors:
        blocks.append(Charts((Chart(bars(errors, shown_errors, "Test error"), "test error; lower is better"),)))
    blocks.append(Table(("model", "test error", "certified exact", "seconds"), tuple(cells), "The models"))
    lead = "Trained on the same images with the same labels, tested on the same images."
    return Section("models", "Models side by side", lead, tuple(blocks))


def curves(context: Context) -> Section:
    """What was logged during training."""
    logged = context.source.curves
    lead = "What was logged during training, epoch by epoch. Each chart has its own scale."
    if not logged:
        experiment = context.source.experiment
        if experiment is not None and experiment.training.learning == "head":
            text = "The class templates alone were learned, on features of a net that stays as it is: in a moment."
        else:
            text = "Nothing was logged: the folder has no curves."
        return Section("training", "Training", text, ())
    known = [name for name in _TERMS if name in logged]
    charts = []
    for name in [*known, *(name for name in logged if name not in _TERMS)]:
        plain = one_line(name.removeprefix("train/").replace("val/", "validation ").replace("_", " "))
        clock = "iteration" if name == "objective" else "epoch"
        charts.append(Chart(lines({plain: logged[name]}, clock, plain), _TERMS.get(name, plain)))
    return Section("training", "Training", lead, (Charts(tuple(charts)),))


def labels(context: Context) -> Section:
    """Which images were labelled."""
    split, title = context.source.labels, "Labelled images"
    if split is None:
        total = number(context.source.results, "labels")
        known = "" if total is None else f"{total:,.0f} labels were known. "
        text = f"{known}Which images had them is not recorded in this folder."
        return Section("labels", title, text, ())
    if not split:
        return Section("labels", title, "No label was used: the model found clusters.", ())
    counts = Counter(one_line(name) for _, name in split)
    few, many = min(counts.values()), max(counts.values())
    each = f"{few:,} of each class" if few == many else f"{few:,} to {many:,} of a class"
    data = context.data
    of = "" if data is None else f" of {len(data.x_train):,} training images"
    lead = f"{len(split):,} labels{of} were known: {each}."
    if data is not None and len(split) == len(data.x_train):
        lead = f"All {len(split):,} training images are labelled: {each}."
    elif data is not None:
        lead += " The other images were used without labels."
    shown = dict(sorted(counts.items(), key=lambda item: -item[1])[:_MOST_BARS]) if few != many else {}
    blocks: list[Charts | Gallery | Table] = []
    if shown:
        values = {name: f"{n:,}" for name, n in shown.items()}
        more = "" if len(shown) == len(counts) else f"; the {_MOST_BARS} largest of {len(counts)} classes"
        chart = bars({k: float(v) for k, v in shown.items()}, values, "Labels of each class")
        blocks.append(Charts((Chart(chart, f"labels of each class{more}"),)))
    blocks += _shares(context.source, counts)
    return Section("labels", title, lead, (*blocks, *_labelled_images(context)))


def _shares(source: Run, counts: Counter[str]) -> list[Table]:
    """How frequent each class is among the labels, and by estimate among the other images."""
    kept = source.results.get("class_shares")
    if not isinstance(kept, dict):
        return []
    rows = []
    for name, figures in kept.items():
        share, low, high = (number(figures, key) for key in ("estimate", "low", "high"))
        if share is not None and low is not None and high is not None:
            labels = counts[one_line(name)] / max(counts.total(), 1)
            spread = f"{100 * low:.1f} to {100 * high:.1f} %"
            rows.append((one_line(name), percent(labels), percent(share), spread))
    head = ("class", "of the labels", "of the others, estimated", "95 % interval")
    most = sorted(rows, key=lambda row: -counts[row[0]])[:_MOST_BARS]
    more = f", the {len(most)} largest of {len(rows)}" * (len(most) < len(rows))
    return [Table(head, tuple(most), f"How frequent the classes are{more}", heading=True)] if rows else []


def provenance(context: Context) -> Section:
    """What it takes to reproduce the model."""
    source = context.source
    blocks: list[Code | Note | Table] = []
    if source.command:
        blocks.append(Code(source.command[:_LONGEST_COMMAND]))
    else:
        options = {name: number(source.results, name) for name in ("epochs", "seed")}
        known = [f"{name} {value:.0f}" for name, value in options.items() if value is not None]
        recorded = f" Recorded are: {', '.join(known)}." if known else ""
        blocks.append(Note(f"The folder does not record the command.{recorded}"))
    now, then = versions(), source.versions
    rows = tuple(
        (one_line(name), one_line(then.get(name, "not recorded")), now.get(name, "")) for name in {**then, **now}
    )
    blocks.append(Table(("package", "training", "this report"), rows, "Versions", names=3))
    tables = {} if source.experiment is None else source.experiment.tables()
    asked = {**tables, "model": _recipe(source)}
    settings = tuple((one_line(name), one_line(_plain(value), 200)) for name, value in _flat(asked))
    blocks.append(Table(("setting", "value"), settings, "Settings", names=2))
    return Section(
        "command",
        "Command and versions",
        "What made this model, and what it takes to reproduce it.",
        tuple(blocks),
    )


def _errors(context: Context) -> list[Fact]:
    """How well the model does."""
    source, evaluation = context.source, context.evaluation
    results = source.rows.get(source.name, source.results)
    facts = []
    stored, accuracy = number(results, "test_error"), number(results, "cluster_accuracy")
    if stored is not None:
        facts.append(Fact(f"{stored:.2f} %", "test error", _interval(context, stored)))
        if (balanced := number(results, "balanced_error")) is not None:
            facts.append(Fact(f"{balanced:.2f} %", "balanced error", "the mean of the classes' own errors"))
    elif accuracy is not None:
        remark = "each cluster counted as the majority class of its training images"
        facts.append(Fact(f"{accuracy:.2f} %", "cluster accuracy", remark))
    elif (
        evaluation is not None
        and evaluation.known.any()
        and not (source.clusters or evaluation.held_out.any())  # whose error is the cross-fitted one
    ):
        wrong = float(evaluation.wrong[evaluation.known].mean())
        facts.append(
            Fact(percent(wrong, 2), f"{evaluation.part} error", f"of {int(evaluation.known.sum()):,} images")
        )
    cross_fitted = None if source.assessment is None else source.assessment.error()
    if cross_fitted is not None:
        low, high = cross_fitted["interval"]
        of = f"of {cross_fitted['labels']:,} labels held out in turn (cross-fitting)"
        remark = f"{of}; 95 % interval {low:.1f} to {high:.1f} %"
        facts.append(Fact(f"{cross_fitted['error']:.1f} %", "expected error", remark))
    if evaluation is not None and evaluation.known.any() and not source.clusters:
        remark = "expected distance of confidence and accuracy"
        facts.append(Fact(percent(calibration(evaluation).error), "calibration error (ECE)", remark))
    return facts


def _interval(context: Context, error: float) -> str:
    """The error's confidence interval, where the number of test images is known."""
    data = context.data
    n = 0 if data is None else int((data.y_test >= 0).sum())
    if not n:
        return "measured when the run ended"
    low, high = binomtest(round(error / 100 * n), n).proportion_ci(method="wilson")
    return f"of {n:,} images; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"


def _labels(context: Context) -> list[Fact]:
    source = context.source
    n_labels = len(source.labels) if source.labels is not None else number(source.results, "labels")
    n_images = len(context.data.x_train) if context.data is not None else number(source.results, "images")
    if n_labels is not None:
        remark = "" if n_images is None else f"among {n_images:,.0f} training images"
        return [Fact(f"{n_labels:,.0f}", "labels", remark)]
    return []


def model(context: Context) -> Section:
    """How large the net is, and how well it explains what it sees."""
    source, evaluation = context.source, context.evaluation
    results, facts = source.rows.get(source.name, {}), []
    if evaluation is not None:
        remark = "inference provably the joint maximum"
        facts.append(Fact(percent(float(evaluation.certified.mean()), 0), "certified exact", remark))
        explained = f"of a picture, median over {len(evaluation.index):,} images"
        facts.append(Fact(percent(float(np.median(evaluation.explained)), 0), "reconstructed energy", explained))
    n_parameters = free_parameters(source.model)
    shape = " × ".join(map(str, source.recipe.image_shape))
    remark = f"{one_line(source.recipe.architecture)}, {source.recipe.constraint}, pictures {shape}"
    facts.append(Fact(f"{n_parameters:,}", "parameters", remark))
    seconds = number(results or source.results, "seconds")
    if seconds is not None:
        facts.append(Fact(decimal(seconds), "seconds of training"))
    lead = "A Deep Rendering Mixture Model: it classifies a picture by how well each class could have rendered it."
    return Section("model", "The model", lead, (Facts(tuple(facts)),))


def _in_words(context: Context) -> str:
    """The summary in a sentence or two."""
    source, evaluation = context.source, context.evaluation
    text = "" if context.sorting is None else context.sorting.in_words()
    text += f"A model of {source.model.n_classes} {'clusters' if source.clusters else 'classes'}"
    name = source.results.get("dataset") or source.asked.source
    text += f", trained on {one_line(str(name))}." if name else "."
    if evaluation is None:
        return text
    if evaluation.known.any() and not source.clusters:
        of = f"{int(evaluation.known.sum()):,} {evaluation.judged}"
        text += f" {int(evaluation.wrong.sum()):,} of {of} are misclassified."
    if len(evaluation.index) < evaluation.total:
        first = "the labelled ones, and others " if evaluation.held_out.any() else ""
        text += (
            f" This report looks at {len(evaluation.index):,} of {evaluation.total:,} {evaluation.part} "
            f"images, {first}drawn at random."
        )
    return text


def _labelled_images(context: Context) -> tuple[Gallery, ...]:
    """Thumbnails of labelled images, some of every class."""
    source = context.source
    if context.data is None or not source.labels:
        return ()
    fitting = [(index, name) for index, name in source.labels if 0 <= index < len(context.data.x_train)]
    turns: Counter[str] = Counter()
    ordered = []
    for index, name in fitting:
        ordered.append((turns[name], index, name))
        turns[name] += 1
    ordered.sort(key=lambda item: item[0])
    shown = sorted(ordered[: room(source.recipe.image_shape, _LABEL_BYTES)], key=lambda item: (item[2], item[1]))
    if not shown:
        return ()
    images = torch.from_numpy(context.data.x_train[[index for _, index, _ in shown]])
    sheet = context.sprites.pictures(images)
    pictures = tuple(
        Picture(sheet, i, f"labelled {one_line(name)}", one_line(name, 24)) for i, (_, _, name) in enumerate(shown)
    )
    more = "" if len(shown) == len(fitting) else f" ({len(shown):,} of {len(fitting):,})"
    return (Gallery(pictures, f"Labelled training images{more}"),)


def _recipe(source: Run) -> dict[str, object]:
    recipe = source.recipe
    return {
        "preset": recipe.architecture,
        "constraint": recipe.constraint,
        "width": recipe.width,
        "depth": recipe.depth,
        "channels": recipe.channels,
        "image_shape": recipe.image_shape,
    }


def _flat(settings: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Settings within settings as "outer.inner"."""
    flat: list[tuple[str, object]] = []
    for key, value in settings.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
        flat += inner
    return flat[:100]


def _plain(value: object) -> str:
    if value is None:
        return "default"
    return value if isinstance(value, str) else json.dumps(value, default=str)
