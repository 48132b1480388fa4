"""Pictures for people: what the model sees, believes and dreams, on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from drmm.display.figure import canvas, readable_log, save_figure
from drmm.display.text import literal, one_line
from drmm.model.deep import DRMM

__all__ = ["Row", "Style", "overview", "readable_log", "samples_sheet", "save_figure", "sheet", "show"]

Style = Literal["picture", "stretched", "evidence"]

_PER_TEMPLATE = 100  # images whose renderings are averaged into a class template
_LONGEST = 13  # letters that fit above a picture


@dataclass(frozen=True)
class Row:
    """One row of a sheet.

    Attributes:
        caption: what it shows.
        images: (N, C, H, W), one a column.
        style: grey or colour in [0, 1]; "stretched" up to the largest value; "evidence" in red (for) and blue.
    """

    caption: str
    images: Tensor
    style: Style = "picture"


@torch.no_grad()
def overview(model: DRMM, x: Tensor, y: Tensor, classes: Sequence[str], *, seed: int = 0) -> Figure:
    """Inputs, reconstructions, class templates, active-path maps and samples, a column a class (ten at most).

    Args:
        model: in evaluation mode.
        x: images (N, C, H, W) in [0, 1], some of every class.
        y: class indices (N,).
        classes: names.
        seed: of the samples.
    """
    shown = min(10, len(classes))
    chosen = torch.stack([torch.nonzero(y == c)[0, 0] for c in range(shown)])
    images = x[chosen]
    latents = model.infer(images)
    generator = torch.Generator().manual_seed(seed)
    dreams = model.sample_latents(shown, torch.arange(shown), generator)
    templates = torch.stack([_template(model, x[y == c], c) for c in range(shown)])
    rows = [
        Row("input", images),
        Row("reconstruction", model.picture(latents)),
        Row("class template\n(mean rendering)", templates, "stretched"),
        Row("active-path map\n(evidence by pixel)", model.sum_over_paths(images, latents).pixels, "evidence"),
        Row("sample\n(independent switches)", model.picture(dreams), "stretched"),
    ]
    titles = [_title(classes[c], classes[int(latents.label[i])]) for i, c in enumerate(range(shown))]
    return sheet(rows, titles)


@torch.no_grad()
def samples_sheet(images: Tensor, titles: Sequence[str], *, columns: int = 10) -> Figure:
    """Images (N, C, H, W) in rows of ten, a title over each."""
    rows = -(-len(images) // columns)
    figure = canvas(0.9 * columns, 1.15 * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        show(axis, image)
        axis.set_title(literal(one_line(title, _LONGEST)), fontsize=8)
    return figure


def sheet(rows: Sequence[Row], titles: Sequence[str]) -> Figure:
    """Rows of pictures, a caption beside each row and a title over each column; both may have several lines."""
    figure = canvas(1.05 * len(titles) + 1.7, 1.1 * len(rows) + 0.3)
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for axis, image in zip(line, row.images, strict=True):
            show(axis, image, row.style)
        line[0].set_ylabel(literal(row.caption), rotation=0, ha="right", va="center", fontsize=9)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(literal(title), fontsize=9)
    return figure


def show(axis: Axes, image: Tensor, style: Style = "picture") -> None:
    """One picture (C, H, W), without ticks."""
    axis.set(xticks=[], yticks=[])
    pixels: npt.NDArray[np.float32] = image.permute(1, 2, 0).numpy()
    if style == "stretched":
        pixels = pixels / (float(pixels.max()) or 1.0)
    if style == "evidence":
        evidence = pixels.sum(2)
        largest = float(np.abs(evidence).max()) or 1.0
        axis.imshow(evidence, cmap="RdBu_r", vmin=-largest, vmax=largest)
    elif pixels.shape[2] == 1:
        axis.imshow(pixels[:, :, 0], cmap="gray", vmin=0, vmax=1)
    else:
        axis.imshow(np.clip(pixels[:, :, :3], 0, 1))


def _template(model: DRMM, x: Tensor, label: int) -> Tensor:
    """The class template as its images draw it: the mean of α μ_cĝ over some of them."""
    return model.reconstruct(x[:_PER_TEMPLATE], label).mean(0)


def _title(true: str, predicted: str) -> str:
    """Of a column: the class, and below it what the model takes it for where that is another one."""
    lines = [true] if true == predicted else [true, f"as {predicted}"]
    return "\n".join(one_line(line, _LONGEST) for line in lines)
