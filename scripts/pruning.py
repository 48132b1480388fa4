"""Does P(on) say which neurons and synapses a net can do without?

Nets as in the demo (100 labels, digits of MNIST, 15 epochs) lose neurons by four criteria, at equal numbers in
each level: the smallest P(on), the smallest expected share of the score, the shortest templates
(`torch.nn.utils.prune.ln_structured`), and any. Errors are measured as the nets come out (what was removed is
taken over by what stays or is not, the norms are calibrated or are not) and after two more epochs. Synapses, the
entries of the upper dictionaries, likewise. Of the 4,000 training images 1,000 are held out, to choose what a
share is a share of: every level, or the whole net. The 1,000 test images are read once, after that.
"""

from __future__ import annotations

import itertools
import statistics
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drmm.data import holdout, load, mask_labels, stratified_labels
from drmm.data.images import pixels
from drmm.learning.config import Training
from drmm.learning.metrics import error_percent
from drmm.learning.train import train
from drmm.model.deep import DRMM
from drmm.progress import track
from drmm.pruning.prune import Criterion, Pruner, Scope, prune_synapses, synapse_probability
from drmm.storage.models import Recipe, load_model, model_bytes, save_model
from drmm.studies.timing import ratio, take_turns
from scripts.study import Results, mean_and_sd, study

KEEP = (0.7, 0.5, 0.3, 0.2, 0.1)
KEEP_TO_CHOOSE = (0.7, 0.5, 0.3)
SYNAPSES = (0.9, 0.7, 0.5)
CRITERIA: tuple[Criterion, ...] = ("on", "contribution", "magnitude", "random")
SCOPES: tuple[Scope, ...] = ("level", "net")
EPOCHS = 15  # of the model that is pruned
MORE_EPOCHS = 2
HELD_OUT = 1000
WAYS: dict[str, dict[str, Any]] = {  # how a smaller net is finished
    "mean and regression": {},
    "mean and regression, norms not calibrated": {"recalibrate": False},
    "norms calibrated only": {"absorb": False},
}

