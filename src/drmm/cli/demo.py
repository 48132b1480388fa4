"""Three models of 5,000 digits, a table, a picture."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from drmm.cli.console import say
from drmm.data import load
from drmm.data.images import pixels
from drmm.explain.plots import overview, save_figure
from drmm.files import check_new, replacing
from drmm.learning.allocator import tune_allocator
from drmm.learning.metrics import certified_percent, error_percent, taught_labels
from drmm.model.deep import DRMM
from drmm.runs.experiment import Experiment
from drmm.runs.fit import learn
from drmm.runs.parts import Parts, fitted_recipe, parts_of
from drmm.runs.run import Run, versions

__all__ = ["DEMO_EPOCHS", "NAMES", "demo", "experiments"]

DEMO_EPOCHS = 6  # the most that two quiet cores make in two minutes
NAMES = {
    "supervised": "the same convnet, 100 labels alone",
    "soft": "DRMM",
    "hard": "DRMM, hard constraint: inference provably exact; taught by the DRMM",
}
"""The rows of the table, by the folders of their models."""


def experiments(epochs: int = DEMO_EPOCHS, seed: int = 0) -> dict[str, Experiment]:
    """What each row learns.

    Labels alone need half of the epochs: on validation images more of them change nothing. The taught model makes
    a third more, which are cheaper.
    """
    base = Experiment.read().changed("data", source="mnist-5k", labels_per_class=10)
    base = base.changed("model", preset="conv_small").changed("training", epochs=epochs, seed=seed, min_steps=0)
    bare = {"reconstruction": 0, "kl": 0, "balance": 0, "nonnegativity": 0, "views": ()}
    half = {"labels_only": True, "epochs": max(1, epochs // 2)}
    # Every image has a label from the teacher: none of them comes twice in a batch.
    others = base.training.batch_size - base.training.labelled_per_batch
    longer = {"batch_size": others, "epochs": round(epochs * 4 / 3)}
    taught = base.changed("model", constraint="hard").changed("training", **longer)
    return {
        "supervised": base.changed("objective", **bare).changed("training", **half),
        "soft": base,
        "hard": taught.changed("teacher", source="soft"),
    }


def demo(
    out: Path, *, epochs: int | None = None, seed: int = 0, force: bool = False, command: str = ""
) -> dict[str, Any]:
    """Train three models on 5,000 real digits with 100 labels, print a table and draw a picture.

    Args:
        out: folder for `demo.png`, `results.json`, `labels.csv`, and the models with their curves.
        epochs: passes over the 4,000 training images of the DRMM; None is `DEMO_EPOCHS`.
        seed: of the label draw, the weights and the batches.
        force: replace what a former demo wrote there.
        command: the exact command line, kept with the figures.

    Returns:
        What `results.json` holds.

    Raises:
        RunError: if `out` holds something that is not to be replaced, or cannot be written.
    """
    run = Run(out, None)
    if not force:
        check_new(out, "choose another --out, or replace a former demo's files with --force")
    tune_allocator()
    epochs = DEMO_EPOCHS if epochs is None else epochs
    data = load("mnist-5k")
    x_test, y_test = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    rows: dict[str, Any] = {}
    models: dict[str, DRMM] = {}
    for name, experiment in experiments(epochs, seed).items():
        recipe, parts = fitted_recipe(experiment, data), parts_of(experiment, data)
        if experiment.teacher is not None:
            teacher = models[experiment.teacher.source]
            parts = replace(parts, labels=taught_labels(teacher, parts.images, parts.labels))
        whole = replace(experiment.resolved(), model=recipe)
        models[name], seconds = _learned(whole, parts, out / name)
        Run(out / name, None).keep_model(models[name], recipe)
        rows[name] = {
            "name": NAMES[name],
            "test_error": error_percent(models[name], x_test, y_test),
            "certified": certified_percent(models[name], x_test),
            "seconds": round(seconds, 1),
        }
        say(f"{NAMES[name]}: {rows[name]['test_error']:.2f} % test error, {seconds:.0f} seconds")
    save_figure(overview(models["soft"], pixels(x_test), y_test, data.classes, seed=seed), out / "demo.png")
    results = {"dataset": data.name, "images": len(parts.images), "labels": len(parts.known), "seed": seed}
    results |= {"epochs": epochs, "command": command, "models": rows, "versions": versions()}
    run.keep_labels(data, parts.known)
    run.keep_results(results)
    Console().print(_table(results))
    say(f"picture: {out / 'demo.png'}, figures: {out / 'results.json'}; next: drmm report {out}")
    return results


def _table(results: dict[str, Any]) -> Table:
    title = f"{results['images']} real digits, {results['labels']} of them labelled"
    table = Table("model", "test error", "certified exact", "seconds", title=title)
    for row in results["models"].values():
        certified = f"{row['certified']:.0f} % of images"
        table.add_row(row["name"], f"{row['test_error']:.2f} %", certified, f"{row['seconds']:.0f}")
    return table


def _learned(experiment: Experiment, parts: Parts, folder: Path) -> tuple[DRMM, float]:
    """One row's model and its seconds; its curves are left in the folder."""
    with TemporaryDirectory() as scratch:
        start = time.perf_counter()
        model = learn(experiment, experiment.model, parts, folder=Path(scratch))
        seconds = time.perf_counter() - start
        with replacing(folder / "logs" / "metrics.csv") as curves:
            shutil.copyfile(Path(scratch) / "logs" / "metrics.csv", curves)
    return model, seconds
