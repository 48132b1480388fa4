"""Guided backprop as a way down: at every gate, what speaks against a unit is left out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from torch import Tensor

from drmm.rendering import Clip, Graph, Join, Level, ReLU, Rendering, Sequential, Switches
from drmm.rendering.convolution import draw

__all__ = ["guide"]


@singledispatch
def guide(rendering: Rendering, z: Tensor, switches: Switches) -> Tensor:
    """Send z down, positive parts only wherever a unit can be off.

    Slide "Guided Backprop Saliency Maps show False Positives being Filtered Layer-by-Layer" (Springenberg et al.,
    2015). It is no gradient and its maps do not sum up to a score. A gate of your own takes part by
    `@guide.register(YourGate)`; everything else renders as always.

    Args:
        rendering: one level, with fixed statistics.
        z: what comes down to its output, (N, ...).
        switches: from `infer`.
    """
    return rendering.render(z, switches)


@guide.register(ReLU)
@guide.register(Clip)
def _(rendering: Rendering, z: Tensor, switches: Switches) -> Tensor:
    return rendering.render(z.clamp(min=0), switches)


@guide.register
def _(rendering: Level, z: Tensor, switches: Switches) -> Tensor:
    # Windows that overlap add up before they come to the gate, which the fused level has above its pool.
    placed = rendering.place(z, switches).clamp(min=0)
    return draw(placed, rendering.drawing(switches), rendering.dictionary, switches.shape)


@guide.register
def _(rendering: Sequential, z: Tensor, switches: Switches) -> Tensor:
    for level, part in zip(reversed(rendering.renderings), reversed(switches.parts), strict=True):
        z = guide(level, z, part)
    return z


@guide.register
def _(rendering: Graph, z: Tensor, switches: Switches) -> Tensor:
    return rendering.descend(z, switches, _step)


def _step(
    operation: Rendering | Join, z: Tensor, switches: Switches, settings: Sequence[Any]
) -> tuple[Tensor, ...]:
    if isinstance(operation, Join):
        return operation.render(z, switches, *settings)
    if settings:  # sizes of other features, which no gate depends on
        return (operation.render(z, switches, *settings),)
    return (guide(operation, z, switches),)
