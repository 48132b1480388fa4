"""`drmm fit` and `drmm settings`: what was asked for as an experiment, and what came out as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drmm.cli.console import say
from drmm.cli.predictions import notes_of
from drmm.data.decoding import Shape
from drmm.display.text import one_line, printable
from drmm.errors import InputError
from drmm.learning.allocator import tune_allocator
from drmm.learning.class_prior import Prior
from drmm.learning.recipes import DEFAULT, ON_NETS, names, read_recipe
from drmm.learning.selection import Criterion
from drmm.model.efficientnet import LEAST_SIDE
from drmm.records import nearest
from drmm.runs.choice import recipe_for
from drmm.runs.experiment import Experiment
from drmm.runs.fit import ENDS_FOR_GOOD, fit_run
from drmm.runs.run import Run
from drmm.storage.models import Recipe
from drmm.trust.promise import PROMISE

__all__ = ["asked_for", "cross_fitted", "fit_and_report", "of_net", "of_pictures", "show_settings"]

_SHOWN = (
    "dataset",
    "images",
    "labels",
    "epochs",
    "validation_error",
    "test_error",
    "balanced_error",
    "recall",
    "cluster_accuracy",
    "seconds",
)
_OF_ANY_RECIPE = {"data.source", "data.labels", "data.size", "data.shape", "objective.prior"}
_OF_ANY_RECIPE |= {"data.labels_per_class", "data.validation", "training.seed", "machine.accelerator"}
_CALLED = {"data.source": "DATA", "teacher.source": "--teacher", "machine.accelerator": "--device"}
_FEWEST = 5  # classes of the lowest recall, which are shown


def of_pictures(
    source: str | None,
    labels: Path | None,
    size: int | None,
    shape: Shape | None,
    prior: Prior | None,
    views: str | None,
) -> dict[str, Any]:
    """The everyday settings of a folder of pictures, by "table.name"; None where an option was left out."""
    return {
        "data.source": source,
        "data.labels": None if labels is None else str(labels),
        "data.size": None if size is None else (size, size),
        "data.shape": shape,
        "objective.prior": prior,
        "objective.views": views,
    }


def of_net(net: str | None, weights: Path | None, preprocess: str | None) -> dict[str, Any]:
    """The settings of a net of one's own, likewise."""
    file = None if weights is None else str(weights)
    return {"model.net": net, "model.weights": file, "model.preprocess": preprocess}


def asked_for(
    recipe: str | None, run: Path | None, everyday: Mapping[str, Any], assignments: Sequence[str]
) -> Experiment:
    """The experiment that a command line asks for.

    Args:
        recipe: a name or a file; None is what the run to go on with has, or what suits the pictures where nothing
            else says how to learn, which is told; else the default. A net of one's own takes the place of its
            model, at the size of its own preprocessing.
        run: to go on with, or None.
        everyday: settings that have an option of their own, by "table.name"; None leaves one as it is.
        assignments: "table.name=value".

    Raises:
        InputError: if there is no such recipe or setting, or no data.
        RunError: if there is no such run.
    """
    own = everyday.get("model.net") is not None
    if own:
        experiment = Experiment.read(ON_NETS if recipe is None else recipe)
        experiment = replace(experiment.changed("data", size=None), model=Recipe())
    else:
        suitable = _suitable(everyday, assignments) if recipe is None and run is None else recipe
        experiment = Experiment.read(DEFAULT if suitable is None else suitable)
    if run is not None and recipe is None:
        experiment = Run.to_resume(run).experiment or experiment
        # What the run filled in from its data is filled in again.
        experiment = replace(experiment, data=replace(experiment.data, digest=""))
    if everyday.get("model.weights") is not None:  # whose digest the run knows, but not the file's as it is now
        experiment = replace(experiment, model=replace(experiment.model, weights_digest=""))
    experiment = experiment.set(*assignments)
    for path, value in everyday.items():
        table, _, name = path.partition(".")
        if value == "":
            option = _CALLED.get(path, f"--{name}")
            raise InputError(f"{option} is empty: say what it is, or leave it out")
        if value is not None:
            experiment = experiment.changed(table, **{name: value})
    if not experiment.data.source:
        raise InputError("no DATA: name a folder of pictures or a data set, as in drmm fit digits --out runs/a")
    experiment.model.check()
    return experiment


def _suitable(everyday: Mapping[str, Any], assignments: Sequence[str]) -> str:
    """The recipe for the pictures, and for what is said of how to learn."""
    source, size = everyday.get("data.source"), everyday.get("data.size")
    is_said = any(value is not None and path not in _OF_ANY_RECIPE for path, value in everyday.items())
    is_said |= everyday.get("data.labels_per_class") == 0  # clusters
    if assignments or is_said or not source or (size is not None and min(size) < LEAST_SIDE):
        return DEFAULT
    recipe, why = recipe_for(source, has_table=everyday.get("data.labels") is not None)
    if why:
        say(why)
    return recipe


