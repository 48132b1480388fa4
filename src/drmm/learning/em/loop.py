"""The EM loop that every model shares: E-step, M-step, trace, tolerance, progress, checkpoints."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from drmm.errors import InputError, RunError
from drmm.files import read_tensors, tensor_bytes, write_bytes
from drmm.progress import Meter, Outlook

__all__ = ["Learner", "Trace", "named", "run_em", "seconds_of_em", "unnamed"]

_STATE = "em.safetensors"
_OBJECTIVE, _SECONDS = "trace.objective", "trace.seconds"


@dataclass(frozen=True, slots=True)
class Trace:
    """What an EM run did.

    Attributes:
        objective: after each E-step, per image, in nats; higher is better. What it is the learner says: the
            log-likelihood in soft EM, the complete-data log-joint in hard EM.
        seconds: since the start of learning, at the same moments, over all sessions of a resumed run.
        converged: whether the last improvement was below the tolerance.
    """

    objective: tuple[float, ...]
    seconds: tuple[float, ...]
    converged: bool


class Learner(ABC):
    """A model, its images, and what EM remembers between its two steps."""

    @abstractmethod
    def e_step(self) -> float:
        """Infer the latents of all images at the current parameters.

        Returns:
            The objective per image at the current parameters and these latents, in nats.
        """

    @abstractmethod
    def m_step(self) -> None:
        """Fit the parameters to the latents of the last E-step."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Everything that the next E-step depends on, by name."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned.

        Raises:
            RunError: if the state is another model's.
        """


def run_em(
    learner: Learner,
    *,
    max_iter: int,
    tolerance: float,
    folder: Path | None = None,
    resume: bool = False,
    progress: bool | Outlook = True,
) -> Trace:
    """Alternate E-steps and M-steps until the objective stands still.

    Args:
        learner: what to learn; its parameters change in place, and end as the last E-step saw them.
        max_iter: E-steps at the most.
        tolerance: stop when the objective gains less than this share of its absolute value.
        folder: where the state goes after each iteration (`em.safetensors`); None writes nothing.
        resume: go on from the state in `folder`, if there is one.
        progress: show how far it is.

    Raises:
        InputError: if the objective is not finite.
        RunError: if the folder cannot be written, or its state does not fit.
    """
    objective: list[float] = []
    seconds: list[float] = []
    if resume and folder is not None and (folder / _STATE).is_file():
        state = _read(folder / _STATE)
        objective, seconds = state.pop(_OBJECTIVE).tolist(), state.pop(_SECONDS).tolist()
        learner.restore(state)
    start = time.perf_counter() - (seconds[-1] if seconds else 0.0)
    converged = _stands_still(objective, tolerance)
    with closing(Meter("EM", outlook=progress)) as meter:
        while not converged and len(objective) < max_iter:
            if objective:
                learner.m_step()
            objective.append(_finite(learner.e_step()))
            seconds.append(time.perf_counter() - start)
            converged = _stands_still(objective, tolerance)
            if progress:
                meter.update(len(objective), max_iter, lambda: f"objective {objective[-1]:.2f} nats per image")
            if folder is not None:
                numbers = torch.tensor([objective, seconds], dtype=torch.double)
                traced = dict(zip((_OBJECTIVE, _SECONDS), numbers, strict=True))
                write_bytes(folder / _STATE, tensor_bytes({**learner.state(), **traced}))
    return Trace(tuple(objective), tuple(seconds), converged)


def _finite(objective: float) -> float:
    if not math.isfinite(objective):
        raise InputError(f"the objective became {objective}: check the images for infinite or constant values")
    return objective


def _stands_still(objective: list[float], tolerance: float) -> bool:
    if len(objective) < 2:
        return False
    return objective[-1] - objective[-2] < tolerance * max(1.0, abs(objective[-1]))


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under names of their own, as part of a state."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def unnamed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state that `named` made."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def seconds_of_em(folder: Path) -> float:
    """For how long EM has run whose state lies in a folder, over all sessions; 0 where there is none.

    Raises:
        RunError: if the state is damaged.
    """
    path = folder / _STATE
    return float(_read(path)[_SECONDS][-1]) if path.is_file() else 0.0


def _read(path: Path) -> dict[str, Tensor]:
    state = read_tensors(path, remedy="remove the run's folder and train again")
    if not {_OBJECTIVE, _SECONDS} <= state.keys():
        raise RunError(f"{path} holds no EM run: remove it and train again")
    return state
