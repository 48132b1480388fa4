"""One cell of the table: a method, a number of labels, a seed; run in a process of its own, kept as one JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drmm.data import Dataset, load, mask_labels, stratified_labels
from drmm.errors import DrmmError, InputError
from drmm.files import read_json, write_json
from drmm.learning.allocator import tune_allocator
from drmm.learning.batches import labelled_alone
from drmm.learning.metrics import certified_percent, error_percent, taught_labels
from drmm.learning.objective import Objective
from drmm.learning.train import Training, train
from drmm.model.deep import DRMM
from drmm.model.storage import Recipe
from drmm.runs.run import versions
from drmm.studies.reproduce.machine import Machine
from drmm.studies.reproduce.processes import end_with_parent, is_leader, launch
from drmm.studies.reproduce.protocol import METHODS, Method, Protocol

__all__ = ["Cell", "Failure", "cells", "run_cells", "run_one"]


@dataclass(frozen=True)
class Cell:
    """What to run.

    Attributes:
        plan: the protocol of its data set.
        method: name of the row.
        labels: how many images keep their label.
        seed: of the label draw, the weights and the batches.
    """

    plan: Protocol
    method: str
    labels: int
    seed: int

    def path(self, out: Path) -> Path:
        """Where its figures are kept."""
        return out / self.plan.dataset / str(self.labels) / f"{self.method}-{self.seed}.json"


@dataclass(frozen=True)
class Failure:
    """A cell that could not be run, and why, in one line."""

    cell: Cell
    why: str


def cells(plan: Protocol, labels: Sequence[int], methods: Sequence[str], seeds: int) -> list[Cell]:
    """Every cell of a table, the first seed of all rows first, so that a table is there early.

    Raises:
        InputError: if there is no such method, no seed, or no label.
    """
    unknown = sorted(set(methods) - METHODS.keys())
    if unknown:
        raise InputError(f"no method {unknown[0]!r}: choose from {', '.join(METHODS)}")
    if seeds < 1 or any(n < 1 for n in labels):
        raise InputError("seeds and labels must be at least 1")
    found = product(range(seeds), labels, methods)
    return [Cell(plan, method, n, seed) for seed, n, method in found]


def run_cells(
    todo: Sequence[Cell],
    out: Path,
    *,
    data_dir: Path | None = None,
    machine: Machine | None = None,
    workers: int = 1,
    command: str = "",
    done: Callable[[Cell, dict[str, Any] | Failure], None] | None = None,
) -> list[Failure]:
    """Run what has no JSON yet, several at a time, each on one thread of a CPU.

    A cell that is killed goes on from its checkpoint when it is asked for again.

    Args:
        todo: from `cells`.
        out: folder of the JSON files.
        data_dir: where the data sets' files are.
        machine: how to carry out each; Lightning's choice of a device by default.
        workers: how many at a time.
        command: the exact command line, kept with each cell.
        done: told of each cell when it is finished.

    Returns:
        What failed; the others are finished.

    Raises:
        InputError: if a cell that is there was run by another protocol.
    """
    tell = done or (lambda _cell, _result: None)
    waiting = []
    for cell in todo:
        if not cell.path(out).exists():
            waiting.append(cell)
            continue
        found = read_json(cell.path(out))
        if not _is_of(found, cell):
            raise InputError(f"{cell.path(out)} was run by another protocol: choose another --out, or remove it")
        tell(cell, found)
    if not waiting:
        return []
    failures = []
    job = _Job(out, data_dir, machine or Machine(), command)
    pool = ProcessPoolExecutor(
        min(workers, len(waiting)), mp_context=get_context("spawn"), initializer=end_with_parent
    )
    with pool:
        futures: dict[Future[dict[str, Any] | Failure], Cell] = {
            pool.submit(job.guarded, cell): cell for cell in waiting
        }
        try:
            for future in as_completed(futures):
                result = future.result()
                if isinstance(result, Failure):
                    failures.append(result)
                tell(futures[future], result)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


@dataclass(frozen=True)
class _Job:
    """What all cells have in common."""

    out: Path
    data_dir: Path | None
    machine: Machine
    command: str

    def run(self, cell: Cell) -> dict[str, Any]:
        """`run_one` in one of the processes that train a cell."""
        return run_one(cell, self.out, data_dir=self.data_dir, machine=self.machine, command=self.command)

    def guarded(self, cell: Cell) -> dict[str, Any] | Failure:
        """A cell in a process of its own, or in one for each device; what went wrong is told, not raised."""
        try:
            if self.machine.devices > 1:
                return launch(self.run, self.machine.devices, cell, threads=self.machine.threads())
            torch.set_num_threads(self.machine.threads())
            tune_allocator()
            return self.run(cell)
        except DrmmError as error:
            return Failure(cell, str(error))


def run_one(
    cell: Cell, out: Path, *, data_dir: Path | None = None, machine: Machine | None = None, command: str = ""
) -> dict[str, Any]:
    """Learn, read the test set once, write the JSON.

    Args:
        cell: what to run.
        out: folder of the JSON files.
        data_dir: where the data sets' files are.
        machine: how to carry it out; several devices need as many processes (`launch`).
        command: the exact command line, kept with it.

    Returns:
        What the JSON holds: test error and share of certified test images in percent, seconds (since the last
        start, if the run was resumed), and all that decides them. Empty in further processes.

    Raises:
        InputError: if the data set has fewer labels, or no test images with labels, or the machine is not there.
        RunError: if a file cannot be read or written.
    """
    from drmm.learning.trainer import checkpoint_of  # noqa: PLC0415  # Lightning takes seconds to import

    data, method, here = load(cell.plan.dataset, data_dir=data_dir), METHODS[cell.method], machine or Machine()
    x, y = _task(cell, data)
    x_test, y_test = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    known = y_test >= 0
    if not known.any():
        raise InputError(f"{data.name} has no test images with labels: nothing can be measured")
    recipe = Recipe(
        cell.plan.preset,
        tuple(data.x_train.shape[1:]),
        tuple(data.classes),
        method.constraint,
        width=cell.plan.width,
    )
    work = cell.path(out).with_suffix("")
    resumed = any(checkpoint_of(folder) is not None for folder in (work, work / "teacher"))
    start = time.perf_counter()
    if method.teacher is not None:
        teacher = replace(recipe, constraint=METHODS[method.teacher].constraint)
        y = taught_labels(_learn(cell, METHODS[method.teacher], teacher, (x, y), here, work / "teacher"), x, y)
    model = _learn(cell, method, recipe, (x, y), here, work)
    if not is_leader():
        return {}
    found = {
        "dataset": data.name,
        "labels": cell.labels,
        "images": len(x) if not method.labels_only else cell.labels,
        "seed": cell.seed,
        "method": cell.method,
        "test_error": error_percent(model, x_test[known], y_test[known]),
        "seconds": round(time.perf_counter() - start, 1),
        "certified": certified_percent(model, x_test[known]),
        "resumed": resumed,
        "epochs": _epochs(cell.plan, method),
        "command": command,
        "protocol": _described(cell),
        "machine": here.described(),
        "versions": versions(),
    }
    write_json(cell.path(out), found)
    rmtree(work, ignore_errors=True)
    return found


def _learn(
    cell: Cell, method: Method, recipe: Recipe, data: tuple[Tensor, Tensor], machine: Machine, folder: Path
) -> DRMM:
    """A row's model, from its last checkpoint on if there is one."""
    x, y = data
    training = cell.plan.training_on(cell.labels)
    config = replace(training, seed=cell.seed, epochs=_epochs(cell.plan, method))
    if method.labels_only:
        few, size = labelled_alone(y, batch_size=config.batch_size, labelled=config.labelled_per_batch)
        config, x, y = replace(config, batch_size=size), x[few], y[few]
    return train(
        recipe.build(cell.seed),
        x,
        y,
        objective=method.objective,
        config=machine.carry_out(config),
        folder=folder,
        resume=True,
        progress=False,
    )


