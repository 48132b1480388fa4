"""Learning by gradient: the one function that trains a model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from drmm.batches import unlabelled
from drmm.model import DRMM
from drmm.objective import Objective
from drmm.settings import Training

__all__ = ["Training", "train"]

_SETTLING_BATCHES = 40  # that priors, noise and amplitude are measured on


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
    from drmm.loop import calibrate, run_loop  # noqa: PLC0415

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
    calibrate(model, x, config)
    model.eval()
    if model.prior is not None:
        order = {"batch_size": config.batch_size, "seed": config.seed, "epoch": config.epochs}
        model.settle(unlabelled(x, **order, most=_SETTLING_BATCHES))
    return model
