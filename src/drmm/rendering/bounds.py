"""Two-message bound: an upper bound on the joint MAP score for any signs, equal to it where inference is exact.

Each unit carries the largest and the smallest value that it can take over all switches at and below it:
U = max(0, max_t Σ w⁺U + w⁻L) and L = min(0, min_t Σ w⁺L + w⁻U). Where every upper weight is non-negative,
U is what the bottom-up pass computes, and the bound is tight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from drmm.rendering import (
    Abs,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    Affine,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Choice,
    Concat,
    Conv2d,
    Dropout,
    Dropout2d,
    Flatten,
    Graph,
    Identity,
    Join,
    Largest,
    LeakyReLU,
    Level,
    Linear,
    Maximum,
    MaxPool2d,
    PReLU,
    ReLU,
    Rendering,
    Sequential,
    Sum,
)
from drmm.rendering.convolution import correlate

__all__ = ["NoBoundError", "bound"]


class NoBoundError(TypeError):
    """A rendering whose smallest and largest values nobody has written down."""


@singledispatch
def bound(rendering: Rendering, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each output, over all inputs in [lower, upper] and all switches.

    A rendering of your own takes part by `@bound.register(YourRendering)`.

    Args:
        rendering: one level, in evaluation mode.
        lower: (N, ...).
        upper: same shape.

    Raises:
        NoBoundError: if no bound is registered for this type.
    """
    del lower, upper
    raise NoBoundError(
        f"no bound for {type(rendering).__name__}: register one with drmm.rendering.bounds.bound.register"
    )


@bound.register
def _(rendering: Sequential, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    for level in rendering.renderings:
        lower, upper = bound(level, lower, upper)
    return lower, upper


@bound.register
def _(rendering: Conv2d, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    geometry: Any = (rendering.stride, rendering.padding, rendering.dilation, rendering.groups)

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, *geometry)

    return _linear(convolve, rendering.weight, rendering.bias, lower, upper)


@bound.register
def _(rendering: Linear, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    return _linear(F.linear, rendering.weight, rendering.bias, lower, upper)


@bound.register(BatchNorm1d)
@bound.register(BatchNorm2d)
def _(rendering: BatchNorm1d | BatchNorm2d, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    one, other = _each(rendering, lower, upper)
    return (one, one) if one is other else (torch.minimum(one, other), torch.maximum(one, other))


@bound.register(AvgPool2d)
@bound.register(AdaptiveAvgPool2d)
@bound.register(Flatten)
@bound.register(Identity)
@bound.register(Dropout)
@bound.register(Dropout2d)
@bound.register(Choice)
def _(rendering: Rendering, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    return _each(rendering, lower, upper)  # increasing in every input


@bound.register
def _(rendering: ReLU, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    del rendering
    return lower.clamp(max=0), upper.clamp(min=0)


@bound.register
def _(rendering: LeakyReLU, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    values = [lower, upper, lower * rendering.negative_slope, upper * rendering.negative_slope]
    return _extremes(values)


@bound.register
def _(rendering: PReLU, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    slope = rendering.slope(lower)
    return _extremes([lower, upper, lower * slope, upper * slope])


@bound.register
def _(rendering: Abs, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    del rendering
    return _extremes([lower, upper, -lower, -upper])


@bound.register(MaxPool2d)
@bound.register(AdaptiveMaxPool2d)
@bound.register(Largest)
def _(rendering: Rendering, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    return -rendering(-lower), rendering(upper)


@bound.register
def _(rendering: Affine, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    if not rendering.increasing:
        raise NoBoundError("an affine map that can fall where its input grows has no bound here")
    return _each(rendering, lower, upper)


@bound.register
def _(rendering: Graph, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    def visit(
        operation: Rendering | Join, inputs: Sequence[tuple[Tensor, Tensor]], settings: Sequence[object]
    ) -> tuple[Tensor, Tensor]:
        if isinstance(operation, Join):
            return _bound_join(operation, inputs)
        if not settings:
            return bound(operation, *inputs[0])
        if not isinstance(operation, Affine) or not operation.increasing:
            raise NoBoundError(f"no bound for {type(operation).__name__} with settings")
        below, above = (operation(value, *settings) for value in inputs[0])
        return below, above

    return rendering.walk((lower, upper), visit, lambda value: value[0])


def _bound_join(join: Join, inputs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Branches share switches further down; a bound that lets each choose for itself still holds."""
    lowers, uppers = zip(*inputs, strict=True)
    if isinstance(join, Concat) or (isinstance(join, Sum) and min(join.weights) >= 0):
        return join(*lowers), join(*uppers)
    if isinstance(join, Sum):
        turned = [(b, a) if w < 0 else (a, b) for (a, b), w in zip(inputs, join.weights, strict=True)]
        lowers, uppers = zip(*turned, strict=True)
        return join(*lowers), join(*uppers)
    if isinstance(join, Maximum):
        return _extremes([*lowers, *uppers])
    raise NoBoundError(f"no bound for {type(join).__name__}")


@bound.register
def _(rendering: Level, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return correlate(x, weight, bias, rendering.dictionary)

    lower, upper = _linear(convolve, *rendering.folded(), lower, upper)
    if rendering.pool is not None:
        lower, upper = bound(rendering.pool, lower, upper)
    return lower.clamp(max=0), upper.clamp(min=0)


def _linear(
    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    weight: Tensor,
    bias: Tensor | None,
    lower: Tensor,
    upper: Tensor,
) -> tuple[Tensor, Tensor]:
    """Σ w⁺L + w⁻U and Σ w⁺U + w⁻L; where the two are one known x, as at the pixels, just Σ w x."""
    if lower is upper:
        known = apply(lower, weight, bias)
        return known, known
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    return (
        apply(lower, positive, bias) + apply(upper, negative, None),
        apply(upper, positive, bias) + apply(lower, negative, None),
    )


def _each(rendering: Rendering, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The rendering of both, computed once where they are one."""
    first = rendering(lower)
    return first, first if lower is upper else rendering(upper)


def _extremes(values: list[Tensor]) -> tuple[Tensor, Tensor]:
    stacked = torch.stack(values)
    return stacked.amin(0), stacked.amax(0)
