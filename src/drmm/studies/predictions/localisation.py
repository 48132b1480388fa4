"""Where is the object? Masks from maps, held against known masks.

Slides "Principled top-down inference for fine-scale tasks" and "Active Paths Encode/Lead to Task-Relevant Pixels":
what explains a class by pixels should also find its object. Every map is read in the same few ways, and which of
them suits a method is chosen on scenes that are not those that count.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.errors import InputError
from drmm.explain import Explainer
from drmm.studies.corruptions import blur

__all__ = [
    "READINGS",
    "CentreBox",
    "Localisation",
    "RandomMap",
    "Reading",
    "best_reading",
    "localise",
    "measure",
]

_BATCH = 100  # pictures that are explained at a time


@final
@dataclass(frozen=True)
class Reading:
    """How a map becomes a mask: the strongest pixels that together hold a share of all evidence.

    Attributes:
        sign: count evidence for the class alone ("positive"), or against it as well ("absolute").
        blur: standard deviation of a Gaussian that smooths the evidence first, in pixels; 0 leaves it as it is.
        share: of the evidence that the mask holds, in (0, 1].
    """

    sign: Literal["positive", "absolute"] = "absolute"
    blur: float = 2.0
    share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse shares that make no mask.

        Raises:
            InputError: if the share is not in (0, 1], or the blur is negative.
        """
        if not 0 < self.share <= 1 or self.blur < 0:
            raise InputError(
                f"a reading needs a share in (0, 1] and a blur of 0 or more: got {self.share} and {self.blur}"
            )

    def evidence(self, maps: Tensor) -> Tensor:
        """Maps (N, H, W) as they count: without sign and smooth, of sum 1 each (0 where there is no evidence)."""
        strength = maps.abs() if self.sign == "absolute" else maps.clamp(min=0)
        least = torch.finfo(maps.dtype).tiny
        smooth = blur((strength / strength.amax((1, 2), keepdim=True).clamp(min=least))[:, None], self.blur)[:, 0]
        return smooth / smooth.sum((1, 2), keepdim=True).clamp(min=least)

    def masks(self, maps: Tensor) -> Tensor:
        """The mask in each map, bool (N, H, W)."""
        return _strongest(self.evidence(maps), self.share)


_SIGNS: tuple[Literal["positive", "absolute"], ...] = ("positive", "absolute")
READINGS: tuple[Reading, ...] = tuple(
    Reading(sign, sigma, share)
    for sign, sigma, share in itertools.product(
        _SIGNS, (0.0, 1.0, 2.0, 4.0, 6.0), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    )
)
"""What every method may choose from."""


@dataclass(frozen=True, slots=True)
class Localisation:
    """How well maps find objects, a number for each picture.

    Attributes:
        reading: how the maps were read.
        masks: predicted pixels of the object, bool (N, H, W).
        iou: intersection over union with the known mask, in [0, 1], (N,).
        pointing: 1 where the strongest pixel is on the object, (N,): the pointing game.
        energy: share of the evidence that is on the object, in [0, 1], (N,).
    """

    reading: Reading
    masks: Tensor
    iou: Tensor
    pointing: Tensor
    energy: Tensor


def localise(
    explainer: Explainer,
    model: nn.Module,
    x: Tensor,
    masks: Tensor,
    *,
    reading: Reading | tuple[Tensor, Tensor],
    label: Tensor | int | None = None,
) -> Localisation:
    """Find objects by an explainer's maps.

    Args:
        explainer: one of `drmm.explain.EXPLAINERS`, or any other.
        model: what it explains.
        x: images (N, C, H, W).
        masks: the pixels of the object, bool (N, H, W).
        reading: how to read the maps; or other images with their masks, on which the best of `READINGS` is chosen.
        label: class to explain, (N,) or one for all; None takes the best.

    Raises:
        InputError: if the masks do not fit.
    """
    if isinstance(reading, Reading):
        chosen = reading
    else:
        others, known = reading
        chosen = best_reading(_maps_of(explainer, model, others), known)
    return measure(_maps_of(explainer, model, x, label), masks, chosen)


def _maps_of(explainer: Explainer, model: nn.Module, x: Tensor, label: Tensor | int | None = None) -> Tensor:
    """Maps (N, H, W) of many images, some at a time; arguments as for an explainer."""
    parts = x.split(_BATCH)
    labels = label.split(_BATCH) if isinstance(label, Tensor) and label.ndim else [label] * len(parts)
    return torch.cat([explainer(model, part, one).detach() for part, one in zip(parts, labels, strict=True)])