Figures = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A trained net and the images that belong to it."""

    model: DRMM
    x: Tensor
    y: Tensor
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    seed: int
    pruner: Pruner


def make_task(seed: int, models: Path) -> Task:
    """Train a net, or take the one that was trained before."""
    data = load("mnist-5k")
    held = holdout(data.y_train, HELD_OUT, seed=seed)
    kept = np.setdiff1d(np.arange(len(data.y_train)), held)
    labels = data.y_train[kept]
    labels = mask_labels(labels, stratified_labels(labels, 10, seed=seed))
    x, y = torch.from_numpy(data.x_train[kept]), torch.from_numpy(labels)
    folder = models / f"soft-{seed}"
    if not folder.exists():
        recipe = Recipe("conv_small", (1, 28, 28), tuple(data.classes))
        save_model(more(recipe.build(seed), x, y, EPOCHS, seed), recipe, folder)
    model = load_model(folder)[0]
    validation = (torch.from_numpy(data.x_train[held]), torch.from_numpy(data.y_train[held]))
    test = (torch.from_numpy(data.x_test), torch.from_numpy(data.y_test))
    return Task(model, x, y, validation, test, seed, Pruner(model, x, seed=seed))


def more(model: DRMM, x: Tensor, y: Tensor, epochs: int, seed: int) -> DRMM:
    """Learn for some epochs, in place."""
    return train(model, x, y, config=Training(epochs=epochs, seed=seed), progress=False)


def choose_scope(tasks: Sequence[Task]) -> tuple[Scope, Figures]:
    """The scope with the lower validation error, over seeds and shares, of pruning by P(on)."""
    errors: dict[Scope, dict[str, list[float]]] = {}
    for scope, keep in itertools.product(SCOPES, KEEP_TO_CHOOSE):
        models = [(task.pruner.prune(keep, scope=scope).model, task.validation) for task in tasks]
        errors.setdefault(scope, {})[str(keep)] = [error_percent(model, *part) for model, part in models]
    best = min(SCOPES, key=lambda scope: sum(map(sum, errors[scope].values())))
    return best, {
        scope: {keep: mean_and_sd(runs) for keep, runs in table.items()} for scope, table in errors.items()
    }


def neurons(task: Task, scope: Scope, keep: float) -> Figures:
    """Test errors of nets of one size, in percent."""
    channels = task.pruner.prune(keep, scope=scope).channels
    errors: Figures = {}
    for way, criterion in itertools.product(WAYS, CRITERIA):
        model = task.pruner.prune(channels, criterion=criterion, **WAYS[way]).model
        errors.setdefault(way, {})[criterion] = error_percent(model, *task.test)
        if way == "mean and regression":
            more(model, task.x, task.y, MORE_EPOCHS, task.seed)
            errors.setdefault("after two more epochs", {})[criterion] = error_percent(model, *task.test)
    return {way: row | differences(row) for way, row in errors.items()}


def differences(errors: Figures) -> Figures:
    """How many points P(on) errs more than its rivals."""
    return {f"on - {rival}": errors["on"] - errors[rival] for rival in ("magnitude", "random")}


def synapses(task: Task) -> Figures:
    """Test errors without some synapses, in percent, by share and criterion."""
    on = synapse_probability(task.model, task.x, seed=task.seed)
    errors: Figures = {}
    for keep, criterion in itertools.product(SYNAPSES, CRITERIA):
        known = on if criterion in {"on", "contribution"} else None
        model = prune_synapses(task.model, task.x, keep, criterion=criterion, on=known, seed=task.seed)
        errors.setdefault(str(keep), {})[criterion] = error_percent(model, *task.test)
    return {keep: row | differences(row) for keep, row in errors.items()}


def sizes(task: Task, scope: Scope) -> Figures:
    """How much smaller and faster nets get; predictions of 256 images on one thread, in turns."""
    models = {"1.0": task.model}
    models |= {str(keep): task.pruner.prune(keep, scope=scope).model for keep in KEEP}
    batch = pixels(task.test[0][:256])
    with torch.no_grad():
        times = take_turns({keep: partial(model, batch) for keep, model in models.items()})
    return {
        keep: {
            "parameters": sum(p.numel() for p in model.parameters()),
            "bytes": len(model_bytes(model)),
            "images_per_second": round(256 / statistics.median(times[keep])),
            "times_as_fast": round(ratio(times["1.0"], times[keep]), 2),
        }
        for keep, model in models.items()
    }


def merge(runs: list[Figures]) -> Figures:
    """Mean and standard deviation over seeds, leaf by leaf."""
    return {
        name: merge([run[name] for run in runs])
        if isinstance(value, dict)
        else mean_and_sd([run[name] for run in runs])
        for name, value in runs[0].items()
    }


def run(asked: Namespace) -> Results:
    """Train, choose the scope, prune."""
    reused = len([seed for seed in range(asked.seeds) if (asked.models / f"soft-{seed}").exists()])
    tasks = [make_task(seed, asked.models) for seed in track(range(asked.seeds), "nets")]
    scope, validation = choose_scope(tasks)
    figures = {
        str(keep): merge([neurons(task, scope, keep) for task in track(tasks, f"{keep:.0%} of the neurons")])
        for keep in KEEP
    }
    on = [{f"level {i}": float(p.mean()) for i, p in enumerate(task.pruner.on, 1)} for task in tasks]
    return {
        "dataset": "mnist-5k",
        "epochs": EPOCHS,
        "more_epochs": MORE_EPOCHS,
        "validation": {"images": HELD_OUT, "scope": scope, "error_by_scope": validation},
        "test_error_before": mean_and_sd([error_percent(task.model, *task.test) for task in tasks]),
        "mean_probability_on": merge(on),
        "neurons": figures,
        "synapses": merge([synapses(task) for task in track(tasks, "synapses")]),
        "sizes": sizes(tasks[0], scope),
        "nets_trained_before": reused,  # which the seconds do not count
    }


def table(results: Results) -> str:
    """Test error of pruned nets by criterion, as Markdown."""
    names = {"on": "P(on)", "contribution": "P(on) × strength", "magnitude": "magnitude", "random": "random"}
    rows = [f"| keep | {' | '.join(names.values())} |", "|--:|--:|--:|--:|--:|"]
    for keep, errors in results["neurons"].items():
        before, after = errors["mean and regression"], errors["after two more epochs"]
        cells = [f"{before[name]['mean']:.1f} → {after[name]['mean']:.1f}" for name in names]
        rows.append(f"| {keep} | {' | '.join(cells)} |")
    before = results["test_error_before"]
    rows += ["", f"Before pruning: {before['mean']:.1f} ± {before['sd']:.1f}, {results['seeds']} seeds."]
    return "\n".join(rows)


if __name__ == "__main__":
    options = {"--models": {"type": Path, "default": Path("runs/pruning"), "help": "where trained nets are kept"}}
    study(run, table, name="pruning", target="pruning", options=options)
