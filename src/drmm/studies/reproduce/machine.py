"""On what a cell is run, which is not to decide its figure."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from typing import Any

import torch

from drmm.learning.config import Machine

__all__ = ["described", "device", "threads", "workers"]


def device(machine: Machine) -> torch.device:
    """The first device that is used.

    Raises:
        InputError: if there is none such here, or no such precision.
    """
    from drmm.learning.trainer import device_of  # noqa: PLC0415  # Lightning takes seconds to import

    return device_of(machine)


def workers(machine: Machine) -> int:
    """How many cells to run at the same time: one a core; on a GPU, which they would share, one alone."""
    return 1 if device(machine).type != "cpu" else max(1, (os.cpu_count() or 1) // machine.devices)


def threads(machine: Machine) -> int:
    """Of each process: one on a CPU, where processes run side by side; torch's choice beside a GPU."""
    return 1 if device(machine).type == "cpu" else torch.get_num_threads()


def described(machine: Machine) -> dict[str, Any]:
    """As JSON keeps it, with the device's name."""
    used = device(machine)
    name = torch.cuda.get_device_name(used) if used.type == "cuda" else platform.processor() or platform.machine()
    return asdict(machine) | {"device": name}
