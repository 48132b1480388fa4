"""On what a cell is run: devices, precision and compilation, which are not to decide its figure."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch

from drmm.errors import InputError
from drmm.learning.config import Training

__all__ = ["Machine"]


@dataclass(frozen=True)
class Machine:
    """How a protocol is carried out; fields as in `drmm.Training`."""

    accelerator: str = Training.accelerator
    devices: int = Training.devices
    precision: str = Training.precision
    compile: bool = Training.compile

    def carry_out(self, training: Training) -> Training:
        """The same schedule here: every process takes its share of each batch, so that the steps stay the same.

        What remains different with several devices: each normalises with the statistics of its own share.

        Raises:
            InputError: if a batch cannot be shared equally.
        """
        shared = replace(training, **asdict(self))
        sizes = (training.batch_size, training.labelled_per_batch)
        if any(size % self.devices for size in sizes):
            raise InputError(
                f"batches of {sizes[0]} images, {sizes[1]} of them labelled, cannot be shared equally by "
                f"{self.devices} devices: use a number that divides both"
            )
        return replace(shared, batch_size=sizes[0] // self.devices, labelled_per_batch=sizes[1] // self.devices)

    def device(self) -> torch.device:
        """The first device that is used.

        Raises:
            InputError: if there is none such here, or no such precision.
        """
        from drmm.learning.trainer import device_of  # noqa: PLC0415  # Lightning takes seconds to import

        return device_of(replace(Training(), **asdict(self)))

    def workers(self) -> int:
        """How many cells to run at the same time: one a core; on a GPU, which they would share, one alone."""
        return 1 if self.device().type != "cpu" else max(1, (os.cpu_count() or 1) // self.devices)

    def threads(self) -> int:
        """Of each process: one on a CPU, where processes run side by side; torch's choice beside a GPU."""
        return 1 if self.device().type == "cpu" else torch.get_num_threads()

    def described(self) -> dict[str, Any]:
        """As JSON keeps it, with the device's name."""
        return asdict(self) | {"device": _name(self.device())}

    @staticmethod
    def removed_from(training: Mapping[str, Any]) -> dict[str, Any]:
        """A schedule as JSON keeps it, without what belongs to the machine."""
        own = {field.name for field in fields(Machine)}
        return {key: value for key, value in training.items() if key not in own}


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
