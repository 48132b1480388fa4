"""Commands for the theory: scenes, the slides' tables, speed, dynamic programming."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from drmm.cli.commands.options import DataDir, Device, Force, Seed
from drmm.cli.console import command_line, path, say

__all__ = ["bench", "dp", "reproduce", "scenes"]


def scenes(
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
        command=command_line(),
    )


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
