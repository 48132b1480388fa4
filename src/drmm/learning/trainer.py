"""The training loop on `pytorch_lightning`: averaged weights, logs, checkpoints, resuming."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import Event, RLock
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
)
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from drmm.data.images import pixels
from drmm.errors import InputError, RunError
from drmm.learning.batches import Batches, unlabelled
from drmm.learning.callbacks import Average, Shown
from drmm.learning.checkpoints import AtomicCheckpoints, check_checkpoint, checkpoint_of
from drmm.learning.class_prior import class_prior
from drmm.learning.compiling import Compiled, compiling
from drmm.learning.config import Machine, Training
from drmm.learning.e_steps import E_STEPS
from drmm.learning.objective import Aim
from drmm.learning.processes import LOST, lead, local_rank, of_torchrun, watch
from drmm.learning.quiet import quiet
from drmm.learning.rates import rates, warm_cosine
from drmm.model.deep import DRMM
from drmm.model.randomness import seeded
from drmm.progress import Meter, Outlook

__all__ = ["calibrate", "device_of", "run_loop", "steps_of_an_epoch"]

_CALIBRATION_BATCHES = 40

# Warning filters, loggers and the handlers of signals belong to the process, and the loop changes all of them: two
# threads that train take turns.
_ONE_LOOP = RLock()

# A loss that is not finite is looked for after so many steps, and at the end of an epoch before anything is saved:
# each look waits for the device.
_STEPS_UNSEEN = 100

# What patience watches without validation images: the loss with the weights that the training ends with. That with
# the weights of the moment rises while the KL's weight does.
_WATCHED = "train/final_loss"

_ALONE = ("closed by peer", "reset by peer")  # of what gloo says when a process is gone


def run_loop(
    model: DRMM,
    x: Tensor,
    y: Tensor,
    objective: Aim,
    config: Training,
    machine: Machine,
    *,
    validation: tuple[Tensor, Tensor] | None = None,
    folder: Path | None = None,
    resume: bool = False,
    progress: bool | Outlook = False,
    watching: Sequence[Callback] = (),
) -> None:
    """Train a model in place; arguments and errors as in `train`, and `watching` is told every step.

    Raises:
        InputError: also if the model is to be compiled and cannot be.
    """
    machine.check_shares(config)
    learner = _Learner(model, objective, config, machine, x, y)
    checkpoint = checkpoint_of(folder) if resume and folder is not None else None
    if checkpoint is not None:
        check_checkpoint(checkpoint, learner)
    loaders = None if validation is None else _loader(TensorDataset(*validation), batch_size=500)
    with _ONE_LOOP, quiet(), compiling(machine), closing(Meter("training", outlook=progress)) as meter:
        average = Average(config.weight_average)
        callbacks = [average, *watching, *([Shown(meter)] if progress else [])]
        trainer = _trainer(config, machine, folder, callbacks, validated=validation is not None)
        try:
            trainer.fit(learner, val_dataloaders=loaders, ckpt_path=checkpoint, weights_only=True)
        except OSError as error:
            raise RunError(
                f"cannot write {folder}: {error.strerror or error}; free space or use another place"
            ) from error
        except RuntimeError as error:
            if machine.devices > 1 and any(words in str(error) for words in _ALONE):
                raise RunError(LOST) from error
            raise
        except SystemExit as leave:
            if trainer.interrupted and leave.code == 1:  # Lightning leaves the process where a library should not
                raise KeyboardInterrupt from None
            raise
        # Lightning skips this where a resumed run had already made its last step.
        average.on_train_end(trainer, learner)


def device_of(machine: Machine) -> torch.device:
    """The first device that a model is trained on.

    Raises:
        InputError: if this machine has none such, or there is no such precision.
    """
    with quiet():
        return _trainer(Training(), machine, None, (), validated=False).strategy.root_device


def steps_of_an_epoch(y: Tensor, config: Training) -> int:
    """How many steps every process makes in an epoch of images with these labels, which they share."""
    return len(_batches(y, y, config, 0, 0, 1))


def calibrate(model: DRMM, x: Tensor, config: Training) -> None:
    """Measure the norms' statistics on some batches of the run."""
    order = {"batch_size": config.batch_size, "seed": config.seed, "epoch": 0}
    model.calibrate(unlabelled(x, **order, most=_CALIBRATION_BATCHES))


