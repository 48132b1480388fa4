"""What the commands do, without the command line: demo, predict, explain, sample, prune, reproduce, bench."""

from __future__ import annotations

import csv
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor

from drmm.batches import labelled_alone, pixels
from drmm.benchmark import run_benchmark, table
from drmm.borrowing import BorrowedPrior, borrow
from drmm.data import Dataset, holdout, load, mask_labels, stratified_labels
from drmm.data.progress import track
from drmm.errors import InputError, RunError
from drmm.explain.figures import explanation
from drmm.images import load_image_files
from drmm.labels import UNLABELLED
from drmm.model import DRMM
from drmm.objective import Objective
from drmm.pictures import overview, samples_sheet, save_figure
from drmm.presets import Constraint
from drmm.pruning import Criterion, Pruned, Pruner, check_share, prune_synapses
from drmm.reproduce import (
    METHODS,
    Cell,
    DryRun,
    Failure,
    Machine,
    Protocol,
    cells,
    figure,
    markdown,
    rows,
    run_cells,
)
from drmm.reproduce import dry_run as make_steps
from drmm.runs import CERTIFIED_AT_ONCE, certified_percent, error_percent, predict_logits, taught_labels, versions
from drmm.storage import (
    Recipe,
    check_new,
    load_model,
    model_bytes,
    new_folder,
    read_json,
    replacing,
    save_model,
    write_bytes,
    write_csv,
    write_json,
)
from drmm.timing import ratio, take_turns
from drmm.training import Training, train

__all__ = [
    "CONTENDERS",
    "DEMO_EPOCHS",
    "Contender",
    "bench",
    "demo",
    "demo_table",
    "dry_run",
    "explain",
    "predict",
    "prune",
    "reproduce",
    "sample",
]

DEMO_EPOCHS = 15
_DONORS = 4000  # images to borrow switches from: their switches take 40 kB each for MNIST
_LABELS_PER_CLASS = 10
_TIMED = 500  # images in the batch that speed is measured on


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
    rows = [row for part in track(x.split(CERTIFIED_AT_ONCE), "predicting") for row in _rows(model, recipe, part)]
    labelled = [[name, *row] for name, row in zip(names, rows, strict=True)]
    write_csv(out, ["image", "label", "confidence", "log_joint", "gap", "certified"], labelled)
    return len(names)


@torch.no_grad()
def sample(
    run: Path,
    out: Path,
    *,
    n: int,
    label: str | None,
    noise: bool,
    seed: int,
    neighbours: int | None = None,
    data_dir: Path | None = None,
) -> None:
    """Draw images from a trained model into one PNG.

    Args:
        run: folder of a trained model.
        out: the PNG.
        n: how many images.
        label: name of a class, or None for all in turn.
        noise: add pixel noise.
        seed: of the draw.
        neighbours: borrow switches from the images that the run learned from, place by place from one of so many
            that fit best (`drmm.borrowing`); None draws every switch independently.
        data_dir: where the data sets' files are.

    Raises:
        InputError: if there is no such class, or no image of it to borrow from.
        RunError: if `run` is no run, or the images that it learned from are gone.
    """
    model, recipe = load_model(run)
    code = _class_index(recipe, label)
    codes = torch.arange(n) % len(recipe.classes) if code is None else torch.full((n,), code)
    prior = None if neighbours is None else _borrowed(_past(run, recipe, data_dir), model, neighbours, seed)
    generator = torch.Generator().manual_seed(seed)
    if noise:
        images = model.sample(n, codes, generator, prior)
    else:
        images = model.picture(model.sample_latents(n, codes, generator, prior))
    save_figure(samples_sheet(images, [recipe.classes[c] for c in codes.tolist()]), out)


def explain(run: Path, image: Path, out: Path, *, label: str | None, other: str | None, paths: int) -> None:
    """Explain one picture on one sheet (`drmm.explain`).

    Args:
        run: folder of a trained model.
        image: picture file.
        out: the PNG.
        label: name of the class to explain; None takes the best.
        other: name of the class that it was not; None takes the best of all others.
        paths: how many of the strongest paths to draw.

    Raises:
        InputError: if there is no such class, both are the same, or the file holds several images.
        RunError: if `run` is no run, or the picture cannot be read.
    """
    model, recipe = load_model(run)
    x, names = load_image_files(image, recipe.image_shape)
    if len(names) != 1:
        raise InputError(f"{image} holds {len(names)} images: pass one picture")
    asked = (_class_index(recipe, name) for name in (label, other))
    save_figure(explanation(model, x[0], recipe.classes, *asked, k=paths), out)


