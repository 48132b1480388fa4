"""A dry run: the net, schedule and machine of a table's row, for some steps on images that are drawn here."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.learning.config import Training
from drmm.model.deep import DRMM
from drmm.model.presets import Shape, build
from drmm.studies.reproduce.machine import Machine
from drmm.studies.reproduce.processes import launch
from drmm.studies.reproduce.protocol import METHODS, Method, Protocol

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


def dry_run(plan: Protocol, method: str, machine: Machine, steps: int, seed: int = 0) -> DryRun:
    """Make some steps of a row exactly as a run would, in processes of their own, and write nothing.

    Args:
        plan: the data set's protocol; the data itself is not needed.
        method: name of the row.
        machine: how to carry it out.
        steps: how many.
        seed: of the images, the weights and the batches.

    Raises:
        InputError: if there is no such row, step or machine, or the loss is not finite.
        RunError: if a process was killed.
    """
    if method not in METHODS:
        raise InputError(f"no method {method!r}: choose from {', '.join(METHODS)}")
    if steps < 1:
        raise InputError(f"a dry run of {steps} steps shows nothing: make 1 or more")
    config = replace(machine.carry_out(plan.training), epochs=1, seed=seed)
    return launch(_steps, machine.devices, plan, METHODS[method], config, steps, threads=machine.threads())


def _steps(plan: Protocol, method: Method, config: Training, steps: int) -> DryRun:
    from drmm.learning.trainer import Steps, run_loop  # noqa: PLC0415  # Lightning takes seconds to import

    shape = _SHAPES[plan.dataset]
    torch.manual_seed(config.seed)
    model: DRMM = build(plan.preset, _CLASSES, shape, constraint=method.constraint, width=plan.width)
    x, y = _images(method, config, steps, shape)
    watch = Steps()
    run_loop(model.train(), x, y, method.objective, config, watching=[watch])
    count = sum(p.numel() for p in model.parameters())
    return DryRun(tuple(watch.losses), tuple(watch.seconds), _peak_memory(), count)


def _images(method: Method, config: Training, steps: int, shape: Shape) -> tuple[Tensor, Tensor]:
    """As many as make so many batches in an epoch."""
    if method.labels_only or method.teacher is not None:
        n = labelled = config.batch_size * config.devices * steps
    else:
        labelled = config.labelled_per_batch * config.devices
        n = (config.batch_size - config.labelled_per_batch) * config.devices * steps
    return drawn_images(n, shape, labelled=labelled, seed=config.seed)


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
