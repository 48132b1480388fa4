"""Run the rows of a published table, try them, measure speed, render scenes, find shortest paths."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast, get_args

from rich.console import Console

from drmm.cli.console import say
from drmm.data import load
from drmm.display.text import printable
from drmm.errors import InputError, RunError
from drmm.explain.plots import save_figure
from drmm.files import check_absent, write_bytes, write_json
from drmm.learning.allocator import tune_allocator
from drmm.learning.config import Machine
from drmm.progress import Meter
from drmm.records import nearest
from drmm.runs.experiment import Experiment
from drmm.studies import scenes
from drmm.studies.benchmark import run_benchmark, table
from drmm.studies.dynamic import SEMIRINGS, SLIDES_EDGES, edge, paths, unroll, walkthrough
from drmm.studies.dynamic.drawing import unrolled_figure
from drmm.studies.reproduce import (
    ROWS,
    Benchmark,
    Cell,
    DryRun,
    Failure,
    benchmark,
    cells,
    dry_run,
    figure,
    markdown,
    rows,
    run_cells,
)
from drmm.studies.reproduce.machine import device
from drmm.studies.reproduce.machine import workers as default_workers

__all__ = [
    "asked_machine",
    "bench",
    "draw_scenes",
    "dry_run_table",
    "reproduce_table",
    "scaled_table",
    "show_shortest_path",
]

scaled_table = benchmark


def asked_machine(accelerator: str | None, assignments: Sequence[str]) -> Machine:
    """The machine that a command line asks for.

    Raises:
        InputError: if a setting is another table's, or there is none such.
    """
    for assignment in assignments:
        if not assignment.startswith("machine."):
            raise InputError(f"cannot set {assignment!r}: a table's rows are fixed; set machine.NAME=VALUE only")
    experiment = Experiment().set(*assignments)
    if accelerator is not None:
        experiment = experiment.changed("machine", accelerator=accelerator)
    return experiment.machine


def reproduce_table(
    plan: Benchmark,
    out: Path,
    *,
    labels: Sequence[int],
    recipes: Sequence[str],
    seeds: int,
    workers: int | None,
    machine: Machine,
    data_dir: Path | None,
    command: str = "",
) -> str:
    """Run the rows of a published table, and draw the table beside it.

    Args:
        plan: the data set's benchmark.
        out: folder of the JSON files, `table.md` and `table.png`; what is there already is not run again.
        labels: how many labels; none takes the published ones.
        recipes: names of the rows; none takes all.
        seeds: label draws of each row.
        workers: runs at the same time; None is one a core, on a GPU one alone.
        machine: how to carry out each.
        data_dir: where the data sets' files are.
        command: the exact command line, kept with every run.

    Returns:
        The table as Markdown.

    Raises:
        InputError: if there is no such row or machine, or a run that is there was made with other settings.
        RunError: if a cell could not be run; the others are finished then.
    """
    numbers = labels or plan.labels
    todo = cells(plan, numbers, recipes or ROWS, seeds)
    for cell in todo:
        machine.check_shares(cell.experiment.training)
    at_once = default_workers(machine) if workers is None else workers
    load(plan.dataset, data_dir=data_dir)  # complains, or downloads, once and not in every process
    say(plan.in_words(numbers))
    failures = _run_with_bar(todo, out, data_dir=data_dir, machine=machine, workers=at_once, command=command)
    table_rows = rows(out)
    text = markdown(table_rows)
    write_bytes(out / "table.md", text.encode())
    save_figure(figure(table_rows), out / "table.png")
    say(text)
    if failures:
        raise RunError(f"{len(failures)} of {len(todo)} runs failed, the first one so: {failures[0].why}")
    return text


def _run_with_bar(todo: Sequence[Cell], out: Path, **options: Any) -> list[Failure]:
    with closing(Meter("runs")) as meter:

        def tell(cell: Cell, result: dict[str, Any] | Failure) -> None:
            outcome = result.why if isinstance(result, Failure) else f"{result['test_error']:.2f} %"
            meter.say(f"{cell.labels} labels, {cell.row}, seed {cell.seed}: {outcome}")

        return run_cells(
            todo, out, **options, done=tell, look=lambda left: meter.update(len(todo) - left, len(todo))
        )


def dry_run_table(plan: Benchmark, steps: int, *, recipes: Sequence[str], machine: Machine) -> list[DryRun]:
    """Make some steps of rows on images that are drawn, and print a line for each row; nothing is written.

    Args:
        plan: the data set's benchmark.
        steps: how many.
        recipes: names of the rows; none takes the full method.
        machine: how to carry them out.

    Raises:
        InputError: if there is no such row, step or machine, or the loss is not finite.
        RunError: if a process was killed.
    """
    tries = []
    for row in recipes or ("rc+kl+nn",):
        tries.append(dry_run(plan, row, machine, steps))
        say(_dry_line(plan, row, machine, tries[-1]))
    return tries


def _dry_line(plan: Benchmark, row: str, machine: Machine, run: DryRun) -> str:
    """What was run, and how it went."""
    training = plan.experiment(row, plan.labels[0], 0).training
    used = device(machine).type
    how = [
        f"{machine.devices} × {used}" if machine.devices > 1 else used,
        machine.precision,
        *(["compiled"] if machine.compile else []),
    ]
    memory = "" if run.memory is None else f", {run.memory / 2**30:.2f} GiB at most"
    return (
        f"{plan.dataset}, {row}: {run.parameters:,} parameters, batches of {training.batch_size} "
        f"({training.labelled_per_batch} labelled), {', '.join(how)}: loss {run.losses[0]:.3f} to "
        f"{run.losses[-1]:.3f} in {len(run.losses)} steps of {run.pace:.2f} s (the first {run.seconds[0]:.1f} s)"
        f"{memory}"
    )


def bench(path: Path, *, quick: bool, force: bool = False) -> None:
    """Measure against the plain convnet, write the raw figures, print the table.

    Args:
        path: JSON file.
        quick: few repeats and one batch size.
        force: replace the file if it is there.

    Raises:
        RunError: if the file is there and not to be replaced, or cannot be written.
    """
    check_absent(path, ".json", force=force)
    tune_allocator()
    options: dict[str, Any] = {"batch_sizes": (64,), "repeats": 5} if quick else {}
    done = count()
    with closing(Meter("measuring")) as meter:
        result = run_benchmark(**options, progress=lambda what: meter.update(next(done), note=lambda: what))
    write_json(path, result)
    say(table(result))


def draw_scenes(
    out: Path,
    *,
    images: int,
    size: int,
    seed: int,
    classes: str | None,
    textures: str | None,
    condition: str,
    test_share: float,
) -> tuple[str, ...]:
    """Render scenes into a folder (`drmm.studies.scenes`).

    Args:
        out: a new folder.
        images: how many.
        size: side of a picture in pixels.
        seed: of all latents.
        classes: separated by commas; None takes all.
        textures: kinds of background, likewise.
        condition: "plain", or what makes them hard.
        test_share: share of the images for the test set.

    Returns:
        The names of the tables that were written.

    Raises:
        InputError: if there is no such class, texture or condition.
        RunError: if the folder exists or cannot be written.
    """
    conditions = get_args(scenes.Condition)
    if condition not in conditions:
        raise InputError(f"no condition {condition!r}{nearest(condition, conditions)}")
    backgrounds = scenes.TEXTURES if textures is None else textures.split(",")
    latents = scenes.sample(
        images,
        seed=seed,
        classes=scenes.CLASSES if classes is None else classes.split(","),
        ranges=scenes.CONDITIONS[cast("scenes.Condition", condition)],
        textures=backgrounds,
    )
    about = {"seed": seed, "condition": condition, "textures": list(backgrounds), "test_share": test_share}
    return tuple(scenes.write(out, latents, size=size, test_share=test_share, about=about))


def show_shortest_path(
    edges: Sequence[str] | None,
    *,
    start: str | None,
    to: str | None,
    semiring: Literal["min-sum", "max-sum", "max-product"],
    out: Path | None,
    force: bool = False,
) -> None:
    """Print every table of a dynamic program, and draw the unrolled graph (`drmm.studies.dynamic`).

    Args:
        edges: FROM:TO:WEIGHT; None takes the slides' three.
        start: where the path starts; None is the first edge's start.
        to: where it ends; None is the last edge's end.
        semiring: what is best.
        out: PNG file for the graph, or None.
        force: replace it if it is there.

    Raises:
        InputError: if an edge cannot be read, or there is no such node.
        RunError: if the file is there and not to be replaced, or cannot be written.
    """
    if out is not None:
        check_absent(out, ".png", force=force)
    chosen = [edge(printable(text)) for text in edges] if edges else SLIDES_EDGES
    tables = unroll(paths(chosen, to or chosen[-1][1]), SEMIRINGS[semiring])
    first = start or chosen[0][0]
    if out is not None:
        save_figure(unrolled_figure(tables, first), out)
    for part in walkthrough(tables, first):
        Console().print(part)
    if out is not None:
        say(f"drawn into {out}")