def _class_index(recipe: Recipe, name: str | None) -> int | None:
    if name is not None and name not in recipe.classes:
        raise InputError(f"no class {name!r} in this model: choose from {', '.join(recipe.classes)}")
    return None if name is None else recipe.classes.index(name)


def _borrowed(past: _Past, model: DRMM, neighbours: int, seed: int) -> BorrowedPrior:
    """The prior that borrows from some of the images that a model learned from."""
    some = torch.randperm(len(past.images), generator=torch.Generator().manual_seed(seed))[:_DONORS]
    return borrow(model, pixels(past.images[some]), past.y[some], neighbours=neighbours)


def prune(
    run: Path,
    out: Path,
    *,
    keep: float,
    synapses: float | None = None,
    epochs: int = 0,
    criterion: Criterion = "on",
    data_dir: Path | None = None,
    console: Console,
    command: str = "",
) -> dict[str, Any]:
    """Make a run's model smaller, say what that costs and gains, and do the same by magnitude for comparison.

    Args:
        run: folder of a run.
        out: a new folder: the smaller model, and `pruning.json` with the figures.
        keep: share of each level's neurons to keep, in (0, 1].
        synapses: share of the synapses left to keep after that, in (0, 1]; None keeps all.
        epochs: how long the smaller model goes on learning as the run did, before synapses are removed.
        criterion: by what neurons and synapses are chosen.
        data_dir: where the data sets' files are.
        console: where the table goes.
        command: the exact command line, kept with the figures.

    Returns:
        What `pruning.json` holds.

    Raises:
        InputError: if a share is out of range, the model has nothing to prune, or cannot go on learning.
        RunError: if `run` is no run, its data is gone, or `out` exists or cannot be written.
    """
    check_share(keep)
    check_share(1 if synapses is None else synapses)
    check_new(out)
    model, recipe = load_model(run)
    past = _past(run, recipe, data_dir)
    learn = past.learning(epochs)
    with console.status("pruning"):
        pruner = Pruner(model, past.images)
        first = pruner.prune(keep, criterion=criterion)
        models: dict[str, DRMM] = {"before": model}
        for choice in dict.fromkeys((criterion, "magnitude")):
            pruned = learn(pruner.prune(first.channels, criterion=choice).model)
            if synapses is not None:
                pruned = prune_synapses(pruned, past.images, synapses, criterion=choice)
            models[choice] = pruned
        rows = _compare(models, past.data, named=recipe.classes == past.data.classes)
    asked = {"keep": keep, "synapses": synapses, "epochs": epochs, "criterion": criterion}
    results = {"command": command, "run": str(run), "spec": past.spec, **asked, **_choice(first)}
    results |= {"models": rows, "versions": versions()}
    with new_folder(out) as folder:
        save_model(models[criterion], replace(recipe, width=None, channels=first.channels), folder)
        write_csv(folder / "labels.csv", ["index", "label"], past.labels)
        write_json(folder / "pruning.json", results)
    console.print(_pruning_report(results))
    return results


def _choice(pruned: Pruned) -> dict[str, Any]:
    """Which neurons were kept, and how often each was on."""
    return {
        "channels": {"before": [len(on) for on in pruned.on], "after": list(pruned.channels)},
        "kept": [index.tolist() for index in pruned.kept],
        "probability_on": [[round(p, 4) for p in on.tolist()] for on in pruned.on],
    }


@dataclass(frozen=True)
class _Past:
    """What a model learned from, and how.

    Attributes:
        spec: as its run was asked.
        data: the data set.
        images: those that it learned from, uint8 (N, C, H, W).
        labels: place in the data set's training part and name of the class of each label that it knew.
        kept: places of the images there.
    """

    spec: dict[str, Any]
    data: Dataset
    images: Tensor
    labels: list[tuple[int, str]]
    kept: npt.NDArray[np.int64]

    @property
    def y(self) -> Tensor:
        """Class indices of the images, (N,), -1 where the model knew no label."""
        labels = np.full(len(self.data.y_train), UNLABELLED)
        known = [place for place, _ in self.labels]
        labels[known] = self.data.y_train[known]
        return torch.from_numpy(labels[self.kept])

    def learning(self, epochs: int) -> Callable[[DRMM], DRMM]:
        """How to go on for some more epochs.

        Raises:
            InputError: if the run learned by EM, which does not start from templates that are there.
            RunError: if the run does not say how it learned, or its teacher is gone.
        """
        if epochs == 0:
            return lambda model: model
        try:
            objective, training = Objective(**self.spec["objective"]), Training(**self.spec["training"])
        except (KeyError, TypeError) as error:
            raise RunError(f"the run does not say how it learned ({error}): leave --epochs out") from error
        if training.learning == "em":
            raise InputError("a model that was learned by em does not go on learning: leave --epochs out")
        config = replace(training, epochs=epochs, initialisation=None, patience=None)
        y, teacher = self.y, self.spec.get("teacher")
        if teacher is not None:
            y = taught_labels(load_model(Path(teacher))[0], self.images, y)
        return lambda model: train(model, self.images, y, objective=objective, config=config, progress=False)


