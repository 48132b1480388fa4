"""Explainers: `explainer(model, x, label=None)` says which pixels count, as maps (N, H, W).

All take a `DRMM` or any convnet that `drmm.lift` can lift, and explain it in evaluation mode and without leaving a
trace on it. What they do is walk the switches of the traceback down, never hooks: reused gates are no trap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from drmm.errors import InputError
from drmm.explain.guided import guide
from drmm.explain.passes import Activations, Descent, activations, as_drmm, descend, draw, level_number
from drmm.model.deep import DRMM, evaluation
from drmm.rendering.convolution import as_channels_last

__all__ = [
    "EXPLAINERS",
    "Explainer",
    "LevelEvidence",
    "UnitEvidence",
    "active_paths",
    "gradient",
    "guided_backprop",
    "level_relevance",
]

Explainer = Callable[[nn.Module, Tensor, "Tensor | int | None"], Tensor]


def active_paths(model: nn.Module, x: Tensor, label: Tensor | int | None = None) -> Tensor:
    """What the active paths that end in each pixel add to the class's score, summed over channels, (N, H, W).

    Exact: maps sum up to the logit, short of the paths that end in biases (`DRMM.sum_over_paths` has those apart).
    Equal to input times gradient, in nets whose gates are ReLUs. Slides "The Sum-over-Paths Formulation" and "What
    do the Active Paths mean?".

    Args:
        model: a `DRMM` or a convnet.
        x: images (N, C, H, W).
        label: class to explain, (N,) or one for all; None takes the best.

    Raises:
        InputError: if the labels do not fit.
        TypeError: if a convnet cannot be lifted.
    """
    return (x * _descended(model, x, label, draw)).sum(1)


def gradient(model: nn.Module, x: Tensor, label: Tensor | int | None = None) -> Tensor:
    """The class's rendering μ_cĝ, the gradient of its score: largest magnitude over channels, (N, H, W).

    Simonyan et al. (2013), "Deep inside convolutional networks"; arguments as for `active_paths`.
    """
    return _descended(model, x, label, draw).abs().amax(1)


def guided_backprop(model: nn.Module, x: Tensor, label: Tensor | int | None = None) -> Tensor:
    """As the gradient, but what speaks against a unit is left out at every gate; summed over channels, (N, H, W).

    Sharp pictures, no gradient: see `guide`. Arguments as for `active_paths`.
    """
    return _descended(model, x, label, guide).sum(1)


EXPLAINERS: dict[str, Explainer] = {
    "active paths": active_paths,
    "gradient": gradient,
    "guided backprop": guided_backprop,
}


def level_relevance(
    model: nn.Module, x: Tensor, level: int | str, label: Tensor | int | None = None
) -> tuple[Tensor, Tensor]:
    """What each unit of a level adds to the class's score through the active paths above it.

    Args:
        model: a `DRMM` or a convnet.
        x: images (N, C, H, W).
        level: number from the pixels up (-1 is the top), or name.
        label: class to explain, (N,) or one for all; None takes the best.

    Returns:
        Relevance of each unit, of the features' shape (N, ...), and what paths that end in a bias above the level
        add, (N,): together they are the score.

    Raises:
        InputError: if there is no such level, or the labels do not fit.
    """
    drmm = as_drmm(model)
    passed = activations(drmm, x, label)
    relevance = _relevance(drmm, passed, level_number(drmm, level))
    score = passed.logits.gather(1, passed.label[:, None]).squeeze(1)
    return relevance, score - relevance.flatten(1).sum(1)


@final
@dataclass(frozen=True)
class UnitEvidence:
    """Explainer: which pixels made one unit fire; maps sum up to its activation, short of biases.

    Attributes:
        level: number from the pixels up (-1 is the top), or name.
        unit: index in the features without the batch, as (channel, row, column); None takes each image's unit that
            adds most to the class's score.
        way: how to go down, `draw` (exact) or `guide`.
    """

    level: int | str
    unit: tuple[int, ...] | None = None
    way: Descent = draw

    def __call__(self, model: nn.Module, x: Tensor, label: Tensor | int | None = None) -> Tensor:
        """Maps (N, H, W); arguments as for `active_paths`.

        Raises:
            InputError: if there is no such level or unit.
        """
        drmm = as_drmm(model)
        number, passed = level_number(drmm, self.level), activations(drmm, x, label)
        one = torch.zeros_like(passed.features[number])
        one.flatten(1).scatter_(1, self._chosen(drmm, passed, number), 1.0)
        picture = descend(drmm, one, passed, number, self.way)[0]
        return _map(picture, x, self.way)

    def _chosen(self, model: DRMM, passed: Activations, number: int) -> Tensor:
        """Index of the unit among all of the level's, for each image, (N, 1)."""
        features = passed.features[number]
        if self.unit is None:
            return _relevance(model, passed, number).flatten(1).argmax(1, keepdim=True)
        sizes = tuple(features.shape[1:])
        if len(self.unit) != len(sizes) or not all(0 <= i < n for i, n in zip(self.unit, sizes, strict=True)):
            raise InputError(f"unit {self.unit} is not in level {self.level}, whose units are {sizes}")
        index = int(np.ravel_multi_index(self.unit, sizes))
        return passed.label.new_full((len(features), 1), index)


@final
@dataclass(frozen=True)
class LevelEvidence:
    """Explainer: which pixels the active units of a level see, whatever the class.

    Each unit is drawn as strongly as it is on, so that the map is of all that the level holds about the picture.
    Slide "Saliency Maps show Selectivity and Invariance are Built up over Layers".

    Attributes:
        level: number from the pixels up (-1 is the top), or name.
        units: take only so many units of each image, those that are on most; None takes all.
        way: how to go down, `draw` (exact) or `guide`.
    """

    level: int | str
    units: int | None = None
    way: Descent = draw

    def __call__(self, model: nn.Module, x: Tensor, label: Tensor | int | None = None) -> Tensor:
        """Maps (N, H, W); arguments as for `active_paths`.

        Raises:
            InputError: if there is no such level, or less than one unit is asked for.
        """
        if self.units is not None and self.units < 1:
            raise InputError(f"units must be at least 1, got {self.units}")
        drmm = as_drmm(model)
        number, passed = level_number(drmm, self.level), activations(drmm, x, label)
        features = passed.features[number]
        if self.units is not None:
            values = features.flatten(1)
            best = values.topk(min(self.units, values.shape[1]), 1)
            features = torch.zeros_like(values).scatter_(1, best.indices, best.values).reshape(features.shape)
        return _map(descend(drmm, features, passed, number, self.way)[0], x, self.way)


def _relevance(model: DRMM, passed: Activations, number: int) -> Tensor:
    """What each unit of a level adds to the score, of the features' shape."""
    top = model.templates.weight[passed.label].detach()
    return descend(model, top, passed, len(passed.switches))[number] * passed.features[number]


def _descended(model: nn.Module, x: Tensor, label: Tensor | int | None, way: Descent) -> Tensor:
    """What the class template sends down to the picture, (N, C, H, W)."""
    drmm = as_drmm(model)
    with torch.no_grad(), evaluation(drmm):
        chosen, _, switches = drmm.max_sum(as_channels_last(x), label)  # on a CPU a quarter faster
        return way(drmm.levels, drmm.templates.weight[chosen], switches)


def _map(picture: Tensor, x: Tensor, way: Descent) -> Tensor:
    """Evidence by pixel where paths are exact, the picture itself otherwise, (N, H, W)."""
    return (x * picture if way is draw else picture).sum(1)
