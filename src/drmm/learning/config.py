"""How to learn, and on what machine, as frozen records that a run's folder keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from drmm.errors import InputError
from drmm.records import Record

__all__ = ["Initialisation", "Learning", "Machine", "Training"]

Learning = Literal["sgd", "eg", "em", "head", "tune"]
Initialisation = Literal["default", "data", "orthonormal", "glorot"]


@dataclass(frozen=True)
class Training(Record):
    """How to learn.

    Attributes:
        learning: "sgd" descends the discriminative relaxation by backprop; "eg" takes gradient steps on the
            complete-data log-joint (E-step and G-step); "em" regresses every dictionary, without derivatives;
            "head" learns the class templates alone, on features that stay as they are; "tune" goes on from there
            by backprop in the upper levels, for a net that has learned before: lower levels stay, and so do the
            statistics of its norms.
        initialisation: what templates start from; none is "data" for "em" and "default" otherwise.
        epochs: passes over the images; iterations of EM.
        min_steps: steps of the optimiser at the least: where images are few, more epochs are made. EM has none.
        batch_size: images in a batch, labelled ones included; devices share it.
        labelled_per_batch: how many of them have a label.
        labels_only: learn from the labelled images alone, repeated so that as many steps are made.
        learning_rate: of Adam, at its peak; a short warm-up comes before and a cosine to 0 after.
        weight_average: decay of the exponential average of the weights, which is what training returns.
        gradient_clip: largest norm of the gradient; 0 does not clip.
        tolerance: EM stops when its objective gains less than this share of itself.
        patience: stop after so many epochs without a lower validation error, or without validation images a lower
            loss, by the weights that its terms have in the end; none never stops early.
        rate_decay: by what the learning rate is multiplied from each level with weights to the one below. With
            "tune", levels with less than a tenth of it stay as they are, and what they make of the images is
            computed once.
        seed: of the label draw, the weights, the order of images and all that draws.
    """

    learning: Learning = "sgd"
    initialisation: Initialisation | None = None
    epochs: int = 20
    min_steps: int = 200
    batch_size: int = 128
    labelled_per_batch: int = 32
    labels_only: bool = False
    learning_rate: float = 3e-3
    weight_average: float = 0.99
    gradient_clip: float = 1.0
    tolerance: float = 1e-3
    patience: int | None = None
    rate_decay: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.learning not in get_args(Learning):
            raise InputError(f"no learning {self.learning!r}: choose from {', '.join(get_args(Learning))}")
        if self.initialisation not in {None, *get_args(Initialisation)}:
            known = ", ".join(get_args(Initialisation))
            raise InputError(f"no initialisation {self.initialisation!r}: choose from {known}")
        at_least = {
            "epochs": 1,
            "batch_size": 2,
            "min_steps": 0,
            "labelled_per_batch": 0,
            "seed": 0,
        }
        at_least |= {"gradient_clip": 0, "tolerance": 0}
        for name, least in at_least.items():
            if not least <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate must be positive, not {self.learning_rate}")
        if not 0 < self.rate_decay <= 1:
            raise InputError(f"rate_decay must be more than 0, and at most 1, not {self.rate_decay}")
        if not 0 <= self.weight_average < 1:
            raise InputError(f"weight_average must lie in [0, 1), not {self.weight_average}")
        if self.patience is not None and self.patience < 1:
            raise InputError(f"patience is a number of epochs, 1 or more, or none, not {self.patience}")

    def resolved(self) -> Training:
        """The same with a choice in place of every none that depends on how it is learned."""
        start: Initialisation = self.initialisation or ("data" if self.learning == "em" else "default")
        return replace(self, initialisation=start)

    def of_labels(self) -> Training:
        """The same from the labelled images alone."""
        return replace(self, labels_only=True)

    def enough_for(self, steps: int) -> Training:
        """The same, in as many epochs as `min_steps` takes where an epoch makes so many steps."""
        if self.learning == "em":
            return self
        return replace(self, epochs=max(self.epochs, math.ceil(self.min_steps / steps)), min_steps=0)


@dataclass(frozen=True)
class Machine(Record):
    """On what to learn; no figure is to depend on it.

    Attributes:
        accelerator: "auto", "cpu", "gpu", … (`pytorch_lightning`).
        devices: how many; more than one trains by DDP, and each takes its share of every batch.
        precision: "32-true", "bf16-mixed", … (`pytorch_lightning`). Under "…-mixed" the levels correlate and draw
            in 16 bits; weights, the norms' statistics and the loss keep 32.
        compile: let `torch.compile` make kernels for the two passes through the levels; the objective's terms and
            the optimiser are not compiled. For GPUs: on a CPU a step of `conv_large` takes 1.4 times as long.
    """

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise InputError(f"a model cannot be trained on {self.devices} devices: use 1 or more")

    def check_shares(self, training: Training) -> None:
        """Every device takes its share of each batch, so that steps, and means over pictures, stay the same.

        What remains different with several devices: each normalises with the statistics of its own share, balances
        its classes and mixes its pictures.

        Raises:
            InputError: if a batch cannot be shared equally.
        """
        size, labelled = training.batch_size, training.labelled_per_batch
        if size % self.devices or labelled % self.devices:
            raise InputError(
                f"batches of {size} images, {labelled} of them labelled, cannot be shared equally by "
                f"{self.devices} devices: use a number that divides both"
            )
