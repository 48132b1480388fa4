"""The command line: `drmm --help` reads like a table of contents.

A command imports what it needs when it is called, so that help does not wait for torch.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from drmm import __version__
from drmm.cli.console import abandon_output, complain, path, say, show_what_can_be_shown
from drmm.cli.unforeseen import in_one_line
from drmm.errors import DrmmError
from drmm.trust.promise import PROMISE

__all__ = ["cli", "main"]

_PICTURES, _MODELS, _THEORY = "Your pictures", "Your models", "The theory"
_SHARDS = Path("predictions")  # folder of predict's
_STOPPED = (130, 143)  # what typer makes of Ctrl-C, and what is made of a request to end

cli = typer.Typer(
    name="drmm",
    help="The Deep Rendering Mixture Model: few-label image classification that can draw what it saw.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="What goes wrong is one line; with DRMM_DEBUG=1 in the environment it is all that Python says.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

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
    Literal["labels", "estimate", "uniform"] | None,
    typer.Option(
        help="How frequent classes are: as among the labels, if these were drawn at random; as the pictures "
        "without a label look; or equally.",
        show_default="labels",
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


def main() -> None:
    """Run the command line.

    An error is one line: exit code 2 for what its reader can mend, 1 for what nobody foresaw, 130 or 143 for what
    was stopped.
    """
    show_what_can_be_shown()
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # which warns of its cache
    with suppress(ValueError):  # a thread other than the first one is told of no signals
        signal.signal(signal.SIGTERM, _stop)
    try:
        _run()
    except DrmmError as error:
        complain("error", str(error))
        sys.exit(2)
    except Exception as error:
        if os.environ.get("DRMM_DEBUG"):
            raise
        abandon_output()
        if isinstance(error, BrokenPipeError):
            sys.exit(1)  # who looks at the first lines alone misses nothing
        line, code = in_one_line(error)
        complain("error", line)
        sys.exit(code)


def _run() -> None:
    """The command, and the end of what it prints: a full disk or a closed pipe is told here."""
    try:
        cli()
    except SystemExit as leave:
        if leave.code in _STOPPED:
            complain(
                "interrupted",
                "a run of fit goes on with drmm fit --out RUN --resume, a sort with the same command, "
                "and so do shards",
                "bold",
            )
        if sys.stdout is not None:
            sys.stdout.flush()
        raise


def _stop(*_: Any) -> None:
    """Leave by way of what tidies up, as after Ctrl-C."""
    sys.exit(_STOPPED[1])


@cli.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    if version:
        say(f"drmm {__version__}")
        raise typer.Exit


@cli.command(rich_help_panel=_PICTURES)
def sort(
    pictures: Annotated[
        Path | None,
        typer.Argument(parser=path, help="Folder of pictures. With --undo, the folder of sorted ones."),
    ] = None,
    *,
    into: Annotated[
        Path | None,
        typer.Option(metavar="SORTED", parser=path, help="Folder of sorted pictures: a new one, or to add to it."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="Folder of a trained model. Without it one is trained on PICTURES, and kept in SORTED/_run.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="To train with: a CSV or Parquet table with columns file and label (blank: unknown). Without it "
            "folders are classes, but for unlabelled/.",
        ),
    ] = None,
    recipe: Recipe = None,
    size: Size = None,
    shape: Fill = None,
    prior: Prior = None,
    views: Views = None,
    net: Net = None,
    weights: Weights = None,
    preprocess: Preprocess = None,
    assignments: Set = None,
    promise: Annotated[
        float,
        typer.Option(help="Share of the sorted pictures that is to be right; the others go into _unsure/."),
    ] = PROMISE,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the pictures, which is the default.")] = False,
    link: Annotated[bool, typer.Option("--link", help="Make symbolic links to the pictures instead.")] = False,
    move: Annotated[bool, typer.Option("--move", help="Move the pictures instead.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show how many pictures go where, with examples; write nothing.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take everything back: drmm sort --undo SORTED.")] = False,
) -> None:
    """Sort pictures into a folder for each class, by their labels and a model; what it is unsure of goes apart.

    Nothing is replaced or lost. After a stop the same command goes on; given again later it adds new pictures.
    --recipe, --size, --shape, --prior, --views, --net, --weights, --preprocess and --set are for the training, as
    in drmm fit.
    """
    from drmm.cli.fit import of_net, of_pictures
    from drmm.cli.sort import asked_way, show_undo
    from drmm.cli.sort import sort as sort_pictures
    from drmm.errors import InputError, RunError

    way = asked_way(copy=copy, link=link, move=move)
    asked = of_pictures(None, labels, size, shape, prior, views) | of_net(net, weights, preprocess)
    options = {name.partition(".")[2]: value for name, value in asked.items()}  # are called like settings
    training = {"labels": labels, "recipe": recipe, **options, "set": assignments}
    given = [f"--{name}" for name, value in training.items() if value is not None]
    if undo:
        folder = into or pictures
        if folder is None or way or run or given or dry_run:
            raise RunError("--undo takes the folder of sorted pictures alone: drmm sort --undo SORTED")
        show_undo(folder)
        return
    if pictures is None or into is None:
        raise RunError("name two folders: drmm sort PICTURES --into SORTED")
    if run is not None and given:
        raise InputError(f"--run has learned already: leave {given[0]} out, or leave --run out to train with it")
    sort_pictures(
        pictures,
        into,
        run=run,
        recipe=recipe,
        asked={**asked, "data.source": str(pictures)},
        assignments=assignments or (),
        promise=promise,
        how=way or "copy",
        dry_run=dry_run,
        command=_command(),
    )


@cli.command(rich_help_panel=_PICTURES)
def label(
    pictures: Annotated[Path, typer.Argument(parser=path, help="Folder of pictures.")],
    labels: Annotated[
        Path | None,
        typer.Option(parser=path, help="Begin with the labels of this table: a CSV or Parquet file, file,label."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path, help="CSV file that the labels are written into.", show_default="PICTURES.labels.csv"
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(parser=path, help="File that keeps the labels.", show_default="PICTURES.labels.sqlite"),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(parser=path, help="Folder of a trained model: it explains pictures, and answers others."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Listen at this address; at others than this machine's own, others may look on.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1024, max=65535, help="Listen at this port.", show_default="a free one")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Label pictures on a page in the browser: those first that teach most, one key a class.

    It learns meanwhile, proposes classes, and tells how many of its answers are wrong. Each label is on the disk
    before the page says so; Ctrl-C ends the page, the same command goes on. It ends in the command of drmm sort.
    """
    from drmm.cli.label import label as show_page

    show_page(pictures, store=store, labels=labels, out=out, run=run, host=host, port=port, browser=browser)


