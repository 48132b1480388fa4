"""The one entrance to EM, for every model that has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.learning.e_steps import EStep, bottom_up
from drmm.learning.em.deep import DeepLearner, MStep
from drmm.learning.em.loop import Learner, Trace, run_em
from drmm.learning.em.shallow import ShallowLearner
from drmm.model.deep import DRMM
from drmm.model.shallow import RMM
from drmm.progress import Outlook

__all__ = ["fit_em"]


def fit_em(
    model: DRMM | RMM,
    x: Tensor,
    y: Tensor | None = None,
    *,
    max_iter: int = 20,
    tolerance: float = 1e-3,
    soft: bool | None = None,
    how: MStep | None = None,
    choose: EStep = bottom_up,
    folder: Path | None = None,
    resume: bool = False,
    progress: bool | Outlook = True,
) -> Trace:
    """Learn by EM, in place: alternate E-steps and M-steps until the objective stands still.

    Args:
        model: what to learn. Start it first: a deep model with `drmm.initialise`, a shallow one with `em.seed`.
        x: images (N, C, H, W), uint8 or float in [0, 1].
        y: class indices (N,), -1 where there is no label; None where there is none at all.
        max_iter: E-steps at the most.
        tolerance: stop when the objective gains less than this share of its absolute value.
        soft: responsibilities over classes (and positions and switches, in the shallow model) instead of the best
            configuration; None is soft for the shallow model and hard for the deep one.
        how: the M-step of a deep model's dictionaries.
        choose: the switches that a deep model's E-step proposes.
        folder: where parameters and latents are kept after each iteration; by default a temporary one.
        resume: go on from what is in `folder`.
        progress: show a progress bar.

    Returns:
        The objective after each E-step.

    Raises:
        InputError: if images or labels cannot be used, or the objective is not finite.
        RunError: if the folder cannot be written, or its state does not fit.
    """
    with _folder(folder) as directory:
        learner: Learner
        if isinstance(model, RMM):
            if y is not None or how is not None or choose is not bottom_up:
                raise InputError("the shallow model has clusters and closed forms: leave y, how and choose out")
            learner = ShallowLearner(model, x, soft=soft is not False)
        else:
            labels = torch.full((len(x),), -1) if y is None else y
            store = directory / "latents"
            learner = DeepLearner(
                model, x, labels, how=how or MStep(), soft=bool(soft), choose=choose, folder=store
            )
        return run_em(
            learner, max_iter=max_iter, tolerance=tolerance, folder=folder, resume=resume, progress=progress
        )


@contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with TemporaryDirectory(prefix="drmm-em-") as temporary:
        yield Path(temporary)
