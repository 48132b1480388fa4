"""The slides' top-down inference: trace the signs back, infer again, and never lose score.

Slide "New DRMM Learning Algorithm with Top-Down Inference".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce, singledispatch
from typing import Any

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.model.deep import DRMM, Latents, fit_amplitude
from drmm.rendering import (
    Abs,
    AdaptiveMaxPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Dropout,
    Dropout2d,
    Graph,
    Join,
    Largest,
    LeakyReLU,
    Level,
    Maximum,
    MaxPool2d,
    PReLU,
    ReLU,
    Rendering,
    Sequential,
    Switches,
)
from drmm.rendering.base import chosen, masked
from drmm.rendering.norm import uses_batch

__all__ = ["reinfer", "sign_traceback"]


@torch.no_grad()
def sign_traceback(
    model: DRMM, x: Tensor, label: Tensor | int | None = None, *, sweeps: int = 6, top: int | None = None
) -> Latents:
    """Joint MAP of a signed net, approached by block-coordinate ascent over the switches of each gate and pool.

    The score is linear in the switches of one gate or pool given all others, and its maximum has a closed form:
    â = [s ⊙ u > 0] and t̂ = argmax_t s ⊙ u(t), where s is the sign of the template z↓ that comes from above.
    One sweep traces the signs down and updates everything from the pixels up, through branches too. No sweep
    lowers the score, and an image stops at a local maximum: this is a heuristic, which `Latents.gap` shows.

    Clips (ReLU6) and local linear maps are no maximum over switches. They keep the convnet's choice, so that a
    sweep may lose score; an image then keeps what it had.

    Args:
        model: with fixed statistics: in evaluation mode.
        x: images (N, C, H, W).
        label: condition on a class, (N,) or one for all; None tries classes and keeps the best.
        sweeps: at most this many.
        top: try only so many classes, those that score best bottom-up; None tries every class.

    Raises:
        InputError: if there are not so many classes.
        ValueError: if a norm uses the statistics of the batch.
    """
    if top is not None and not 1 <= top <= model.n_classes:
        raise InputError(f"top must be from 1 to {model.n_classes}, the number of classes, got {top}")
    if any(isinstance(module, BatchNorm1d | BatchNorm2d) and uses_batch(module) for module in model.modules()):
        raise ValueError("the sign traceback needs fixed statistics: call model.eval() first")
    start = model.infer(x, label)
    answer = _best_of(model, x, start, sweeps, top) if label is None else _ascend(model, x, start, sweeps)
    rendering = model.levels.render(model.templates.weight[answer.label], answer.switches)
    return replace(answer, amplitude=fit_amplitude(x, rendering))


@singledispatch
def reinfer(rendering: Rendering, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
    """Infer again, knowing what comes from above: of all switches, those that maximise ⟨z, y⟩.

    A rendering that has no such choice infers as always. One of your own takes part by
    `@reinfer.register(YourRendering)`. Where z is 0, every choice scores the same: keep the convnet's.

    Args:
        rendering: one level, with fixed statistics.
        x: its input now, (N, ...).
        switches: ĝ as it was, which says how z came down inside of a composite.
        z: the template that comes down to its output, same shape as y.

    Returns:
        y and the new switches, as `Rendering.infer` does.
    """
    del switches, z
    return rendering.infer(x)


@reinfer.register
def _(rendering: Sequential, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
    templates = rendering.render_levels(z, switches)[1:]
    parts = []
    for level, part, template in zip(rendering.renderings, switches.parts, templates, strict=True):
        x, new = reinfer(level, x, part, template)
        parts.append(new)
    return x, replace(switches, parts=tuple(parts))


@reinfer.register
def _(rendering: Graph, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
    # The template of a value passes through what lies above it alone, and that is updated later.
    templates = rendering.render_values(z, switches)
    steps = rendering.steps
    parts: list[Switches] = []

    def visit(operation: Rendering | Join, xs: Sequence[Tensor], settings: Sequence[Any]) -> Tensor:
        template, part = templates.get(steps[len(parts)][0]), switches.parts[len(parts)]
        if template is not None and isinstance(operation, Maximum):
            y, new = _rejoin(operation, (xs[0], xs[1]), template)
        elif template is None or settings or isinstance(operation, Join):
            y, new = operation.infer(*xs, *settings)
        else:
            y, new = reinfer(operation, xs[0], part, template)
        parts.append(new)
        return y

    y = rendering.walk(x, visit, lambda value: value)
    return y, replace(switches, parts=(*parts, *switches.parts[len(parts) :]))


def _rejoin(join: Maximum, xs: tuple[Tensor, Tensor], z: Tensor) -> tuple[Tensor, Switches]:
    first, second = xs
    switches = join.infer(first, second)[1]
    a = torch.where(z < 0, first <= second, torch.where(z > 0, first >= second, chosen(switches.a, "a")))
    return torch.where(a, first, second), replace(switches, a=a)


@reinfer.register
def _(rendering: Level, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
    del switches
    return rendering.infer(x, torch.where(z < 0, -1.0, 1.0).to(x.dtype))


@reinfer.register
def _(rendering: ReLU, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
    del rendering, switches
    a = torch.where(z < 0, x < 0, x > 0)
    return masked(x, a), Switches(tuple(x.shape[1:]), a=a)


@reinfer.register
def _(rendering: LeakyReLU, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
    del switches
    return _leak(x, x.new_tensor(rendering.negative_slope), z)


@reinfer.register
def _(rendering: PReLU, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
    del switches
    return _leak(x, rendering.slope(x), z)


def _leak(x: Tensor, slope: Tensor, z: Tensor) -> tuple[Tensor, Switches]:
    """The stronger of x and slope · x by the sign of z; a slope above 1 makes the convnet take the weaker."""
    won = (1 - slope) * x  # by a = 1 where z is positive
    a = torch.where(z == 0, x > 0, torch.where(z < 0, won < 0, won > 0))
    return torch.where(a, x, slope * x), Switches(tuple(x.shape[1:]), a=a)


@reinfer.register
def _(rendering: Abs, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
    del rendering, switches
    s = torch.where(z < 0, x <= 0, x >= 0)
    return torch.where(s, x, -x), Switches(tuple(x.shape[1:]), s=s)


@reinfer.register(MaxPool2d)
@reinfer.register(AdaptiveMaxPool2d)
@reinfer.register(Largest)
def _(rendering: Rendering, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
    del switches
    (highest, where_highest), (lowest, where_lowest) = rendering.infer(x), rendering.infer(-x)
    t, below = chosen(where_highest.t, "t"), z < 0
    # Positions have no dimensions of size 1 that `Largest` keeps in the features.
    t = torch.where(below.reshape(t.shape), chosen(where_lowest.t, "t"), t)
    return torch.where(below, -lowest, highest), replace(where_highest, t=t)


@reinfer.register(Dropout)
@reinfer.register(Dropout2d)
def _(rendering: Rendering, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
    del z
    return rendering.render(x, switches), switches  # the same units stay missing; a mask is its own transpose


def _best_of(model: DRMM, x: Tensor, start: Latents, sweeps: int, top: int | None) -> Latents:
    """Ascend once for each class that competes, and keep the best."""
    order = torch.arange(model.n_classes, device=x.device).expand(len(x), -1)
    candidates = order if top is None else start.logits.topk(top).indices

    def run(label: Tensor) -> Latents:
        score = start.logits.gather(1, label[:, None]).squeeze(1)
        return _ascend(model, x, replace(start, label=label, score=score), sweeps)

    return reduce(lambda best, other: _pick(other.score > best.score, other, best), map(run, candidates.T))


def _ascend(model: DRMM, x: Tensor, latents: Latents, sweeps: int) -> Latents:
    for _ in range(sweeps):
        candidate = _sweep(model, x, latents)
        better = candidate.score > latents.score
        if not better.any():
            break
        latents = _pick(better, candidate, latents)
    return latents


def _sweep(model: DRMM, x: Tensor, latents: Latents) -> Latents:
    """Signs from the top down, then switches from the pixels up. The amplitude stays what it was."""
    features, switches = reinfer(model.levels, x, latents.switches, model.templates.weight[latents.label])
    logits = model.templates(features)
    score = logits.gather(1, latents.label[:, None]).squeeze(1)
    return replace(latents, score=score, logits=logits, switches=switches)


def _pick(mask: Tensor, one: Latents, other: Latents) -> Latents:
    """`one` for the images where the mask (N,) is True, `other` elsewhere."""
    return Latents(
        label=torch.where(mask, one.label, other.label),
        score=torch.where(mask, one.score, other.score),
        logits=torch.where(mask[:, None], one.logits, other.logits),
        upper_bound=torch.where(mask, one.upper_bound, other.upper_bound),
        amplitude=torch.where(mask, one.amplitude, other.amplitude),
        switches=one.switches.where(mask, other.switches),
    )
