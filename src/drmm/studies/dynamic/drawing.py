"""Dynamic programs unrolled, from left to right: what was considered in grey, what the backtrace kept in bold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch

from drmm.display.figure import canvas
from drmm.display.text import literal, one_line
from drmm.errors import InputError
from drmm.studies.dynamic.convnet import Network
from drmm.studies.dynamic.engine import Hypothesis, Tables
from drmm.studies.dynamic.problem import Node
from drmm.studies.dynamic.walkthrough import number

__all__ = ["Caption", "draw_graph", "draw_network", "draw_unrolled", "unrolled_figure"]

Point = tuple[float, float]
Array = npt.NDArray[np.float64]

_INK, _GREY, _PALE = "#22282f", "#9aa3ad", "#dfe3e8"
_FAINT = "#c3c9d0"
_FOR, _AGAINST = "#c8442d", "#2f6db5"  # evidence for and against; paths that are kept have the first
_RADIUS = 0.2
_LONGEST = 12  # letters of a name
_MOST_CIRCLES, _MOST_MESSAGES = 400, 1000


def unrolled_figure(tables: Tables[Any], start: Node) -> Figure:
    """A graph, and beside it its dynamic program unrolled in time.

    Args:
        tables: from `unroll`, of a problem with one tail a step.
        start: where the path starts.

    Raises:
        InputError: if there is no path, or the graph is too large for a picture.
    """
    tables.path(start)
    nodes, lengths = len(tables.problem.nodes), tables.lengths
    messages = len(tables.problem.steps) * lengths
    if nodes * (lengths + 1) > _MOST_CIRCLES or messages > _MOST_MESSAGES:
        raise InputError(
            f"{nodes} nodes by {lengths + 1} lengths, and {messages} messages, are too many for a picture: "
            "draw a smaller graph"
        )
    height = max(3.0, 0.95 * nodes + 1.2)
    figure = canvas(height + 1.5 * lengths + 1.8, height)
    left, right = figure.subplots(1, 2, width_ratios=(height, 1.5 * lengths + 1.8))
    draw_graph(left, tables, start)
    draw_unrolled(right, tables, start)
    return figure


def draw_graph(axis: Axes, tables: Tables[Any], start: Node) -> None:
    """The graph itself on a circle, the best path from `start` in bold."""
    nodes = tables.problem.nodes
    radius = max(1.0, 0.4 * len(nodes))
    turn = 2 * math.pi / len(nodes)
    position = {
        node: (radius * math.cos(math.pi * 1.0 - turn * i), radius * math.sin(math.pi * 1.0 - turn * i))
        for i, node in enumerate(nodes)
    }
    kept = {id(hypothesis.step) for hypothesis in tables.best(start).backtrace()}
    for step in tables.problem.steps:
        if step.tails and step.tails[0] != step.head:
            bold = id(step) in kept
            _arrow(axis, position[step.head], position[step.tails[0]], bold=bold)
            _weight(axis, position[step.head], position[step.tails[0]], number(step.weight), bold=bold, along=0.5)
    for node in nodes:
        _node(axis, position[node], one_line(str(node), _LONGEST))
    margin = radius + 0.4
    axis.set(xlim=(-margin, margin), ylim=(-margin, margin), aspect="equal")
    axis.axis("off")


def draw_unrolled(axis: Axes, tables: Tables[Any], start: Node) -> None:
    """A column for each length ℓ, a row for each node: slide "Unrolling the DP in Time"."""
    nodes = tables.problem.nodes
    position = {
        (node, length): (1.5 * length, -float(row))
        for row, node in enumerate(nodes)
        for length in range(tables.lengths + 1)
    }
    kept = set(tables.best(start).backtrace())
    for node in nodes:
        for length in range(1, tables.lengths + 1):
            _messages(axis, tables, position, node, length, kept)
    for node in nodes:
        for length, row in enumerate(tables.rows(node)):
            made = [h for h in tables.history[node] if h.length == length]
            bold = bool(kept.intersection(made))
            edge = _FOR if bold else _PALE if row.next is None else _GREY if row.superseded else _INK
            ink = _FOR if bold else _GREY if row.next is None or row.superseded else _INK
            value = "∞" if row.next is None else number(row.value)
            _node(axis, position[node, length], value, edge=edge, ink=ink, bold=bold)
            if row.superseded:
                x, y = position[node, length]
                axis.plot([x - 0.23, x + 0.23], [y - 0.23, y + 0.23], color=_GREY, lw=1.4, zorder=7)
        name = literal(one_line(str(node), _LONGEST))
        axis.text(-0.4, position[node, 0][1], name, ha="right", va="center", fontsize=12, color=_INK)
    for length in range(tables.lengths + 1):
        axis.text(1.5 * length, -len(nodes) + 0.35, f"ℓ = {length}", ha="center", va="top", color=_INK)
    axis.set(xlim=(-0.75, 1.5 * tables.lengths + 0.35), ylim=(-len(nodes) + 0.05, 0.35), aspect="equal")
    axis.axis("off")


@dataclass(frozen=True, slots=True)
class Caption:
    """Words for one stage of a network.

    Attributes:
        text: what the stage does.
        names: of its channels; of the classes for the last stage. None at all leaves them without.
    """

    text: str
    names: Sequence[str] = ()


def draw_network(axis: Axes, net: Network, tables: Tables[float], captions: Sequence[Caption]) -> None:
    """A tiny net level by level: slide "Connection between Unrolled DP and Deep Convnets".

    A sheet is a channel, a cell a unit: green where its value is positive, brown where it is negative. All links
    are grey; bold are those that the backtrace from the class keeps, as wide as what they give to the score: red
    for the class, blue against it.

    Args:
        axis: to draw on.
        net: from `network`; images of one channel.
        tables: from `solve`, max-sum.
        captions: of each stage, pixels first; the last names the classes.

    Raises:
        InputError: if there is not a caption for each stage, or names do not fit.
    """
    if len(captions) != len(net.stages):
        raise InputError(f"{len(net.stages)} stages need as many captions, got {len(captions)}")
    position = _sheets(net)
    _links(axis, net, tables, position)
    best = tables.best(net.root)
    active = {hypothesis.node for hypothesis in best.backtrace()}
    for stage, units in enumerate(net.stages[:-1]):
        _cells(axis, units.flat, tables, position, active, pixels=stage == 0)
    _classes(axis, net, tables, position, captions[-1].names)
    _words(axis, net, position, captions)
    axis.set(aspect="equal")
    axis.autoscale_view()
    axis.axis("off")


# --- graphs ---


def _messages(
    axis: Axes,
    tables: Tables[Any],
    position: dict[tuple[Node, int], Point],
    node: Node,
    length: int,
    kept: set[Hypothesis[Any]],
) -> None:
    """What a node hears at a length: the message it believes, and those that it does not."""
    problem = tables.problem
    standing = tables.best(node) if tables.history[node] else None
    made = next((h for h in tables.history[node] if h.length == length), None)
    for step in (problem.steps[i] for i in problem.ways[node]):
        if not step.tails or not any(h.length < length for h in tables.history[step.tails[0]]):
            continue
        ends = position[step.tails[0], length - 1], position[node, length]
        believed = made is not None and made.step is step
        bold = believed and made in kept
        colour = _FOR if bold else _INK if believed and made is standing else _GREY if believed else _PALE
        axis.plot(
            *zip(*ends, strict=True),
            color=colour,
            lw=3.2 if bold else 1.4,
            zorder=3 if bold else 1,
            solid_capstyle="round",
        )
        _weight(axis, *ends, number(step.weight), bold=bold, along=0.38, ink=colour)
    if made is None and any(h.length < length for h in tables.history[node]):
        ends = position[node, length - 1], position[node, length]
        axis.plot(*zip(*ends, strict=True), color=_GREY, lw=1, ls=(0, (1, 2.5)), zorder=1)


def _node(axis: Axes, at: Point, text: str, *, edge: str = _INK, ink: str = _INK, bold: bool = False) -> None:
    axis.add_patch(Circle(at, _RADIUS, facecolor="white", edgecolor=edge, lw=2.4 if bold else 1.3, zorder=4))
    weight = "bold" if bold else "normal"
    size = max(6.0, min(11.0, 36 / max(1, len(text))))  # so that it stays in the circle
    axis.text(*at, literal(text), ha="center", va="center", color=ink, fontsize=size, fontweight=weight, zorder=6)


def _arrow(axis: Axes, start: Point, end: Point, *, bold: bool) -> None:
    away = _RADIUS / math.dist(start, end)
    points = [(a[0] + away * (b[0] - a[0]), a[1] + away * (b[1] - a[1])) for a, b in ((start, end), (end, start))]
    axis.add_patch(
        FancyArrowPatch(
            *points,
            arrowstyle="-|>",
            mutation_scale=13,
            shrinkA=0,
            shrinkB=0,
            color=_FOR if bold else _GREY,
            lw=2.8 if bold else 1.3,
            connectionstyle="arc3,rad=0.08",
        )
    )


def _weight(axis: Axes, start: Point, end: Point, text: str, *, bold: bool, along: float, ink: str = _INK) -> None:
    x, y = (a + along * (b - a) for a, b in zip(start, end, strict=True))
    axis.text(
        x,
        y,
        literal(text),
        ha="center",
        va="center",
        fontsize=9,
        color=_FOR if bold else _GREY if ink == _PALE else ink,
        zorder=3,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


# --- networks ---


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a unit is drawn: its centre and four corners."""

    centre: Point
    corners: tuple[Point, ...]


