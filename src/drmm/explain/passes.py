"""The levels of a model one by one: what is found on the way up, and how to go down again from any of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drmm.errors import InputError
from drmm.lifting.assembly import assemble
from drmm.model.deep import DRMM, evaluation
from drmm.rendering.passes import Descent, ForwardPass, backward_pass, draw, forward_pass

__all__ = ["Activations", "Descent", "activations", "as_drmm", "descend", "draw", "level_names", "level_number"]


@dataclass(frozen=True, slots=True)
class Activations(ForwardPass):
    """One bottom-up pass with all that it found.

    Attributes:
        logits: (N, C).
        label: the class that is explained, (N,).
    """

    logits: Tensor
    label: Tensor


def as_drmm(model: nn.Module) -> DRMM:
    """A model as it is; any other convnet lifted, sharing its parameters.

    Raises:
        TypeError: if the net cannot be lifted: the error names the operation and says why.
    """
    return model if isinstance(model, DRMM) else assemble(model)[0]


def activations(model: DRMM, x: Tensor, label: Tensor | int | None = None) -> Activations:
    """Infer level by level, in evaluation mode, and keep every level's features.

    Args:
        model: to be explained.
        x: images (N, C, H, W).
        label: class to explain, (N,) or one for all; None takes the best.

    Raises:
        InputError: if the labels do not fit.
    """
    model.admit(x)
    with torch.no_grad(), evaluation(model):
        up = forward_pass(model.levels.renderings, x)
        logits = model.templates(up.features[-1])
    chosen = logits.argmax(1) if label is None else model.check_label(label, len(x))
    return Activations(up.features, up.switches, logits, chosen)


def descend(model: DRMM, z: Tensor, passed: Activations, level: int, way: Descent = draw) -> list[Tensor]:
    """From a level down to the pixels.

    Args:
        model: whose levels they are.
        z: (N, ...), of the shape of the level's features.
        passed: of the pass up, from `activations`.
        level: 0 is the picture itself, L the top.
        way: how each level sends down.

    Returns:
        What comes down to the features of level 0 (the picture), 1, …, `level` (z itself).
    """
    with torch.no_grad(), evaluation(model):
        return backward_pass(model.levels.renderings[:level], z, passed.switches[:level], way)


def level_names(model: DRMM) -> tuple[str, ...]:
    """Names of the levels, pixels first; a gate that is used twice is two levels."""
    every = model.levels.named_modules(remove_duplicate=False)
    return tuple(name for name, _ in every if name and "." not in name)


def level_number(model: DRMM, level: int | str) -> int:
    """Number of a level, 1 (next to the pixels) to L.

    Args:
        model: a model.
        level: its number, from the top if negative (-1 is the top), or its name in `model.levels`.

    Raises:
        InputError: if there is no such level.
    """
    names = level_names(model)
    if isinstance(level, str):
        if level not in names:
            raise InputError(f"no level {level!r}: choose from {', '.join(names)}")
        return names.index(level) + 1
    number = level if level > 0 else len(names) + 1 + level
    if not 1 <= number <= len(names):
        raise InputError(f"level must be 1 to {len(names)}, or -1 (the top) to -{len(names)}, got {level}")
    return number
