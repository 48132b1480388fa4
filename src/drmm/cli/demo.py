"""Three models of 5,000 digits, a table, a picture."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from drmm.data import load, mask_labels, stratified_labels
from drmm.data.images import pixels
from drmm.explain.plots import overview, save_figure
from drmm.files import replacing, write_csv, write_json
from drmm.learning.batches import labelled_alone
from drmm.learning.metrics import certified_percent, error_percent, taught_labels
from drmm.learning.objective import Objective
from drmm.learning.train import Training, train
from drmm.model.deep import DRMM
from drmm.model.presets import Constraint
from drmm.model.storage import Recipe, save_model
from drmm.runs.run import versions

__all__ = ["CONTENDERS", "DEMO_EPOCHS", "Contender", "demo", "demo_table"]

DEMO_EPOCHS = 15
_LABELS_PER_CLASS = 10


@dataclass(frozen=True)
class Contender:
    """One row of the demo's table.

    Attributes:
        folder: of its model.
        name: what the table calls it.
        objective: what it minimises.
        constraint: of the model.
        labels_only: whether it sees the labelled images alone.
        teacher: folder of an earlier contender, whose labels the images without one get.
    """

    folder: str
    name: str
    objective: Objective
    constraint: Constraint = "soft"
    labels_only: bool = False
    teacher: str | None = None


_SUPERVISED = Objective(reconstruction=0, kl=0, balance=0, nonnegativity=0)


CONTENDERS = (
    Contender("supervised", "the same convnet, 100 labels alone", _SUPERVISED, labels_only=True),
    Contender("soft", "DRMM", Objective.of("soft")),
    Contender(
        "hard",
        "DRMM, hard constraint: inference provably exact; taught by the DRMM",
        Objective.of("hard", taught=True),
        constraint="hard",
        teacher="soft",
    ),
)


def demo(out: Path, *, epochs: int, seed: int, console: Console, command: str = "") -> dict[str, Any]:
    """Train three models on 5,000 real digits with 100 labels, print a table and draw a picture.

    Args:
        out: folder for `demo.png`, `results.json`, `labels.csv`, and the models with their curves; what a former
            demo wrote there is replaced.
        epochs: passes over the 4,000 training images.
        seed: of the label draw, the weights and the batches.
        console: where the table goes.
        command: the exact command line, kept with the figures.

    Returns:
        What `results.json` holds.
    """
    data = load("mnist-5k")
    labelled = stratified_labels(data.y_train, _LABELS_PER_CLASS, seed=seed)
    y = torch.from_numpy(mask_labels(data.y_train, labelled))
    x, x_test, y_test = (torch.from_numpy(part) for part in (data.x_train, data.x_test, data.y_test))
    rows: dict[str, Any] = {}
    models: dict[str, DRMM] = {}
    for contender in CONTENDERS:
        console.print(f"[bold]{contender.name}[/]", highlight=False)
        folder = out / contender.folder
        known = y if contender.teacher is None else taught_labels(models[contender.teacher], x, y)
        model, seconds = _compete(contender, x, known, folder, epochs=epochs, seed=seed)
        models[contender.folder] = model
        save_model(model, _recipe(contender, data.classes), folder)
        rows[contender.folder] = {
            "name": contender.name,
            "test_error": error_percent(model, x_test, y_test),
            "certified": certified_percent(model, x_test),
            "seconds": round(seconds, 1),
        }
    save_figure(overview(models["soft"], pixels(x_test), y_test, data.classes, seed=seed), out / "demo.png")
    results = {"dataset": data.name, "images": len(x), "labels": len(labelled), "seed": seed, "epochs": epochs}
    results |= {"command": command, "models": rows, "versions": versions()}
    write_csv(out / "labels.csv", ["index", "label"], [(int(i), data.classes[data.y_train[i]]) for i in labelled])
    write_json(out / "results.json", results)
    console.print(_report(results))
    console.print(f"picture: {out / 'demo.png'}, figures: {out / 'results.json'}", highlight=False, soft_wrap=True)
    return results


def demo_table(results: dict[str, Any]) -> str:
    """The demo's figures as Markdown rows."""
    rows = [
        f"| {row['name']} | {row['test_error']:.2f} % | {row['certified']:.0f} % | {row['seconds']:.0f} |"
        for row in results["models"].values()
    ]
    head = ["| model | test error | inference certified exact | seconds of training |", "|---|--:|--:|--:|"]
    return "\n".join([*head, *rows]) + "\n"


def _report(results: dict[str, Any]) -> Table:
    title = f"{results['images']} real digits, {results['labels']} of them labelled"
    report = Table("model", "test error", "certified exact", "seconds", title=title)
    for row in results["models"].values():
        certified = f"{row['certified']:.0f} % of images"
        report.add_row(row["name"], f"{row['test_error']:.2f} %", certified, f"{row['seconds']:.0f}")
    return report


def _compete(
    contender: Contender, x: Tensor, y: Tensor, folder: Path, *, epochs: int, seed: int
) -> tuple[DRMM, float]:
    """Train one contender and leave its curves in the folder; all make about the same number of steps."""
    training = Training(epochs=epochs, seed=seed)
    if contender.labels_only:
        few, size = labelled_alone(y, batch_size=training.batch_size, labelled=training.labelled_per_batch)
        training, x, y = replace(training, batch_size=size), x[few], y[few]
    elif contender.teacher is not None:  # every image has a label: none of them comes twice
        training = replace(training, batch_size=training.batch_size - training.labelled_per_batch)
    model = _recipe(contender, [str(c) for c in range(10)]).build(seed)
    with TemporaryDirectory() as scratch:
        start = time.perf_counter()
        train(model, x, y, objective=contender.objective, config=training, folder=Path(scratch))
        seconds = time.perf_counter() - start
        with replacing(folder / "logs" / "metrics.csv") as curves:
            shutil.copyfile(Path(scratch) / "logs" / "metrics.csv", curves)
    return model, seconds


def _recipe(contender: Contender, classes: Sequence[str]) -> Recipe:
    return Recipe("conv_small", (1, 28, 28), tuple(classes), contender.constraint)
