"""What goes on beside the steps of the training loop: averaged weights, the progress shown, times taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from drmm.progress import Meter

__all__ = ["Average", "Shown", "Steps", "moving_average"]


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
        *_: Any,
        **__: Any,
    ) -> None:
        """Reading the loss waits for the device, so that the time is the step's own."""
        self.losses.append(float(outputs["loss"]))
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


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


class Average(WeightAveraging):
    """Lightning's average of the weights, by the steps that the host has counted: the device is not asked."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay = decay

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any, **__: Any) -> None:
        """Take the weights of this step in."""
        average = cast("AveragedModel", self._average_model)
        mine, theirs = (chain(net.parameters(), net.buffers()) for net in (average.module, pl_module))
        _average(mine, theirs, trainer.global_step - 1, self._decay)
        average.n_averaged += 1
        self._latest_update_step = trainer.global_step


class Shown(Callback):
    """How far the training is, and the loss, which is seldom asked for: each reading waits for the device."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any, **__: Any) -> None:
        """A step is done."""
        if trainer.is_global_zero:
            steps = int(trainer.estimated_stepping_batches)
            self._meter.update(trainer.global_step, steps, lambda: self._note(trainer, pl_module))

    @staticmethod
    def _note(trainer: pl.Trainer, learner: Any) -> str:
        error = trainer.callback_metrics.get("val/error")
        validated = "" if error is None else f", validation error {float(error):.2f} %"
        epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        return f"{epoch}, loss {float(learner.loss):.3f}{validated}"
