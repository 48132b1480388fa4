"""What each part of the recipe does, changed one at a time: `make ablations`.

The row "KL, no rendering" of `drmm reproduce mnist` learns from 100 labels for one epoch, and so does the same
recipe with one thing changed, on the same label draws. 5,000 training images are held out and all errors are
theirs: the test set is not read. A run that is in the results already is not run again.
"""

import argparse
import time
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drmm.data import Dataset, holdout, load, mask_labels, stratified_labels
from drmm.files import read_json, write_json
from drmm.learning.allocator import tune_allocator
from drmm.learning.config import Training
from drmm.learning.metrics import error_percent
from drmm.learning.objective import Objective
from drmm.learning.train import train
from drmm.model.presets import conv_small
from drmm.progress import track
from drmm.runs.run import versions
from drmm.studies.reproduce import METHODS, PROTOCOLS

LABELS, HELD_OUT, EPOCHS = 100, 5000, 1
BASE = "the row itself"


@dataclass(frozen=True)
class Change:
    """What a variant has that the row has not: fields of its objective and of its schedule."""

    objective: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


def _batch(labelled: int, others: int) -> Change:
    return Change(training={"labelled_per_batch": labelled, "batch_size": labelled + others})


CHANGES: dict[str, Change] = {
    BASE: Change(),
    "KL from the first step on": Change({"warm_up": 0}),
    "KL half as strong": Change({"kl": 0.25}),
    "KL twice as strong": Change({"kl": 1}),
    "no balance": Change({"balance": 0}),
    "balance to the end": Change({"cool_down": 0}),
    "balance four times as strong": Change({"balance": 2}),
    "a third of the rate": Change(training={"learning_rate": 1e-3}),
    "three times the rate": Change(training={"learning_rate": 1e-2}),
    "weights not averaged": Change(training={"weight_average": 0}),
    "gradients not clipped": Change(training={"gradient_clip": 0}),
    "8 + 56 images a batch": _batch(8, 56),
    "48 + 112 images a batch": _batch(48, 112),
    "drawing: RC, NN": Change({"reconstruction": 0.5, "nonnegativity": 0.5}),
    "drawing, four times as strong": Change({"reconstruction": 2, "nonnegativity": 2}),
    "blends": Change({"interpolation": 1}),
    "blends, shifted (augmentation)": Change({"interpolation": 1, "shift": 2}),
}


def recipe(name: str, seed: int) -> tuple[Objective, Training]:
    """The row's objective and schedule, with what the variant changes."""
    change, plan = CHANGES[name], PROTOCOLS["mnist"]
    training = replace(plan.training_on(LABELS), epochs=EPOCHS, seed=seed)
    return replace(METHODS["kl"].objective, **change.objective), replace(training, **change.training)


def run(name: str, data: Dataset, seed: int) -> dict[str, Any]:
    """One variant on one label draw: the error on images held out."""
    out = holdout(data.y_train, HELD_OUT, seed=1000)
    kept = np.setdiff1d(np.arange(len(data.y_train)), out)
    y = data.y_train[kept]
    few = torch.from_numpy(mask_labels(y, stratified_labels(y, LABELS // 10, seed=seed)))
    objective, training = recipe(name, seed)
    torch.manual_seed(seed)
    start = time.perf_counter()
    model = train(
        conv_small(),
        torch.from_numpy(data.x_train[kept]),
        few,
        objective=objective,
        config=training,
        progress=False,
    )
    seconds = time.perf_counter() - start
    error = error_percent(model, torch.from_numpy(data.x_train[out]), torch.from_numpy(data.y_train[out]))
    return {
        "variant": name,
        "seed": seed,
        "error": error,
        "seconds": round(seconds, 1),
        "objective": asdict(objective),
        "training": asdict(training),
    }


def is_up_to_date(one: dict[str, Any]) -> bool:
    """Whether a run is of the recipe that its name stands for now."""
    if one["variant"] not in CHANGES:
        return False
    objective, training = recipe(one["variant"], one["seed"])
    return bool(one["objective"] == asdict(objective) and one["training"] == asdict(training))


def main() -> None:
    """Run what is not there, and write after each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="folder of the data sets; by default $DRMM_DATA")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/ablations.json"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tune_allocator()
    about = {"command": "make ablations", "base": BASE, "labels": LABELS, "epochs": EPOCHS, "held_out": HELD_OUT}
    runs = [one for one in read_json(asked.out)["runs"] if is_up_to_date(one)] if asked.out.exists() else []
    there = {(one["variant"], one["seed"]) for one in runs}
    data = load("mnist", data_dir=asked.data_dir)
    for seed, name in track(list(product(range(asked.seeds), CHANGES)), "runs"):
        if (name, seed) not in there:
            runs.append(run(name, data, seed))
            write_json(asked.out, {**about, "runs": runs, "versions": versions()})


if __name__ == "__main__":
    main()
