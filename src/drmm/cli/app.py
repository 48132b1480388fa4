"""The command line: `drmm --help` reads like a table of contents."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from drmm._version import __version__
from drmm.cli import apply, studies
from drmm.cli import demo as demos
from drmm.cli import prune as pruning
from drmm.cli.options import (
    Accelerator,
    Balance,
    BatchSize,
    Blends,
    Clusters,
    Collages,
    Compile,
    Constraint,
    CoolDown,
    CriterionOption,
    Data,
    DataDir,
    Depth,
    Devices,
    Epochs,
    GradientClip,
    Initialisation,
    KLSignOption,
    KLWeight,
    LabelledPerBatch,
    LabelsPerClass,
    Learning,
    LearningRate,
    MethodOption,
    MinSteps,
    Nonnegativity,
    Out,
    Patience,
    Precision,
    Preset,
    Reconstruction,
    Resume,
    Seed,
    Select,
    Shifts,
    Size,
    Teacher,
    Tolerance,
    Validation,
    WarmUp,
    WeightAverage,
    Width,
)
from drmm.errors import DrmmError
from drmm.explain.plots import save_figure
from drmm.learning.allocator import tune_allocator
from drmm.learning.objective import Objective
from drmm.learning.selection import Criterion, Grid
from drmm.learning.train import Training
from drmm.pruning.prune import Criterion as PruningCriterion
from drmm.report import write_report
from drmm.runs.run import RunSpec, fit_run
from drmm.studies import scenes
from drmm.studies.dynamic import SEMIRINGS, SLIDES_EDGES, edge, paths, unroll, walkthrough
from drmm.studies.dynamic.drawing import unrolled_figure
from drmm.studies.reproduce import METHODS, Machine, protocol

__all__ = ["cli", "main"]

cli = typer.Typer(
    name="drmm",
    help="The Deep Rendering Mixture Model: few-label image classification that can draw what it saw.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; an error is one line and exit code 2."""
    tune_allocator()
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        cli()
    except DrmmError as error:
        console = Console(stderr=True, soft_wrap=True, emoji=False)
        console.print(f"[bold red]error:[/] {_plain(str(error))}", highlight=False)
        sys.exit(2)
    except SystemExit as leave:
        if leave.code == 130:  # what typer makes of Ctrl-C
            Console(stderr=True).print("interrupted; a run of fit goes on with the same command and --resume")
        raise


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
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the 4,000 images.")] = demos.DEMO_EPOCHS,
    seed: Seed = 0,
) -> None:
    """Train on real handwritten digits with 100 labels, beside the same convnet without the model (3 minutes)."""
    demos.demo(out, epochs=epochs, seed=seed, console=Console(), command=_command())


@cli.command()
def fit(
    data: Data,
    out: Out,
    labels_per_class: LabelsPerClass = None,
    clusters: Clusters = None,
    data_dir: DataDir = None,
    method: MethodOption = None,
    preset: Preset = "auto",
    learning: Learning = Training.learning,
    initialisation: Initialisation = None,
    constraint: Constraint = "soft",
    teacher: Teacher = None,
    width: Width = None,
    depth: Depth = None,
    select: Select = None,
    criterion: CriterionOption = None,
    size: Size = None,
    epochs: Epochs = Training.epochs,
    min_steps: MinSteps = Training.min_steps,
    tolerance: Tolerance = Training.tolerance,
    batch_size: BatchSize = Training.batch_size,
    labelled_per_batch: LabelledPerBatch = Training.labelled_per_batch,
    learning_rate: LearningRate = Training.learning_rate,
    gradient_clip: GradientClip = Training.gradient_clip,
    weight_average: WeightAverage = Training.weight_average,
    validation: Validation = 0,
    patience: Patience = None,
    rc: Reconstruction = None,
    kl: KLWeight = None,
    balance: Balance = None,
    nn: Nonnegativity = None,
    kl_sign: KLSignOption = Objective.kl_sign,
    blends: Blends = None,
    shifts: Shifts = 0,
    collages: Collages = 0,
    warm_up: WarmUp = None,
    cool_down: CoolDown = None,
    seed: Seed = 0,
    accelerator: Accelerator = Training.accelerator,
    devices: Devices = Training.devices,
    precision: Precision = Training.precision,
    compile: Compile = Training.compile,  # noqa: A002
    resume: Resume = False,
) -> None:
    """Train a model into a run folder, and report its test error."""
    del method  # it has set the other options' defaults
    spec = RunSpec(
        data=data,
        labels_per_class=labels_per_class,
        validation=validation,
        preset=preset,
        constraint=constraint,
        width=width,
        depth=depth,
        clusters=clusters,
        size=None if size is None else (size, size),
        teacher=None if teacher is None else str(teacher),
        objective=Objective.of(
            constraint,
            learning,
            taught=teacher is not None,
            reconstruction=rc,
            kl=kl,
            balance=balance,
            nonnegativity=nn,
            kl_sign=kl_sign,
            interpolation=blends,
            shift=shifts,
            collage=collages,
            warm_up=warm_up,
            cool_down=cool_down,
        ),
        training=Training(
            learning=learning,
            initialisation=initialisation,
            epochs=epochs,
            min_steps=min_steps,
            tolerance=tolerance,
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
            compile=compile,
        ),
        select=Grid.parse(select) if select else None,
        criterion=criterion,
    )
    results = fit_run(spec, out, data_dir=data_dir, resume=resume, command=_command())
    if results:
        _report(results, out)


