"""Run the rows of a published table, try them, and measure speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from drmm.data import load
from drmm.errors import RunError
from drmm.explain.plots import save_figure
from drmm.files import write_bytes, write_json
from drmm.studies.benchmark import run_benchmark, table
from drmm.studies.reproduce import (
    METHODS,
    Cell,
    DryRun,
    Failure,
    Machine,
    Protocol,
    cells,
    figure,
    markdown,
    rows,
    run_cells,
)
from drmm.studies.reproduce import dry_run as make_steps

__all__ = ["bench", "dry_run", "reproduce"]


def reproduce(
    plan: Protocol,
    out: Path,
    *,
    labels: Sequence[int],
    methods: Sequence[str],
    seeds: int,
    workers: int | None,
    machine: Machine,
    data_dir: Path | None,
    console: Console,
    command: str = "",
) -> str:
    """Run the rows of a published table, and draw the table beside it.

    Args:
        plan: the data set's protocol.
        out: folder of the JSON files, `table.md` and `table.png`; what is there already is not run again.
        labels: how many labels; none takes the published ones.
        methods: names of the rows; none takes all.
        seeds: label draws of each row.
        workers: runs at the same time; None is one a core, on a GPU one alone.
        machine: how to carry out each.
        data_dir: where the data sets' files are.
        console: where the table goes.
        command: the exact command line, kept with every run.

    Returns:
        The table as Markdown.

    Raises:
        InputError: if there is no such method or machine, or a run that is there was made by another protocol.
        RunError: if a cell could not be run; the others are finished then.
    """
    numbers = labels or plan.labels
    todo = cells(plan, numbers, methods or list(METHODS), seeds)
    machine.carry_out(plan.training)
    at_once = machine.workers() if workers is None else workers
    load(plan.dataset, data_dir=data_dir)  # complains, or downloads, once and not in every process
    console.print(plan.said(numbers), highlight=False, soft_wrap=True)
    columns = (SpinnerColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("runs", total=len(todo))

        def tell(cell: Cell, result: dict[str, Any] | Failure) -> None:
            said = result.why if isinstance(result, Failure) else f"{result['test_error']:.2f} %"
            bar.console.print(f"{cell.labels} labels, {cell.method}, seed {cell.seed}: {said}", highlight=False)
            bar.advance(task)

        options: dict[str, Any] = {"data_dir": data_dir, "machine": machine, "workers": at_once}
        failures = run_cells(todo, out, **options, command=command, done=tell)
    found = rows(out)
    text = markdown(found)
    write_bytes(out / "table.md", text.encode())
    save_figure(figure(found), out / "table.png")
    console.print(text, highlight=False, soft_wrap=True)
    if failures:
        raise RunError(f"{len(failures)} of {len(todo)} runs failed, the first one so: {failures[0].why}")
    return text


def dry_run(
    plan: Protocol, steps: int, *, methods: Sequence[str], machine: Machine, console: Console
) -> list[DryRun]:
    """Make some steps of rows on images that are drawn, and print a line for each row; nothing is written.

    Args:
        plan: the data set's protocol.
        steps: how many.
        methods: names of the rows; none takes the full method.
        machine: how to carry them out.
        console: where the lines go.

    Raises:
        InputError: if there is no such row, step or machine, or the loss is not finite.
        RunError: if a process was killed.
    """
    found = []
    for method in methods or ("rc+kl+nn",):
        with console.status(f"{method}: {steps} steps"):
            found.append(make_steps(plan, method, machine, steps))
        console.print(_dry_line(plan, method, machine, found[-1]), highlight=False, soft_wrap=True)
    return found


def _dry_line(plan: Protocol, method: str, machine: Machine, run: DryRun) -> str:
    """What was run, and how it went."""
    batch, labelled = plan.training.batch_size, plan.training.labelled_per_batch
    device = machine.device().type
    how = [
        f"{machine.devices} × {device}" if machine.devices > 1 else device,
        machine.precision,
        *(["compiled"] if machine.compile else []),
    ]
    memory = "" if run.memory is None else f", {run.memory / 2**30:.2f} GiB at most"
    return (
        f"{plan.dataset}, {method}: {run.parameters:,} parameters, batches of {batch} ({labelled} labelled), "
        f"{', '.join(how)}: loss {run.losses[0]:.3f} to {run.losses[-1]:.3f} in {len(run.losses)} steps of "
        f"{run.pace:.2f} s (the first {run.seconds[0]:.1f} s){memory}"
    )


def bench(path: Path, *, quick: bool, console: Console) -> None:
    """Measure against the plain convnet, write the raw figures, print the table.

    Args:
        path: JSON file.
        quick: few repeats and one batch size.
        console: where the table goes.
    """
    options: dict[str, Any] = {"batch_sizes": (64,), "repeats": 5} if quick else {}
    with console.status("measuring") as status:
        result = run_benchmark(**options, progress=lambda what: status.update(f"measuring: {what}"))
    write_json(path, result)
    console.print(table(result), highlight=False, soft_wrap=True)
