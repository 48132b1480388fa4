"""Shortest path and convnet, one dynamic program: both unrolled, side by side, in docs/dynamic_programming.png.

Left the slides' example, (min, +), unrolled in path length. Right a net of two levels on a picture of 6 × 6
pixels, (max, +), unrolled level by level, by the same engine. Its weights are given, not learned: bars, strokes
made of two bars, letters made of strokes; those above the pixels are not negative, so that its inference is exact.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

import drmm
from drmm.errors import InputError
from drmm.explain.plots import save_figure
from drmm.rendering import Conv2d, Flatten, Level, Linear, MaxPool2d, Sequential
from drmm.studies.dynamic import SLIDES_EDGES, MaxSum, MinSum, Network, Tables, network, paths, solve, unroll
from drmm.studies.dynamic.drawing import Caption, draw_graph, draw_network, draw_unrolled

CAPTIONS = (
    Caption("pixels"),
    Caption("collect\npixels into bars", ("lying", "upright")),
    Caption("choose\noff, or where"),
    Caption("collect\nbars into strokes", ("left", "right", "top", "bottom")),
    Caption("choose\noff, or on"),
    Caption("collect strokes into\nletters, choose one", ("L", "7", "C")),
)
SHORTEST = r"$d_x^{(\ell)} = \min_y \{\, d_{xy} + d_y^{(\ell-1)} \}$"
CONVNET = (
    r"collect  $u^{(\ell)} = \sum_i w_i\, z_i^{(\ell-1)}$"
    r"        choose  $z^{(\ell)} = \max\{\, 0,\ \max_t\, u_t^{(\ell-1)} \}$"
)
LEGEND = (
    "Bold: what the backtrace from the answer keeps; in the net as wide as what it gives to the score, red for it "
    "and blue against it.   Grey: sent, and not kept.   Crossed out: superseded."
)


def picture() -> Tensor:
    """An L of 6 × 6 pixels."""
    image = torch.zeros(1, 6, 6)
    image[0, 1:5, 1] = 1
    image[0, 4, 1:5] = 1
    return image


@torch.no_grad()
def letters() -> drmm.DRMM:
    """Bars in quarters of the picture, strokes (left, right, above, below), letters."""
    bars, strokes, templates = Conv2d(1, 2, 3, bias=False), Conv2d(2, 4, 2, bias=False), Linear(4, 3, bias=False)
    bars.weight[:] = -0.5
    bars.weight[0, 0, 1, :] = 1
    bars.weight[1, 0, :, 1] = 1
    strokes.weight[:] = 0
    lying, standing = 0, 1
    strokes.weight[0, standing, :, 0] = 1
    strokes.weight[1, standing, :, 1] = 1
    strokes.weight[2, lying, 0, :] = 1
    strokes.weight[3, lying, 1, :] = 1
    templates.weight[:] = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0], [0.6, 0, 0.6, 0.6]])
    levels = Sequential(Level(bars, None, MaxPool2d(2)), Level(strokes), Flatten())
    return drmm.DRMM(levels, templates, image_shape=(1, 6, 6)).eval()


def drawn(route: Tables[float], net: Network, found: Tables[float]) -> Figure:
    """Both, side by side."""
    figure = Figure(figsize=(15.5, 7.6))
    FigureCanvasAgg(figure)
    draw_graph(figure.add_axes((0.07, 0.57, 0.15, 0.24)), route, "a")
    draw_unrolled(figure.add_axes((0.015, 0.1, 0.28, 0.46)), route, "a")
    draw_network(figure.add_axes((0.33, 0.085, 0.67, 0.77)), net, found, CAPTIONS)
    for x, title, formula in ((0.02, "Shortest path", SHORTEST), (0.34, "Convnet", CONVNET)):
        figure.text(x, 0.935, title, fontsize=16, fontweight="bold")
        figure.text(x, 0.875, formula, fontsize=12.5)
    figure.add_artist(Line2D([0.315, 0.315], [0.1, 0.96], color="0.85", lw=1))
    figure.text(0.02, 0.025, LEGEND, fontsize=10, color="0.3")
    return figure


def main() -> None:
    """Run both, check the second against the convnet's forward pass, draw."""
    route = unroll(paths(SLIDES_EDGES, "c", nodes="abc"), MinSum())
    model, image = letters(), picture()
    net = network(model, image)
    found = solve(net.problem, MaxSum())
    score = float(model(image[None]).detach().max())
    if found.value(net.root) != score or net.problem.violations(MaxSum()):
        raise InputError("the engine and the convnet disagree: give the net other weights")
    save_figure(drawn(route, net, found), Path("docs/dynamic_programming.png"))


if __name__ == "__main__":
    main()
