"""The training loop on `pytorch_lightning`: averaged weights, logs, checkpoints, resuming."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
    WeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from drmm.batches import Batches, pixels, unlabelled
from drmm.errors import InputError, RunError
from drmm.model import DRMM
from drmm.objective import Objective
from drmm.settings import Training
from drmm.storage import misfit, write_bytes

__all__ = ["calibrate", "checkpoint_of", "run_loop", "warm_cosine"]

_CALIBRATION_BATCHES = 40

# What the loop tells its own developers, as regular expressions.
_CHATTER = (
    ".*does not have many workers",
    ".*exists and is not empty",
    ".*GPU available but not used",
    ".*has `__len__` defined",
    ".*LeafSpec.* is deprecated",
    "Grad strides do not match bucket view strides",
    "You defined a `validation_step` but have no",
)


def run_loop(
    model: DRMM,
    x: Tensor,
    y: Tensor,
    objective: Objective,
    config: Training,
    *,
    validation: tuple[Tensor, Tensor] | None,
    folder: Path | None,
    resume: bool,
    progress: bool,
) -> None:
    """Train a model in place; arguments and errors as in `drmm.training.train`."""
    learner = _Learner(model, objective, config, x, y)
    checkpoint = checkpoint_of(folder) if resume and folder is not None else None
    if checkpoint is not None:
        _check_checkpoint(checkpoint, learner)
    loaders = None if validation is None else DataLoader(TensorDataset(*validation), batch_size=500)
    with _quiet(), torch.random.fork_rng():
        average = _average(config.weight_average)
        trainer = _trainer(config, folder, average, progress=progress, validated=validation is not None)
        try:
            trainer.fit(learner, val_dataloaders=loaders, ckpt_path=checkpoint, weights_only=True)
        except OSError as error:
            raise RunError(
                f"cannot write {folder}: {error.strerror or error}; free space or use another place"
            ) from error
        except SystemExit:
            if trainer.interrupted:  # Lightning leaves the process where a library should not
                raise KeyboardInterrupt from None
            raise
        # Lightning skips this where a resumed run had already made its last step.
        average.on_train_end(trainer, learner)


def calibrate(model: DRMM, x: Tensor, config: Training) -> None:
    """Measure the norms' statistics on some batches of the run."""
    order = {"batch_size": config.batch_size, "seed": config.seed, "epoch": 0}
    model.calibrate(unlabelled(x, **order, most=_CALIBRATION_BATCHES))


def checkpoint_of(folder: Path) -> Path | None:
    """The newest training state in a run's folder, if there is one."""
    path = folder / "checkpoints" / "last.ckpt"
    return path if path.is_file() else None


def _check_checkpoint(path: Path, learner: _Learner) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        odd = misfit(learner.state_dict(), state)
    except (RuntimeError, UnpicklingError, EOFError, ValueError, LookupError, AttributeError, OSError) as error:
        raise RunError(f"{path} is damaged: remove the run's folder and train again") from error
    if odd is not None:
        raise RunError(f"{path} is from another architecture: train into a new folder")


class _Learner(pl.LightningModule):
    """The loop's view of a model: which batches, which loss, which optimiser."""

    def __init__(self, model: DRMM, objective: Objective, config: Training, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.model = model
        self._objective, self._config = objective, config
        self._data = (x, y)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Learner:
        """A copy of the weights for the average; images are shared."""
        twin = _Learner(deepcopy(self.model, memo), self._objective, self._config, *self._data)
        twin.train(self.training)
        return twin

    def _batches(self) -> Batches:
        return Batches(
            *self._data,
            batch_size=self._config.batch_size,
            labelled=self._config.labelled_per_batch,
            seed=self._config.seed,
            epoch=self.trainer.current_epoch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """This epoch's batches."""
        return DataLoader(self._batches(), batch_size=None)

    def on_train_epoch_start(self) -> None:
        """Make everything that draws a function of the seed and the epoch, so that a resumed run repeats it."""
        torch.manual_seed(self._config.seed * 1_000_003 + self.trainer.current_epoch)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Every term of the objective, logged by its name."""
        x, y = batch
        terms = self._objective(self.model, x, y)
        if not torch.isfinite(terms["loss"]):
            raise InputError("the loss is not finite: lower the learning rate, or check the images")
        logged = {f"train/{name}": term.detach() for name, term in terms.items()}
        self.log_dict(logged, on_epoch=True, on_step=False, sync_dist=True)
        self.log("loss", terms["loss"].detach(), prog_bar=True, logger=False)
        return terms["loss"]

    def on_validation_epoch_start(self) -> None:
        """Measure the statistics of the averaged weights, which are in place now."""
        calibrate(self.model, self._data[0], self._config)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Error of the averaged weights, in percent."""
        x, y = batch
        wrong = (self.model(pixels(x)).argmax(1) != y).float()
        self.log("val/error", 100 * wrong.mean(), prog_bar=True, batch_size=len(y), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Adam with a warm-up and a cosine to 0."""
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self._config.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_cosine(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def warm_cosine(steps: int) -> Callable[[int], float]:
    """Share of the learning rate at each step: a short warm-up, then a cosine to 0."""
    warm = max(1, min(100, steps // 10))
    return lambda step: min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def _average(decay: float) -> WeightAveraging:
    """Exponential average, shorter while there are few steps to average over."""

    @torch.no_grad()
    def update(average: Any, current: Any, n_averaged: Any) -> None:
        n = int(n_averaged)
        share = 1 - min(decay, (1 + n) / (10 + n))
        for mine, theirs in zip(average, current, strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, share)
            else:
                mine.copy_(theirs)

    return WeightAveraging(multi_avg_fn=update)


def _trainer(
    config: Training, folder: Path | None, average: WeightAveraging, *, progress: bool, validated: bool
) -> pl.Trainer:
    callbacks: list[Callback] = [average]
    if progress:
        callbacks.append(RichProgressBar())
    if folder is not None:
        keep_last = {"filename": "last", "save_on_train_epoch_end": True, "enable_version_counter": False}
        callbacks.append(ModelCheckpoint(folder / "checkpoints", **keep_last))  # type: ignore[arg-type]
    if config.patience is not None:
        monitor = "val/error" if validated else "train/loss"
        callbacks.append(EarlyStopping(monitor, patience=config.patience, check_on_train_epoch_end=True))
    try:
        return pl.Trainer(
            max_epochs=config.epochs,
            accelerator=config.accelerator,
            devices=config.devices,
            precision=config.precision,  # type: ignore[arg-type]
            callbacks=callbacks,
            logger=_loggers(folder),
            plugins=[_AtomicCheckpoints()],
            gradient_clip_val=config.gradient_clip or None,
            reload_dataloaders_every_n_epochs=1,
            enable_progress_bar=progress,
            enable_model_summary=False,
            enable_checkpointing=folder is not None,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            default_root_dir=folder,
        )
    except (MisconfigurationException, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"this machine cannot train so: {reason}") from error


def _loggers(folder: Path | None) -> list[Logger] | bool:
    if folder is None:
        return False
    loggers: list[Logger] = [CSVLogger(folder, name="logs", version="")]
    if find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(folder, name="logs", version=""))
    return loggers


class _AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole whenever the process dies."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside, then move. Through memory: torch's own writer hides what the disk says."""
        del storage_options
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(Path(path), content.getvalue())


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the loop says to its developers: worker counts, device lists, tips."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in _CHATTER:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
