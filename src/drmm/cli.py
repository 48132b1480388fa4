"""The command line: `drmm --help` reads like a table of contents."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from drmm import app
from drmm._version import __version__
from drmm.errors import DrmmError
from drmm.objective import Objective
from drmm.runs import RunSpec, fit_run
from drmm.threads import tune_allocator
from drmm.training import Training

__all__ = ["cli", "main"]

cli = typer.Typer(
    name="drmm",
    help="The Deep Rendering Mixture Model: few-label image classification that can draw what it saw.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with the data sets' files.", envvar="DRMM_DATA", show_default="the user's cache"),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the label draw, the weights and the batches.")]


def main() -> None:
    """Run the command line; an error is one line and exit code 2."""
    tune_allocator()
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        cli()
    except DrmmError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {_plain(str(error))}", highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; a run goes on with the same command and --resume")
        sys.exit(130)


@cli.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    if version:
        typer.echo(f"drmm {__version__}")
        raise typer.Exit


@cli.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture, the figures and the models.")] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the 4,000 images.")] = app.DEMO_EPOCHS,
    seed: Seed = 0,
) -> None:
    """Train on real handwritten digits with 100 labels, beside the same convnet without the model (3 minutes)."""
    app.demo(out, epochs=epochs, seed=seed, console=Console())


@cli.command()
def fit(
    data: Annotated[
        str, typer.Argument(help="digits, mnist-5k, mnist, fashion-mnist, svhn, cifar10, or a folder of images.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; a new one.")],
    labels_per_class: Annotated[int | None, typer.Option(min=1, help="Labels to keep; all by default.")] = None,
    data_dir: DataDir = None,
    preset: Annotated[str, typer.Option(help="auto, conv_small, conv_large or dense.")] = "auto",
    constraint: Annotated[
        Literal["soft", "hard"], typer.Option(help="hard: non-negative templates, provably exact inference.")
    ] = "soft",
    width: Annotated[int | None, typer.Option(min=1, help="Templates of the first level.")] = None,
    size: Annotated[int | None, typer.Option(min=4, help="Resize a folder's images to SIZE x SIZE.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = Training.epochs,
    batch_size: Annotated[int, typer.Option(min=2, help="Images in a batch.")] = Training.batch_size,
    labelled_per_batch: Annotated[
        int, typer.Option(min=0, help="How many of them have a label.")
    ] = Training.labelled_per_batch,
    learning_rate: Annotated[float, typer.Option(help="Adam's, at its peak.")] = Training.learning_rate,
    gradient_clip: Annotated[
        float, typer.Option(min=0, help="Largest gradient norm; 0 does not clip.")
    ] = Training.gradient_clip,
    weight_average: Annotated[
        float, typer.Option(min=0, max=1, help="Decay of the weights' average.")
    ] = Training.weight_average,
    validation: Annotated[int, typer.Option(min=0, help="Labelled images held out to watch the error.")] = 0,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many epochs without progress.")
    ] = None,
    rc: Annotated[
        float | None, typer.Option(min=0, help="Weight of the reconstruction term.", show_default="1; 0 if hard")
    ] = None,
    kl: Annotated[float, typer.Option(min=0, help="Weight of the KL term.")] = Objective.kl,
    balance: Annotated[float, typer.Option(min=0, help="Weight of the batch-balance term.")] = Objective.balance,
    nn: Annotated[
        float | None, typer.Option(min=0, help="Weight of the NN term.", show_default="0.5; 0 if hard")
    ] = None,
    kl_sign: Annotated[
        Literal["confident", "printed"], typer.Option(help="The authors' code, or the slides' formula.")
    ] = Objective.kl_sign,
    seed: Seed = 0,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = Training.accelerator,
    devices: Annotated[int, typer.Option(min=1, help="How many; more than one uses DDP.")] = Training.devices,
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed or 16-mixed.")] = Training.precision,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
) -> None:
    """Train a model into a run folder, and report its test error."""
    spec = RunSpec(
        data=data,
        labels_per_class=labels_per_class,
        validation=validation,
        preset=preset,
        constraint=constraint,
        width=width,
        size=None if size is None else (size, size),
        objective=Objective.of(
            constraint, reconstruction=rc, kl=kl, balance=balance, nonnegativity=nn, kl_sign=kl_sign
        ),
        training=Training(
            epochs=epochs,
            batch_size=batch_size,
            labelled_per_batch=labelled_per_batch,
            learning_rate=learning_rate,
            gradient_clip=gradient_clip,
            weight_average=weight_average,
            patience=patience,
            seed=seed,
            accelerator=accelerator,
            devices=devices,
            precision=precision,
        ),
    )
    results = fit_run(spec, out, data_dir=data_dir, resume=resume, command=_command())
    if not results:
        return
    table = Table(show_header=False, box=None)
    for key in ("dataset", "images", "labels", "validation_error", "test_error", "seconds"):
        if results[key] is not None:
            table.add_row(key.replace("_", " "), f"{results[key]}{' %' if key.endswith('error') else ''}")
    console = Console()
    console.print(table)
    console.print(
        f"written to {out}; next: drmm predict {out} IMAGES, drmm sample {out}", highlight=False, soft_wrap=True
    )


@cli.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, folders of them, or .npy / .npz arrays.")],
    out: Annotated[Path, typer.Option(help="CSV file to write.")] = Path("predictions.csv"),
) -> None:
    """Label images: label, confidence, log-joint, and whether inference was certified exact."""
    rows = app.predict(run, images, out)
    Console().print(f"{rows} predictions written to {out}", highlight=False, soft_wrap=True)


@cli.command()
def sample(
    run: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("samples.png"),
    n: Annotated[int, typer.Option(min=1, max=1000, help="How many images.")] = 20,
    label: Annotated[str | None, typer.Option(help="Only this class; all in turn by default.")] = None,
    noise: Annotated[bool, typer.Option("--noise", help="Add the model's pixel noise.")] = False,
    seed: Seed = 0,
) -> None:
    """Draw images from the generative model."""
    app.sample(run, out, n=n, label=label, noise=noise, seed=seed)
    Console().print(f"{n} samples drawn into {out}", highlight=False, soft_wrap=True)


@cli.command()
def bench(
    json: Annotated[Path, typer.Option(help="File for the raw figures.")] = Path("results/bench.json"),
    quick: Annotated[bool, typer.Option("--quick", help="Few repeats, one batch size.")] = False,
) -> None:
    """Measure speed and memory against the plain convnet: interleaved runs, medians, ratios."""
    app.bench(json, quick=quick, console=Console())


def _command() -> str:
    return shlex.join(["drmm", *sys.argv[1:]])


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """A warning meant for users as one line; those for developers stay out of their way."""
    if issubclass(category, UserWarning):
        Console(stderr=True, soft_wrap=True).print(
            f"[bold yellow]warning:[/] {_plain(str(message))}", highlight=False
        )


def _plain(text: str) -> str:
    """Text that rich prints as it is, on one line."""
    return " ".join(text.replace("[", r"\[").split())
