"""Learning: the one function that trains a model, by whichever rule."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.files import write_csv
from drmm.learning.batches import labelled_alone, unlabelled
from drmm.learning.class_prior import class_prior
from drmm.learning.config import Machine, Training
from drmm.learning.em import fit_em, relax
from drmm.learning.em.loop import seconds_of_em
from drmm.learning.em.relaxation import check_classes
from drmm.learning.head import train_head
from drmm.learning.initialisation import initialise
from drmm.learning.objective import Objective
from drmm.learning.tuning import UpperLevels, tuned_on
from drmm.model.constraints import is_nonnegative
from drmm.model.deep import DRMM
from drmm.model.presets import Constraint
from drmm.progress import Outlook

__all__ = ["seconds_in", "steps_in", "train"]

# What priors, noise and amplitude are measured on: batches, and pixels and channels, which are fewer batches of
# photographs: 40 of 128 at 160 x 160 would take as long as learning their class templates.
_SETTLING_BATCHES, _SETTLING_NUMBERS = 40, 2**26


def train(
    model: DRMM,
    x: Tensor,
    y: Tensor,
    *,
    objective: Objective | None = None,
    config: Training | None = None,
    machine: Machine | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    folder: Path | None = None,
    resume: bool = False,
    progress: bool | Outlook = True,
    settle: bool = True,
) -> DRMM:
    """Train a model in place and return it in evaluation mode.

    "sgd" and "eg" return averaged weights. "em" fits the rendering model without derivatives, and then takes
    the discriminative relaxation of the class templates in closed form.

    Args:
        model: on any device; it is moved as `machine` says, and comes back on the CPU.
        x: images (N, C, H, W), float in [0, 1] or uint8.
        y: class indices (N,), -1 where there is no label.
        objective: what to minimise; None is the default for the model's constraint and the rule. "em" has its own.
        config: how.
        machine: on what; where there is a GPU, on it.
        validation: images and labels whose error is logged after each epoch of a gradient rule.
        folder: where logs and checkpoints go; None writes nothing.
        resume: go on from the checkpoint in `folder`, if there is one.
        progress: show a progress bar; an outlook tells how long the job takes of which this is a stage.
        settle: measure σ², the amplitude and the priors in the end, which classes do not depend on.

    Raises:
        InputError: if the loss or the objective is not finite, or the model cannot be learned so.
        RunError: if the folder cannot be written, or its checkpoint is from another architecture.
    """
    config = (config or Training()).resolved()
    x = _like(model, x)
    if config.labels_only:
        few, config = _labelled(y, config)
        x, y = x[few], y[few]
    start = config.initialisation
    if (
        start is not None and start != "default"
    ):  # a resumed run too: it may have been stopped before its first checkpoint
        initialise(model, start, x=x, y=y, seed=config.seed)
    objective = (objective or Objective()).resolved(_constraint(model), config.learning)
    if config.learning in {"head", "tune"}:
        at_first = objective.of_head() if config.learning == "tune" else objective
        train_head(model, x, y, at_first, config, progress=bool(progress))
    if config.learning == "em":
        _train_by_em(model, x, y, config, folder=folder, resume=resume, progress=progress)
    elif config.learning != "head":
        by_gradient = _tune if config.learning == "tune" else _train_by_gradient
        by_gradient(
            model,
            x,
            y,
            objective,
            config,
            machine or Machine(),
            validation=None if validation is None else (_like(model, validation[0]), validation[1]),
            folder=folder,
            resume=resume,
            progress=progress,
        )
    if settle and model.prior is not None:
        _settle(model.eval(), x, config)
    return model.eval()


def _train_by_gradient(
    model: DRMM, x: Tensor, y: Tensor, objective: Objective, config: Training, machine: Machine, **options: Any
) -> None:
    # Lightning takes seconds to import, and only training needs it.
    from drmm.learning.trainer import calibrate, run_loop, steps_of_an_epoch  # noqa: PLC0415

    model.class_prior.copy_(class_prior(x, y, model.n_classes, objective.prior, seed=config.seed))
    config = config.enough_for(steps_of_an_epoch(y, config))
    run_loop(model.train(), x, y, objective, config, machine, **options)
    model.cpu()
    calibrate(model, x, config)
    model.eval()
    if config.learning == "eg" and not bool((y >= 0).any()):
        relax(model, x, y)  # nothing in the complete data tells clusters apart


def _tune(
    model: DRMM,
    x: Tensor,
    y: Tensor,
    objective: Objective,
    config: Training,
    machine: Machine,
    *,
    validation: tuple[Tensor, Tensor] | None,
    progress: bool | Outlook,
    **options: Any,
) -> None:
    from drmm.learning.trainer import run_loop, steps_of_an_epoch  # noqa: PLC0415

    upper = UpperLevels(model.eval(), x, y, objective, config, progress=bool(progress))
    if validation is not None:
        validation = upper.features(validation[0]), validation[1]
    config = config.enough_for(steps_of_an_epoch(upper.y, config))
    how = {"validation": validation, "progress": progress, **options}
    # In evaluation mode: what the net's norms measured is a part of what it knows.
    run_loop(upper.model.eval(), upper.x, upper.y, upper.objective, config, machine, **how)
    model.cpu()


def steps_in(y: Tensor, config: Training) -> int:
    """How many steps `train` makes of images with these labels, at the most; iterations of EM; of a head none.

    Raises:
        InputError: if none has a label, and only these are learned from.
    """
    if config.learning in {"em", "head"}:
        return config.epochs if config.learning == "em" else 0
    from drmm.learning.trainer import steps_of_an_epoch  # noqa: PLC0415

    if config.labels_only:
        few, config = _labelled(y, config)
        y = y[few]
    if config.learning == "tune":
        y = y[tuned_on(y, config)]
    steps = steps_of_an_epoch(y, config)
    return config.enough_for(steps).epochs * steps


def _labelled(y: Tensor, config: Training) -> tuple[Tensor, Training]:
    """Places of the labelled images, repeated so that as many steps are made as with all; EM makes none."""
    known = y >= 0
    if not bool(known.any()):
        raise InputError("no image has a label: label some, or set training.labels_only to false")
    if config.learning == "em":
        return torch.nonzero(known).squeeze(1), config
    few, size = labelled_alone(y, batch_size=config.batch_size, labelled=config.labelled_per_batch)
    return few, replace(config, batch_size=size, labelled_per_batch=0)


def _constraint(model: DRMM) -> Constraint:
    """The constraint that decides the default objective."""
    return "hard" if any(is_nonnegative(module) for module in model.modules()) else "soft"


def _like(model: DRMM, x: Tensor) -> Tensor:
    """Images in the model's precision; levels stay uint8."""
    return x if x.dtype == torch.uint8 else x.to(model.templates.weight.dtype)