@cli.command(rich_help_panel=_PICTURES)
def audit(
    folder: Annotated[Path, typer.Argument(metavar="SORTED", parser=path, help="Folder of drmm sort.")],
    n: Annotated[
        int | None,
        typer.Option(min=1, help="Look at so many pictures.", show_default="as many as may hold a wrong one"),
    ] = None,
    promise: Annotated[float, typer.Option(help="Share of the sorted pictures that is to be right.")] = PROMISE,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Draw anew, and forget the answers.")] = False,
) -> None:
    """Look at some of the sorted pictures, drawn at random, to know how many of all are wrong.

    First it writes audit.html, with the pictures, and audit.csv, to fill in; given again it says what the answers
    show, at 95 % confidence.
    """
    from drmm.cli.audit import audit as look

    look(folder, n=n, promise=promise, seed=seed, force=force)


@cli.command(rich_help_panel=_PICTURES)
def check(
    folder: Annotated[
        Path, typer.Argument(parser=path, help="Folder or zip archive of pictures, as for drmm fit.")
    ],
    run: Annotated[
        Path | None, typer.Option(parser=path, help="Run whose model tells pictures apart; pixels by default.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(parser=path, help="CSV or Parquet file: file,label; folders by default.")
    ] = None,
    out: Annotated[
        Path, typer.Option(parser=path, help="HTML file to write; a CSV of the same name goes beside it.")
    ] = Path("check.html"),
    force: Force = False,
) -> None:
    """Find what is wrong with a folder of pictures: copies, wrong labels, blanks, outliers, odd sizes."""
    from drmm.cli.check import check as examine

    named = examine(folder, out, run=run, labels=labels, force=force)
    say(f"{named} pictures to look at: {out} shows them, {out.with_suffix('.csv')} lists them")


@cli.command(rich_help_panel=_MODELS)
def demo(
    out: Annotated[
        Path, typer.Option(parser=path, help="Folder for the picture, the figures and the models.")
    ] = Path("demo"),
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the 4,000 images.", show_default="6")
    ] = None,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a former demo's files.")] = False,
) -> None:
    """Train on real handwritten digits with 100 labels, beside the same convnet without the model (2 minutes)."""
    from drmm.cli.demo import demo as show

    show(out, epochs=epochs, seed=seed, force=force, command=_command())


