"""How many paths there are, and how many of them are active.

Slide "What do the Active Paths mean?": since only a few neurons are on, very few of all possible paths are active.
Counting is the same walk down with every weight 1: the sum-product becomes a count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.errors import InputError
from drmm.explain.passes import as_drmm, climb, level_names
from drmm.model.deep import evaluation
from drmm.rendering import (
    Abs,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    Affine,
    AffineJoin,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Clip,
    Conv2d,
    Dropout,
    Dropout2d,
    Graph,
    Join,
    Largest,
    LeakyReLU,
    Level,
    Linear,
    LocalJoin,
    LocalLinear,
    Maximum,
    MaxPool2d,
    PReLU,
    ReLU,
    Rendering,
    Sequential,
    Sum,
    Switches,
    Window,
)
from drmm.rendering.convolution import draw, feature_size
from drmm.rendering.local import pull_back
from drmm.rendering.pooling import window_of

__all__ = ["PathCounts", "count", "count_paths"]


@dataclass(frozen=True, slots=True)
class PathCounts:
    """Paths from one class down to the features of each level, and how many of a level's units are on.

    Attributes:
        levels: names of the levels, top first, and "pixels".
        active: how many paths have every switch on, (N, levels + 1), float64: the first column is the paths from
            the class to the top features.
        all: how many there are, whatever the switches, (levels + 1,).
        on: share of the features that are not 0, (N, levels + 1).
    """

    levels: tuple[str, ...]
    active: Tensor
    all: Tensor
    on: Tensor

    @property
    def share(self) -> Tensor:
        """Share of all paths that are active, (N, levels + 1)."""
        return self.active / self.all


def count_paths(model: nn.Module, x: Tensor, label: Tensor | int | None = None) -> PathCounts:
    """Count the paths from the class to every level, down to the pixels; those that end in biases are left out.

    A weight that is exactly 0 is no path. A path is counted once for each weight that it goes along.

    Args:
        model: a `DRMM` or a convnet.
        x: images (N, C, H, W).
        label: class whose paths are counted, (N,) or one for all; None takes the best.

    Raises:
        InputError: if the labels do not fit, or an operation has no countable paths.
    """
    drmm = as_drmm(model)
    climbed = climb(drmm, x, label)
    top = (drmm.templates.weight[climbed.label] != 0).double()
    names = level_names(drmm)
    with torch.no_grad(), evaluation(drmm):
        active, every = [top], [top[:1]]
        for level, switches in reversed(list(zip(drmm.levels.renderings, climbed.switches, strict=True))):
            active.append(count(level, active[-1], switches, every=False))
            every.append(count(level, every[-1], switches.select(slice(1)), every=True))
    seen = [features.flatten(1) for features in climbed.features[::-1]]
    return PathCounts(
        levels=(*reversed(names), "pixels"),
        active=torch.stack([paths.flatten(1).sum(1) for paths in active], 1),
        all=torch.cat([paths.sum()[None] for paths in every]),
        on=torch.stack([(features != 0).double().mean(1) for features in seen], 1),
    )


@singledispatch
def count(rendering: Rendering, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    """How many paths come down to each unit of the input, from how many come to each unit of the output.

    Without weights there is nothing to count differently: the rendering itself carries them. One of your own that
    has weights or choices takes part by `@count.register(YourRendering)`.

    Args:
        rendering: one level.
        paths: of each unit of the output, (N, ...), float64.
        switches: ĝ.
        every: count along all switches, whatever they are.
    """
    del every
    return rendering.render(paths, switches)


@count.register
def _(rendering: Sequential, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    for level, part in zip(reversed(rendering.renderings), reversed(switches.parts), strict=True):
        paths = count(level, paths, part, every=every)
    return paths


@count.register
def _(rendering: Graph, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    def step(
        operation: Rendering | Join, z: Tensor, part: Switches, settings: Sequence[Any]
    ) -> tuple[Tensor, ...]:
        if isinstance(operation, Join):
            return _split(operation, z, part, settings, every=every)
        if settings:
            return (_moved(operation, z, part, settings),)
        return (count(operation, z, part, every=every),)

    return rendering.descend(paths, switches, step)


@count.register
def _(rendering: Level, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    dictionary = rendering.dictionary
    if every:
        if rendering.pool is not None:
            units = (dictionary.out_channels, *feature_size(dictionary, (switches.shape[1], switches.shape[2])))
            paths = count(rendering.pool, paths, replace(switches, shape=units), every=True)
    else:
        paths = rendering.place(paths, switches)
    weight = (rendering.drawing(switches) != 0).double()
    return draw(paths, weight, dictionary, switches.shape)


@count.register
def _(rendering: Conv2d, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    del every
    return draw(paths, (rendering.weight != 0).double(), rendering, switches.shape)


@count.register
def _(rendering: Linear, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    del every, switches
    return paths @ (rendering.weight != 0).double()


@count.register(BatchNorm1d)
@count.register(BatchNorm2d)
def _(rendering: BatchNorm2d, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    del every
    return _passed(rendering, paths, switches)


@count.register(Abs)
@count.register(Clip)
@count.register(Dropout)
@count.register(Dropout2d)
@count.register(LeakyReLU)
@count.register(PReLU)
@count.register(ReLU)
def _(rendering: Rendering, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    return paths if every else _passed(rendering, paths, switches)


@count.register
def _(rendering: MaxPool2d, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    if not every:
        return rendering.render(paths, switches)
    return _in_windows(paths, switches.shape, window_of(rendering))


@count.register
def _(rendering: AvgPool2d, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    del every
    return _in_windows(paths, switches.shape, window_of(rendering))


@count.register
def _(rendering: AdaptiveMaxPool2d, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    return _in_parts(paths, switches.shape) if every else rendering.render(paths, switches)


@count.register
def _(rendering: AdaptiveAvgPool2d, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    del rendering, every
    return _in_parts(paths, switches.shape)


@count.register
def _(rendering: Largest, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    if not every:
        return rendering.render(paths, switches)
    if not rendering.keepdim:
        ndim = len(switches.shape) + 1
        for dim in sorted(dim % ndim for dim in rendering.dims):
            paths = paths.unsqueeze(dim)
    return paths.expand(-1, *switches.shape)


@count.register
def _(rendering: Affine, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    del every
    return _moved(rendering, paths, switches, ())


@count.register
def _(rendering: LocalLinear, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    del paths, switches, every
    raise InputError(f"{rendering.function} has no paths to count: it is drawn by a local linear map")


@torch.no_grad()
def _moved(rendering: Rendering, paths: Tensor, switches: Switches, settings: Sequence[Any]) -> Tensor:
    """Paths through an affine function: a reshape, slice or copy, or an average of n values each.

    Raises:
        InputError: if it is neither.
    """
    probe = torch.arange(1.0, 1 + math.prod(switches.shape), dtype=torch.float64).reshape(1, *switches.shape)
    try:
        seen = rendering.infer(probe, *settings)[0]
    except RuntimeError as error:  # weights of its own, of another precision
        raise InputError(f"{type(rendering).__name__} has no paths that can be counted: it has weights") from error
    if bool(torch.isin(seen, torch.cat([probe.flatten(), probe.new_zeros(1)])).all()):
        return rendering.render(paths, switches, *settings)
    units = torch.zeros(3, seen.numel(), dtype=torch.float64)  # what three of its values are made of
    units[0, 0] = units[1, seen.numel() // 2] = units[2, -1] = 1
    canvas = rendering.render(units.reshape(3, *seen.shape[1:]), switches, *settings)
    weights, total = canvas[canvas != 0], rendering.infer(torch.ones_like(probe), *settings)[0]
    offset = rendering.infer(torch.zeros_like(probe), *settings)[0]
    if not len(weights) or _varies(weights) or _varies(total - offset):
        raise InputError(f"{type(rendering).__name__} has no paths that can be counted: it weighs values unevenly")
    return rendering.render(paths / weights[0], switches, *settings)


def _varies(values: Tensor) -> bool:
    return float(values.max() - values.min()) > 1e-9 * float(values.abs().max())


def _split(
    join: Join, paths: Tensor, switches: Switches, settings: Sequence[Any], *, every: bool
) -> tuple[Tensor, ...]:
    """Paths to each branch of a join."""
    if isinstance(join, Sum):
        return Sum([float(weight != 0) for weight in join.weights]).render(paths, switches)
    if isinstance(join, Maximum) and every:
        return Sum().render(paths, switches)
    if isinstance(join, AffineJoin | LocalJoin):
        raise InputError(f"{join.function} has no paths that can be counted: it mixes several features")
    return join.render(paths, switches, *settings)


def _passed(rendering: Rendering, paths: Tensor, switches: Switches) -> Tensor:
    """Paths through units that have one weight each, wherever that is not 0."""
    return torch.where(rendering.render(torch.ones_like(paths), switches) != 0, paths, 0.0)


def _in_windows(paths: Tensor, shape: tuple[int, ...], window: Window) -> Tensor:
    """A path to each place of each unit's window, (N, C, H', W') to (N, *shape)."""
    ones = paths.new_ones(shape[0], 1, *window.kernel)
    (top, left), (down, across) = window.padding, window.stride

    def total(x: Tensor) -> Tensor:
        x = F.pad(x, (left, left + across, top, top + down))  # ceil_mode looks beyond the padding
        y = F.conv2d(x, ones, stride=window.stride, dilation=window.dilation, groups=len(ones))
        return y[..., : paths.shape[-2], : paths.shape[-1]]

    return pull_back(total, (paths.new_zeros(len(paths), *shape),), paths)[0]


def _in_parts(paths: Tensor, shape: tuple[int, ...]) -> Tensor:
    """As `_in_windows`, for the parts that adaptive pooling divides a picture into."""
    rows, columns = (_parts(n, into).to(paths) for n, into in zip(shape[-2:], paths.shape[-2:], strict=True))
    return rows.T @ paths @ columns


def _parts(n: int, into: int) -> Tensor:
    """Which of n places belong to which part, bool (into, n)."""
    place, part = torch.arange(n), torch.arange(into)[:, None]
    return (place >= part * n // into) & (place < -(-(part + 1) * n // into))
