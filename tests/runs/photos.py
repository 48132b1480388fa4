"""A folder of small pictures, and an experiment on it that takes a moment."""

from pathlib import Path

import numpy as np
from PIL import Image

from drmm.runs.experiment import Experiment

CLASSES = ("blue", "red")


def write_photos(folder: Path, *, each: int = 6, size: int = 12) -> Path:
    """Noise with a tint for each class, and as many without a label."""
    rng = np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0), ("unlabelled", 1)):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            photo = rng.integers(0, 80, (size, size, 3)).astype(np.uint8)
            photo[..., channel] += 150
            Image.fromarray(photo).save(folder / name / f"{i}.png")
    return folder


def small(source: object, **training: object) -> Experiment:
    """What can be learned in a moment."""
    schedule = {"epochs": 1, "min_steps": 0, "batch_size": 8, "labelled_per_batch": 4} | training
    experiment = Experiment().changed("data", source=str(source)).changed("model", width=2)
    return experiment.changed("training", **schedule).changed("trust", folds=0)
