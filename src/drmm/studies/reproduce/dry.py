"""A dry run: the net, schedule and machine of a table's row, for some steps on images that are drawn here."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.learning.config import Machine
from drmm.model.presets import Shape
from drmm.runs.experiment import Experiment
from drmm.studies.reproduce.machine import threads
from drmm.studies.reproduce.processes import launch
from drmm.studies.reproduce.tables import Benchmark

__all__ = ["DryRun", "drawn_images", "dry_run"]

_CLASSES = 10
_SHAPES: dict[str, Shape] = {
    "mnist": (1, 28, 28),
    "mnist-5k": (1, 28, 28),
    "svhn": (3, 32, 32),
    "cifar10": (3, 32, 32),
}


@dataclass(frozen=True)
class DryRun:
    """What the steps were like, in the first process.

    Attributes:
        losses: of each step.
        seconds: of each step; the first ones prepare and compile.
        memory: most bytes in use, of the GPU or of the process; None where the system does not tell.
        parameters: of the net.
    """

    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    memory: int | None
    parameters: int

    @property
    def pace(self) -> float:
        """Seconds of a step, the median of the second half."""
        return statistics.median(self.seconds[len(self.seconds) // 2 :])


def dry_run(table: Benchmark, row: str, machine: Machine, steps: int, seed: int = 0) -> DryRun:
    """Make some steps of a row exactly as a run would, in processes of their own, and write nothing.

    Args:
        table: the data set's benchmark; the data itself is not needed.
        row: the recipe's name.
        machine: how to carry it out.
        steps: how many.
        seed: of the images, the weights and the batches.

    Raises:
        InputError: if there is no such row, step or machine, or the loss is not finite.
        RunError: if a process was killed.
    """
    if steps < 1:
        raise InputError(f"a dry run of {steps} steps shows nothing: make 1 or more")
    experiment = table.experiment(row, table.labels[0], seed).changed("training", epochs=1).resolved()
    experiment = replace(experiment, machine=machine)
    return launch(_steps, machine.devices, experiment, steps, threads=threads(machine))


def _steps(experiment: Experiment, steps: int) -> DryRun:
    from drmm.learning.callbacks import Steps  # noqa: PLC0415  # Lightning takes seconds to import
    from drmm.learning.trainer import run_loop  # noqa: PLC0415

    shape, training = _SHAPES[experiment.data.source], experiment.training
    model = experiment.model.fitted(shape, tuple(map(str, range(_CLASSES)))).build(training.seed)
    x, y = _images(experiment, steps, shape)
    watch = Steps()
    run_loop(
        model.train(), x, y, experiment.objective, training, experiment.machine, progress=True, watching=[watch]
    )
    count = sum(p.numel() for p in model.parameters())
    return DryRun(tuple(watch.losses), tuple(watch.seconds), _peak_memory(), count)


def _images(experiment: Experiment, steps: int, shape: Shape) -> tuple[Tensor, Tensor]:
    """As many as make so many batches in an epoch."""
    training = experiment.training
    if training.labels_only or experiment.teacher is not None:
        n = labelled = training.batch_size * steps
    else:
        labelled = training.labelled_per_batch
        n = (training.batch_size - labelled) * steps
    return drawn_images(n, shape, labelled=labelled, seed=training.seed)


def drawn_images(n: int, shape: Shape, *, labelled: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images that can be learned without any file: a random picture for each class, in noise.

    Args:
        n: how many.
        shape: (C, H, W).
        labelled: how many of them keep their label.
        seed: of the draw.

    Returns:
        Levels, uint8 (n, C, H, W), and class indices (n,), -1 where there is no label.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % _CLASSES
    pictures = torch.rand(_CLASSES, *shape, generator=generator)
    noise = torch.rand(n, *shape, generator=generator)
    x = (255 * (pictures[y] + noise) / 2).to(torch.uint8)
    return x, torch.where(torch.arange(n) < labelled, y, -1)


def _peak_memory() -> int | None:
    """Bytes: of the GPU where one was used, else of this process, where Linux tells."""
    if torch.cuda.is_available() and (used := torch.cuda.max_memory_allocated()):
        return int(used)
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = [line.split() for line in status.read_text("utf-8").splitlines() if line.startswith("VmHWM:")]
    return int(lines[0][1]) * 1024 if lines else None