def fit_and_report(
    experiment: Experiment, out: Path, *, data_dir: Path | None, resume: bool, command: str
) -> None:
    """Train, and print what came out."""
    tune_allocator()
    before = Run.to_resume(out).results if resume else {}
    goes_on = experiment.training.learning not in ENDS_FOR_GOOD
    done, asked = before.get("epochs"), experiment.training.epochs
    if goes_on and done is not None and asked > done:
        say(f"{out} was finished after {done} epochs: it learns {asked - done} more, by a new schedule")
    results = fit_run(experiment, out, data_dir=data_dir, resume=resume, command=command, tell=say)
    if not results:
        return
    console = Console()
    if results.get("selection"):
        console.print(_selection_table(**results["selection"]))
    console.print(_results_table(results))
    if before and results == before:
        say(f"{out} was finished before" + goes_on * ": for more training, add more --epochs to --resume")
    assessment = Run.open(out).assessment
    if results.get("cross_fitted") and assessment is not None:
        for note in notes_of(assessment, PROMISE):
            say(note)
    say(f"written to {out}; next: drmm predict {out} IMAGES, drmm report {out}, drmm sample {out}")


def show_settings(table: str | None, recipe: str | None) -> None:
    """Print every setting, with its value and its meaning, and every recipe.

    Raises:
        InputError: if there is no such table or recipe.
    """
    tables = Experiment.read(DEFAULT if recipe is None else recipe).settings()
    if table is not None and table not in tables:
        raise InputError(f"no settings {table!r}{nearest(table, tables)}")
    console = Console()
    for name, settings in tables.items():
        if table in {None, name}:
            rows = Table("setting", "value", "what it is", title=name, title_justify="left", box=None)
            for setting in settings:
                meaning = f"{setting.meaning} ({setting.choices})"
                rows.add_row(Text(f"{name}.{setting.name}"), Text(printable(_value(setting.value))), Text(meaning))
            console.print(rows)
            console.print()
    if table is None:
        rows = Table("recipe", "what it is", title="recipes", title_justify="left", box=None)
        for shipped in names():
            rows.add_row(Text(shipped), Text(read_recipe(shipped).title))
        console.print(rows)
        say("\nset any of them: drmm fit DATA --out RUN --recipe best --set objective.kl=0.3 --set model.width=16")


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _results_table(results: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, box=None)
    for key in _SHOWN:
        value = results.get(key)
        if value is not None:
            unit = " %" if key.endswith(("error", "accuracy")) else ""
            said = _lowest(value) if key == "recall" else f"{value}{unit}"
            table.add_row(key.replace("_", " "), Text(printable(said)))
    if results.get("cross_fitted"):
        table.add_row("cross-fitted error", Text(cross_fitted(**results["cross_fitted"])))
    return table


def _lowest(recall: Mapping[str, float | None]) -> str:
    """The classes of which the smallest shares are found."""
    found = sorted((share, name) for name, share in recall.items() if share is not None)
    more = f" and {len(found) - _FEWEST} more" if len(found) > _FEWEST else ""
    return ", ".join(f"{one_line(name)} {share:.1f} %" for share, name in found[:_FEWEST]) + more


def cross_fitted(error: float, interval: Sequence[float], labels: int) -> str:
    """The error that is expected of pictures without a label, in words."""
    low, high = interval
    return f"{error:.1f} % ({low:.1f} to {high:.1f} % at 95 %), of {labels} labels held out in turn"


def _selection_table(criterion: Criterion, candidates: list[dict[str, Any]]) -> Table:
    """In what the candidates differ, the winner marked; `selection.csv` has the rest."""
    columns = [name for name in candidates[0] if name not in {"seconds", "winner"} and not name.endswith("_se")]
    differing = [name for name in columns if name == criterion or len({row[name] for row in candidates}) > 1]
    table = Table(title=f"selected by {criterion}", box=None)
    for name in differing:
        table.add_column(name, justify="left" if name == "preset" else "right")
    for row in candidates:
        cells = [_cell(row[name], row.get(f"{criterion}_se") if name == criterion else None) for name in differing]
        table.add_row(*cells, "←" if row["winner"] else "", style="bold" if row["winner"] else None)
    return table


def _cell(value: object, error: float | None) -> str:
    if value is None:
        return "-"
    text = f"{value:,.1f}" if isinstance(value, float) else str(value)
    return text if error is None else f"{text} ± {error:.1f}"
