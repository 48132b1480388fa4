"""What each part of the recipe does, changed one at a time: `make ablations`.

The row "KL, no rendering" of `drmm reproduce mnist` learns from 100 labels for one epoch, and so does the same
recipe with one thing changed, on the same label draws. 5,000 training images are held out and all errors are
theirs: the test set is not read. A run that is in the results already is not run again.
"""

import time
from argparse import Namespace
from dataclasses import asdict
from itertools import product
from statistics import mean

import numpy as np
import torch

from drmm.data import Dataset, holdout, load, mask_labels, stratified_labels
from drmm.files import read_json, write_json
from drmm.learning.metrics import error_percent
from drmm.learning.train import train
from drmm.model.presets import conv_small
from drmm.progress import track
from drmm.runs.experiment import Experiment
from drmm.runs.run import versions
from drmm.studies.reproduce import BENCHMARKS, spread
from scripts.study import Results, difference, study

LABELS, HELD_OUT, EPOCHS = 100, 5000, 1
BASE = "the row itself"


CHANGES: dict[str, tuple[str, ...]] = {  # what a variant has that the row has not
    BASE: (),
    "KL from the first step on": ("objective.warm_up=0",),
    "KL half as strong": ("objective.kl=0.25",),
    "KL twice as strong": ("objective.kl=1",),
    "no balance": ("objective.balance=0",),
    "balance to the end": ("objective.cool_down=0",),
    "balance four times as strong": ("objective.balance=2",),
    "a third of the rate": ("training.learning_rate=1e-3",),
    "three times the rate": ("training.learning_rate=1e-2",),
    "weights not averaged": ("training.weight_average=0",),
    "gradients not clipped": ("training.gradient_clip=0",),
    "8 + 56 images a batch": ("training.labelled_per_batch=8", "training.batch_size=64"),
    "48 + 112 images a batch": ("training.labelled_per_batch=48", "training.batch_size=160"),
    "drawing: RC, NN": ("objective.reconstruction=0.5", "objective.nonnegativity=0.5"),
    "drawing, four times as strong": ("objective.reconstruction=2", "objective.nonnegativity=2"),
    "mixup": ("objective.mixup=1",),
    "mixup, translated (augmentation)": ("objective.mixup=1", "objective.translation=2"),
}


def recipe(name: str, seed: int) -> Experiment:
    """The row with what the variant changes."""
    row = BENCHMARKS["mnist"].experiment("kl", LABELS, seed)
    return row.changed("training", epochs=EPOCHS).set(*CHANGES[name])


def learn(name: str, data: Dataset, seed: int) -> Results:
    """One variant on one label draw: the error on images held out."""
    out = holdout(data.y_train, HELD_OUT, seed=1000)
    kept = np.setdiff1d(np.arange(len(data.y_train)), out)
    y = data.y_train[kept]
    few = torch.from_numpy(mask_labels(y, stratified_labels(y, LABELS // 10, seed=seed)))
    experiment = recipe(name, seed)
    torch.manual_seed(seed)
    start = time.perf_counter()
    model = train(
        conv_small(),
        torch.from_numpy(data.x_train[kept]),
        few,
        objective=experiment.objective,
        config=experiment.training,
        progress=False,
    )
    seconds = time.perf_counter() - start
    error = error_percent(model, torch.from_numpy(data.x_train[out]), torch.from_numpy(data.y_train[out]))
    return {
        "variant": name,
        "seed": seed,
        "error": error,
        "seconds": round(seconds, 1),
        **settings(experiment),
    }


def settings(experiment: Experiment) -> Results:
    """What a run keeps of its recipe."""
    whole = experiment.resolved()
    return {"objective": asdict(whole.objective), "training": asdict(whole.training)}


def is_up_to_date(one: Results) -> bool:
    """Whether a run is of the recipe that its name stands for now."""
    if one["variant"] not in CHANGES:
        return False
    return one.items() >= settings(recipe(one["variant"], one["seed"])).items()


def run(asked: Namespace) -> Results:
    """Run what is not there, and write after each run."""
    file = asked.out / "ablations.json"
    about = {"base": BASE, "labels": LABELS, "epochs": EPOCHS, "held_out": HELD_OUT}
    runs = [one for one in read_json(file)["runs"] if is_up_to_date(one)] if file.exists() else []
    there = {(one["variant"], one["seed"]) for one in runs}
    data = load("mnist", data_dir=asked.data_dir)
    for seed, name in track(list(product(range(asked.seeds), CHANGES)), "runs"):
        if (name, seed) not in there:
            runs.append(learn(name, data, seed))
            write_json(file, {**about, "runs": runs, "versions": versions()})
    return {**about, "runs": runs}


def table(results: Results) -> str:
    """The recipe with one thing changed at a time, the best first, as Markdown."""
    errors: dict[str, dict[int, float]] = {}
    for one in results["runs"]:
        errors.setdefault(one["variant"], {})[one["seed"]] = one["error"]
    base = errors[results["base"]]
    rows = [
        f"| {results['labels']} labels, one epoch, {len(base)} draws | validation error (%) | change, points |",
        "|---|--:|--:|",
    ]
    for name, by_seed in sorted(errors.items(), key=lambda item: mean(item[1].values())):
        rows.append(f"| {name} | {spread([*by_seed.values()])} | {difference(by_seed, base)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    study(run, table, name="ablations", target="ablations")
