"""What the commands do, without the command line: demo, predict, sample, bench."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from drmm.batches import pixels
from drmm.benchmark import run_benchmark, table
from drmm.data import load, mask_labels, stratified_labels
from drmm.data.progress import track
from drmm.errors import InputError
from drmm.images import load_image_files
from drmm.model import DRMM
from drmm.objective import Objective
from drmm.pictures import overview, samples_sheet, save_figure
from drmm.presets import Constraint
from drmm.runs import error_percent, versions
from drmm.storage import Recipe, load_model, save_model, write_csv, write_json
from drmm.training import Training, train

__all__ = ["CONTENDERS", "DEMO_EPOCHS", "Contender", "bench", "demo", "demo_table", "predict", "sample"]

DEMO_EPOCHS = 15
_CHUNK = 100  # images whose certificates are computed at once
_LABELS_PER_CLASS = 10


@dataclass(frozen=True)
class Contender:
    """One row of the demo's table."""

    folder: str
    name: str
    objective: Objective
    constraint: Constraint = "soft"
    labels_only: bool = False


_SUPERVISED = Objective(reconstruction=0, kl=0, balance=0, nonnegativity=0)
CONTENDERS = (
    Contender("supervised", "the same convnet, 100 labels alone", _SUPERVISED, labels_only=True),
    Contender("soft", "DRMM", Objective.of("soft")),
    Contender("hard", "DRMM, hard constraint: inference provably exact", Objective.of("hard"), constraint="hard"),
)


def demo(out: Path, *, epochs: int, seed: int, console: Console) -> dict[str, Any]:
    """Train three models on 5,000 real digits with 100 labels, print a table and draw a picture.

    Args:
        out: folder for `demo.png`, `results.json` and the models; what a former demo wrote there is replaced.
        epochs: passes over the 4,000 training images.
        seed: of the label draw, the weights and the batches.
        console: where the table goes.

    Returns:
        What `results.json` holds.
    """
    data = load("mnist-5k")
    labelled = stratified_labels(data.y_train, _LABELS_PER_CLASS, seed=seed)
    y = torch.from_numpy(mask_labels(data.y_train, labelled))
    x, x_test, y_test = (torch.from_numpy(part) for part in (data.x_train, data.x_test, data.y_test))
    rows: dict[str, Any] = {}
    for contender in CONTENDERS:
        console.print(f"[bold]{contender.name}[/]", highlight=False)
        model, seconds = _compete(contender, x, y, epochs=epochs, seed=seed)
        save_model(model, _recipe(contender, data.classes), out / contender.folder)
        rows[contender.folder] = {
            "name": contender.name,
            "test_error": error_percent(model, x_test, y_test),
            "certified": _certified_percent(model, x_test),
            "seconds": round(seconds, 1),
        }
    model, _ = load_model(out / "soft")
    save_figure(overview(model, pixels(x_test), y_test, data.classes, seed=seed), out / "demo.png")
    results = {"dataset": data.name, "images": len(x), "labels": len(labelled), "seed": seed, "epochs": epochs}
    results |= {"models": rows, "versions": versions()}
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


def predict(run: Path, images: Sequence[Path], out: Path) -> int:
    """Label image files and write a CSV: image, label, confidence, log-joint, gap, certified.

    Args:
        run: folder of a trained model.
        images: files, folders, or arrays.
        out: the CSV, written whole or not at all.

    Returns:
        How many images there were.
    """
    model, recipe = load_model(run)
    x, names = load_image_files(images, recipe.image_shape)
    rows = [row for part in track(x.split(_CHUNK), "predicting") for row in _rows(model, recipe, part)]
    labelled = [[name, *row] for name, row in zip(names, rows, strict=True)]
    write_csv(out, ["image", "label", "confidence", "log_joint", "gap", "certified"], labelled)
    return len(names)


@torch.no_grad()
def sample(run: Path, out: Path, *, n: int, label: str | None, noise: bool, seed: int) -> None:
    """Draw images from a trained model into one PNG.

    Args:
        run: folder of a trained model.
        out: the PNG.
        n: how many images.
        label: name of a class, or None for all in turn.
        noise: add pixel noise.
        seed: of the draw.

    Raises:
        InputError: if there is no such class.
    """
    model, recipe = load_model(run)
    if label is not None and label not in recipe.classes:
        raise InputError(f"no class {label!r} in this model: choose from {', '.join(recipe.classes)}")
    codes = torch.arange(n) % len(recipe.classes)
    if label is not None:
        codes = torch.full((n,), recipe.classes.index(label))
    generator = torch.Generator().manual_seed(seed)
    if noise:
        images = model.sample(n, codes, generator)
    else:
        images = model.picture(model.sample_latents(n, codes, generator))
    save_figure(samples_sheet(images, [recipe.classes[c] for c in codes.tolist()]), out)


def bench(path: Path, *, quick: bool, console: Console) -> None:
    """Measure against the plain convnet, write the raw figures, print the table.

    Args:
        path: JSON file.
        quick: few repeats and one batch size.
        console: where the table goes.
    """
    options: dict[str, Any] = {"batch_sizes": (64,), "repeats": 5} if quick else {}
    with console.status("measuring") as status:
        result = run_benchmark(**options, progress=lambda what: status.update(f"measuring: {what}"))
    write_json(path, result)
    console.print(table(result), highlight=False, soft_wrap=True)


def _report(results: dict[str, Any]) -> Table:
    title = f"{results['images']} real digits, {results['labels']} of them labelled"
    report = Table("model", "test error", "certified exact", "seconds", title=title)
    for row in results["models"].values():
        certified = f"{row['certified']:.0f} % of images"
        report.add_row(row["name"], f"{row['test_error']:.2f} %", certified, f"{row['seconds']:.0f}")
    return report


def _compete(contender: Contender, x: Tensor, y: Tensor, *, epochs: int, seed: int) -> tuple[DRMM, float]:
    """Train one contender; all make about the same number of steps."""
    training = Training(epochs=epochs, seed=seed)
    if contender.labels_only:
        # Repeated, so that it makes as many steps an epoch as the others.
        times = round(len(x) / (training.batch_size - training.labelled_per_batch))
        known = y >= 0
        training = replace(training, batch_size=int(known.sum()))
        x, y = x[known].repeat(times, 1, 1, 1), y[known].repeat(times)
    model = _recipe(contender, [str(c) for c in range(10)]).build(seed)
    start = time.perf_counter()
    train(model, x, y, objective=contender.objective, config=training)
    return model, time.perf_counter() - start


@torch.no_grad()
def _certified_percent(model: DRMM, levels: Tensor) -> float:
    """Share of images for which inference was provably the joint MAP, in percent."""
    certified = [model.infer(pixels(part)).certified() for part in levels.split(_CHUNK)]
    return round(100 * float(torch.cat(certified).double().mean()), 2)


def _recipe(contender: Contender, classes: Sequence[str]) -> Recipe:
    return Recipe("conv_small", (1, 28, 28), tuple(classes), contender.constraint)


@torch.no_grad()
def _rows(model: DRMM, recipe: Recipe, x: Tensor) -> list[list[str]]:
    latents = model.infer(x)
    confidence = latents.logits.softmax(1).amax(1)
    log_joint = model.log_joint(x, latents)
    return [
        [recipe.classes[c], f"{q:.6f}", f"{p:.3f}", f"{gap:.6g}", "yes" if exact else "no"]
        for c, q, p, gap, exact in zip(
            latents.label.tolist(),
            confidence.tolist(),
            log_joint.tolist(),
            latents.gap.tolist(),
            latents.certified().tolist(),
            strict=True,
        )
    ]
