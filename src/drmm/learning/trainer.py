"""The training loop on `pytorch_lightning`: averaged weights, logs, checkpoints, resuming."""

from __future__ import annotations

import io
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from copy import deepcopy
from functools import cached_property
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from threading import RLock
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    WeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, TensorDataset

from drmm.data.images import pixels
from drmm.errors import InputError, RunError
from drmm.files import write_bytes
from drmm.learning.batches import Batches, unlabelled
from drmm.learning.class_prior import class_prior
from drmm.learning.config import Machine, Training
from drmm.learning.objective import Objective
from drmm.learning.processes import lead, local_rank
from drmm.model.deep import DRMM
from drmm.model.randomness import seeded
from drmm.progress import Meter, Outlook
from drmm.storage.models import misfit

__all__ = [
    "Steps",
    "calibrate",
    "checkpoint_of",
    "device_of",
    "moving_average",
    "run_loop",
    "seconds_of",
    "steps_of_an_epoch",
    "warm_cosine",
]

_CALIBRATION_BATCHES = 40
_LEAST_RATE = 0.1  # of the learning rate: levels with less stay as they are

# What the loop tells its own developers, as regular expressions.
_CHATTER = (
    ".*does not have many workers",
    ".*exists and is not empty",
    ".*GPU available but not used",
    ".*has `__len__` defined",
    ".*LeafSpec.* is deprecated",
    "Grad strides do not match bucket view strides",
    "The dirpath has changed from",
    ".*module\\(s\\) in eval mode at the start of training",
    "You defined a `validation_step` but have no",
)

_TALKATIVE = (
    "pytorch_lightning",
    "lightning_fabric",
    "lightning.pytorch",
    "lightning.fabric",
    "torch._dynamo",
    "torch._inductor",
)

# What the compiler warns itself of.
_COMPILER_CHATTER = (
    ".*torch.autograd.function.Function.* should not be instantiated",
    "The .grad attribute of a Tensor that is not a leaf Tensor",
)

# Warning filters, loggers and the handlers of signals belong to the process, and the loop changes all of them: two
# threads that train take turns.
_ONE_LOOP = RLock()

# A loss that is not finite is looked for after so many steps, and at the end of an epoch before anything is saved:
# each look waits for the device.
_STEPS_UNSEEN = 100

# What patience watches without validation images: the loss with the weights that the training ends with. That with
# the weights of the moment rises while the KL's weight does.
_WATCHED = "train/final_loss"

# Two sizes of batches, twice nine levels, and what is left of each after a break.
_MOST_GRAPHS = 256


def run_loop(
    model: DRMM,
    x: Tensor,
    y: Tensor,
    objective: Objective,
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
    learner = _Learner(model, objective, config, machine, x, y)
    checkpoint = checkpoint_of(folder) if resume and folder is not None else None
    if checkpoint is not None:
        _check_checkpoint(checkpoint, learner)
    loaders = None if validation is None else _loader(TensorDataset(*validation), batch_size=500)
    still = _partly_still(model, config)
    with _ONE_LOOP, still, _quiet(), _compiling(machine), closing(Meter("training", outlook=progress)) as meter:
        average = _Average(config.weight_average)
        callbacks = [average, *watching, *([_Shown(meter)] if progress else [])]
        trainer = _trainer(config, machine, folder, callbacks, validated=validation is not None)
        try:
            trainer.fit(learner, val_dataloaders=loaders, ckpt_path=checkpoint, weights_only=True)
        except OSError as error:
            raise RunError(
                f"cannot write {folder}: {error.strerror or error}; free space or use another place"
            ) from error
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
    with _quiet():
        return _trainer(Training(), machine, None, (), validated=False).strategy.root_device


def steps_of_an_epoch(y: Tensor, config: Training, machine: Machine) -> int:
    """How many steps every process makes in an epoch of images with these labels."""
    return len(_batches(y, y, machine.share(config), 0, 0, machine.devices))


def calibrate(model: DRMM, x: Tensor, config: Training) -> None:
    """Measure the norms' statistics on some batches of the run."""
    order = {"batch_size": config.batch_size, "seed": config.seed, "epoch": 0}
    model.calibrate(unlabelled(x, **order, most=_CALIBRATION_BATCHES))


def checkpoint_of(folder: Path) -> Path | None:
    """The newest training state in a run's folder, if there is one."""
    path = folder / "checkpoints" / "last.ckpt"
    return path if path.is_file() else None


def seconds_of(folder: Path) -> float:
    """For how long the training in a folder has run, over all its sessions; 0 where there is no checkpoint.

    Raises:
        RunError: if the checkpoint is damaged.
    """
    path = checkpoint_of(folder)
    return 0.0 if path is None else float(_read_checkpoint(path).get("seconds", 0.0))


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, UnpicklingError, EOFError, ValueError, LookupError, AttributeError, OSError) as error:
        raise RunError(f"{path} is damaged: remove the run's folder and train again") from error


