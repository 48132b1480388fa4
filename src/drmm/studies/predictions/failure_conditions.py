"""What is hard for a net, and does its evidence say why? Errors by condition, and what foretells them.

Slide "“Kryptonite” Categories: Why do Convnets have difficulty with certain classes of objects?". The theory's
answer would be that a class is decided by the active paths from the object's pixels: where these are few or weak,
other classes win. What each picture has of them is measured, and whether errors are where there is little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import norm, rankdata
from torch import Tensor, nn

from drmm.data.images import pixels
from drmm.errors import InputError
from drmm.explain import as_drmm, contrast, count_paths
from drmm.model.deep import DRMM, evaluation
from drmm.studies.predictions.verdict import MARGINS, Interval, Outcome, interval, judge

__all__ = ["Difficulty", "difficulty", "foretells", "signs", "wrong"]

Floats = npt.NDArray[np.float64]

_BATCH = 100  # pictures at a time


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How hard one condition is.

    Attributes:
        error: share of pictures whose class is missed, in [0, 1].
        more: by how much it exceeds that of the same pictures under ordinary conditions.
        outcome: confirmed if it is harder by more than a point, refuted if it is not.
    """

    error: Interval
    more: Interval
    outcome: Outcome


def wrong(model: nn.Module, x: Tensor, y: Tensor) -> Floats:
    """1 where the class is missed, 0 elsewhere, (N,).

    Args:
        model: a `DRMM` or any classifier.
        x: images (N, C, H, W), floats or uint8 levels.
        y: class indices (N,).

    Raises:
        InputError: if there is not one label an image.
    """
    if y.shape != (len(x),):
        raise InputError(f"a label for each image is needed: got {tuple(y.shape)} for {len(x)}")
    with torch.no_grad(), evaluation(model):
        predicted = torch.cat([model(pixels(part)).argmax(1) for part in x.split(_BATCH)])
    return np.asarray((predicted != y).double().numpy())


def difficulty(missed: Floats, ordinary: Floats) -> Difficulty:
    """Hold a condition against ordinary pictures.

    Args:
        missed: from `wrong`, (N,) of one net or (M, N) of M nets.
        ordinary: the same for the same pictures but for the condition, in the same order: they are compared pair
            by pair.

    Raises:
        InputError: if they are no pairs, or fewer than two.
    """
    if missed.shape != ordinary.shape:
        raise InputError(f"conditions are compared pair by pair: got {missed.shape} and {ordinary.shape}")
    more = interval(missed - ordinary)
    return Difficulty(interval(missed), more, judge(more, MARGINS["share"]))


def signs(model: nn.Module, x: Tensor, masks: Tensor) -> dict[str, Floats]:
    """What might foretell an error, all without the label; small is bad, (N,) each.

    - "margin": score of the best class less that of the next.
    - "active paths": logarithm of how many lead from the best class to pixels.
    - "paths on the object": share of the magnitude of what pixels add to the margin that the object's pixels have.
    - "evidence of the object": what the object's pixels add to the margin.
    - "object's pixels": how many there are.
    - "certificate": how near inference is to a proof that it is exact, 0 where it is proved, and less otherwise.

    Args:
        model: a `DRMM` or a convnet that can be lifted.
        x: images (N, C, H, W), floats or uint8 levels.
        masks: the pixels of the object, bool (N, H, W).

    Raises:
        InputError: if the masks do not fit.
    """
    if masks.shape != (len(x), *x.shape[2:]) or masks.dtype != torch.bool:
        raise InputError(f"masks must be bool {(len(x), *x.shape[2:])}: got {tuple(masks.shape)} of {masks.dtype}")
    drmm = as_drmm(model)
    collected: dict[str, list[Tensor]] = {}
    for part, known in zip(x.split(_BATCH), masks.split(_BATCH), strict=True):
        images = pixels(part)
        contrasted = contrast(drmm, images)
        paths = count_paths(drmm, images, contrasted.label).active[:, -1]
        strength = contrasted.maps.abs()
        whole = strength.sum((1, 2)).clamp(min=torch.finfo(strength.dtype).tiny)
        for name, values in {
            "margin": contrasted.margin,
            "active paths": paths.clamp(min=1).log10(),
            "paths on the object": (strength * known).sum((1, 2)) / whole,
            "evidence of the object": (contrasted.maps * known).sum((1, 2)),
            "object's pixels": known.sum((1, 2)),
            "certificate": -_gap(drmm, images),
        }.items():
            collected.setdefault(name, []).append(values.detach().double())
    return {name: np.asarray(torch.cat(values).numpy()) for name, values in collected.items()}


def _gap(model: DRMM, x: Tensor) -> Tensor:
    """Logarithm of how far the bound lies above the score, relative to the score, (N,): 0 is a proof."""
    with torch.no_grad(), evaluation(model):
        score, ceiling = model(x).amax(1), model.upper_bound(x).amax(1)
    relative = (ceiling - score).clamp(min=0) / (1 + score.abs())
    return torch.log1p(relative.clamp(max=torch.finfo(x.dtype).max)) / math.log(10)


def foretells(
    values: Floats, missed: Floats, groups: Mapping[str, npt.NDArray[np.bool_]] | None = None
) -> Interval:
    """How well small values foretell errors: area under the ROC curve, 0.5 is chance, 1 is perfect.

    It is the chance that a picture that was missed has a smaller value than one that was not; the interval is
    DeLong's (DeLong, DeLong & Clarke-Pearson, 1988). With groups it is the mean of the areas within each, so that
    what makes one group harder than another does not count; groups without two of both kinds are left out.

    Args:
        values: (N,).
        missed: 1 where the class was missed, (N,).
        groups: which pictures are in each, bool (N,), by name.

    Raises:
        InputError: if there are fewer than two of either kind in all groups.
    """
    chosen = {"all": np.ones(len(values), np.bool_)} if groups is None else groups
    parts = [(values[one & (missed > 0)], values[one & (missed == 0)]) for one in chosen.values()]
    parts = [(bad, good) for bad, good in parts if min(len(bad), len(good)) >= 2]
    if not parts:
        raise InputError("nothing to foretell: two pictures that were missed and two that were not are needed")
    areas, variances = zip(*(_area(bad, good) for bad, good in parts), strict=True)
    area, deviation = float(np.mean(areas)), float(np.sqrt(np.sum(variances))) / len(parts)
    return Interval.around(area, float(norm.ppf(0.975)) * deviation, len(values))


def _area(bad: Floats, good: Floats) -> tuple[float, float]:
    """The share of pairs whose bad value is the smaller one (ties count half), and its variance."""
    ranks = rankdata(np.concatenate([bad, good]))
    below_bad = (ranks[: len(bad)] - rankdata(bad)) / len(good)  # share of good values below each bad one
    above_good = 1 - below_bad.mean()
    below_good = (ranks[len(bad) :] - rankdata(good)) / len(bad)  # share of bad values below each good one
    variance = np.var(below_bad, ddof=1) / len(bad) + np.var(below_good, ddof=1) / len(good)
    return float(above_good), float(variance)
