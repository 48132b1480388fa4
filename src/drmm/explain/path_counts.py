"""How many paths there are, and how many of them are active.

Slide "What do the Active Paths mean?": since only a few neurons are on, very few of all possible paths are active.
Counting is the same walk down with every weight 1: the sum-product becomes a count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drmm.explain.passes import activations, as_drmm, level_names
from drmm.model.deep import evaluation
from drmm.rendering import Rendering, Switches
from drmm.rendering.passes import backward_pass

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
    passed = activations(drmm, x, label)
    top = (drmm.templates.weight[passed.label] != 0).double()
    names = level_names(drmm)
    with torch.no_grad(), evaluation(drmm):
        levels, switches = drmm.levels.renderings, passed.switches
        active = backward_pass(levels, top, switches, lambda *one: count(*one, every=False))[::-1]
        first = [choice.select(slice(1)) for choice in switches]
        every = backward_pass(levels, top[:1], first, lambda *one: count(*one, every=True))[::-1]
    seen = [features.flatten(1) for features in passed.features[::-1]]
    return PathCounts(
        levels=(*reversed(names), "pixels"),
        active=torch.stack([paths.flatten(1).sum(1) for paths in active], 1),
        all=torch.cat([paths.sum()[None] for paths in every]),
        on=torch.stack([(features != 0).double().mean(1) for features in seen], 1),
    )


def count(rendering: Rendering, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
    """How many paths come down to each unit of the input: see `Rendering.count`.

    Raises:
        InputError: if the rendering is of no kind, or its kind cannot tell.
    """
    return rendering.count(paths, switches, every=every)
