"""One picture explained on one sheet: what speaks for it, level by level, and the strongest paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.display.figure import canvas
from drmm.display.text import literal, one_line
from drmm.explain.contrast import Contrast, contrast
from drmm.explain.guided import guide
from drmm.explain.maps import LevelEvidence, active_paths, gradient, guided_backprop
from drmm.explain.passes import Activations, activations, as_drmm, level_names
from drmm.explain.paths import Path, strongest_paths
from drmm.explain.plots import Style, show
from drmm.model.deep import DRMM, evaluation

__all__ = ["explanation", "shown_levels"]

_PLANES = 6  # levels that are drawn, at most
_LONGEST = 15  # letters of a class's name
_GRID = 64  # places of a plane along each side, at most
_SLANT, _DEPTH, _GAP = 0.45, 0.3, 0.62  # of a plane that lies in space, in units of its width


Coordinate = TypeVar("Coordinate", float, npt.NDArray[np.float64])


@dataclass(frozen=True)
class _Panel:
    """A picture (C, H, W) with a title."""

    title: str
    image: Tensor
    style: Style


def explanation(
    model: nn.Module,
    x: Tensor,
    classes: Sequence[str],
    label: int | None = None,
    other: int | None = None,
    *,
    k: int = 40,
) -> Figure:
    """Everything about one picture.

    Args:
        model: a `DRMM` or a convnet.
        x: one image (C, H, W) in [0, 1].
        classes: their names.
        label: class to explain; None takes the best.
        other: the class that it was not; None takes the best of all others.
        k: how many of the strongest paths to draw.

    Raises:
        InputError: if there is no such class, or both are the same.
    """
    drmm, image = as_drmm(model), x[None]
    passed = activations(drmm, image, label)
    against = contrast(drmm, image, passed.label, other)
    paths, shown = strongest_paths(drmm, image, int(passed.label), k=k), shown_levels(passed)
    names = [one_line(classes[int(c)], _LONGEST) for c in (against.label, against.other)]
    figure = canvas(11.5, 5.6)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(4, 7))[0]
    _draw_paths(left.subplots(), x, passed, paths, shown)
    caption = f"the {len(paths)} strongest active paths to {names[0]}\nred adds to the score, blue takes"
    left.suptitle(literal(caption), fontsize=9)
    _draw_panels(right, [*_evidence(drmm, image, against, names), _seen(drmm, image, shown)])
    right.supxlabel("bottom row: what the active units of each level see (guided backprop)", fontsize=8)
    probability = passed.logits.softmax(1)[0]
    shares = (100 * float(probability[int(c)]) for c in (against.label, against.other))
    posterior = " · ".join(f"{name}: {share:.1f} %" for name, share in zip(names, shares, strict=True))
    figure.suptitle(literal(posterior), fontsize=11)
    return figure


def _draw_panels(figure: SubFigure, rows: Sequence[Sequence[_Panel]]) -> None:
    """Panels in rows, as many axes in each as the longest row has."""
    grid = figure.subplots(len(rows), max(len(row) for row in rows), squeeze=False)
    for axis in grid.flat:
        axis.axis("off")
    for line, row in zip(grid, rows, strict=True):
        for axis, panel in zip(line, row, strict=False):
            axis.axis("on")
            show(axis, panel.image, panel.style)
            axis.set_title(literal(panel.title), fontsize=8)


def _evidence(
    model: DRMM, x: Tensor, against: Contrast, names: Sequence[str]
) -> tuple[list[_Panel], list[_Panel]]:
    """What speaks for the class, and what for either of the two; one image."""
    label, other = names
    with torch.no_grad(), evaluation(model):
        drawn = model.reconstruct(x, against.label)
    return [
        _Panel("picture", x[0], "picture"),
        _Panel("reconstruction", drawn[0], "picture"),
        _Panel("active paths:\nevidence by pixel", active_paths(model, x, against.label), "evidence"),
        _Panel("gradient", gradient(model, x, against.label), "stretched"),
    ], [
        _Panel("guided backprop", guided_backprop(model, x, against.label).clamp(min=0), "stretched"),
        _Panel(f"for {label},\nnot for {other}", against.own[0], "evidence"),
        _Panel(f"for {other},\nnot for {label}", against.others[0], "evidence"),
        _Panel(f"{label} less {other}", against.maps, "evidence"),
    ]


def _seen(model: DRMM, x: Tensor, shown: Sequence[int]) -> list[_Panel]:
    """What the active units of each level see."""
    names = level_names(model)
    return [
        _Panel(f"level {names[n - 1]}", LevelEvidence(n, way=guide)(model, x).clamp(min=0), "stretched")
        for n in shown
    ]


def _draw_paths(axis: Axes, x: Tensor, passed: Activations, paths: Sequence[Path], shown: Sequence[int]) -> None:
    """Paths through the levels, which lie above the picture like floors; red adds to the score, blue takes.

    Slides "Connection between Unrolled DP and Deep Convnets" and "Backtrace: reconstruct best active paths".

    Args:
        axis: to draw on.
        x: the image (C, H, W).
        passed: the pass that the paths are of.
        paths: from `strongest_paths`.
        shown: numbers of the levels to draw, bottom-up.
    """
    _plane(axis, 0, _colours(x))
    for floor, number in enumerate(shown, 1):
        _plane(axis, floor, passed.features[number][0].abs().reshape(-1, *_size(passed, number)).mean(0).numpy())
    top, strongest = len(shown) + 1, max((abs(path.contribution) for path in paths), default=1.0)
    lines = [[*_line(path, passed, shown), _on_paper(0.5, 0.5, top)] for path in paths]
    strength = np.array([abs(path.contribution) / strongest for path in paths])
    colours = ["#c0392b" if path.contribution > 0 else "#2c6fbb" for path in paths]
    axis.add_collection(
        LineCollection(lines, colors=colours, linewidths=0.4 + 1.4 * strength, alpha=0.75, zorder=top + 2)
    )
    axis.plot(*_on_paper(0.5, 0.5, top), "o", color="black", markersize=7, zorder=top + 3)
    axis.autoscale_view()
    axis.set_aspect("equal")
    axis.axis("off")


def shown_levels(passed: Activations) -> list[int]:
    """Numbers of the levels worth a picture, bottom-up: the last of each size, a few of them."""
    shapes = [tuple(features.shape[1:]) for features in passed.features]
    last = [n for n in range(1, len(shapes)) if n + 1 == len(shapes) or shapes[n] != shapes[n + 1]]
    maps = [n for n in last if len(shapes[n]) == 3 and shapes[n][1] * shapes[n][2] > 1] or last
    chosen = np.linspace(0, len(maps) - 1, min(_PLANES, len(maps))).round().astype(int)
    return [maps[i] for i in chosen]


def _line(path: Path, passed: Activations, shown: Sequence[int]) -> list[tuple[float, float]]:
    """Where a path meets the picture and the floors, bottom-up."""
    units = path.units[::-1]  # by number of the level, 0 is the pixel
    points = []
    for floor, number in enumerate((0, *shown)):
        height, width = _size(passed, number)
        row, column = units[number][-2:] if len(units[number]) > 1 else (0, units[number][0])
        points.append(_on_paper((column + 0.5) / width, (row + 0.5) / height, floor))
    return points


def _size(passed: Activations, number: int) -> tuple[int, int]:
    """(H, W) of a level's features; (1, D) where they are flat."""
    shape = passed.features[number].shape[1:]
    return (int(shape[-2]), int(shape[-1])) if len(shape) > 1 else (1, int(shape[0]))


