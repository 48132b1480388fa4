"""How to learn, as one frozen record that a run's folder keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from drmm.errors import InputError

__all__ = ["Initialisation", "Learning", "Training"]

Learning = Literal["sgd", "eg", "em"]
Initialisation = Literal["default", "data", "orthonormal", "glorot"]


@dataclass(frozen=True)
class Training:
    """How to learn.

    Attributes:
        learning: "sgd" descends the discriminative relaxation by backprop; "eg" takes gradient steps on the
            complete-data log-joint (E-step and G-step); "em" regresses every dictionary, without derivatives.
        initialisation: what `drmm.initialise` starts from; None is "data" for "em" and "default" otherwise.
        epochs: passes over the images; iterations of EM.
        min_steps: steps of the optimiser at the least: where images are few, more epochs are made. EM has none.
        batch_size: images in a batch, labelled ones included.
        labelled_per_batch: how many of them have a label.
        learning_rate: of Adam, at its peak; a short warm-up comes before and a cosine to 0 after.
        weight_average: decay of the exponential average of the weights, which is what training returns.
        gradient_clip: largest norm of the gradient; 0 does not clip.
        tolerance: EM stops when its objective gains less than this share of itself.
        patience: stop after so many epochs without a lower validation error; None never stops early.
        seed: of the order of images and of all that draws.
        accelerator: "auto", "cpu", "gpu", … (`pytorch_lightning`).
        devices: how many; more than one trains by DDP.
        precision: "32-true", "bf16-mixed", … (`pytorch_lightning`). Under "…-mixed" the levels correlate and draw
            in 16 bits; weights, the norms' statistics and the loss keep 32.
        compile: let `torch.compile` make kernels for the two passes through the levels; the objective's terms and
            the optimiser are not compiled. For GPUs: on a CPU a step of `conv_large` takes 1.4 times as long.
    """

    learning: Learning = "sgd"
    initialisation: Initialisation | None = None
    epochs: int = 20
    min_steps: int = 0
    batch_size: int = 128
    labelled_per_batch: int = 32
    learning_rate: float = 3e-3
    weight_average: float = 0.99
    gradient_clip: float = 1.0
    tolerance: float = 1e-3
    patience: int | None = None
    seed: int = 0
    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.learning not in get_args(Learning):
            raise InputError(f"no learning {self.learning!r}: choose from {', '.join(get_args(Learning))}")
        if self.initialisation not in {None, *get_args(Initialisation)}:
            known = ", ".join(get_args(Initialisation))
            raise InputError(f"no initialisation {self.initialisation!r}: choose from {known}")
        if self.epochs < 1 or self.batch_size < 2 or self.learning_rate <= 0:
            raise InputError("epochs must be at least 1, batch_size at least 2 and learning_rate positive")
        if self.min_steps < 0:
            raise InputError(f"min_steps is a number of steps, 0 or more, not {self.min_steps}")
        if self.devices < 1:
            raise InputError(f"a model cannot be trained on {self.devices} devices: use 1 or more")
        if not 0 <= self.weight_average < 1:
            raise InputError(f"weight_average must lie in [0, 1), not {self.weight_average}")

    def enough_for(self, steps: int) -> Training:
        """The same, in as many epochs as `min_steps` takes where an epoch makes so many steps."""
        if self.learning == "em":
            return self
        return replace(self, epochs=max(self.epochs, math.ceil(self.min_steps / steps)), min_steps=0)