@cli.command(rich_help_panel=_MODELS)
def fit(
    data: Annotated[
        str | None,
        typer.Argument(
            help="A folder of pictures, one subfolder a class (or see --labels), or digits, mnist-5k, mnist, "
            "fashion-mnist, svhn, cifar10. With --resume the run knows it."
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(parser=path, help="Folder of the run; a new one.")],
    recipe: Recipe = None,
    assignments: Set = None,
    labels_per_class: Annotated[
        int | None, typer.Option(min=0, help="Labels to keep; all by default, 0 finds clusters.")
    ] = None,
    clusters: Annotated[int | None, typer.Option(min=2, help="How many, where there are no labels.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="CSV or Parquet table with columns file and label (blank: unknown); no folder is a class then.",
        ),
    ] = None,
    size: Size = None,
    shape: Fill = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the images.")] = None,
    validation: Annotated[
        int | None, typer.Option(min=0, help="Labelled images held out to watch the error.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="auto, conv_small, conv_large, dense or efficientnet_lite0.")
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Templates of the first level.")] = None,
    net: Net = None,
    weights: Weights = None,
    preprocess: Preprocess = None,
    prior: Prior = None,
    views: Views = None,
    teacher: Annotated[
        str | None, typer.Option(help="Folder of a trained model: images without a label get its labels.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the label draw, the weights and the batches.")
    ] = None,
    device: Device = None,
    data_dir: DataDir = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after a stop, or with more --epochs after the end.")
    ] = False,
) -> None:
    """Train a model into a run folder, and report its test error."""
    from drmm.cli.fit import asked_for, fit_and_report, of_net, of_pictures

    everyday = {
        **of_pictures(data, labels, size, shape, prior, views),
        **of_net(net, weights, preprocess),
        "data.labels_per_class": labels_per_class,
        "data.clusters": clusters,
        "data.validation": validation,
        "model.preset": preset,
        "model.width": width,
        "training.epochs": epochs,
        "training.seed": seed,
        "machine.accelerator": device,
        "teacher.source": teacher,
    }
    experiment = asked_for(recipe, out if resume else None, everyday, assignments or ())
    fit_and_report(experiment, out, data_dir=data_dir, resume=resume, command=_command())


@cli.command(rich_help_panel=_MODELS)
def settings(
    table: Annotated[
        str | None, typer.Argument(help="data, model, objective, training, machine, teacher, select or trust.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="As this recipe has them.", show_default="few-labels")] = None,
) -> None:
    """List every setting of fit with its value and meaning, and every recipe."""
    from drmm.cli.fit import show_settings

    show_settings(table, recipe)


@cli.command(rich_help_panel=_MODELS)
def predict(
    run: RunFolder,
    images: Annotated[
        list[Path],
        typer.Argument(
            parser=path,
            help="Image files, folders of them, or .npy / .npz arrays. In shards a folder, a list of paths "
            "(.txt, one a line), .tar files as of WebDataset, or a data set in Parquet or Arrow.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="CSV file to write, or Parquet (.parquet, with drmm[parquet]). In shards a folder.",
            show_default="predictions.csv; in shards predictions",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Part I of N alone, from 1/N to N/N, as a Parquet file; skipped if it is there.",
        ),
    ] = None,
    engine: Annotated[
        Literal["ray"] | None, typer.Option(help="What makes all shards at once, with drmm[ray].")
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --engine: how many.", show_default="as many as were begun, or four a processor"
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="With --engine: of a cluster, host:port or auto.", show_default="one that is started here"
        ),
    ] = None,
    promise: Annotated[
        float, typer.Option(help="Share of the pictures decided as sorted that is right.")
    ] = PROMISE,
    all_classes: Annotated[
        bool, typer.Option("--all-classes", help="A column for each class and each part of familiarity.")
    ] = False,
    force: Force = False,
) -> None:
    """Label images: which class, how sure, whether the model knows such pictures, and what to do with them.

    Confidence is calibrated on labels that were held out; familiarity is the share of the training pictures that
    are at least as strange; decision is sorted, unsure or unfamiliar.
    """
    from drmm.errors import InputError

    how: dict[str, Any] = {"promise": promise, "all_classes": all_classes}
    if force and (engine or shard is not None):
        raise InputError("shards replace no file: leave --force out, or choose another --out")
    if engine is not None and shard is not None:
        raise InputError("--engine makes all shards: leave --shard out, and say how many by --shards")
    if engine is None and (shards is not None or address is not None):
        raise InputError("--shards and --address are of an engine: add --engine ray")
    if engine is not None:
        from drmm.cli.on_ray import predict_on_ray

        predict_on_ray(run, images, out or _SHARDS, shards, address, **how)
    elif shard is not None:
        from drmm.cli.shards import predict_shard

        predict_shard(run, images, out or _SHARDS, shard, **how)
    else:
        from drmm.cli.apply import predict as label_images

        out = out or Path("predictions.csv")
        rows = label_images(run, images, out, **how, force=force)
        say(f"{rows} predictions written to {out}")


@cli.command(rich_help_panel=_MODELS)
def explain(
    run: RunFolder,
    image: Annotated[Path, typer.Argument(parser=path, help="Picture file.")],
    out: Annotated[Path, typer.Option(parser=path, help="PNG file to write.")] = Path("explanation.png"),
    label: Annotated[str | None, typer.Option(help="Explain this class; the best by default.")] = None,
    other: Annotated[str | None, typer.Option(help="Why not this class; the second best by default.")] = None,
    paths: Annotated[int, typer.Option(min=1, max=1000, help="How many active paths to draw.")] = 40,
    force: Force = False,
) -> None:
    """Draw what a model sees in a picture: evidence by pixel and level, and the strongest active paths."""
    from drmm.cli.apply import explain as draw_explanation

    draw_explanation(run, image, out, label=label, other=other, paths=paths, force=force)
    say(f"explained in {out}")


@cli.command(rich_help_panel=_MODELS)
def report(
    run: RunFolder,
    out: Annotated[Path, typer.Option(parser=path, help="HTML file to write.")] = Path("report.html"),
    images: Annotated[int, typer.Option(min=1, help="Look at so many test images, at most.")] = 1000,
    data_dir: DataDir = None,
    force: Force = False,
) -> None:
    """Write all that can be said about a run into one HTML file: figures, mistakes, and what the model sees."""
    from drmm.files import check_absent
    from drmm.report import write_report

    check_absent(out, ".html", force=force)
    size = write_report(run, out, data_dir=data_dir, images=images)
    say(f"written to {out} ({size / 1e6:.1f} MB): open it in a browser")


@cli.command(rich_help_panel=_MODELS)
def card(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option(parser=path, help="Markdown file to write.", show_default="RUN/README.md")
    ] = None,
    force: Force = False,
) -> None:
    """Write the card of a model, as hubs show it: data, errors with intervals, how sure it is, limits, versions.

    The licence, and what the model is for, are left to you.
    """
    from drmm.files import check_absent
    from drmm.report.card import write_card

    out = out or run / "README.md"
    check_absent(out, ".md", force=force)
    write_card(run, out)
    say(f"written to {out}: say there who made it, what for, and under which licence")


@cli.command(rich_help_panel=_MODELS)
def sample(
    run: RunFolder,
    out: Annotated[Path, typer.Option(parser=path, help="PNG file to write.")] = Path("samples.png"),
    n: Annotated[int, typer.Option(min=1, max=1000, help="How many images.")] = 20,
    label: Annotated[str | None, typer.Option(help="Only this class; all in turn by default.")] = None,
    noise: Annotated[bool, typer.Option("--noise", help="Add the model's pixel noise.")] = False,
    patches: Annotated[
        int | None,
        typer.Option(
            min=1, help="Take switches, patch by patch, from the so many training images that fit best (5, say)."
        ),
    ] = None,
    seed: Seed = 0,
    data_dir: DataDir = None,
    force: Force = False,
) -> None:
    """Draw images from the generative model.

    Switches drawn independently make poor pictures. --patches 5 puts them together from patches of what training
    images chose, each of one of the 5 that fit best.
    """
    from drmm.cli.apply import sample as draw_samples

    draw_samples(
        run, out, n=n, label=label, noise=noise, seed=seed, neighbours=patches, data_dir=data_dir, force=force
    )
    say(f"{n} samples drawn into {out}")


@cli.command(rich_help_panel=_MODELS)
def prune(
    run: RunFolder,
    out: Annotated[Path, typer.Option(parser=path, help="Folder of the smaller model; a new one.")],
    keep: Annotated[float, typer.Option(help="Share of each level's neurons to keep.")] = 0.3,
    synapses: Annotated[
        float | None, typer.Option(help="Then keep this share of synapses, and set the others to 0.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=0, help="Go on learning for so long, as the run did.")] = 0,
    criterion: Annotated[
        Literal["on", "contribution", "magnitude"],
        typer.Option(help="on: P(on); contribution: expected share of the score."),
    ] = "on",
    data_dir: DataDir = None,
) -> None:
    """Remove neurons that are seldom on: a smaller, faster model, beside one pruned by magnitude.

    Two more epochs (--epochs 2) win back most of the accuracy.
    """
    from drmm.cli.prune import prune as make_smaller

    make_smaller(
        run,
        out,
        keep=keep,
        synapses=synapses,
        epochs=epochs,
        criterion=criterion,
        data_dir=data_dir,
        command=_command(),
    )
    say(f"written to {out}; next: drmm predict {out} IMAGES, drmm sample {out}")


@cli.command(rich_help_panel=_MODELS)
def export(
    run: RunFolder,
    to: Annotated[
        Path,
        typer.Option(parser=path, help="File to write: .onnx (with drmm[onnx]), or .pt2 for torch.export.load."),
    ],
    extras: Annotated[
        str,
        typer.Option(
            "--with",
            metavar="ANSWER,...",
            help="More answers besides label, probability and familiarity: certificate, reconstruction, evidence.",
            show_default="none",
        ),
    ] = "",
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="8-bit integers: kept if 99.5 % of labels are the same and it is faster on this machine.",
        ),
    ] = False,
    calibrate_on: Annotated[
        Path | None,
        typer.Option(
            parser=path, help="Pictures to measure them on.", show_default="those without a label of the run"
        ),
    ] = None,
    data_dir: DataDir = None,
    force: Force = False,
) -> None:
    """Write a model into one file that runs elsewhere, checked against PyTorch on batches of 1, 7 and 64.

    Pictures go in as levels, uint8 (N, C, H, W); the file's metadata say what classes there are and how pictures
    are resized.
    """
    from drmm.cli.export import export as write

    write(run, to, extras=extras, int8=int8, calibrate_on=calibrate_on, data_dir=data_dir, force=force)


@cli.command(name="scenes", rich_help_panel=_THEORY)
def draw_scenes(
    out: Annotated[Path, typer.Argument(parser=path, help="Folder to write; a new one.")],
    images: Annotated[int, typer.Option(min=1, help="How many.")] = 20_000,
    size: Annotated[int, typer.Option(help="Side of a picture in pixels, 8 to 512.")] = 64,
    seed: Seed = 0,
    classes: Annotated[str | None, typer.Option(help="Separated by commas; all by default.")] = None,
    textures: Annotated[str | None, typer.Option(help="Kinds of background, likewise.")] = None,
    condition: Annotated[str, typer.Option(help="What makes them hard: plain, or a failure condition.")] = "plain",
    test_share: Annotated[float, typer.Option(help="Share of the images for the test set.")] = 0.2,
) -> None:
    """Render images of which class, pose, light and background are known, with masks of the object."""
    from drmm.cli.studies import draw_scenes as render

    tables = render(
        out,
        images=images,
        size=size,
        seed=seed,
        classes=classes,
        textures=textures,
        condition=condition,
        test_share=test_share,
    )
    say(f"{images} images, masks and {' and '.join(tables)} written to {out}; next: drmm fit {out / 'images'}")


@cli.command(rich_help_panel=_THEORY)
def reproduce(
    dataset: Annotated[str, typer.Argument(help="mnist, svhn or cifar10; mnist-5k for a try of some minutes.")],
    out: Annotated[Path, typer.Option(parser=path, help="Folder of the runs' figures and the table.")] = Path(
        "results/reproduce"
    ),
    labels: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Images with a label, several times for several; the slides' own."),
    ] = None,
    recipe: Annotated[
        list[str] | None, typer.Option(help="Row of the table, several times for several; all by default.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Label draws of each row.")] = 5,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at the same time.", show_default="one a core; on a GPU one alone"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Scale down: passes over the images.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Scale down: templates of the first level.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Scale down: training images.")] = None,
    device: Device = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="machine.NAME=VALUE", help="What it runs on: devices, precision, compile."),
    ] = None,
    data_dir: DataDir = None,
    dry_run: Annotated[
        int | None, typer.Option(help="Make so many steps on random images instead: no data, nothing is written.")
    ] = None,
) -> None:
    """Run the slides' benchmark tables again, with error bars; go on with the same command after a stop."""
    from drmm.cli.studies import asked_machine, dry_run_table, reproduce_table, scaled_table

    table = scaled_table(dataset, epochs=epochs, width=width, images=images)
    machine = asked_machine(device, assignments or ())
    if dry_run is not None:
        dry_run_table(table, dry_run, recipes=recipe or (), machine=machine)
        return
    reproduce_table(
        table,
        out,
        labels=labels or (),
        recipes=recipe or (),
        seeds=seeds,
        workers=workers,
        machine=machine,
        data_dir=data_dir,
        command=_command(),
    )


