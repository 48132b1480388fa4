"""Labels that no small change of a picture alters, proved by linear bounds.

Where templates above the pixels are non-negative, a score is the largest of many linear functions of the pixels.
That of a class's active paths bounds its score from below whatever the change, and `Rendering.relaxed` bounds from
above what other classes can make of it. With templates of either sign it is so unit by unit: an active path where
it counts for the class, a chord where it counts against it (CROWN: Zhang et al., 2018).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.model.deep import DRMM
from drmm.model.modes import evaluation
from drmm.rendering import Flatten, Identity, SamePad2d
from drmm.rendering.base import Box, Down, constant
from drmm.rendering.compose import downwards
from drmm.rendering.kinds import Dictionary
from drmm.rendering.passes import forward_pass, parts_of

__all__ = ["Norm", "robust_margin"]

Norm = Literal["linf", "l2"]


@torch.no_grad()
def robust_margin(model: DRMM, x: Tensor, label: Tensor | int, radius: float, norm: Norm = "linf") -> Tensor:
    """By how much the label's score exceeds every other, at least, over all images in a ball, (N,).

    Where it is positive no image within the radius has another class, to rounding; elsewhere there may be one.
    Pixels may have any value. No less than what intervals prove; in evaluation mode.

    Args:
        model: where `DRMM.upper_bound` is finite.
        x: images (N, C, H, W), the centres.
        label: class indices, (N,) or one for all.
        radius: of the ball, in pixel values.
        norm: "linf" changes every pixel by so much at most; "l2" is the Euclidean distance.

    Raises:
        InputError: if the radius is not a number from 0, there is no such norm or class.
        NoBoundError: if a rendering has no bound.
    """
    if norm not in {"linf", "l2"} or not 0 <= radius < math.inf:
        raise InputError(f"norm must be linf or l2, and the radius 0 or more: got {norm!r} and {radius}")
    with evaluation(model):
        model.admit(x)
        model.check_bounded()
        labels = model.check_label(label, len(x))
        box, down = _relaxed(model, x, radius, norm)
        weight, bias = model.templates.weight, model.templates.bias
        rivals = []
        for c in range(model.n_classes):
            z = weight[c] - weight[labels]
            w, offset = down(z)
            reach = radius * w.flatten(1).norm(p=1 if norm == "linf" else 2, dim=1)
            linear = (w * x).flatten(1).sum(1) + reach + offset
            most = torch.minimum(linear, constant(z, box)) + (0 if bias is None else bias[c] - bias[labels])
            rivals.append(most.where(labels != c, -math.inf))
    return -torch.stack(rivals).amax(0)


def _relaxed(model: DRMM, x: Tensor, radius: float, norm: Norm) -> tuple[Box, Down]:
    """The features of all images in the ball, for the choices that `infer` makes there."""
    layers = parts_of(model.levels)
    centre = forward_pass(layers, x)
    box, ways, moved = (x - radius, x + radius), list[Down](), True
    for i, layer in enumerate(layers):
        box, way = layer.relaxed(*box, centre.switches[i])
        ways.append(way)
        if norm == "l2" and moved and isinstance(layer, Dictionary):
            entries = layer.reweighted(torch.ones_like(centre.features[i]), torch.square)
            reach, y = radius * entries.sqrt(), centre.features[i + 1]
            box = torch.maximum(box[0], y - reach), torch.minimum(box[1], y + reach)
        moved = moved and isinstance(layer, Flatten | Identity | SamePad2d)
    return box, downwards(ways)