class _Learner(pl.LightningModule):
    """The loop's view of a model: which batches, which loss, which optimiser."""

    def __init__(
        self, model: DRMM, objective: Aim, config: Training, machine: Machine, x: Tensor, y: Tensor
    ) -> None:
        super().__init__()
        self.model = model
        self._objective, self._config, self._machine = objective, config, machine
        self._e_step = E_STEPS[config.e_step]
        self._data = (x, y)
        self._of_labels: Tensor
        self.register_buffer("_of_labels", class_prior(x, y, model.n_classes), persistent=False)
        self._seconds, self._start = 0.0, time.perf_counter()
        self._seeds = np.random.default_rng()  # of each step's draws
        self._finite: Tensor | None = None  # whether all losses of the epoch were
        self.loss = torch.zeros(())  # of the last step

    def __deepcopy__(self, memo: dict[int, Any]) -> _Learner:
        """A copy of the weights for the average; images are shared."""
        twin = _Learner(deepcopy(self.model, memo), self._objective, self._config, self._machine, *self._data)
        twin.train(self.training)
        return twin

    @cached_property
    def _seen(self) -> DRMM:
        """The model as the objective sees it."""
        return cast("DRMM", Compiled(self.model)) if self._machine.compile else self.model

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep for how long all sessions have learned."""
        checkpoint["seconds"] = self._seconds + time.perf_counter() - self._start

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        self._seconds = float(checkpoint.get("seconds", 0.0))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """This epoch's batches."""
        now = self.trainer
        mine = _batches(*self._data, self._config, now.current_epoch, now.global_rank, now.world_size)
        return _loader(mine, batch_size=None)

    def on_train_epoch_start(self) -> None:
        """Make what a process draws a function of seed, epoch and rank: a resumed run repeats it."""
        now = self.trainer
        self._seeds = np.random.default_rng([self._config.seed, now.current_epoch, now.global_rank])
        self._finite = None

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Every term of the objective, logged by its name."""
        x, y = batch
        watched = self._config.patience is not None
        # At the very start of a warm-up some terms are left out, which the watched loss needs.
        progress = max(int(watched), self.trainer.global_step) / self.trainer.estimated_stepping_batches
        with seeded(int(self._seeds.integers(2**63))):
            terms = self._objective(self._seen, x, y, progress, self._of_labels, self._e_step)
        if self.trainer.world_size > 1:
            terms["loss"] = self._of_whole_batch(terms, y, progress)
        loss = terms["loss"].detach()
        self._finite = loss.isfinite() if self._finite is None else self._finite & loss.isfinite()
        if (index + 1) % _STEPS_UNSEEN == 0:
            self._check(self._finite)
        logged = {f"train/{name}": term.detach() for name, term in terms.items()}
        self.log_dict(logged, on_epoch=True, on_step=False, sync_dist=True)
        self.loss = loss
        if watched:
            final = self._final_loss(terms)
            self.log(_WATCHED, final, on_epoch=True, on_step=False, logger=False, sync_dist=True)
        return terms["loss"]

    def _of_whole_batch(self, terms: Mapping[str, Tensor], y: Tensor, progress: float) -> Tensor:
        """A loss whose mean over processes is that of the whole batch, of which they have unequal shares."""
        mine = torch.stack([torch.ones_like(y).sum(), (y >= 0).sum()]).float()
        mean = self.trainer.strategy.reduce(mine.clone(), reduce_op="mean")
        of_pictures, of_labels = mine / mean.clamp(min=torch.finfo(mean.dtype).tiny)
        weights = self._objective.weights(progress)
        shares = {name: of_labels if name == "cross_entropy" else of_pictures for name in terms}
        parts = [weights[name] * shares[name] * term for name, term in terms.items() if name != "loss"]
        return torch.stack(parts).sum()

    def _final_loss(self, terms: Mapping[str, Tensor]) -> Tensor:
        final = self._objective.weights(1.0)
        parts = [final[name] * term.detach() for name, term in terms.items() if name != "loss"]
        return torch.stack(parts).sum()

    def on_train_epoch_end(self) -> None:
        """Refuse to go on from losses or weights that are not finite; callbacks save and stop after this."""
        weights = torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()]).all()
        self._check(weights if self._finite is None else weights & self._finite)

    def _check(self, finite: Tensor) -> None:
        """On all processes alike: one that goes on alone would wait for the others."""
        if not self.trainer.strategy.reduce_boolean_decision(bool(finite), all=True):
            raise InputError("the loss is not finite: lower the learning rate, or check the images")

    def on_validation_epoch_start(self) -> None:
        """Measure the statistics of the averaged weights, which are in place now."""
        if self._config.learning != "tune":
            calibrate(self.model, self._data[0], self._config)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Error of the averaged weights, in percent."""
        x, y = batch
        wrong = (self.model(pixels(x)).argmax(1) != y).float()
        self.log("val/error", 100 * wrong.mean(), batch_size=len(y), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Adam with a warm-up and a cosine to 0."""
        optimizer = torch.optim.Adam(rates(self.model, self._config), lr=self._config.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_cosine(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Together(DDPStrategy):
    """Processes that end together, and say so."""

    _over = Event()

    def setup_environment(self) -> None:
        """Take over from Lightning's watch, which kills this process before it can say a word."""
        launcher: Any = self.launcher
        helpers = list(getattr(launcher, "procs", ()))
        if helpers:
            launcher.procs.clear()  # with none left to look after, that watch ends
            launcher.procs = helpers
        self._over = watch(helpers)
        super().setup_environment()

    def teardown(self) -> None:
        """Nobody is waited for any more."""
        self._over.set()
        super().teardown()


def _loader(data: Dataset[Any], batch_size: int | None) -> DataLoader[Any]:
    """A loader that takes nothing from torch's own stream of randomness."""
    return DataLoader(data, batch_size=batch_size, generator=torch.Generator())


def _batches(x: Tensor, y: Tensor, config: Training, epoch: int, rank: int, world_size: int) -> Batches:
    """What one process sees in one epoch."""
    return Batches(
        x,
        y,
        batch_size=config.batch_size,
        labelled=config.labelled_per_batch,
        seed=config.seed,
        epoch=epoch,
        rank=rank,
        world_size=world_size,
    )


def _trainer(
    config: Training,
    machine: Machine,
    folder: Path | None,
    watching: Sequence[Callback],
    *,
    validated: bool,
) -> pl.Trainer:
    callbacks = list(watching)
    if folder is not None:
        keep_last = {"filename": "last", "save_on_train_epoch_end": True, "enable_version_counter": False}
        callbacks.append(ModelCheckpoint(folder / "checkpoints", **keep_last))  # type: ignore[arg-type]
    if config.patience is not None:
        monitor = "val/error" if validated else _WATCHED
        callbacks.append(EarlyStopping(monitor, patience=config.patience, check_on_train_epoch_end=True))
    # Lightning took it from whatever launcher left one.
    rank_zero_only.rank = local_rank()  # type: ignore[attr-defined]
    if (started := of_torchrun()) not in {0, machine.devices}:
        raise InputError(
            f"torchrun started {started} processes for {machine.devices} devices: set machine.devices={started}"
        )
    if machine.devices > 1:
        lead()
    try:
        return pl.Trainer(
            max_epochs=config.epochs,
            accelerator=machine.accelerator,
            devices=machine.devices,
            strategy=_Together() if machine.devices > 1 else "auto",
            precision=machine.precision,  # type: ignore[arg-type]
            callbacks=callbacks,
            logger=_loggers(folder),
            plugins=[AtomicCheckpoints(), LightningEnvironment()],
            gradient_clip_val=config.gradient_clip or None,
            reload_dataloaders_every_n_epochs=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=folder is not None,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            default_root_dir=folder,
        )
    except (MisconfigurationException, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"this machine cannot train so ({reason}): choose another device, auto or cpu, or another precision"
        ) from error


def _loggers(folder: Path | None) -> list[Logger] | bool:
    if folder is None:
        return False
    loggers: list[Logger] = [CSVLogger(folder, name="logs", version="")]
    if find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(folder, name="logs", version=""))
    return loggers
