"""A tree as a picture: every node a template, every branch as thick as the share of images that take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from drmm.display.figure import canvas
from drmm.display.text import literal, one_line
from drmm.trees.export_text import shown_nodes, summary
from drmm.trees.tree import EvolutionaryTree

__all__ = ["draw_tree"]

Array = npt.NDArray[Any]

_HALF = 0.42  # half the side of a node's picture; siblings are 1 apart
_LEVEL = 1.65  # from a level to the next
_INCH = 0.95  # from a sibling to the next
_LONGEST = 9  # letters of a class's name


def draw_tree(tree: EvolutionaryTree, templates: Array, names: Sequence[str], max_depth: int | None) -> Figure:
    """The upper levels of a tree, from the root at the top.

    A frame has the colour of the node's likeliest class, and is named after it; below are the probability of that
    class and the number of leaves that are not shown.

    Args:
        tree: what to draw.
        templates: of all nodes, (M, C, H, W): pictures, or vectors as (M, 1, 1, D).
        names: of classes.
        max_depth: levels below the root to show; None is all.
    """
    shown = shown_nodes(tree, max_depth)
    across = _positions(tree, shown)
    width, height = 1 + max(across.values()), 1 + int(tree.level[shown].max())
    figure = canvas(_INCH * width + 0.4, _INCH * _LEVEL * height + 0.2, constrained=False)
    axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    low, high = _range(templates[shown])
    for node in shown[1:]:
        _branch(axis, tree, across, node)
    for node in shown:
        centre = (across[node], -_LEVEL * float(tree.level[node]))
        colour = mpl.colormaps["tab10"](int(tree.classes[node].argmax()) % 10)
        _picture(axis, templates[node], centre, (low, high), colour)
        _words(axis, tree, node, centre, names, hidden=not set(tree.children(node)) <= set(shown))
    axis.set(xlim=(-0.7, width - 0.3), ylim=(-_LEVEL * (height - 1) - 0.95, 0.6), aspect="equal")
    axis.axis("off")
    return figure


def _positions(tree: EvolutionaryTree, shown: Sequence[int]) -> dict[int, float]:
    """From left to right: the lowest nodes side by side, each other one above the middle of its children."""
    inside, across = set(shown), dict[int, float]()
    waiting, free = [(0, False)], 0
    while waiting:
        node, seen = waiting.pop()
        children = [child for child in tree.children(node) if child in inside]
        if not children:
            across[node] = float(free)
            free += 1
        elif seen:
            across[node] = 0.5 * (across[children[0]] + across[children[-1]])
        else:
            waiting += [(node, True), *((child, False) for child in reversed(children))]
    return across


def _range(templates: Array) -> tuple[float, float]:
    """Values of black and white that few numbers exceed; those of filters, which have both signs, are opposite."""
    low, high = (float(value) for value in np.percentile(templates, (0.5, 99.5)))
    if low < -0.2 * high:
        high = max(-low, high)
        return -high, high
    return (low, high) if high > low else (low, low + 1)


def _branch(axis: Axes, tree: EvolutionaryTree, across: dict[int, float], node: int) -> None:
    above = int(tree.parent[node])
    top, bottom = -_LEVEL * float(tree.level[above]) - _HALF, -_LEVEL * float(tree.level[node]) + _HALF
    bend = bottom + 0.12
    thickness = 0.6 + 7 * float(np.sqrt(tree.prior[node] * 0.5))
    axis.plot(
        [across[above], across[above], across[node], across[node]],
        [top, bend, bend, bottom],
        color="0.75",
        linewidth=thickness,
        solid_joinstyle="round",
        zorder=0,
    )


def _picture(
    axis: Axes, template: Array, centre: tuple[float, float], limits: tuple[float, float], colour: object
) -> None:
    """One template in its frame: a picture, or a curve where it is a vector."""
    (x, y), (low, high) = centre, limits
    channels, rows, columns = template.shape
    frame = Rectangle((x - _HALF, y - _HALF), 2 * _HALF, 2 * _HALF, facecolor="white", edgecolor=colour, lw=2.5)
    axis.add_patch(frame)
    if rows == 1 and channels == 1:
        right = np.linspace(x - 0.9 * _HALF, x + 0.9 * _HALF, columns)
        up = y + 1.7 * _HALF * ((template[0, 0] - low) / (high - low) - 0.5)
        axis.plot(right, np.clip(up, y - _HALF, y + _HALF), color="0.2", linewidth=0.8)
        return
    pixels = np.clip((template - low) / (high - low), 0, 1).transpose(1, 2, 0)
    grey = channels not in {3, 4}
    inside = 0.97 * _HALF * min(1.0, columns / rows), 0.97 * _HALF * min(1.0, rows / columns)
    axis.imshow(
        pixels[..., 0] if grey else pixels[..., :3],
        cmap="RdBu_r" if low == -high else "gray",
        vmin=0,
        vmax=1,
        extent=(x - inside[0], x + inside[0], y - inside[1], y + inside[1]),
        interpolation="nearest",
        zorder=2,
    )


def _words(
    axis: Axes,
    tree: EvolutionaryTree,
    node: int,
    centre: tuple[float, float],
    names: Sequence[str],
    *,
    hidden: bool,
) -> None:
    """The likeliest class below a picture, and beside it what the picture does not show."""
    words = literal(summary(tree, node, [one_line(name, _LONGEST) for name in names], named=1)[0])
    axis.text(
        centre[0],
        centre[1] - _HALF - 0.05,
        f"{words}\n⋯" if hidden else words,
        ha="center",
        va="top",
        fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        zorder=3,
    )
