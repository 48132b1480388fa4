"""Commands for models: they are trained, applied, explained, reported, made smaller, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from drmm.cli.commands.options import (
    DataDir,
    Device,
    Fill,
    Force,
    Net,
    Preprocess,
    Prior,
    Recipe,
    RunFolder,
    Seed,
    Set,
    Size,
    Views,
    Weights,
)
from drmm.cli.console import command_line, path, say
from drmm.trust.promise import PROMISE

__all__ = ["card", "demo", "explain", "export", "fit", "predict", "prune", "report", "sample", "settings"]

_SHARDS = Path("predictions")  # folder of predict's


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

    show(out, epochs=epochs, seed=seed, force=force, command=command_line())


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
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Passes over the images; more where they are so few that these are no 200 steps "
            "(--set training.min_steps=0: as many as that).",
        ),
    ] = None,
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
    fit_and_report(experiment, out, data_dir=data_dir, resume=resume, command=command_line())


def settings(
    table: Annotated[
        str | None, typer.Argument(help="data, model, objective, training, machine, teacher, select or trust.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="As this recipe has them.", show_default="few-labels")] = None,
) -> None:
    """List every setting of fit with its value and meaning, and every recipe."""
    from drmm.cli.fit import show_settings

    show_settings(table, recipe)


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
            help="CSV file to write, or Parquet (.parquet, with drmm\\[parquet]). In shards a folder.",
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
        Literal["ray"] | None, typer.Option(help="What makes all shards at once, with drmm\\[ray].")
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
        command=command_line(),
    )
    say(f"written to {out}; next: drmm predict {out} IMAGES, drmm sample {out}")


def export(
    run: RunFolder,
    to: Annotated[
        Path,
        typer.Option(parser=path, help="File to write: .onnx (with drmm\\[onnx]), or .pt2 for torch.export.load."),
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
