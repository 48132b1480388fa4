"""Sections on how a model came to be: figures, models side by side, curves, labels, command and versions."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import torch
from scipy.stats import binomtest

from drmm.report.blocks import Chart, Charts, Code, Fact, Facts, Gallery, Note, Picture, Section, Table, shorten
from drmm.report.charts import bars, lines
from drmm.report.context import Material, decimal, percent
from drmm.report.evaluation import calibration
from drmm.report.sprites import room
from drmm.runs.folder import Source, number
from drmm.runs.run import versions

__all__ = ["comparison", "curves", "headline", "labels", "provenance"]

_LABEL_BYTES = 250_000  # of the sheet of labelled images, before compression
_MOST_BARS = 30
_LONGEST_COMMAND = 2000

_TERMS = {
    "val/error": "error on the images held out of training, in percent",
    "train/loss": "the whole objective: the weighted sum of the terms",
    "train/cross_entropy": "labels: −log of the true class's probability, in nats",
    "train/reconstruction": "pictures: mean squared error of what the model draws",
    "train/kl": "sureness: how far posteriors are from the prior, in nats, negative where confident",
    "train/balance": "balance: divergence of the batch's mean posterior from the prior, in nats",
    "train/nonnegativity": "non-negativity: mean square of templates below 0",
    "objective": "what EM maximises",
}


def headline(material: Material) -> Section:
    """The figures that people ask for first."""
    facts = [*_errors(material), *_size(material)]
    lead = _in_words(material)
    notes: list[Note] = []
    if material.seen is None:
        notes.append(
            Note(
                f"{material.source.why_no_data} This report shows what can be said from the model alone. To see "
                "the rest, put the images back or pass --data-dir."
            )
        )
    elif material.seen.part == "training":
        notes.append(
            Note(
                "The data set has no test images. All that is said below of single images is about training "
                "images, and flatters the model."
            )
        )
    return Section("figures", "At a glance", lead, (Facts(tuple(facts)), *notes))


def comparison(material: Material) -> Section | None:
    """The demo's models side by side."""
    rows = material.source.contenders
    if len(rows) < 2:
        return None
    shown = material.source.name
    cells, errors, told = [], {}, {}
    for key, row in rows.items():
        name = shorten(str(row.get("name", key)))
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
            errors[name], told[name] = error, f"{error:.2f} %"
    blocks: list[Table | Charts] = []
    if errors:
        blocks.append(Charts((Chart(bars(errors, told, "Test error"), "test error; shorter is better"),)))
    blocks.append(Table(("model", "test error", "certified exact", "seconds"), tuple(cells), "The models"))
    lead = "Trained on the same images with the same labels, tested on the same images."
    return Section("models", "Models side by side", lead, tuple(blocks))


def curves(material: Material) -> Section:
    """What was logged while the model learned."""
    found = material.source.curves
    lead = "What was logged while the model learned, epoch by epoch. Each chart has its own scale."
    if not found:
        text = "Nothing was logged: the folder has no curves."
        return Section("curves", "Training", text, ())
    known = [name for name in _TERMS if name in found]
    charts = []
    for name in [*known, *(name for name in found if name not in _TERMS)]:
        plain = shorten(name.removeprefix("train/").replace("val/", "validation ").replace("_", " "))
        clock = "iteration" if name == "objective" else "epoch"
        charts.append(Chart(lines({plain: found[name]}, clock, plain), _TERMS.get(name, plain)))
    return Section("curves", "Training", lead, (Charts(tuple(charts)),))


def labels(material: Material) -> Section:
    """Which images had a label."""
    split, title = material.source.labels, "Which images had a label"
    if split is None:
        total = number(material.source.results, "labels")
        known = "" if total is None else f"{total:,.0f} labels were known. "
        text = f"{known}Which images had them is not recorded in this folder."
        return Section("labels", title, text, ())
    if not split:
        return Section("labels", title, "None had: the model found clusters.", ())
    counts = Counter(shorten(name) for _, name in split)
    few, many = min(counts.values()), max(counts.values())
    each = f"{few:,} of each class" if few == many else f"{few:,} to {many:,} of a class"
    data = material.source.data
    of = "" if data is None else f" of {len(data.x_train):,} training images"
    lead = f"{len(split):,} labels{of} were known: {each}."
    if data is not None and len(split) == len(data.x_train):
        lead = f"All {len(split):,} training images had a label: {each}."
    elif data is not None:
        lead += " The other images were learned from without one."
    shown = dict(sorted(counts.items(), key=lambda item: -item[1])[:_MOST_BARS]) if few != many else {}
    blocks: list[Charts | Gallery] = []
    if shown:
        told = {name: f"{n:,}" for name, n in shown.items()}
        more = "" if len(shown) == len(counts) else f"; the {_MOST_BARS} largest of {len(counts)} classes"
        chart = bars({k: float(v) for k, v in shown.items()}, told, "Labels of each class")
        blocks.append(Charts((Chart(chart, f"labels of each class{more}"),)))
    return Section("labels", title, lead, (*blocks, *_labelled_images(material)))