def best_reading(maps: Tensor, masks: Tensor, readings: Sequence[Reading] = READINGS) -> Reading:
    """The reading with the highest mean IoU.

    Args:
        maps: (N, H, W).
        masks: the pixels of the object, bool (N, H, W).
        readings: to choose from.

    Raises:
        InputError: if the masks do not fit, or there is nothing to choose from.
    """
    _check(maps, masks)
    if not readings:
        raise InputError("no reading to choose from: pass some, or leave it out for all of READINGS")
    alike: dict[tuple[Literal["positive", "absolute"], float], list[Reading]] = {}
    for reading in readings:
        alike.setdefault((reading.sign, reading.blur), []).append(reading)
    scores = {reading: score for group in alike.values() for reading, score in _mean_iou(maps, masks, group)}
    return max(readings, key=lambda reading: scores[reading])


def measure(maps: Tensor, masks: Tensor, reading: Reading) -> Localisation:
    """Hold maps against known masks.

    Args:
        maps: (N, H, W), from any method.
        masks: the pixels of the object, bool (N, H, W).
        reading: how to read the maps.

    Raises:
        InputError: if the masks do not fit.
    """
    _check(maps, masks)
    evidence = reading.evidence(maps)
    predicted = _strongest(evidence, reading.share)
    strongest = evidence.flatten(1).argmax(1, keepdim=True)
    pointing = masks.flatten(1).gather(1, strongest).squeeze(1)
    energy = (evidence * masks).sum((1, 2))
    return Localisation(reading, predicted, _iou(predicted, masks), pointing.to(maps.dtype), energy)


@final
@dataclass(frozen=True)
class CentreBox:
    """Baseline: an explainer that always points at the middle; any share of its evidence is a centred box."""

    def __call__(self, model: nn.Module, x: Tensor, label: Tensor | int | None = None) -> Tensor:
        """Maps (N, H, W) that fall off from the middle; what is in the pictures does not count."""
        del model, label
        height, width = x.shape[2:]
        rows = (torch.arange(height, dtype=x.dtype) - (height - 1) / 2).abs() / height
        columns = (torch.arange(width, dtype=x.dtype) - (width - 1) / 2).abs() / width
        return (0.5 - torch.maximum(rows[:, None], columns)).expand(len(x), height, width)


@final
@dataclass(frozen=True)
class RandomMap:
    """Baseline: an explainer that guesses.

    Attributes:
        seed: of the guesses.
    """

    seed: int = 0

    def __call__(self, model: nn.Module, x: Tensor, label: Tensor | int | None = None) -> Tensor:
        """Maps (N, H, W) of independent, uniform evidence."""
        del model, label
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(len(x), *x.shape[2:], generator=generator, dtype=x.dtype)


def _mean_iou(maps: Tensor, masks: Tensor, readings: Sequence[Reading]) -> Iterator[tuple[Reading, float]]:
    """Mean IoU of readings that differ in their share alone: the pixels are put in order once."""
    ranked, order = _ranked(readings[0].evidence(maps))
    hits = F.pad(masks.flatten(1).gather(1, order).cumsum(1), (1, 0))  # among the first 0, 1, … pixels
    size = masks.flatten(1).sum(1)
    for reading in readings:
        taken = _taken(ranked, reading.share).sum(1)
        both = hits.gather(1, taken[:, None]).squeeze(1)
        yield reading, float(_ratio(both, taken + size - both).mean())


def _strongest(evidence: Tensor, share: float) -> Tensor:
    """Fewest pixels that hold a share of the evidence, bool (N, H, W); none where there is no evidence."""
    ranked, order = _ranked(evidence)
    taken = _taken(ranked, share)
    return torch.zeros_like(taken).scatter_(1, order, taken).reshape(evidence.shape)


def _ranked(evidence: Tensor) -> tuple[Tensor, Tensor]:
    """Evidence from the strongest pixel on, and where it is, (N, H · W) each."""
    ranked = evidence.flatten(1).sort(dim=1, descending=True, stable=True)
    return ranked.values, ranked.indices


def _taken(ranked: Tensor, share: float) -> Tensor:
    """Which of the ranked pixels it takes to hold a share, bool (N, H · W)."""
    before = ranked.cumsum(1) - ranked
    return (before < share * ranked.sum(1, keepdim=True)) & (ranked > 0)


def _iou(predicted: Tensor, masks: Tensor) -> Tensor:
    """(N,)."""
    return _ratio((predicted & masks).flatten(1).sum(1), (predicted | masks).flatten(1).sum(1))


def _ratio(both: Tensor, either: Tensor) -> Tensor:
    """Intersection over union, (N,); 1 where both masks are empty."""
    return torch.where(either == 0, 1.0, both / either.clamp(min=1))


def _check(maps: Tensor, masks: Tensor) -> None:
    if maps.ndim != 3 or maps.shape != masks.shape or masks.dtype != torch.bool:
        raise InputError(
            f"maps (N, H, W) need bool masks of their shape: got {tuple(maps.shape)} and {tuple(masks.shape)} "
            f"of {masks.dtype}"
        )