def _train_by_em(
    model: DRMM,
    x: Tensor,
    y: Tensor,
    config: Training,
    *,
    folder: Path | None,
    resume: bool,
    progress: bool | Outlook,
) -> None:
    check_classes(model, y)
    em_folder = None if folder is None else folder / "em"
    trace = fit_em(
        model,
        x,
        y,
        max_iter=config.epochs,
        tolerance=config.tolerance,
        folder=em_folder,
        resume=resume,
        progress=progress,
    )
    relax(model, x, y)
    if folder is not None and em_folder is not None:
        rows = [[i, *values] for i, values in enumerate(zip(trace.objective, trace.seconds, strict=True))]
        write_csv(folder / "logs" / "em.csv", ["iteration", "objective", "seconds"], rows)
        shutil.rmtree(em_folder / "latents", ignore_errors=True)  # a finished run needs them no more


def _settle(model: DRMM, x: Tensor, config: Training) -> None:
    order = {"batch_size": config.batch_size, "seed": config.seed, "epoch": config.epochs}
    affordable = _SETTLING_NUMBERS // (config.batch_size * x[0].numel())
    model.settle(unlabelled(x, **order, most=max(1, min(_SETTLING_BATCHES, affordable))))


def seconds_in(folder: Path) -> float:
    """For how long the training whose checkpoints lie in a folder has run, over all its sessions.

    Raises:
        RunError: if they are damaged.
    """
    from drmm.learning.checkpoints import seconds_of  # noqa: PLC0415

    return seconds_of(folder) + seconds_of_em(folder / "em")
