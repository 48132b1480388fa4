"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from drmm.cli.console import path

__all__ = [
    "DataDir",
    "Device",
    "Fill",
    "Force",
    "Net",
    "Preprocess",
    "Prior",
    "Recipe",
    "RunFolder",
    "Seed",
    "Set",
    "Size",
    "Views",
    "Weights",
]

RunFolder = Annotated[
    Path, typer.Argument(parser=path, help="Folder of a run, of a pruned model, or of drmm demo.")
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        help="Folder with the data sets' files.",
        envvar="DRMM_DATA",
        show_default="the user's cache",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or gpu.", show_default="auto")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")]
Recipe = Annotated[
    str | None,
    typer.Option(
        help="Settings to start from: a name (drmm settings lists them), or a .toml file.",
        show_default="few-labels; photos for pictures in colour, with drmm[photos]",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.NAME=VALUE", help="Any other setting; drmm settings lists all."),
]
Size = Annotated[
    int | None,
    typer.Option(
        min=4,
        help="Learn from pictures at SIZE x SIZE pixels; the files stay as they are.",
        show_default="as they are, if alike and at most 64; else the median shorter side, at most 64",
    ),
]
Fill = Annotated[
    Literal["stretch", "pad", "crop"] | None,
    typer.Option(help="How pictures of another aspect ratio fill that.", show_default="stretch"),
]
Net = Annotated[
    str | None,
    typer.Option(
        metavar="PACKAGE.MODULE:FACTORY",
        help="A net of your own to learn classes on: what makes it, called without arguments.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        help="Its weights: safetensors, or a file of torch's with nothing but tensors.",
        show_default="those it is made with",
    ),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE,MEAN,STD",
        help="What it was trained on: size=224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225, say, of pictures in "
        "[0, 1]; or the JSON file beside weights of Hugging Face or timm.",
    ),
]
Prior = Annotated[
    Literal["auto", "labels", "estimate", "uniform"] | None,
    typer.Option(
        help="How frequent classes are: as among the labels, if these were drawn at random; as the pictures "
        "without a label look; or equally. auto takes the labels' shares unless these pictures refute them.",
        show_default="auto",
    ),
]
Views = Annotated[
    str | None,
    typer.Option(
        metavar="KIND,KIND",
        help="What may differ between pictures that show the same: affine (turned, moved, scaled), brightness, "
        "crop, flip; usual, by whether they are in colour; or none. No flip of letters.",
        show_default="usual",
    ),
]
