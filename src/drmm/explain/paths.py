"""The strongest active paths of one picture, from the class down to single pixels.

Slides "Unrolling the DP in Time" to "Backtrace: reconstruct best active paths".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drmm.errors import InputError
from drmm.explain.passes import Activations, activations, as_drmm
from drmm.model.deep import DRMM, evaluation

__all__ = ["Path", "strongest_paths"]

_NUMBERS = 2**25  # at most so many at once


@dataclass(frozen=True, slots=True)
class Path:
    """One active path.

    Attributes:
        label: the class where it starts.
        units: a unit's index in each level's features, top first; the last is the pixel (channel, row, column).
        contribution: what it adds to the score, the product of the weights on it times the pixel.
    """

    label: int
    units: tuple[tuple[int, ...], ...]
    contribution: float


def strongest_paths(
    model: nn.Module, x: Tensor, label: int | None = None, *, k: int = 20, width: int = 256
) -> list[Path]:
    """The k paths that add or take most, strongest first.

    A step goes from a unit of one level to one of the level below; inside of a level that has branches, what runs
    between the same two units counts as one path. At each level the `width` beginnings whose units count most
    through all that lies below them go on. If that is at least the number of active beginnings, the answer is
    exact; otherwise a stronger path may be missed where what runs through a unit cancels out.

    Args:
        model: a `DRMM` or a convnet.
        x: one image (C, H, W) or (1, C, H, W).
        label: class to explain; None takes the best.
        k: how many paths, at most.
        width: how many beginnings to follow.

    Raises:
        InputError: if there are several images, or k or width is less than 1.
    """
    image = x if x.ndim == 4 else x[None]
    if len(image) != 1:
        raise InputError(f"paths belong to one image, got {len(image)}: pass x[i]")
    if k < 1 or width < 1:
        raise InputError(f"k and width must be at least 1, got {k} and {width}")
    drmm = as_drmm(model)
    passed = activations(drmm, image, label)
    beam = _Beam.at_top(drmm, passed, max(k, width))
    with torch.no_grad(), evaluation(drmm):
        for level in reversed(range(len(passed.switches))):
            beam = beam.step(drmm, passed, level, max(k, width) if level else k)
    indices = [
        torch.stack(torch.unravel_index(unit, features.shape[1:]), 1).tolist()
        for unit, features in zip(beam.units.T, passed.features[::-1], strict=True)
    ]
    return [
        Path(int(passed.label), tuple(tuple(index) for index in units), contribution)
        for *units, contribution in zip(*indices, beam.through.tolist(), strict=True)
        if contribution != 0
    ]


@dataclass(frozen=True, slots=True)
class _Beam:
    """Beginnings of paths.

    Attributes:
        units: places among all of a level's units, top first, (B, levels so far).
        weight: product of the weights so far, (B,).
        through: what all paths that begin so add to the score, (B,).
    """

    units: Tensor
    weight: Tensor
    through: Tensor

    @classmethod
    def at_top(cls, model: DRMM, passed: Activations, width: int) -> _Beam:
        """The top features, by what they add to the class's score."""
        weight = model.templates.weight[passed.label[0]].detach()
        features = _unsaturated(model, passed, len(passed.switches))
        return _best(weight.flatten(), features.flatten(), None, width)

    def step(self, model: DRMM, passed: Activations, level: int, width: int) -> _Beam:
        """One level down: `level` is the number of the features that are reached."""
        below, above = _unsaturated(model, passed, level), passed.features[level + 1]
        chunk = max(1, _NUMBERS // max(below.numel(), above.numel()))
        beams: list[_Beam] = []
        for part in torch.arange(len(self.weight)).split(chunk):
            z = torch.zeros(len(part), above.numel(), dtype=above.dtype, device=above.device)
            z.scatter_(1, self.units[part, -1:], self.weight[part, None])
            switches = passed.switches[level].select(torch.zeros_like(part))
            drawn = model.levels.renderings[level].render(z.reshape(-1, *above.shape[1:]), switches)
            beams.append(_best(drawn.flatten(1), below.flatten(), self.units[part], width))
        units, weight, through = (torch.cat([getattr(one, name) for one in beams]) for name in _Beam.__slots__)
        best = through.abs().topk(min(width, len(through))).indices
        return _Beam(units[best], weight[best], through[best])


def _unsaturated(model: DRMM, passed: Activations, level: int) -> Tensor:
    """Features of a level, 0 where a gate was saturated: such a unit is a constant, and its paths end there."""
    features = passed.features[level]
    if not level:
        return features
    return model.levels.renderings[level - 1].open_units(features, passed.switches[level - 1])


def _best(weights: Tensor, features: Tensor, units: Tensor | None, width: int) -> _Beam:
    """The strongest continuations of beginnings (B, levels so far), or of none: weights (B, D), features (D,)."""
    through = (weights * features).flatten()
    best = through.abs().topk(min(width, len(through))).indices
    last = (best % len(features))[:, None]
    before = last[:, :0] if units is None else units[best // len(features)]
    return _Beam(torch.cat([before, last], 1), weights.flatten()[best], through[best])