_SLANT = (0.42, 0.26)  # of one column of a sheet, in cells: to the right and up


def _sheets(net: Network) -> dict[Node, _Spot]:
    """Each channel a slanted sheet; the sheets of a stage stand above each other, the stages side by side."""
    position: dict[Node, _Spot] = {}
    x = 0.0
    for units in net.stages:
        grid = units if units.ndim == 3 else units.reshape(-1, 1, 1)
        channels, rows, columns = grid.shape
        cell = 0.48
        tall = cell * (rows + _SLANT[1] * columns)
        gap = 0.55 if channels > 1 else 0.0
        top = 0.5 * (channels * tall + (channels - 1) * gap)
        for channel in range(channels):
            corner = x, top - channel * (tall + gap) - cell * _SLANT[1] * columns
            for row in range(rows):
                for column in range(columns):
                    position[grid[channel, row, column]] = _spot(corner, row, column, cell)
        x += cell * _SLANT[0] * columns + 1.55
    return position


def _spot(corner: Point, row: int, column: int, cell: float) -> _Spot:
    def at(r: float, c: float) -> Point:
        return corner[0] + cell * _SLANT[0] * c, corner[1] - cell * (r - _SLANT[1] * c)

    corners = at(row, column), at(row, column + 1), at(row + 1, column + 1), at(row + 1, column)
    return _Spot(at(row + 0.5, column + 0.5), corners)


