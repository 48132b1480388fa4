"""A run's model as one file that runs elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drmm.cli.console import say
from drmm.data.images import image_batches
from drmm.data.store import taken
from drmm.errors import InputError
from drmm.export import ENDINGS
from drmm.export import export as write
from drmm.export.files import check_to
from drmm.runs.run import Run
from drmm.trust.crossfit import evenly_spread

__all__ = ["export"]

_MOST = 3000  # pictures that 8-bit integers are measured on


def export(
    run: Path,
    to: Path,
    *,
    extras: str = "",
    int8: bool = False,
    calibrate_on: Path | None = None,
    data_dir: Path | None = None,
    force: bool = False,
) -> None:
    """Write a run's model into one file, and say how alike both answer.

    Args:
        run: folder of a trained model.
        to: the file, .onnx or .pt2.
        extras: further answers of `drmm.export.EXTRAS`, with commas.
        int8: make it of 8-bit integers, if it says the same and is faster.
        calibrate_on: pictures to measure these on; None takes the run's own.
        data_dir: where the data sets' files are.
        force: replace the file if it is there.

    Raises:
        InputError: if options do not go together, or as of `drmm.export.export`.
        RunError: likewise.
    """
    check_to(to, force=force)
    wanted = [name.strip() for name in extras.split(",")] if extras else []
    if calibrate_on is not None and not int8:
        raise InputError("--calibrate-on is for --int8: name that too, or leave both out")
    if int8 and (wanted or to.suffix.lower() != ENDINGS[0]):
        raise InputError(
            f"8-bit integers answer with label and probability alone, in {ENDINGS[0]} files: leave --int8 out, or "
            f"--with, and let --to end in {ENDINGS[0]}"
        )
    opened = Run.open(run)
    pictures = _pictures(opened, calibrate_on, data_dir) if int8 else None
    for line in write(opened, to, extras=list(dict.fromkeys(wanted)), integers=pictures, force=force):
        say(line)


def _pictures(run: Run, source: Path | None, data_dir: Path | None) -> Tensor:
    """Some pictures, uint8 (N, C, H, W): those in a place, or those of the run that had no label."""
    if source is not None:
        parts = image_batches(source, run.recipe.image_shape, [], fill=run.asked.shape)
        return torch.cat([(x * 255).round().to(torch.uint8) for _, x in parts])[:_MOST]
    images = run.data(data_dir).x_train
    known = [index for index, _ in run.labels or ()]
    unlabelled = np.setdiff1d(np.arange(len(images)), known)
    rows = unlabelled if len(unlabelled) else np.arange(len(images))
    return torch.from_numpy(taken(images, evenly_spread(rows, _MOST)))
