"""Commands for folders of pictures: they are labelled, sorted, audited, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drmm.cli.commands.options import Fill, Force, Net, Preprocess, Prior, Recipe, Seed, Set, Size, Views, Weights
from drmm.cli.console import command_line, path, say
from drmm.trust.promise import PROMISE

__all__ = ["audit", "check", "label", "sort"]


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
        command=command_line(),
    )


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
