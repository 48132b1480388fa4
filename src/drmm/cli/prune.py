"""Make a run's model smaller, and say what that costs and gains."""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from drmm.data import Dataset
from drmm.data.images import pixels
from drmm.files import check_new, new_folder, write_csv, write_json
from drmm.learning.metrics import predict_logits
from drmm.model.deep import DRMM
from drmm.model.storage import load_model, model_bytes, save_model
from drmm.pruning.prune import Criterion, Pruned, Pruner, check_share, prune_synapses
from drmm.runs.history import past_of
from drmm.runs.run import versions
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
    console: Console,
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
        console: where the table goes.
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
    model, recipe = load_model(run)
    past = past_of(run, recipe, data_dir)
    learn = past.learning(epochs)
    with console.status("pruning"):
        pruner = Pruner(model, past.images)
        first = pruner.prune(keep, criterion=criterion)
        models: dict[str, DRMM] = {"before": model}
        for choice in dict.fromkeys((criterion, "magnitude")):
            pruned = learn(pruner.prune(first.channels, criterion=choice).model)
            if synapses is not None:
                pruned = prune_synapses(pruned, past.images, synapses, criterion=choice)
            models[choice] = pruned
        rows = _compare(models, past.data, named=recipe.classes == past.data.classes)
    asked = {"keep": keep, "synapses": synapses, "epochs": epochs, "criterion": criterion}
    results = {"command": command, "run": str(run), "spec": past.spec, **asked, **_choice(first)}
    results |= {"models": rows, "versions": versions()}
    with new_folder(out) as folder:
        save_model(models[criterion], replace(recipe, width=None, channels=first.channels), folder)
        write_csv(folder / "labels.csv", ["index", "label"], past.labels)
        write_json(folder / "pruning.json", results)
    console.print(_pruning_report(results))
    return results


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
    found = {name: predict_logits(model, images).argmax(1) for name, model in models.items()}
    known = labels >= 0
    full = next(iter(models))
    former = found[full]
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
            "test_error": percent(found[name][known] != labels[known], 4) if judged else None,
            "same_label": percent(found[name] == former, 2),
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
    told = [name for name in columns if name not in hidden]
    report = Table("pruned by", title=f"neurons of each level: {before} before, {after} now", box=None)
    report.caption = f"kept neurons are on at least {', '.join(f'{100 * p:.0f} %' for p in least)} of the time"
    for name in told:
        report.add_column(columns[name], justify="right")
    forms = {"test_error": "{:.2f} %", "same_label": "{:.1f} %", "speed_up": "× {:.2f}"}
    for name, row in results["models"].items():
        what = {"before": "nothing", "on": "P(on)"}.get(name, name)
        report.add_row(what, *(forms.get(key, "{:,}").format(row[key]) for key in told))
    return report