def _task(cell: Cell, data: Dataset) -> tuple[Tensor, Tensor]:
    """Images and labels, -1 where hidden."""
    images, labels = data.x_train, data.y_train
    if cell.plan.images is not None and cell.plan.images < len(labels):
        taken = np.sort(np.random.default_rng(cell.seed).permutation(len(labels))[: cell.plan.images])
        images, labels = images[taken], labels[taken]
    classes = len(data.classes)
    if cell.labels % classes:
        raise InputError(f"{cell.labels} labels cannot be shared equally by {classes} classes: use a multiple")
    y = mask_labels(labels, stratified_labels(labels, cell.labels // classes, seed=cell.seed))
    return torch.from_numpy(images), torch.from_numpy(y)


def _epochs(plan: Protocol, method: Method) -> int:
    return plan.training.epochs * method.longer


def _is_of(found: dict[str, Any], cell: Cell) -> bool:
    """Whether a cell's figures were made by its protocol."""
    said = found.get("protocol")
    if not isinstance(said, dict):
        return False
    # A cell of an earlier version does not know settings that came later: they were as they are by default.
    terms = asdict(Objective())
    defaults = {"objective": terms, "teacher": terms, "training": Machine.removed_from(asdict(Training()))}
    whole = {key: known | said[key] for key, known in defaults.items() if isinstance(said.get(key), dict)}
    epochs = _epochs(cell.plan, METHODS[cell.method])
    return said | whole == _described(cell) and found.get("epochs") == epochs


def _described(cell: Cell) -> dict[str, Any]:
    """What decides the figure of a cell, as JSON keeps it."""
    plan, method = asdict(cell.plan), METHODS[cell.method]
    described = {
        **plan,
        "training": Machine.removed_from(asdict(cell.plan.training_on(cell.labels))),
        "labels": [*cell.plan.labels],
        "objective": asdict(method.objective),
    }
    if method.constraint != "soft":
        described["constraint"] = method.constraint
    if method.teacher is not None:
        described["teacher"] = asdict(METHODS[method.teacher].objective)
    return described