def _past(run: Path, recipe: Recipe, data_dir: Path | None) -> _Past:
    """What a run, or the one that a pruned model comes from, learned from."""
    found = [run / name for name in ("run.json", "pruning.json") if (run / name).is_file()]
    if not found:
        raise RunError(f"{run} holds no run.json to say what its model learned from: take a folder of drmm fit")
    spec = read_json(found[0]).get("spec")
    try:
        name, size, seed = spec["data"], spec["size"], int(spec["training"]["seed"])  # type: ignore[index]
        held_out = int(spec["validation"])  # type: ignore[index]
        with (run / "labels.csv").open(encoding="utf-8", newline="") as file:
            labels = [(int(row["index"]), row["label"]) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise RunError(f"{run} does not say what it learned from ({error}): train it again") from error
    try:
        data = load(name, data_dir=data_dir, size=None if size is None else tuple(size))
    except InputError as error:
        raise RunError(f"the images that {run} learned from are gone ({error}): put them back") from error
    if data.x_train.shape[1:] != recipe.image_shape or any(i >= len(data.x_train) for i, _ in labels):
        raise RunError(f"{name} holds other images now than {run} learned from: put the former ones back")
    kept = np.arange(len(data.x_train))
    if held_out:
        kept = np.setdiff1d(kept, holdout(data.y_train, held_out, seed=seed))
    return _Past(cast("dict[str, Any]", spec), data, torch.from_numpy(data.x_train[kept]), labels, kept)


def _compare(models: dict[str, DRMM], data: Dataset, *, named: bool) -> dict[str, dict[str, Any]]:
    """Size, error, agreement with the first model and speed of each; clusters without names have no error."""
    x, y = (data.x_test, data.y_test) if len(data.x_test) else (data.x_train, data.y_train)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    found = {name: predict_logits(model, images).argmax(1) for name, model in models.items()}
    known = labels >= 0
    full = next(iter(models))
    former = found[full]
    judged = named and len(data.x_test) > 0 and bool(known.any())

    batch = pixels(images[:_TIMED])
    with torch.no_grad():
        times = take_turns({name: partial(model, batch) for name, model in models.items()})

    def percent(right: Tensor, digits: int) -> float:
        return round(100 * float(right.double().mean()), digits)

    return {
        name: {
            "parameters": sum(p.numel() for p in model.parameters()),
            "nonzero": sum(int(p.count_nonzero()) for p in model.parameters()),
            "bytes": len(model_bytes(model)),
            "test_error": percent(found[name][known] != labels[known], 4) if judged else None,
            "same_label": percent(found[name] == former, 2),
            "images_per_second": round(len(batch) / statistics.median(times[name])),
            "speed_up": round(ratio(times[full], times[name]), 2),
        }
        for name, model in models.items()
    }


def _pruning_report(results: dict[str, Any]) -> Table:
    before, after = ("-".join(map(str, results["channels"][when])) for when in ("before", "after"))
    columns = {"parameters": "parameters", "nonzero": "not 0", "bytes": "bytes", "test_error": "test error"}
    columns |= {"same_label": "as before", "images_per_second": "images/s", "speed_up": "speed"}
    rows = list(results["models"].values())
    least = [min(on[i] for i in kept) for on, kept in zip(results["probability_on"], results["kept"], strict=True)]
    hidden = {name for name in columns if all(row[name] is None for row in rows)}
    hidden |= {"nonzero"} if results["synapses"] is None else set()
    told = [name for name in columns if name not in hidden]
    report = Table("pruned by", title=f"neurons of each level: {before} before, {after} now", box=None)
    report.caption = f"kept neurons are on at least {', '.join(f'{100 * p:.0f} %' for p in least)} of the time"
    for name in told:
        report.add_column(columns[name], justify="right")
    forms = {"test_error": "{:.2f} %", "same_label": "{:.1f} %", "speed_up": "× {:.2f}"}
    for name, row in results["models"].items():
        what = {"before": "nothing", "on": "P(on)"}.get(name, name)
        report.add_row(what, *(forms.get(key, "{:,}").format(row[key]) for key in told))
    return report


def reproduce(
    plan: Protocol,
    out: Path,
    *,
    labels: Sequence[int],
    methods: Sequence[str],
    seeds: int,
    workers: int | None,
    machine: Machine,
    data_dir: Path | None,
    console: Console,
    command: str = "",
) -> str:
    """Run the rows of a published table, and draw the table beside it.

    Args:
        plan: the data set's protocol.
        out: folder of the JSON files, `table.md` and `table.png`; what is there already is not run again.
        labels: how many labels; none takes the published ones.
        methods: names of the rows; none takes all.
        seeds: label draws of each row.
        workers: runs at the same time; None is one a core, on a GPU one alone.
        machine: how to carry out each.
        data_dir: where the data sets' files are.
        console: where the table goes.
        command: the exact command line, kept with every run.

    Returns:
        The table as Markdown.

    Raises:
        InputError: if there is no such method or machine, or a run that is there was made by another protocol.
        RunError: if a cell could not be run; the others are finished then.
    """
    todo = cells(plan, labels or plan.labels, methods or list(METHODS), seeds)
    machine.carry_out(plan.training)
    at_once = machine.workers() if workers is None else workers
    load(plan.dataset, data_dir=data_dir)  # complains, or downloads, once and not in every process
    console.print(plan.said(labels or plan.labels), highlight=False, soft_wrap=True)
    columns = (SpinnerColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("runs", total=len(todo))

        def tell(cell: Cell, result: dict[str, Any] | Failure) -> None:
            said = result.why if isinstance(result, Failure) else f"{result['test_error']:.2f} %"
            bar.console.print(f"{cell.labels} labels, {cell.method}, seed {cell.seed}: {said}", highlight=False)
            bar.advance(task)

        options: dict[str, Any] = {"data_dir": data_dir, "machine": machine, "workers": at_once}
        failures = run_cells(todo, out, **options, command=command, done=tell)
    found = rows(out)
    text = markdown(found)
    write_bytes(out / "table.md", text.encode())
    save_figure(figure(found), out / "table.png")
    console.print(text, highlight=False, soft_wrap=True)
    if failures:
        raise RunError(f"{len(failures)} of {len(todo)} runs failed, the first one so: {failures[0].why}")
    return text


def dry_run(
    plan: Protocol, steps: int, *, methods: Sequence[str], machine: Machine, console: Console
) -> list[DryRun]:
    """Make some steps of rows on images that are drawn, and print a line for each row; nothing is written.

    Args:
        plan: the data set's protocol.
        steps: how many.
        methods: names of the rows; none takes the full method.
        machine: how to carry them out.
        console: where the lines go.

    Raises:
        InputError: if there is no such row, step or machine, or the loss is not finite.
        RunError: if a process was killed.
    """
    found = []
    for method in methods or ("rc+kl+nn",):
        with console.status(f"{method}: {steps} steps"):
            found.append(make_steps(plan, method, machine, steps))
        console.print(_dry_line(plan, method, machine, found[-1]), highlight=False, soft_wrap=True)
    return found


def _dry_line(plan: Protocol, method: str, machine: Machine, run: DryRun) -> str:
    """What was run, and how it went."""
    batch, labelled = plan.training.batch_size, plan.training.labelled_per_batch
    device = machine.device().type
    how = [
        f"{machine.devices} × {device}" if machine.devices > 1 else device,
        machine.precision,
        *(["compiled"] if machine.compile else []),
    ]
    memory = "" if run.memory is None else f", {run.memory / 2**30:.2f} GiB at most"
    return (
        f"{plan.dataset}, {method}: {run.parameters:,} parameters, batches of {batch} ({labelled} labelled), "
        f"{', '.join(how)}: loss {run.losses[0]:.3f} to {run.losses[-1]:.3f} in {len(run.losses)} steps of "
        f"{run.pace:.2f} s (the first {run.seconds[0]:.1f} s){memory}"
    )


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