def provenance(material: Material) -> Section:
    """How to make it again."""
    source = material.source
    blocks: list[Code | Note | Table] = []
    if source.command:
        blocks.append(Code(source.command[:_LONGEST_COMMAND]))
    else:
        found = {name: number(source.results, name) for name in ("epochs", "seed")}
        known = [f"{name} {value:.0f}" for name, value in found.items() if value is not None]
        told = f" It does say: {', '.join(known)}." if known else ""
        blocks.append(Note(f"The folder does not record the command.{told}"))
    now, then = versions(), source.versions
    rows = tuple(
        (shorten(name), shorten(then.get(name, "not recorded")), now.get(name, "")) for name in {**then, **now}
    )
    blocks.append(Table(("", "of the model", "of this report"), rows, "Versions", names=3))
    asked = {**_recipe(source), **source.spec}
    settings = tuple((shorten(name), shorten(_plain(value), 200)) for name, value in _flat(asked))
    blocks.append(Table(("setting", "value"), settings, "Settings", names=2))
    return Section(
        "command", "Command and versions", "What made this model, so that it can be made again.", tuple(blocks)
    )


def _errors(material: Material) -> list[Fact]:
    """How well the model does."""
    source, seen = material.source, material.seen
    results = source.contenders.get(source.name, source.results)
    facts = []
    stored, accuracy = number(results, "test_error"), number(results, "cluster_accuracy")
    if stored is not None:
        facts.append(Fact(f"{stored:.2f} %", "test error", _interval(material, stored)))
    elif accuracy is not None:
        remark = "each cluster counted as what most of its training images are"
        facts.append(Fact(f"{accuracy:.2f} %", "cluster accuracy", remark))
    elif seen is not None and seen.known.any() and not source.clusters:
        wrong = float((seen.found != seen.truth)[seen.known].mean())
        facts.append(Fact(percent(wrong, 2), f"{seen.part} error", f"of {int(seen.known.sum()):,} images"))
    if seen is not None:
        remark = "inference provably the joint maximum"
        facts.append(Fact(percent(float(seen.certified.mean()), 0), "certified exact", remark))
        explained = f"median over {len(seen.index):,} images"
        facts.append(Fact(percent(float(np.median(seen.explained)), 0), "of a picture's energy drawn", explained))
        if seen.known.any() and not source.clusters:
            remark = "mean distance of confidence and accuracy"
            facts.append(Fact(percent(calibration(seen).error), "calibration error", remark))
    return facts


def _interval(material: Material, error: float) -> str:
    """The error's confidence interval, where the number of test images is known."""
    data = material.source.data
    n = 0 if data is None else int((data.y_test >= 0).sum())
    if not n:
        return "measured when the run ended"
    low, high = binomtest(round(error / 100 * n), n).proportion_ci(method="wilson")
    return f"of {n:,} images; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"


def _size(material: Material) -> list[Fact]:
    source = material.source
    results = source.contenders.get(source.name, {})
    facts = []
    n_labels = len(source.labels) if source.labels is not None else number(source.results, "labels")
    n_images = len(source.data.x_train) if source.data is not None else number(source.results, "images")
    if n_labels is not None:
        remark = "" if n_images is None else f"among {n_images:,.0f} training images"
        facts.append(Fact(f"{n_labels:,.0f}", "labels", remark))
    n_parameters = sum(p.numel() for p in source.model.parameters())
    shape = " × ".join(map(str, source.recipe.image_shape))
    remark = f"{shorten(source.recipe.preset)}, {source.recipe.constraint}, pictures {shape}"
    facts.append(Fact(f"{n_parameters:,}", "parameters", remark))
    seconds = number(results or source.results, "seconds")
    if seconds is not None:
        facts.append(Fact(decimal(seconds), "seconds of training"))
    return facts


def _in_words(material: Material) -> str:
    """What the figures say, in a sentence or two."""
    source, seen = material.source, material.seen
    classes = f"{source.model.n_classes} {'clusters' if source.clusters else 'classes'}"
    told = f"A Deep Rendering Mixture Model of {classes}"
    name = source.spec.get("data") or source.results.get("dataset")
    told += f", learned from {shorten(str(name))}." if name else "."
    if seen is None:
        return told
    if seen.known.any() and not source.clusters:
        wrong = int((seen.found != seen.truth)[seen.known].sum())
        told += f" It takes {wrong:,} of {int(seen.known.sum()):,} {seen.part} images for something else."
    if len(seen.index) < seen.total:
        told += (
            f" What is said of single images is about {len(seen.index):,} of {seen.total:,} {seen.part} images, "
            "drawn at random."
        )
    return told


def _labelled_images(material: Material) -> tuple[Gallery, ...]:
    """Thumbnails of labelled images, some of every class."""
    source = material.source
    if source.data is None or not source.labels:
        return ()
    fitting = [(place, name) for place, name in source.labels if 0 <= place < len(source.data.x_train)]
    turns: Counter[str] = Counter()
    ordered = []
    for place, name in fitting:
        ordered.append((turns[name], place, name))
        turns[name] += 1
    ordered.sort(key=lambda item: item[0])
    shown = sorted(ordered[: room(source.recipe.image_shape, _LABEL_BYTES)], key=lambda item: (item[2], item[1]))
    if not shown:
        return ()
    images = torch.from_numpy(source.data.x_train[[place for _, place, _ in shown]])
    sheet = material.sheets.pictures(images)
    pictures = tuple(
        Picture(sheet, i, f"labelled {shorten(name)}", shorten(name, 24)) for i, (_, _, name) in enumerate(shown)
    )
    more = "" if len(shown) == len(fitting) else f" ({len(shown):,} of {len(fitting):,})"
    return (Gallery(pictures, f"The images with a label{more}"),)


def _recipe(source: Source) -> dict[str, object]:
    recipe = source.recipe
    return {
        "preset": recipe.preset,
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
