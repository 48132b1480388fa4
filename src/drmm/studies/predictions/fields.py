"""T21. Depth is receptive field: how far units of each level see, and what depth is worth beyond that.

Slide "DP Interpretation: New Explanations & Testable Predictions": depth is not directly about expressive power,
but about the recursion variable of the dynamic program, which is the size of the receptive field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from drmm.errors import InputError
from drmm.explain import as_drmm, count
from drmm.explain.passes import Activations, activations, descend, level_names
from drmm.model.deep import DRMM, evaluation
from drmm.rendering import Graph, Rendering
from drmm.rendering.passes import backward_pass
from drmm.studies.predictions.verdict import MARGINS, Interval, Verdict, interval, judge, together

__all__ = ["DepthStudy", "Fields", "arithmetic", "receptive_fields"]

Floats = npt.NDArray[np.float64]

_FITTED = 0.95  # accuracy on training images below which a net has not learned them


@dataclass(frozen=True, slots=True)
class Fields:
    """How far the units in the middle of each level see, as the side of a square in pixels.

    Attributes:
        levels: names of those that have rows and columns, pixels first.
        support: of all paths, whatever the switches: the theoretical receptive field, (L,).
        active: of the active paths of each image, (N, L); 0 where every unit in the middle is off.
        effective: the uniform square that spreads as the units' rendering does (equal second moment of its
            magnitude), (N, L); up to √3 times the support if only its border counts, NaN where every unit in the
            middle is off.
    """

    levels: tuple[str, ...]
    support: npt.NDArray[np.int64]
    active: npt.NDArray[np.int64]
    effective: Floats


@torch.no_grad()
def receptive_fields(model: nn.Module, x: Tensor) -> Fields:
    """Measure receptive fields by level, theoretical and effective (Luo et al., 2016).

    Args:
        model: a `DRMM` or a convnet.
        x: images (N, C, H, W). A field that is cut off by the picture's border is as large as what is left of it.

    Raises:
        InputError: if an operation has no countable paths.
    """
    drmm = as_drmm(model)
    passed = activations(drmm, x)
    names = level_names(drmm)
    rows: list[tuple[str, int, npt.NDArray[np.int64], Floats]] = []
    with evaluation(drmm):
        for number, name in enumerate(names, start=1):
            features = passed.features[number]
            if features.ndim == 4:
                middle = _middle(features)
                every = _paths(drmm, passed, middle[:1].double(), number, every=True)
                active = _paths(drmm, passed, (middle * (features != 0)).double(), number, every=False)
                drawn = descend(drmm, middle * features, passed, number)[0]
                rows.append((name, int(_side(every)[0]), _side(active), _spread(drawn)))
    if not rows:
        raise InputError("no level has rows and columns: receptive fields are those of convolutions and pools")
    levels, support, seen, effective = zip(*rows, strict=True)
    return Fields(levels, np.array(support), np.stack(seen, 1), np.stack(effective, 1))


def arithmetic(levels: Iterable[nn.Module]) -> list[int]:
    """Receptive field after each layer of a chain, from its kernels, strides and dilations alone.

    r ← r + (k - 1) d j and j ← j s, with j the distance of two neighbours in pixels: the recursion variable of the
    dynamic program.

    Args:
        levels: layers or renderings, pixels first; those without a kernel see as far as the one below them.

    Raises:
        InputError: if a level is no chain, or kernels are not square.
    """
    field, jump, fields = 1, 1, []
    for level in levels:
        for kernel, dilation, stride in _kernels(level):
            field, jump = field + (kernel - 1) * dilation * jump, jump * stride
        fields.append(field)
    return fields


def _kernels(level: nn.Module) -> list[tuple[int, int, int]]:
    """Kernel, dilation and stride of each layer that a level is made of."""
    if isinstance(level, Rendering) and level.unfused() is not level:
        level = level.unfused()
    if isinstance(level, Graph):
        raise InputError("a level with branches is no chain: measure its field with receptive_fields")
    if isinstance(level, nn.Sequential):
        return [kernel for part in level for kernel in _kernels(part)]
    if not hasattr(level, "kernel_size"):
        return []
    sizes: tuple[Any, ...] = (level.kernel_size, getattr(level, "dilation", 1), level.stride)
    pairs = [size if isinstance(size, Sequence) else (size, size) for size in sizes]
    if any(rows != columns for rows, columns in pairs):
        raise InputError(f"fields are square here, {level} is not: measure with receptive_fields")
    (kernel, _), (dilation, _), (stride, _) = pairs
    return [(kernel, dilation, stride)]


def _middle(features: Tensor) -> Tensor:
    """1 at the middle of every channel, 0 elsewhere, of the features' shape."""
    mask = torch.zeros_like(features)
    mask[:, :, features.shape[2] // 2, features.shape[3] // 2] = 1
    return mask


def _paths(model: DRMM, passed: Activations, paths: Tensor, number: int, *, every: bool) -> Tensor:
    """How many paths run from units of a level to each pixel; of the first image's switches if `every`."""
    switches = [part.select(slice(1)) if every else part for part in passed.switches[:number]]
    # Only which pixels are reached counts; numbers of paths would overflow in deep nets.
    return backward_pass(
        model.levels.renderings[:number], paths, switches, lambda *one: count(*one, every=every).sign()
    )[0]


def _side(paths: Tensor) -> npt.NDArray[np.int64]:
    """The longer side of the box around what is not 0, (N,)."""
    reached = paths.ne(0).any(1)
    sides = []
    for axis in (1, 2):
        line = reached.any(axis)
        position = torch.arange(line.shape[1], device=line.device)
        last = torch.where(line, position, -1).amax(1)
        first = torch.where(line, position, line.shape[1]).amin(1)
        sides.append((last - first + 1).clamp(min=0))
    side: npt.NDArray[np.int64] = torch.maximum(*sides).cpu().numpy()
    return side


def _spread(drawn: Tensor) -> Floats:
    """Side of the uniform square with the same second moment, (N,): n pixels have (n² - 1) / 12 along a side."""
    weight = drawn.double().abs().sum(1)
    total = weight.sum((1, 2))
    variance = torch.zeros_like(total)
    for axis in (1, 2):
        line = weight.sum(axis) / total[:, None]
        position = torch.arange(line.shape[1], dtype=line.dtype, device=line.device)
        mean = (line * position).sum(1)
        variance += (line * (position - mean[:, None]).square()).sum(1) / 2
    side: Floats = (12 * variance + 1).sqrt().cpu().numpy()
    return side


@dataclass(frozen=True, slots=True)
class DepthStudy:
    """Accuracies of nets that have equally many parameters.

    Attributes:
        by_depth: accuracy of each seed (S,) by number of convolutions, all with the same receptive field.
        by_field: likewise by receptive field in pixels, all with the same number of convolutions.
        fitted: accuracy on the training images of the net that fits them worst.
    """

    by_depth: Mapping[int, Sequence[float]]
    by_field: Mapping[int, Sequence[float]]
    fitted: float

    def gains(self) -> dict[str, Interval]:
        """Accuracy of the largest minus that of the smallest, paired by seed: "field" and "depth".

        Raises:
            InputError: if there are fewer than two seeds, fewer than two nets, or not as many seeds for each.
        """
        return {"field": _gain(self.by_field), "depth": _gain(self.by_depth)}

    def verdict(self, command: str) -> Verdict:
        """Confirmed if larger fields help at equal depth and depth does not at equal field, refuted if it does.

        Nets that do not fit their training images decide nothing: what differs is then how fast they learn.

        Args:
            command: what measures it again.

        Raises:
            InputError: as `gains`.
        """
        field, depth = self.gains().values()
        margin = MARGINS["share"]
        outcome = together([judge(field, margin), judge(-depth, -margin)])
        return Verdict(
            claim="Depth is about the recursion variable, the receptive field, not about expressive power",
            slide="New Explanations & Testable Predictions",
            law="T21",
            verdict=outcome if self.fitted >= _FITTED else "inconclusive",
            says=f"Accuracy at equal depth, with receptive fields of {_range(self.by_field)} pixels: a gain of "
            f"{_points(field)} points. At equal field, with {_range(self.by_depth)} convolutions: "
            f"{_points(depth)}. All nets have about as many parameters, and were trained alike; the one that fits "
            f"its training images worst has {100 * self.fitted:.0f} % of them.",
            command=command,
        )


def _gain(accuracies: Mapping[int, Sequence[float]]) -> Interval:
    """Of the largest beyond the smallest."""
    if len(accuracies) < 2 or len({len(seeds) for seeds in accuracies.values()}) != 1:
        raise InputError("compare two or more nets, each with the same seeds")
    small, large = (np.asarray(accuracies[end(accuracies)], np.float64) for end in (min, max))
    return interval(large - small)


def _range(accuracies: Mapping[int, Sequence[float]]) -> str:
    """From the smallest to the largest, with mean accuracies in percent."""
    shares = [f"{size} ({100 * float(np.mean(accuracies[size])):.0f} %)" for size in sorted(accuracies)]
    return f"{', '.join(shares[:-1])} to {shares[-1]}"


def _points(gain: Interval) -> str:
    return f"{100 * gain.mean:+.0f} [{100 * gain.low:+.0f}, {100 * gain.high:+.0f}]"
