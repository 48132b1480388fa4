"""What the published tables say, and how their rows are run here: fixed in advance, and printed.

Labels are drawn stratified, once for each seed; all other training images are there without their label. There is
no augmentation where a row does not say so. Hyper-parameters were chosen on a validation part of the training
images, and the test set is read once, at the end of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from drmm.errors import InputError
from drmm.learning.config import Training
from drmm.learning.objective import Objective
from drmm.model.presets import Constraint

__all__ = ["COMPARED", "METHODS", "PROTOCOLS", "PUBLISHED", "Method", "Protocol", "protocol"]

_MOST_LABELLED = 64  # images of a batch that have a label

# The KL comes in over the first quarter, while the labels shape the classes; the balance is gone after half of the
# training, when clusters have formed. Chosen on validation images: without the first a digit's cluster is captured
# by another one in some draws, and without the second errors stay where the classes are not equal. Four times the
# balance saves some draws and ruins others.
_FULL = Objective(reconstruction=0.5, warm_up=0.25, cool_down=0.5)
_NO_RENDERING = replace(_FULL, reconstruction=0, nonnegativity=0)
_BARE = replace(_NO_RENDERING, kl=0, balance=0)


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        title: what the table calls it.
        objective: what it minimises.
        labels_only: whether it sees the labelled images alone, repeated so that it makes as many steps.
        longer: how many times as many epochs it may learn, for comparisons at equal time.
        constraint: of the model.
        teacher: the method whose model, learned first, labels the images that have no label.
    """

    title: str
    objective: Objective
    labels_only: bool = False
    longer: int = 1
    constraint: Constraint = "soft"
    teacher: str | None = None


_BLENDS = replace(_NO_RENDERING, interpolation=1)

METHODS: dict[str, Method] = {
    "supervised": Method("the labels alone", _BARE, labels_only=True),
    "kl": Method("KL, no rendering", _NO_RENDERING),
    "kl-long": Method("KL, no rendering, twice the epochs", _NO_RENDERING, longer=2),
    "kl-longest": Method("KL, no rendering, six times the epochs", _NO_RENDERING, longer=6),
    "rc": Method("RC", replace(_FULL, kl=0, balance=0, nonnegativity=0)),
    "rc+nn": Method("RC + NN", replace(_FULL, kl=0, balance=0)),
    "rc+kl": Method("RC + KL", replace(_FULL, nonnegativity=0)),
    "rc+kl+nn": Method("RC + KL + NN", _FULL),
    "printed": Method("RC + KL + NN, the KL's sign as printed", replace(_FULL, kl_sign="printed", balance=0)),
    "hard": Method("hard constraint alone", _NO_RENDERING, constraint="hard"),
    "hard-taught": Method(
        "hard constraint, taught by the KL row", _BARE, longer=2, constraint="hard", teacher="kl"
    ),
    "best": Method("best: KL, blends, three times the epochs", _BLENDS, longer=3),
    "collages": Method("the same, half of the blends collages", replace(_BLENDS, collage=0.5), longer=3),
    "augmented": Method("best with shifts of 2 pixels, augmented", replace(_BLENDS, shift=2), longer=3),
}

COMPARED: dict[str, tuple[str, ...]] = {
    "rc+kl": ("kl", "kl-long"),
    "rc+kl+nn": ("kl", "kl-long"),
    "best": ("kl-long", "kl-longest"),
    "collages": ("best",),
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
class Protocol:
    """How the rows of a data set are run.

    Attributes:
        dataset: its name.
        preset: the architecture.
        labels: numbers of labels in the published table.
        training: the schedule with few labels; the seed is the run's.
        width: of the preset; None is the published one.
        images: how many training images to take, the first of a draw by the seed; None takes all.
    """

    dataset: str
    preset: str
    labels: tuple[int, ...]
    training: Training = field(default_factory=Training)
    width: int | None = None
    images: int | None = None

    def training_on(self, labels: int) -> Training:
        """The schedule for so many labels: the more there are, the more of a batch have one.

        A sixteenth of the labels, up to 64 images, and as many without a label as ever. On validation images 16
        and 62 of a batch make 1.72 and 1.66 % with 1,000 labels, 16 and 64 make 1.58 and 1.24 % with 10,000.
        """
        least = self.training.labelled_per_batch
        labelled = max(least, min(_MOST_LABELLED, labels // 16))
        size = self.training.batch_size - least + labelled
        return replace(self.training, labelled_per_batch=labelled, batch_size=size)

    def said(self, labels: Sequence[int]) -> str:
        """What is fixed in advance, in three lines."""
        how = self.training
        width = "" if self.width is None else f", {self.width} wide"
        images = "all training images" if self.images is None else f"{self.images:,} training images"
        batches = [
            f"{one.labelled_per_batch} of {one.batch_size} with {n:,} labels"
            for n, one in ((n, self.training_on(n)) for n in labels)
        ]
        return (
            f"{self.dataset}: {self.preset}{width}, {images}, labels drawn stratified, once a seed; "
            "no augmentation where a row does not say so; the test set is read once, at the end.\n"
            f"{how.epochs} epochs where a row says nothing else, Adam at {how.learning_rate:g} after a short "
            f"warm-up, by a cosine to 0, gradients clipped to {how.gradient_clip:g}, weights averaged "
            f"({how.weight_average:g}).\n"
            f"Labelled images in a batch: {', '.join(batches)}."
        )


PROTOCOLS = {
    "mnist": Protocol(
        "mnist",
        "conv_small",
        (50, 100, 1000),
        Training(epochs=2, labelled_per_batch=16, weight_average=0.999),
    ),
    "svhn": Protocol(
        "svhn",
        "conv_large",
        (500, 1000, 2000),
        Training(epochs=60, labelled_per_batch=16, weight_average=0.999),
    ),
    "cifar10": Protocol(
        "cifar10", "conv_large", (4000, 8000), Training(epochs=60, labelled_per_batch=16, weight_average=0.999)
    ),
}


def protocol(
    dataset: str, *, epochs: int | None = None, width: int | None = None, images: int | None = None
) -> Protocol:
    """The protocol of a data set, scaled down where that is asked for.

    Args:
        dataset: "mnist", "svhn" or "cifar10"; "mnist-5k", the demo's digits, for a try of a few minutes.
        epochs: instead of the protocol's own.
        width: likewise.
        images: likewise.

    Raises:
        InputError: if there is no such table.
    """
    known = PROTOCOLS | {"mnist-5k": replace(PROTOCOLS["mnist"], dataset="mnist-5k", labels=(100,))}
    if dataset not in known:
        raise InputError(f"no published table for {dataset!r}: choose from {', '.join(known)}")
    found = known[dataset]
    training = found.training if epochs is None else replace(found.training, epochs=epochs)
    return replace(found, training=training, width=found.width if width is None else width, images=images)