def _classes(
    axis: Axes, net: Network, tables: Tables[float], position: dict[Node, _Spot], names: Sequence[str]
) -> None:
    """The scores of the classes, the best one bold."""
    winner = tables.best(net.root).tails[0].node
    if len(names) != net.stages[-1].size:
        raise InputError(f"{net.stages[-1].size} classes need as many names, got {len(names)}")
    for unit, name in zip(net.stages[-1].flat, names, strict=True):
        centre, won = position[unit].centre, unit == winner
        edge, width, weight = (_FOR, 2.6, "bold") if won else (_GREY, 1.2, "normal")
        axis.add_patch(Circle(centre, 0.38, facecolor="white", edgecolor=edge, lw=width, zorder=4))
        axis.text(
            *centre,
            literal(f"{one_line(name, _LONGEST)}\n{number(round(tables.value(unit), 2))}"),
            ha="center",
            va="center",
            fontsize=10.5,
            fontweight=weight,
            color=_FOR if won else _INK,
            zorder=5,
        )


def _words(axis: Axes, net: Network, position: dict[Node, _Spot], captions: Sequence[Caption]) -> None:
    """A caption below each stage, and the names of its channels."""
    low = min(corner[1] for spot in position.values() for corner in spot.corners)
    for stage, (units, caption) in enumerate(zip(net.stages, captions, strict=True)):
        x = float(np.mean([position[unit].centre[0] for unit in units.flat]))
        axis.text(x, low - 0.25, f"ℓ = {stage}", ha="center", va="top", fontsize=11, color=_INK)
        axis.text(x, low - 0.58, literal(caption.text), ha="center", va="top", fontsize=9.5, color=_INK)
        if not caption.names or units is net.stages[-1]:
            continue
        if len(caption.names) != len(units):
            raise InputError(f"stage {stage} has {len(units)} channels, got {len(caption.names)} names")
        for name, unit in zip(caption.names, units.reshape(len(units), -1)[:, 0], strict=True):
            left, top = position[unit].corners[0]
            axis.text(
                left - 0.12, top, literal(name), ha="right", va="center", fontsize=9, style="italic", color=_INK
            )


def _links(axis: Axes, net: Network, tables: Tables[float], position: dict[Node, _Spot]) -> None:
    """Every link of the net in grey, and the active ones in bold."""
    every = [
        (position[tail].centre, position[step.head].centre)
        for step in net.problem.steps
        if step.head != net.root
        for tail in step.tails
    ]
    axis.add_collection(LineCollection(every, colors=_PALE, linewidths=0.5, alpha=0.6, zorder=1))
    best = tables.best(net.root).tails[0]
    shares, active = best.shares(), []
    for hypothesis in best.backtrace():
        if hypothesis.step is not None:
            for tail, gain in hypothesis.step.links():
                active.append((tail, hypothesis.node, shares[hypothesis.node] * gain * tables.value(tail)))
    most = max((abs(given) for _, _, given in active), default=1.0) or 1.0
    active.sort(key=lambda link: abs(link[2]))
    axis.add_collection(
        LineCollection(
            [(position[tail].centre, position[head].centre) for tail, head, _ in active],
            colors=[_FAINT if given == 0 else _FOR if given > 0 else _AGAINST for _, _, given in active],
            linewidths=[0.35 if given == 0 else 1.0 + 3.0 * abs(given) / most for _, _, given in active],
            alpha=0.85,
            capstyle="round",
            zorder=3,
        )
    )


def _cells(
    axis: Axes, units: Any, tables: Tables[float], position: dict[Node, _Spot], active: set[Node], *, pixels: bool
) -> None:
    """The units of a stage as cells of their sheets, dark where the value is large; those kept are framed."""
    shown = sorted(units, key=lambda unit: unit in active)
    values = [tables.value(unit) for unit in shown]
    most = max(abs(value) for value in values) or 1.0
    colours = mpl.colormaps["Greys" if pixels else "BrBG"]
    faces = [colours(0.85 * v / most if pixels else 0.5 + 0.42 * v / most) for v in values]
    bold = [unit in active and not pixels for unit in shown]
    axis.add_collection(
        PolyCollection(
            [position[unit].corners for unit in shown],
            facecolors=faces,
            edgecolors=[_INK if one else _GREY for one in bold],
            linewidths=[1.6 if one else 0.5 for one in bold],
            zorder=2,
        )
    )