@cli.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, folders of them, or .npy / .npz arrays.")],
    out: Annotated[Path, typer.Option(help="CSV file to write.")] = Path("predictions.csv"),
) -> None:
    """Label images: label, confidence, log-joint, and whether inference was certified exact."""
    rows = apply.predict(run, images, out)
    Console().print(f"{rows} predictions written to {out}", highlight=False, soft_wrap=True)


@cli.command()
def explain(
    run: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    image: Annotated[Path, typer.Argument(help="Picture file.")],
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("explanation.png"),
    label: Annotated[str | None, typer.Option(help="Explain this class; the best by default.")] = None,
    other: Annotated[str | None, typer.Option(help="Why not this class; the second best by default.")] = None,
    paths: Annotated[int, typer.Option(min=1, max=1000, help="How many active paths to draw.")] = 40,
) -> None:
    """Draw what a model sees in a picture: evidence by pixel and level, and the strongest active paths."""
    apply.explain(run, image, out, label=label, other=other, paths=paths)
    Console().print(f"explained in {out}", highlight=False, soft_wrap=True)


@cli.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, of a pruned model, or of drmm demo.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    images: Annotated[int, typer.Option(min=1, help="Look at so many test images, at most.")] = 1000,
    data_dir: DataDir = None,
) -> None:
    """Write all that can be said about a run into one HTML file: figures, mistakes, and what the model sees."""
    size = write_report(run, out, data_dir=data_dir, images=images)
    told = f"written to {out} ({size / 1e6:.1f} MB): open it in a browser"
    Console().print(told, highlight=False, soft_wrap=True)


@cli.command()
def sample(
    run: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("samples.png"),
    n: Annotated[int, typer.Option(min=1, max=1000, help="How many images.")] = 20,
    label: Annotated[str | None, typer.Option(help="Only this class; all in turn by default.")] = None,
    noise: Annotated[bool, typer.Option("--noise", help="Add the model's pixel noise.")] = False,
    borrow: Annotated[
        int | None, typer.Option(min=1, help="Borrow switches, piece by piece, from this many training images.")
    ] = None,
    seed: Seed = 0,
    data_dir: DataDir = None,
) -> None:
    """Draw images from the generative model.

    Switches drawn independently make poor pictures. --borrow 5 puts them together from pieces of what training
    images chose, each one of the 5 that fit best.
    """
    apply.sample(run, out, n=n, label=label, noise=noise, seed=seed, neighbours=borrow, data_dir=data_dir)
    Console().print(f"{n} samples drawn into {out}", highlight=False, soft_wrap=True)


