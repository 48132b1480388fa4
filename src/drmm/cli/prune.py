"""Make a run's model smaller, and say what that costs and gains."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from drmm.data import Dataset
from drmm.data.images import pixels
from drmm.errors import InputError, RunError
from drmm.files import check_new, new_folder
from drmm.learning.metrics import predict_logits
from drmm.model.deep import DRMM
from drmm.pruning.prune import Criterion, Pruned, Pruner, check_share, prune_synapses
from drmm.runs.experiment import Experiment
from drmm.runs.fit import ENDS_FOR_GOOD, learn_on
from drmm.runs.parts import Parts, parts_of, taught_by
from drmm.runs.run import Run, versions
from drmm.storage.models import model_bytes
from drmm.studies.timing import ratio, take_turns

__all__ = ["prune"]

_TIMED = 500  # images in the batch that speed is measured on


def prune(
    run: Path,
    out: Path,
    *,
    keep: float,
    synapses: float | None = None,
    epochs: int = 0,
    criterion: Criterion = "on",
    data_dir: Path | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Make a run's model smaller, say what that costs and gains, and do the same by magnitude for comparison.

    Args:
        run: folder of a run.
        out: a new folder: the smaller model, and `pruning.json` with the figures.
        keep: share of each level's neurons to keep, in (0, 1].
        synapses: share of the synapses left to keep after that, in (0, 1]; None keeps all.
        epochs: how long the smaller model goes on learning as the run did, before synapses are removed.
        criterion: by what neurons and synapses are chosen.
        data_dir: where the data sets' files are.
        command: the exact command line, kept with the figures.

    Returns:
        What `pruning.json` holds.

    Raises:
        InputError: if a share is out of range, the model has nothing to prune, or cannot go on learning.
        RunError: if `run` is no run, its data is gone, or `out` exists or cannot be written.
    """
    check_share(keep)
    check_share(1 if synapses is None else synapses)
    check_new(out)
    opened = Run.open(run)
    model, recipe, data = opened.model, opened.recipe, opened.data(data_dir)
    if recipe.net:
        raise InputError(f"{recipe.net} makes the whole net, so a smaller one could not be opened: prune a preset")
    if opened.experiment is None:
        raise RunError(f"{run} does not say how its model learned: take a folder of drmm fit")
    lesson = _lesson(opened, opened.experiment, data, epochs)
    pruner = Pruner(model, lesson.parts.images)
    first = pruner.prune(keep, criterion=criterion)
    models: dict[str, DRMM] = {"before": model}
    for choice in dict.fromkeys((criterion, "magnitude")):
        pruned = lesson.learn(pruner.prune(first.channels, criterion=choice).model)
        if synapses is not None:
            pruned = prune_synapses(pruned, lesson.parts.images, synapses, criterion=choice)
        models[choice] = pruned
    rows = _compare(models, data, named=not opened.clusters)
    asked = {"keep": keep, "synapses": synapses, "epochs": epochs, "criterion": criterion}
    results = {"command": command, "run": str(run), "experiment": opened.experiment.tables(), **asked}
    results |= _choice(first)
    results |= {"models": rows, "versions": versions()}
    with new_folder(out) as folder:
        smaller = Run(folder, opened.experiment)
        smaller.keep_model(models[criterion], replace(recipe, width=None, channels=first.channels))
        smaller.keep_labels(data, lesson.parts.known)
        smaller.keep_pruning(results)
    Console().print(_pruning_report(results))
    return results


@dataclass(frozen=True)
class _Lesson:
    """How a run's model would go on learning.

    Attributes:
        experiment: of the run.
        parts: what it learned from, its teacher's labels included.
        epochs: for how long.
    """

    experiment: Experiment
    parts: Parts
    epochs: int

    def learn(self, model: DRMM) -> DRMM:
        """Go on, if at all."""
        if not self.epochs:
            return model
        return learn_on(model, self.experiment, self.parts, self.epochs)


def _lesson(run: Run, experiment: Experiment, data: Dataset, epochs: int) -> _Lesson:
    """What a run learned from, found again before anything is computed.

    Raises:
        InputError: if it was learned at once, and is to go on.
    """
    learning = experiment.training.learning
    if epochs and learning in ENDS_FOR_GOOD:
        raise InputError(f"a model that was learned by {learning} does not go on learning: leave --epochs out")
    parts = parts_of(experiment, data)
    if epochs and experiment.teacher is not None:
        parts = taught_by(run.teacher_folder, run.recipe, parts)
    return _Lesson(experiment.resolved(), parts, epochs)


def _choice(pruned: Pruned) -> dict[str, Any]:
    """Which neurons were kept, and how often each was on."""
    return {
        "channels": {"before": [len(on) for on in pruned.on], "after": list(pruned.channels)},
        "kept": [index.tolist() for index in pruned.kept],
        "probability_on": [[round(p, 4) for p in on.tolist()] for on in pruned.on],
    }


def _compare(models: dict[str, DRMM], data: Dataset, *, named: bool) -> dict[str, dict[str, Any]]:
    """Size, error, agreement with the first model and speed of each; clusters without names have no error."""
    x, y = (data.x_test, data.y_test) if len(data.x_test) else (data.x_train, data.y_train)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    predictions = {name: predict_logits(model, images).argmax(1) for name, model in models.items()}
    known = labels >= 0
    full = next(iter(models))
    former = predictions[full]
    judged = named and len(data.x_test) > 0 and bool(known.any())

    batch = pixels(images[:_TIMED])
    with torch.no_grad():
        times = take_turns({name: partial(model, batch) for name, model in models.items()})

    def percent(right: Tensor, digits: int) -> float:
        return round(100 * float(right.double().mean()), digits)

    return {
        name: {
            "parameters": sum(p.numel() for p in model.parameters()),
            "nonzero": sum(int(p.count_nonzero()) for p in model.parameters()),
            "bytes": len(model_bytes(model)),
            "test_error": percent(predictions[name][known] != labels[known], 4) if judged else None,
            "same_label": percent(predictions[name] == former, 2),
            "images_per_second": round(len(batch) / statistics.median(times[name])),
            "speed_up": round(ratio(times[full], times[name]), 2),
        }
        for name, model in models.items()
    }


def _pruning_report(results: dict[str, Any]) -> Table:
    before, after = ("-".join(map(str, results["channels"][when])) for when in ("before", "after"))
    columns = {"parameters": "parameters", "nonzero": "not 0", "bytes": "bytes", "test_error": "test error"}
    columns |= {"same_label": "as before", "images_per_second": "images/s", "speed_up": "speed"}
    rows = list(results["models"].values())
    least = [min(on[i] for i in kept) for on, kept in zip(results["probability_on"], results["kept"], strict=True)]
    hidden = {name for name in columns if all(row[name] is None for row in rows)}
    hidden |= {"nonzero"} if results["synapses"] is None else set()
    shown = [name for name in columns if name not in hidden]
    report = Table("pruned by", title=f"neurons of each level: {before} before, {after} now", box=None)
    report.caption = f"kept neurons are on at least {', '.join(f'{100 * p:.0f} %' for p in least)} of the time"
    for name in shown:
        report.add_column(columns[name], justify="right")
    forms = {"test_error": "{:.2f} %", "same_label": "{:.1f} %", "speed_up": "× {:.2f}"}
    for name, row in results["models"].items():
        what = {"before": "nothing", "on": "P(on)"}.get(name, name)
        report.add_row(what, *(forms.get(key, "{:,}").format(row[key]) for key in shown))
    return report
