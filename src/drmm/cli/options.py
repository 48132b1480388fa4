"""The options of `drmm fit`, each with its limits and its line of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from drmm.studies.reproduce import OWN, settings

__all__ = [
    "Accelerator",
    "Balance",
    "BatchSize",
    "Blends",
    "Clusters",
    "Collages",
    "Compile",
    "Constraint",
    "CoolDown",
    "CriterionOption",
    "Data",
    "DataDir",
    "Depth",
    "Devices",
    "Epochs",
    "GradientClip",
    "Initialisation",
    "KLSignOption",
    "KLWeight",
    "LabelledPerBatch",
    "LabelsPerClass",
    "Learning",
    "LearningRate",
    "MethodOption",
    "MinSteps",
    "Nonnegativity",
    "Out",
    "Patience",
    "Precision",
    "Preset",
    "Reconstruction",
    "Resume",
    "Seed",
    "Select",
    "Shifts",
    "Size",
    "Teacher",
    "Tolerance",
    "Validation",
    "WarmUp",
    "WeightAverage",
    "Width",
]

_NAMES = {
    "reconstruction": "rc",
    "nonnegativity": "nn",
    "interpolation": "blends",
    "shift": "shifts",
    "collage": "collages",
}


def _as_the_row(context: typer.Context, method: str | None) -> str | None:
    """Take a row's settings for the defaults of all other options."""
    if method is not None:
        context.default_map = {_NAMES.get(name, name): value for name, value in settings(method).items()}
    return method


Data = Annotated[
    str, typer.Argument(help="digits, mnist-5k, mnist, fashion-mnist, svhn, cifar10, or a folder of images.")
]
Out = Annotated[Path, typer.Option(help="Folder of the run; a new one.")]
LabelsPerClass = Annotated[
    int | None, typer.Option(min=0, help="Labels to keep; all by default, 0 finds clusters.")
]
Clusters = Annotated[int | None, typer.Option(min=2, help="How many, where there are no labels.")]
MethodOption = Annotated[
    str | None,
    typer.Option(
        help=f"Learn as a row of the tables did: {', '.join(OWN)}. Options beside it win.",
        is_eager=True,
        callback=_as_the_row,
    ),
]
Preset = Annotated[str, typer.Option(help="auto, conv_small, conv_large or dense.")]
Learning = Annotated[
    Literal["sgd", "eg", "em"], typer.Option(help="Backprop, E-step and G-step, or EM without derivatives.")
]
Initialisation = Annotated[
    Literal["default", "data", "orthonormal", "glorot"] | None,
    typer.Option(help="Where templates start.", show_default="data for em, else default"),
]
Constraint = Annotated[
    Literal["soft", "hard", "weight_norm"],
    typer.Option(help="hard: non-negative templates, provably exact inference."),
]
Width = Annotated[int | None, typer.Option(min=1, help="Templates of the first level.")]
Depth = Annotated[int | None, typer.Option(min=1, help="Levels, from the pixels up.")]
Select = Annotated[
    list[str] | None,
    typer.Option(help="width=8,16, depth=2,3 or preset=dense,conv_small: choose; repeat for a grid."),
]
CriterionOption = Annotated[
    Literal["error", "picture", "heldout", "bic"] | None,
    typer.Option(help="What chooses.", show_default="error; picture without labels"),
]
Size = Annotated[int | None, typer.Option(min=4, help="Resize a folder's images to SIZE x SIZE.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the images; iterations of EM.")]
MinSteps = Annotated[
    int, typer.Option(min=0, help="Steps at the least: more epochs where images are few. Not for em.")
]
Tolerance = Annotated[float, typer.Option(min=0, help="EM stops when its objective gains less than this share.")]
BatchSize = Annotated[int, typer.Option(min=2, help="Images in a batch.")]
LabelledPerBatch = Annotated[int, typer.Option(min=0, help="How many of them have a label.")]
LearningRate = Annotated[float, typer.Option(help="Adam's, at its peak.")]
GradientClip = Annotated[float, typer.Option(min=0, help="Largest gradient norm; 0 does not clip.")]
WeightAverage = Annotated[float, typer.Option(min=0, max=1, help="Decay of the weights' average.")]
Validation = Annotated[int, typer.Option(min=0, help="Labelled images held out to watch the error.")]
Patience = Annotated[int | None, typer.Option(min=1, help="Stop after so many epochs without progress.")]
Reconstruction = Annotated[
    float | None, typer.Option(min=0, help="Weight of the reconstruction term.", show_default="1; 0 if hard")
]
KLWeight = Annotated[
    float | None, typer.Option(min=0, help="Weight of the KL term.", show_default="0.5; 0 for eg")
]
Balance = Annotated[
    float | None, typer.Option(min=0, help="Weight of the batch-balance term.", show_default="0.5; 0 for eg")
]
Nonnegativity = Annotated[
    float | None, typer.Option(min=0, help="Weight of the NN term.", show_default="0.5; 0 if hard or eg")
]
Blends = Annotated[
    float | None, typer.Option(min=0, help="Weight of the term on blended images.", show_default="0")
]
Shifts = Annotated[
    int, typer.Option(min=0, help="Move blended images by up to so many pixels each way: augmentation.")
]
Collages = Annotated[
    float,
    typer.Option(min=0, max=1, help="Share of the blends in which a piece of one image is pasted into the other."),
]
Teacher = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a trained model: images without a label get its; --kl and --balance are 0 then.",
    ),
]
WarmUp = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Share of the epochs over which --kl and --blends rise.", show_default="0"),
]
CoolDown = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Share of the epochs over which --balance falls to 0.", show_default="0: it stays"
    ),
]
KLSignOption = Annotated[
    Literal["confident", "printed"], typer.Option(help="The authors' code, or the slides' formula.")
]
Accelerator = Annotated[str, typer.Option(help="auto, cpu or gpu.")]
Devices = Annotated[int, typer.Option(help="How many; more than one uses DDP.")]
Precision = Annotated[str, typer.Option(help="32-true, bf16-mixed or 16-mixed.")]
Compile = Annotated[bool, typer.Option("--compile", help="Use torch.compile, for GPUs; slower on a CPU.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with the data sets' files.", envvar="DRMM_DATA", show_default="the user's cache"),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the label draw, the weights and the batches.")]