def _on_paper(right: Coordinate, down: Coordinate, floor: int) -> tuple[Coordinate, Coordinate]:
    """A point of a floor, from 0 to 1 along each side, on the paper."""
    return right + _SLANT * (1 - down), _GAP * floor + _DEPTH * (1 - down)


def _plane(axis: Axes, floor: int, values: npt.NDArray[np.float32]) -> None:
    """A floor: values (H, W), or colours (H, W, 3)."""
    right, down = np.meshgrid(*(np.linspace(0, 1, n + 1) for n in (values.shape[1], values.shape[0])))
    corners = _on_paper(right, down, floor)
    axis.pcolormesh(
        *corners, values, cmap="gray_r" if floor else "gray", zorder=floor, edgecolors="face", linewidth=0.2
    )
    outline = [_on_paper(*corner, floor) for corner in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))]
    axis.plot(*zip(*outline, strict=True), color="0.5", linewidth=0.5, zorder=floor)


def _colours(x: Tensor) -> npt.NDArray[np.float32]:
    """The picture as a floor."""
    small = F.adaptive_avg_pool2d(x, (min(_GRID, x.shape[-2]), min(_GRID, x.shape[-1])))
    if small.shape[0] < 3:
        return small[0].numpy()
    return small[:3].permute(1, 2, 0).clamp(0, 1).numpy()