@cli.command(rich_help_panel=_THEORY)
def bench(
    json: Annotated[Path, typer.Option(parser=path, help="File for the raw figures.")] = Path(
        "results/bench.json"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Few repeats, one batch size.")] = False,
    force: Force = False,
) -> None:
    """Measure speed and memory against the plain convnet: interleaved runs, medians, ratios."""
    from drmm.cli.studies import bench as measure

    measure(json, quick=quick, force=force)


@cli.command(rich_help_panel=_THEORY)
def dp(
    edges: Annotated[
        list[str] | None, typer.Argument(help="FROM:TO:WEIGHT, as in s:t:1.5; the slides' three by default.")
    ] = None,
    start: Annotated[str | None, typer.Option(help="Where the path starts; the first edge's start.")] = None,
    to: Annotated[str | None, typer.Option(help="Where it ends; the last edge's end.")] = None,
    semiring: Annotated[
        Literal["min-sum", "max-sum", "max-product"], typer.Option(help="Shortest, longest or likeliest path.")
    ] = "min-sum",
    out: Annotated[Path | None, typer.Option(parser=path, help="PNG file for the unrolled graph.")] = None,
    force: Force = False,
) -> None:
    """Find a shortest path by dynamic programming: every table, update by update, and the backtrace."""
    from drmm.cli.studies import show_shortest_path

    show_shortest_path(edges, start=start, to=to, semiring=semiring, out=out, force=force)


def _command() -> str:
    return shlex.join(["drmm", *sys.argv[1:]])


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """A warning meant for users as one line; those for developers stay out of their way."""
    if issubclass(category, UserWarning):
        complain("warning", str(message), "bold yellow")
