"""A convnet as a dynamic program: every unit a node that chooses or collects.

A unit of a dictionary *collects*: one step, ⊗ (in max-sum the sum) over its pixels, each times its weight. A ReLU
with max-pooling *chooses*: ⊕ (the max) over "off" and every position. The class chooses among its templates.
Weights are gains: see `Problem.violations` for when that is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.errors import InputError
from drmm.model.deep import DRMM, evaluation
from drmm.rendering import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Dropout2d,
    Flatten,
    Identity,
    Level,
    Linear,
    MaxPool2d,
    ReLU,
    Rendering,
    Sequential,
)
from drmm.studies.dynamic.problem import Problem, Step

__all__ = ["Network", "Unit", "network"]

Units = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Unit:
    """A node of a network.

    Attributes:
        stage: 0 is the pixels; every dictionary and every choice is one more, the class is last.
        position: (channel, row, column), or (index,) for templates and the class.
    """

    stage: int
    position: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.stage}:{','.join(str(i) for i in self.position)}"


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A net and an image as a dynamic program.

    Attributes:
        problem: its nodes are of type `Unit`.
        stages: the units of each stage, pixels first, templates last; each an array of the stage's shape.
        root: the class: its best step is the label, its value the score.
    """

    problem: Problem
    stages: tuple[Units, ...]
    root: Unit


@torch.no_grad()
def network(model: DRMM, image: Tensor) -> Network:
    """The dynamic program whose max-sum value is the score of one image.

    For tiny nets: there is a Python object for every unit and every link.

    Args:
        model: of `Level`, convolutions, linear layers, averages, batch norms, ReLU, max-pooling and flattening;
            taken in evaluation mode.
        image: (C, H, W).

    Raises:
        InputError: if the model has another rendering, or this is not one image.
    """
    if image.ndim != 3:
        raise InputError(f"a network is built for one image (C, H, W), got {tuple(image.shape)}: use x[i]")
    if not isinstance(model.templates, Linear):
        raise InputError("a network needs class templates: end the model with a Linear")
    building = _Building(image)
    with evaluation(model):
        building.add(model.levels)
        building.add(model.templates)
    root = Unit(len(building.stages), (0,))
    steps = [*building.steps, *(Step(root, (unit,)) for unit in building.units.flat)]
    return Network(Problem(steps), tuple(building.stages), root)


class _Building:
    """Steps so far, bottom-up; `units` is the top."""

    def __init__(self, image: Tensor) -> None:
        self.stages: list[Units] = []
        self.steps: list[Step] = []
        self.dtype = image.dtype
        self.units = self._stage(tuple(image.shape))
        self.steps += [
            Step(unit, (), value) for unit, value in zip(self.units.flat, image.flatten().tolist(), strict=True)
        ]

    def add(self, module: nn.Module) -> None:
        """One module on top."""
        match module:
            case Sequential():
                for part in module:
                    self.add(part)
            case Level():
                self._affine(module.dictionary)
                if module.norm is not None:
                    self._affine(module.norm)
                self._choice(module.pool, off=True)
            case ReLU():
                self._choice(None, off=True)
            case MaxPool2d():
                self._choice(module, off=False)
            case Flatten():
                self.units = self.units.reshape(-1)
            case Dropout() | Dropout2d() | Identity():
                pass  # in evaluation mode each passes on what it gets
            case Conv2d() | Linear() | AvgPool2d() | BatchNorm1d() | BatchNorm2d():
                self._affine(module)
            case _:
                raise InputError(f"{type(module).__name__} has no steps here: use Level, Conv2d, ReLU, MaxPool2d")

    def _affine(self, module: Rendering) -> None:
        """Each unit collects: its row of the matrix, read off the module's answers to unit images."""
        shape, size = self.units.shape, self.units.size
        basis = torch.eye(size, dtype=self.dtype).reshape(size, *shape)
        offset = module(torch.zeros_like(basis[:1]))
        matrix = (module(basis) - offset).flatten(1).T
        tails = self.units.reshape(-1)
        heads = self._stage(tuple(offset.shape[1:]))
        for head, row, weight in zip(heads.flat, matrix, offset.flatten().tolist(), strict=True):
            links = row.nonzero().flatten()
            self.steps.append(Step(head, tuple(tails[links.numpy()]), weight, tuple(row[links].tolist())))
        self.units = heads

    def _choice(self, pool: MaxPool2d | None, *, off: bool) -> None:
        """Each unit chooses: off, worth 0, or one of its positions."""
        tails = self.units.reshape(-1)
        shape, windows = (
            (self.units.shape, np.arange(tails.size)[:, None]) if pool is None else self._windows(pool)
        )
        heads = self._stage(shape)
        for head, window in zip(heads.flat, windows, strict=True):
            if off:
                self.steps.append(Step(head, (), 0.0))
            self.steps += [Step(head, (tails[position],)) for position in window if position >= 0]
        self.units = heads

    def _windows(self, pool: MaxPool2d) -> tuple[tuple[int, ...], npt.NDArray[np.int64]]:
        """The shape after pooling, and for each unit the numbers of the units in its window, -1 outside."""
        if pool.ceil_mode:
            raise InputError("max-pooling with ceil_mode=True has no steps here: pad the image instead")
        channels, height, width = self.units.shape
        numbers = torch.arange(1, self.units.size + 1, dtype=torch.float64).reshape(channels, 1, height, width)
        geometry: Any = (pool.kernel_size, pool.dilation, pool.padding, pool.stride)
        windows = F.unfold(numbers, *geometry).transpose(1, 2).flatten(0, 1).long() - 1
        blank = torch.zeros(1, channels, height, width)
        shape = F.max_pool2d(blank, pool.kernel_size, pool.stride, pool.padding, pool.dilation).shape[1:]
        return tuple(shape), cast("npt.NDArray[np.int64]", windows.numpy())

    def _stage(self, shape: tuple[int, ...]) -> Units:
        """Fresh units of a shape."""
        units = np.empty(shape, dtype=object)
        for position in _places(shape):
            units[position] = Unit(len(self.stages), position)
        self.stages.append(units)
        return units


def _places(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    yield from np.ndindex(*shape)
