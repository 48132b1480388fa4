"""One cell of the table: a method, a number of labels, a seed; run in a process of its own, kept as one JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch

from drmm.data import Dataset, load
from drmm.errors import DrmmError, InputError, RunError
from drmm.files import read_json, write_json
from drmm.learning.allocator import tune_allocator
from drmm.learning.config import Machine
from drmm.learning.metrics import certified_percent, error_percent, taught_labels
from drmm.learning.processes import is_leader
from drmm.model.deep import DRMM
from drmm.runs.experiment import Experiment
from drmm.runs.fit import learn
from drmm.runs.parts import Parts, fitted_recipe, parts_of
from drmm.runs.run import versions
from drmm.studies.reproduce.machine import described, threads
from drmm.studies.reproduce.processes import end_with_parent, launch
from drmm.studies.reproduce.tables import Benchmark, check_rows

__all__ = ["Cell", "Failure", "cells", "run_cells", "run_one"]


@dataclass(frozen=True)
class Cell:
    """What to run.

    Attributes:
        benchmark: the table.
        row: the recipe's name.
        labels: how many images keep their label.
        seed: of the label draw, the weights and the batches.
    """

    benchmark: Benchmark
    row: str
    labels: int
    seed: int

    @property
    def experiment(self) -> Experiment:
        """What it learns."""
        return self.benchmark.experiment(self.row, self.labels, self.seed)

    def path(self, out: Path) -> Path:
        """Where its figures are kept."""
        return out / self.benchmark.dataset / str(self.labels) / f"{self.row}-{self.seed}.json"


@dataclass(frozen=True)
class Failure:
    """A cell that could not be run, and why, in one line."""

    cell: Cell
    why: str


def cells(benchmark: Benchmark, labels: Sequence[int], rows: Sequence[str], seeds: int) -> list[Cell]:
    """Every cell of a table, the first seed of all rows first, so that a table is there early.

    Raises:
        InputError: if there is no such row, no seed, or no label.
    """
    check_rows(rows)
    if seeds < 1 or any(n < 1 for n in labels):
        raise InputError("seeds and labels must be at least 1")
    return [Cell(benchmark, row, n, seed) for seed, n, row in product(range(seeds), labels, rows)]


def run_cells(
    todo: Sequence[Cell],
    out: Path,
    *,
    data_dir: Path | None = None,
    machine: Machine | None = None,
    workers: int = 1,
    command: str = "",
    done: Callable[[Cell, dict[str, Any] | Failure], None] | None = None,
    look: Callable[[int], None] | None = None,
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
        look: told every second how many are left.

    Returns:
        What failed; the others are finished.

    Raises:
        InputError: if a cell that is there was run with other settings.
    """
    tell = done or (lambda _cell, _result: None)
    for cell in (there := [cell for cell in todo if cell.path(out).exists()]):
        tell(cell, _result_of(cell, out))
    if not (waiting := [cell for cell in todo if cell not in there]):
        return []
    failures = []
    job = _Job(out, data_dir, machine or Machine(), command)
    pool = ProcessPoolExecutor(
        min(workers, len(waiting)), mp_context=get_context("spawn"), initializer=end_with_parent
    )
    with pool:
        futures = {pool.submit(job.guarded, cell): cell for cell in waiting}
        try:
            for cell, result in _finished(futures, look):
                if isinstance(result, Failure):
                    failures.append(result)
                tell(cell, result)
        except BrokenProcessPool as error:
            raise RunError("a run was ended from outside: free memory, or use fewer --workers") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def _result_of(cell: Cell, out: Path) -> dict[str, Any]:
    """What a cell that was run before has found; errors as of `run_cells`."""
    result = read_json(cell.path(out))
    if not _is_of(result, cell):
        raise InputError(f"{cell.path(out)} was run with other settings: choose another --out, or remove it")
    return result


def _finished(
    futures: Mapping[Future[dict[str, Any] | Failure], Cell], look: Callable[[int], None] | None
) -> Iterator[tuple[Cell, dict[str, Any] | Failure]]:
    """Each cell as it is finished; arguments as of `run_cells`."""
    left = set(futures)
    while left:
        finished, left = wait(left, timeout=1, return_when=FIRST_COMPLETED)
        for future in finished:
            yield futures[future], future.result()
        if look is not None:
            look(len(left))


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
                return launch(self.run, self.machine.devices, cell, threads=threads(self.machine))
            torch.set_num_threads(threads(self.machine))
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
    from drmm.learning.checkpoints import checkpoint_of  # noqa: PLC0415  # Lightning takes seconds to import

    experiment, here = cell.experiment.resolved(), machine or Machine()
    experiment = replace(experiment, machine=here)
    data = load(experiment.data.source, data_dir=data_dir)
    known = data.y_test >= 0
    if not known.any():
        raise InputError(f"{data.name} has no test images with labels: nothing can be measured")
    x_test, y_test = torch.from_numpy(data.x_test[known]), torch.from_numpy(data.y_test[known])
    work = cell.path(out).with_suffix("")
    resumed = any(checkpoint_of(folder) is not None for folder in (work, work / "teacher"))
    start = time.perf_counter()
    parts = parts_of(experiment, data)
    if experiment.teacher is not None:
        lesson = cell.benchmark.experiment(experiment.teacher.source, cell.labels, cell.seed).resolved()
        teacher = _learn(replace(lesson, machine=here), data, parts, work / "teacher")
        parts = replace(parts, labels=taught_labels(teacher, parts.images, parts.labels))
    model = _learn(experiment, data, parts, work)
    if not is_leader():
        return {}
    result = {
        "dataset": data.name,
        "labels": cell.labels,
        "images": cell.labels if experiment.training.labels_only else len(parts.images),
        "seed": cell.seed,
        "method": cell.row,
        "test_error": error_percent(model, x_test, y_test),
        "seconds": round(time.perf_counter() - start, 1),
        "certified": certified_percent(model, x_test),
        "resumed": resumed,
        "epochs": experiment.training.epochs,
        "command": command,
        "experiment": _kept(cell),
        "machine": described(here),
        "versions": versions(),
    }
    write_json(cell.path(out), result)
    rmtree(work, ignore_errors=True)
    return result


def _learn(experiment: Experiment, data: Dataset, parts: Parts, folder: Path) -> DRMM:
    """A row's model, from its last checkpoint on if there is one."""
    recipe = fitted_recipe(experiment, data)
    return learn(experiment, recipe, parts, folder=folder, resume=True, progress=False)


def _kept(cell: Cell) -> dict[str, Any]:
    """What decides the figure of a cell, as JSON keeps it; the machine does not."""
    tables = cell.experiment.resolved().tables()
    del tables["machine"]
    return tables


def _is_of(result: dict[str, Any], cell: Cell) -> bool:
    """Whether a cell's figures were made by its experiment; settings that came later were as by default."""
    tables = result.get("experiment")
    if not isinstance(tables, dict):
        return False
    try:
        return Experiment.of_tables(tables).resolved() == cell.experiment.resolved()
    except InputError:
        return False
