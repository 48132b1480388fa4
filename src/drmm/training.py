"""Learning by gradient: what to set, and the one function that does it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from drmm.batches import Batches
from drmm.errors import InputError
from drmm.model import DRMM
from drmm.objective import Objective

__all__ = ["Training", "train"]

_CALIBRATION_BATCHES = 40


@dataclass(frozen=True)
class Training:
    """How to learn.

    Attributes:
        epochs: passes over the images.
        batch_size: images in a batch, labelled ones included.
        labelled_per_batch: how many of them have a label.
        learning_rate: of Adam, at its peak; a short warm-up comes before and a cosine to 0 after.
        weight_average: decay of the exponential average of the weights, which is what training returns.
        gradient_clip: largest norm of the gradient; 0 does not clip.
        patience: stop after so many epochs without a lower validation error; None never stops early.
        seed: of the order of images and of all that draws.
        accelerator: "auto", "cpu", "gpu", … (`pytorch_lightning`).
        devices: how many; more than one trains by DDP.
        precision: "32-true", "bf16-mixed", … (`pytorch_lightning`).
    """

    epochs: int = 20
    batch_size: int = 128
    labelled_per_batch: int = 32
    learning_rate: float = 3e-3
    weight_average: float = 0.99
    gradient_clip: float = 1.0
    patience: int | None = None
    seed: int = 0
    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or self.learning_rate <= 0:
            raise InputError("epochs must be at least 1, batch_size at least 2 and learning_rate positive")
        if not 0 <= self.weight_average < 1:
            raise InputError(f"weight_average must lie in [0, 1), not {self.weight_average}")


def train(
    model: DRMM,
    x: Tensor,
    y: Tensor,
    *,
    objective: Objective | None = None,
    config: Training | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    folder: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> DRMM:
    """Train a model in place and return it in evaluation mode, with averaged weights.

    Args:
        model: on any device; it is moved as `config.accelerator` says, and comes back on the CPU.
        x: images (N, C, H, W), float in [0, 1] or uint8.
        y: class indices (N,), -1 where there is no label.
        objective: what to minimise.
        config: how.
        validation: images and labels whose error is logged after each epoch.
        folder: where logs and checkpoints go; None writes nothing.
        resume: go on from the checkpoint in `folder`, if there is one.
        progress: show a progress bar.

    Raises:
        InputError: if the loss is not finite.
        RunError: if the folder cannot be written, or its checkpoint is from another architecture.
    """
    config = config or Training()
    # Lightning takes seconds to import, and only training needs it.
    from drmm.loop import run_loop  # noqa: PLC0415

    # The M-step for π, with one image of every class added so that no class becomes impossible.
    counts = torch.bincount(y[y >= 0], minlength=model.n_classes) + 1
    model.class_prior.copy_(counts / counts.sum())
    run_loop(
        model,
        x,
        y,
        objective or Objective(),
        config,
        validation=validation,
        folder=folder,
        resume=resume,
        progress=progress,
    )
    model.cpu()
    # The averaged weights see other statistics than the ones that were averaged along with them.
    batches = Batches(x, y, batch_size=config.batch_size, labelled=0, seed=config.seed, epoch=config.epochs)
    update_bn(islice(batches, _CALIBRATION_BATCHES), model)
    model.eval()
    if model.prior is not None:
        model.settle(images for images, _ in islice(batches, _CALIBRATION_BATCHES))
    return model