def _check_checkpoint(path: Path, learner: _Learner) -> None:
    state = _read_checkpoint(path).get("state_dict")
    if not isinstance(state, dict):
        raise RunError(f"{path} is damaged: remove the run's folder and train again")
    if misfit(learner.state_dict(), state) is not None:
        raise RunError(f"{path} is from another architecture: train into a new folder")


class _Learner(pl.LightningModule):
    """The loop's view of a model: which batches, which loss, which optimiser."""

    def __init__(
        self, model: DRMM, objective: Objective, config: Training, machine: Machine, x: Tensor, y: Tensor
    ) -> None:
        super().__init__()
        self.model = model
        self._objective, self._config, self._machine = objective, config, machine
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
        return cast("DRMM", _Compiled(self.model)) if self._machine.compile else self.model

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep for how long all sessions have learned."""
        checkpoint["seconds"] = self._seconds + time.perf_counter() - self._start

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        self._seconds = float(checkpoint.get("seconds", 0.0))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """This epoch's batches."""
        now = self.trainer
        share = self._machine.share(self._config)
        mine = _batches(*self._data, share, now.current_epoch, now.global_rank, now.world_size)
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
            terms = self._objective(self._seen, x, y, progress, self._of_labels)
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
        optimizer = torch.optim.Adam(_rates(self.model, self._config), lr=self._config.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_cosine(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _rates(model: DRMM, config: Training) -> list[dict[str, Any]]:
    """Parameters by level, from the class templates down, and their learning rates."""
    rate, groups = config.learning_rate, []
    if config.rate_decay == 1:
        return [{"params": list(model.parameters()), "lr": rate}]
    for level in (model.templates, *reversed(list(model.levels))):
        if parameters := list(level.parameters()):
            groups.append({"params": parameters, "lr": rate})
            rate *= config.rate_decay
    return groups


@contextmanager
def _partly_still(model: DRMM, config: Training) -> Iterator[None]:
    """For a while, levels that would learn very slowly ask for no gradients."""
    still = [
        parameter
        for group in _rates(model, config)
        for parameter in group["params"]
        if parameter.requires_grad and group["lr"] < _LEAST_RATE * config.learning_rate
    ]
    for parameter in still:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in still:
            parameter.requires_grad = True


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


class _Compiled:
    """A model whose passes through the levels are compiled; all else is the model's own.

    What the model keeps track of beside them is not compiled: its weight changes at every step, and every step
    would be compiled anew.
    """

    def __init__(self, model: DRMM) -> None:
        self._model = model
        self.levels = _CompiledLevels(model.levels)

    def __getattr__(self, name: str) -> Any:
        """What is not compiled."""
        return getattr(self._model, name)


class _CompiledLevels:
    """Bottom-up, with and without switches, and top-down: where the time goes, and functions of tensors.

    The compiler does not learn of sizes that vary (`dynamic`): it has made programs of the position switches that
    did not run.
    """

    def __init__(self, levels: Any) -> None:
        self.infer = torch.compile(levels.infer, dynamic=False)
        self.render_levels = torch.compile(levels.render_levels, dynamic=False)
        self._forward = torch.compile(levels.forward, dynamic=False)

    def __call__(self, x: Tensor) -> Tensor:
        """The features alone."""
        return self._forward(x)  # type: ignore[no-any-return]


@contextmanager
def _compiling(machine: Machine) -> Iterator[None]:
    """Leave room for the graphs of all levels, and say in one line what the compiler cannot do."""
    if not machine.compile:
        yield
        return
    from torch._dynamo import config as dynamo  # noqa: PLC0415
    from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415

    try:
        with dynamo.patch(recompile_limit=_MOST_GRAPHS), _ignoring(_COMPILER_CHATTER):
            yield
    except TorchDynamoException as error:
        reason = shorten(str(error), 200) or type(error).__name__
        raise InputError(
            f"torch.compile cannot compile this model ({reason}): set machine.compile to false"
        ) from error


class Steps(Callback):
    """Loss of every step and the seconds it took, as `losses` and `seconds`."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self._last = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Start the clock."""
        self._last = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Reading the loss waits for the device, so that the time is the step's own."""
        self.losses.append(float(outputs["loss"]))
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def warm_cosine(steps: int) -> Callable[[int], float]:
    """Share of the learning rate at each step: a short warm-up, then a cosine to 0."""
    warm = max(1, min(100, steps // 10))
    return lambda step: min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Exponential average, shorter while there are few steps to average over.

    Args:
        decay: after many steps. After n it is (1 + n) / (10 + n) at most, or the first weights would weigh too
            much.

    Returns:
        What `torch.optim.swa_utils.AveragedModel` takes as `multi_avg_fn`.
    """

    def update(average: Any, current: Any, n_averaged: Any) -> None:
        _average(average, current, int(n_averaged), decay)

    return update


@torch.no_grad()
def _average(average: Iterable[Tensor], current: Iterable[Tensor], n: int, decay: float) -> None:
    """Move the average of n towards what is current, in place."""
    share = 1 - min(decay, (1 + n) / (10 + n)) if n else 1.0
    for mine, theirs in zip(average, current, strict=True):
        if mine.is_floating_point():
            mine.lerp_(theirs, share)
        else:
            mine.copy_(theirs)


class _Average(WeightAveraging):
    """Lightning's average of the weights, by the steps that the host has counted: the device is not asked."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay = decay

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Take the weights of this step in."""
        average = cast("AveragedModel", self._average_model)
        mine, theirs = (chain(net.parameters(), net.buffers()) for net in (average.module, pl_module))
        _average(mine, theirs, trainer.global_step - 1, self._decay)
        average.n_averaged += 1
        self._latest_update_step = trainer.global_step


class _Shown(Callback):
    """How far the training is, and the loss, which is seldom asked for: each reading waits for the device."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """A step is done."""
        if trainer.is_global_zero:
            steps = int(trainer.estimated_stepping_batches)
            self._meter.update(
                trainer.global_step, steps, lambda: self._note(trainer, cast("_Learner", pl_module))
            )

    @staticmethod
    def _note(trainer: pl.Trainer, learner: _Learner) -> str:
        error = trainer.callback_metrics.get("val/error")
        validated = "" if error is None else f", validation error {float(error):.2f} %"
        epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        return f"{epoch}, loss {float(learner.loss):.3f}{validated}"


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
    if machine.devices > 1:
        lead()
    try:
        return pl.Trainer(
            max_epochs=config.epochs,
            accelerator=machine.accelerator,
            devices=machine.devices,
            precision=machine.precision,  # type: ignore[arg-type]
            callbacks=callbacks,
            logger=_loggers(folder),
            plugins=[_AtomicCheckpoints(), LightningEnvironment()],
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
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with _ignoring(_CHATTER):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _ignoring(messages: Sequence[str]) -> Iterator[None]:
    """Hide some warnings, by regular expressions."""
    with warnings.catch_warnings():
        for message in messages:
            warnings.filterwarnings("ignore", message)
        yield