@cli.command()
def prune(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of a model that was pruned.")],
    out: Annotated[Path, typer.Option(help="Folder of the smaller model; a new one.")],
    keep: Annotated[float, typer.Option(help="Share of each level's neurons to keep.")] = 0.3,
    synapses: Annotated[
        float | None, typer.Option(help="Then keep this share of synapses, and set the others to 0.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=0, help="Go on learning for so long, as the run did.")] = 0,
    criterion: Annotated[
        PruningCriterion, typer.Option(help="on: P(on); contribution: expected share of the score.")
    ] = "on",
    data_dir: DataDir = None,
) -> None:
    """Remove neurons that are seldom on: a smaller, faster model, beside one pruned by magnitude.

    Two more epochs (--epochs 2) win back most of the accuracy.
    """
    pruning.prune(
        run,
        out,
        keep=keep,
        synapses=synapses,
        epochs=epochs,
        criterion=criterion,
        data_dir=data_dir,
        console=Console(),
        command=_command(),
    )
    Console().print(
        f"written to {out}; next: drmm predict {out} IMAGES, drmm sample {out}", highlight=False, soft_wrap=True
    )


@cli.command(name="scenes")
def draw_scenes(
    out: Annotated[Path, typer.Argument(help="Folder to write; a new one.")],
    images: Annotated[int, typer.Option(min=1, help="How many.")] = 20_000,
    size: Annotated[int, typer.Option(help="Side of a picture in pixels, 8 to 512.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all latents.")] = 0,
    classes: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(scenes.CLASSES),
    textures: Annotated[str, typer.Option(help="Kinds of background.")] = ",".join(scenes.TEXTURES),
    condition: Annotated[scenes.Condition, typer.Option(help="What makes them hard.")] = "plain",
    test_share: Annotated[float, typer.Option(help="Share of the images for the test set.")] = 0.2,
) -> None:
    """Render images of which class, pose, light and background are known, with masks of the object."""
    latents = scenes.sample(
        images,
        seed=seed,
        classes=classes.split(","),
        ranges=scenes.CONDITIONS[condition],
        textures=textures.split(","),
    )
    about = {"seed": seed, "condition": condition, "textures": textures.split(","), "test_share": test_share}
    tables = scenes.write(out, latents, size=size, test_share=test_share, about=about)
    Console().print(
        f"{images} images, masks and {' and '.join(tables)} written to {out}; next: drmm fit {out / 'images'}",
        highlight=False,
        soft_wrap=True,
    )


@cli.command()
def reproduce(
    dataset: Annotated[str, typer.Argument(help="mnist, svhn or cifar10; mnist-5k for a try of some minutes.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs' figures and the table.")] = Path(
        "results/reproduce"
    ),
    labels: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Images with a label, several times for several; the slides' own."),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help=f"Row of the table: {', '.join(METHODS)}; all by default.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Label draws of each row.")] = 5,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at the same time.", show_default="one a core; on a GPU one alone"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Scale down: passes over the images.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Scale down: templates of the first level.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Scale down: training images.")] = None,
    data_dir: DataDir = None,
    accelerator: Accelerator = Training.accelerator,
    devices: Devices = Training.devices,
    precision: Precision = Training.precision,
    compile: Compile = Training.compile,  # noqa: A002
    dry_run: Annotated[
        int | None, typer.Option(help="Make so many steps on random images instead: no data, nothing is written.")
    ] = None,
) -> None:
    """Run the slides' benchmark tables again, with error bars; go on with the same command after a stop."""
    plan = protocol(dataset, epochs=epochs, width=width, images=images)
    machine = Machine(accelerator, devices, precision, compile)
    if dry_run is not None:
        studies.dry_run(plan, dry_run, methods=method or (), machine=machine, console=Console())
        return
    studies.reproduce(
        plan,
        out,
        labels=labels or (),
        methods=method or (),
        seeds=seeds,
        workers=workers,
        machine=machine,
        data_dir=data_dir,
        console=Console(),
        command=_command(),
    )


@cli.command()
def bench(
    json: Annotated[Path, typer.Option(help="File for the raw figures.")] = Path("results/bench.json"),
    quick: Annotated[bool, typer.Option("--quick", help="Few repeats, one batch size.")] = False,
) -> None:
    """Measure speed and memory against the plain convnet: interleaved runs, medians, ratios."""
    studies.bench(json, quick=quick, console=Console())


@cli.command()
def dp(
    edges: Annotated[
        list[str] | None, typer.Argument(help="FROM:TO:WEIGHT, as in s:t:1.5; the slides' three by default.")
    ] = None,
    start: Annotated[str | None, typer.Option(help="Where the path starts; the first edge's start.")] = None,
    to: Annotated[str | None, typer.Option(help="Where it ends; the last edge's end.")] = None,
    semiring: Annotated[
        Literal["min-sum", "max-sum", "max-product"], typer.Option(help="Shortest, longest or likeliest path.")
    ] = "min-sum",
    out: Annotated[Path | None, typer.Option(help="PNG file for the unrolled graph.")] = None,
) -> None:
    """Find a shortest path by dynamic programming: every table, update by update, and the backtrace."""
    chosen = [edge(text) for text in edges] if edges else SLIDES_EDGES
    tables = unroll(paths(chosen, to or chosen[-1][1]), SEMIRINGS[semiring])
    first = start or chosen[0][0]
    if out is not None:
        save_figure(unrolled_figure(tables, first), out)
    for part in walkthrough(tables, first):
        Console().print(part)
    if out is not None:
        Console().print(f"drawn into {out}", highlight=False, soft_wrap=True)


def _selection_table(criterion: Criterion, candidates: list[dict[str, Any]]) -> Table:
    """In what the candidates differ, the winner marked; `selection.csv` has the rest."""
    told = [name for name in candidates[0] if name not in {"seconds", "winner"} and not name.endswith("_se")]
    names = [name for name in told if name == criterion or len({row[name] for row in candidates}) > 1]
    table = Table(title=f"selected by {criterion}", box=None)
    for name in names:
        table.add_column(name, justify="left" if name == "preset" else "right")
    for row in candidates:
        cells = [_cell(row[name], row.get(f"{criterion}_se") if name == criterion else None) for name in names]
        table.add_row(*cells, "←" if row["winner"] else "", style="bold" if row["winner"] else None)
    return table


def _cell(value: object, error: float | None) -> str:
    if value is None:
        return "-"
    text = f"{value:,.1f}" if isinstance(value, float) else str(value)
    return text if error is None else f"{text} ± {error:.1f}"


def _report(results: dict[str, Any], out: Path) -> None:
    table = Table(show_header=False, box=None)
    for key in ("dataset", "images", "labels", "validation_error", "test_error", "cluster_accuracy", "seconds"):
        if results[key] is not None:
            table.add_row(
                key.replace("_", " "), f"{results[key]}{' %' if key.endswith(('error', 'accuracy')) else ''}"
            )
    console = Console()
    if results["selection"]:
        console.print(_selection_table(**results["selection"]))
    console.print(table)
    console.print(
        f"written to {out}; next: drmm predict {out} IMAGES, drmm sample {out}", highlight=False, soft_wrap=True
    )


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
