"""What the published tables say, and how their rows are run here: fixed in advance, and printed.

A row is a recipe (`drmm.learning.recipes`). Labels are drawn stratified, once for each seed; all other training
images are there without their label. There is no augmentation where a row does not say so. Hyper-parameters were
chosen on a validation part of the training images, and the test set is read once, at the end of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from drmm.errors import InputError
from drmm.learning.config import Training
from drmm.records import nearest
from drmm.runs.experiment import Experiment

__all__ = ["BENCHMARKS", "COMPARED", "PUBLISHED", "ROWS", "Benchmark", "benchmark", "check_rows"]

_CLASSES = 10  # of every data set
_MOST_LABELLED = 64  # images of a batch that have a label
_UNIT = "kl"  # the row whose number of epochs a benchmark gives; the others' are in proportion

ROWS = (
    *("supervised", "kl", "kl-long", "kl-longest", "rc", "rc+nn", "rc+kl", "rc+kl+nn", "printed"),
    *("hard", "hard-taught", "best", "cutmix", "translated"),
)
"""The recipes that are rows, in the order of the table."""

COMPARED: dict[str, tuple[str, ...]] = {
    "rc+kl": ("kl", "kl-long"),
    "rc+kl+nn": ("kl", "kl-long"),
    "best": ("kl-long", "kl-longest"),
    "cutmix": ("best",),
}
"""Which row is compared with which on the same label draws: with a term and without, at equal epochs or time."""

PUBLISHED: dict[str, dict[str, dict[int, float]]] = {
    "mnist": {
        "rc": {50: 21.73, 100: 13.41, 1000: 2.35},
        "rc+nn": {50: 22.10, 100: 12.28, 1000: 2.26},
        "rc+kl": {50: 2.46, 100: 1.36, 1000: 0.71},
        "rc+kl+nn": {50: 0.91, 100: 0.57, 1000: 0.60},
    },
    "svhn": {
        "rc+kl": {500: 11.11, 1000: 9.75, 2000: 8.44},
        "rc+kl+nn": {500: 9.85, 1000: 6.78, 2000: 6.50},
    },
    "cifar10": {
        "rc+kl": {4000: 23.24, 8000: 20.95},
        "rc+kl+nn": {4000: 21.50, 8000: 17.16},
    },
}
"""Test error in percent on the slides by data set, method and number of labels; one number each, no error bars."""


@dataclass(frozen=True)
class Benchmark:
    """A published table, and the schedule of its rows.

    Attributes:
        dataset: its name.
        preset: the architecture.
        labels: numbers of labels in the published table.
        epochs: of the row "kl"; others may learn longer.
        width: of the preset; None is the published one.
        images: how many training images to take, drawn by the seed; None takes all.
    """

    dataset: str
    preset: str
    labels: tuple[int, ...]
    epochs: int
    width: int | None = None
    images: int | None = None

    def experiment(self, row: str, labels: int, seed: int) -> Experiment:
        """What a row learns with so many labels.

        The more labels there are, the more of a batch have one: a sixteenth of the labels, up to 64 images, and as
        many without a label as ever. On validation images 16 and 62 of a batch make 1.72 and 1.66 % with 1,000
        labels, 16 and 64 make 1.58 and 1.24 % with 10,000.

        Raises:
            InputError: if there is no such row, or the classes cannot share the labels equally.
        """
        if labels < 1 or labels % _CLASSES:
            raise InputError(f"{labels} labels cannot be shared equally by {_CLASSES} classes: use a multiple")
        check_rows([row])
        recipe = Experiment.read(row)
        few, longer = recipe.training.labelled_per_batch, recipe.training.epochs / _unit().epochs
        labelled = max(few, min(_MOST_LABELLED, labels // 16))
        schedule = {
            "epochs": round(self.epochs * longer),
            "min_steps": 0,
            "batch_size": recipe.training.batch_size - few + labelled,
            "labelled_per_batch": labelled,
            "seed": seed,
        }
        data = {"source": self.dataset, "labels_per_class": labels // _CLASSES, "images": self.images}
        experiment = recipe.changed("training", **schedule).changed("data", **data)
        return experiment.changed("model", preset=self.preset, width=self.width)

    def in_words(self, labels: Sequence[int]) -> str:
        """What is fixed in advance, in three lines."""
        width = "" if self.width is None else f", {self.width} wide"
        images = "all training images" if self.images is None else f"{self.images:,} training images"
        how = [self.experiment(_UNIT, n, 0).training for n in labels]
        batches = [
            f"{one.labelled_per_batch} of {one.batch_size} with {n:,} labels"
            for n, one in zip(labels, how, strict=True)
        ]
        return (
            f"{self.dataset}: {self.preset}{width}, {images}, labels drawn stratified, once a seed; "
            "no augmentation where a row does not say so; the test set is read once, at the end.\n"
            f"{self.epochs} epochs where a row says nothing else, Adam at {how[0].learning_rate:g} after a short "
            f"warm-up, by a cosine to 0, gradients clipped to {how[0].gradient_clip:g}, weights averaged "
            f"({how[0].weight_average:g}).\n"
            f"Labelled images in a batch: {', '.join(batches)}."
        )


BENCHMARKS = {
    "mnist": Benchmark("mnist", "conv_small", (50, 100, 1000), epochs=2),
    "svhn": Benchmark("svhn", "conv_large", (500, 1000, 2000), epochs=60),
    "cifar10": Benchmark("cifar10", "conv_large", (4000, 8000), epochs=60),
}


def benchmark(
    dataset: str, *, epochs: int | None = None, width: int | None = None, images: int | None = None
) -> Benchmark:
    """The benchmark of a data set, scaled down where that is asked for.

    Args:
        dataset: "mnist", "svhn" or "cifar10"; "mnist-5k", the demo's digits, for a try of a few minutes.
        epochs: instead of the benchmark's own.
        width: likewise.
        images: likewise.

    Raises:
        InputError: if there is no such table.
    """
    known = BENCHMARKS | {"mnist-5k": replace(BENCHMARKS["mnist"], dataset="mnist-5k", labels=(100,))}
    if dataset not in known:
        raise InputError(f"no published table for {dataset!r}: choose from {', '.join(known)}")
    full = known[dataset]
    return replace(full, epochs=full.epochs if epochs is None else epochs, width=width, images=images)


def check_rows(rows: Sequence[str]) -> None:
    """Refuse what is no row of a table.

    Raises:
        InputError: if there is no such row.
    """
    for row in rows:
        if row not in ROWS:
            raise InputError(f"no row {row!r}{nearest(row, ROWS)}")


def _unit() -> Training:
    return Experiment.read(_UNIT).training
