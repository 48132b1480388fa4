"""Whether the file of a model answers as the model does, on pictures of every coarseness, alone and in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from drmm.data.images import pixels
from drmm.errors import InputError
from drmm.export.answering import EXTRAS
from drmm.export.formats import Answer
from drmm.model.deep import DRMM
from drmm.model.presets import Shape
from drmm.trust.assessment import Assessment

__all__ = ["check", "noise"]

_BATCHES = (1, 7, 64)
# How far each answer may be from PyTorch's, relative to 1 + its size; every label has to be the same.
_TOLERANCES = {
    "label": 0.0,
    "probability": 1e-5,
    "familiarity": 0.01,
    "score": 1e-4,
    "gap": 1e-4,
    "certified": 0.0,
}
_RANKS = 3  # among the training pictures, by which familiarity may differ besides: of few, each is much
# Of drawings, by their norm: a unit that rounding has on one side of its threshold or the other draws or does not.
_DRAWN = 0.1


def check(answer: Answer, model: DRMM, assessment: Assessment | None, extras: Sequence[str], shape: Shape) -> str:
    """How alike the answers are, in words.

    Args:
        answer: the file's.
        model: in evaluation mode.
        assessment: of the model, or None.
        extras: which of `EXTRAS` the file answers.
        shape: of one picture, (C, H, W).

    Raises:
        InputError: if they differ.
    """
    probability, tolerances = 0.0, dict(_TOLERANCES)
    if assessment is not None:
        tolerances["familiarity"] += _RANKS / (len(assessment.familiarity.sums) + 1)
    for number in _BATCHES:
        pictures = noise(number, shape, seed=number)
        expected, found = _expected(model, assessment, pictures, extras), answer(pictures)
        for name in found:
            apart = _apart(name, found, expected)
            if not apart <= tolerances.get(name, _DRAWN):  # or is no number
                raise InputError(
                    f"the file would answer otherwise than PyTorch ({name} by {apart:.2g}), and is not written: "
                    "answer with drmm predict, and report this"
                )
        probability = max(probability, _apart("probability", found, expected))
    return (
        f"on {sum(_BATCHES)} pictures, in batches of {', '.join(map(str, _BATCHES))}, every label is that of "
        f"PyTorch, and probabilities are within {probability:.1g}"
    )


def noise(n: int, shape: Shape, seed: int) -> Tensor:
    """Pictures of blots from one to all pixels wide, uint8 (n, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    grids = [2 + i % 2 ** (1 + i % 6) for i in range(n)]
    blots = [torch.rand(1, shape[0], grid, grid, generator=generator) for grid in grids]
    pictures = [functional.interpolate(blot, shape[1:], mode="bilinear") for blot in blots]
    return (torch.cat(pictures) * 255).round().to(torch.uint8)


@torch.no_grad()
def _expected(
    model: DRMM, assessment: Assessment | None, pictures: Tensor, extras: Sequence[str]
) -> dict[str, Tensor]:
    """What `drmm predict` says."""
    x = pixels(pictures)
    latents = model.infer(x)
    if assessment is None:
        probability = latents.logits.double().softmax(1)
        expected = {"label": probability.argmax(1), "probability": probability}
    else:
        answers = assessment.answers(model, x, latents)
        probability = torch.from_numpy(answers.probability)
        familiarity = torch.from_numpy(answers.familiarity)
        expected = {"label": probability.argmax(1), "probability": probability, "familiarity": familiarity}
    for name in extras:
        expected |= EXTRAS[name](model, x, latents)
    return expected


def _apart(name: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest difference, relative to 1 + the value's size; of drawings, to their norm, or a faint one's."""
    one, other = found[name].double(), expected[name].double()
    if name not in _TOLERANCES:
        one, other = one.flatten(1), other.flatten(1)
        faint = 1e-3 * other.shape[1] ** 0.5
        return float(((one - other).norm(dim=1) / (faint + other.norm(dim=1))).max())
    if name == "certified":  # a gap at the edge of the tolerance may fall on either side
        edge = 1e-5 * (1 + expected["score"].abs())
        one = torch.where((expected["gap"] - edge).abs() > edge / 2, one, other)
    return float(((one - other).abs() / (1 + other.abs())).max())
