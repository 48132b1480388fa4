"""A run: data, label split, model, learning and results in one folder that explains itself.

The folder holds `run.json` (everything that was asked for), `labels.csv` (which images had a label),
`checkpoints/`, `logs/` (CSV and TensorBoard), `model.json` and `model.safetensors`, and at last `results.json`.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drmm._version import __version__
from drmm.batches import pixels
from drmm.data import Dataset, holdout, load, mask_labels, stratified_labels
from drmm.errors import InputError, RunError
from drmm.labels import check_labels
from drmm.model import DRMM
from drmm.objective import Objective
from drmm.presets import Constraint, resolve
from drmm.storage import Recipe, read_json, save_model, write_csv, write_json
from drmm.training import Training, train

__all__ = ["RunSpec", "error_percent", "fit_run", "predict_logits", "versions"]

_CHUNK = 500  # images per forward pass


@dataclass(frozen=True)
class RunSpec:
    """What to do.

    Attributes:
        data: name of a data set, or a folder of images.
        labels_per_class: how many labels to keep; None keeps all there are.
        validation: labelled training images held out to watch the error during training.
        preset: "auto" or a preset's name.
        constraint: "soft" or "hard".
        width: of the preset; None is its own default.
        size: (H, W) to resize a folder's images to.
        objective: what to minimise.
        training: how.
    """

    data: str
    labels_per_class: int | None = None
    validation: int = 0
    preset: str = "auto"
    constraint: Constraint = "soft"
    width: int | None = None
    size: tuple[int, int] | None = None
    objective: Objective = field(default_factory=Objective)
    training: Training = field(default_factory=Training)


def fit_run(
    spec: RunSpec,
    folder: Path,
    *,
    data_dir: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    command: str = "",
) -> dict[str, Any]:
    """Train a model as the spec says, into a folder.

    Args:
        spec: what to do.
        folder: a new folder, or with `resume` one of the same spec.
        data_dir: where the data sets' files are.
        resume: go on from the folder's last checkpoint.
        progress: show a progress bar.
        command: the exact command line, kept with the run.

    Returns:
        What `results.json` holds: errors in percent, seconds, versions. Empty in DDP's further processes.

    Raises:
        InputError: if the data cannot be used; nothing has been written then.
        RunError: if the folder exists, does not fit, or cannot be written.
    """
    # DDP starts the same command again for every further device; only the first process owns the folder.
    leader = os.environ.get("LOCAL_RANK", "0") == "0"
    if leader:
        _check_folder(spec, folder, resume=resume)
    data = load(spec.data, data_dir=data_dir, size=spec.size)
    parts = _parts(data, spec)
    recipe = _recipe(spec, data)
    model = recipe.build(spec.training.seed)
    if leader and not resume:
        write_json(folder / "run.json", {"command": command, "spec": asdict(spec), "versions": versions()})
        split = [(int(i), data.classes[data.y_train[i]]) for i in parts.known]
        write_csv(folder / "labels.csv", ["index", "label"], split)
    start = time.perf_counter()
    _learn(model, parts, spec, folder, resume=resume, progress=progress, keep=resume or not leader)
    if not leader:
        return {}
    save_model(model, recipe, folder)
    results = {
        "dataset": data.name,
        "labels": len(parts.known),
        "images": len(parts.images),
        "seed": spec.training.seed,
        "constraint": spec.constraint,
        "validation_error": None if parts.validation is None else error_percent(model, *parts.validation),
        "test_error": _test_error(model, data),
        "seconds": round(time.perf_counter() - start, 1),
        "resumed": resume,
        "command": command,
        "versions": versions(),
    }
    write_json(folder / "results.json", results)
    return results


def _learn(
    model: DRMM, parts: _Parts, spec: RunSpec, folder: Path, *, resume: bool, progress: bool, keep: bool
) -> None:
    """Train; where nothing could be learned, remove the folder unless it is to be kept."""
    try:
        train(
            model,
            parts.images,
            parts.labels,
            objective=spec.objective,
            config=spec.training,
            validation=parts.validation,
            folder=folder,
            resume=resume,
            progress=progress,
        )
    except InputError:
        if not keep and not any(folder.glob("checkpoints/*.ckpt")):
            shutil.rmtree(folder)  # a second try finds its place free
        raise


def versions() -> dict[str, str]:
    """Versions of what decides a figure."""
    return {
        "drmm": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@torch.no_grad()
def predict_logits(model: DRMM, x: Tensor) -> Tensor:
    """Logits (N, C) of images, chunk by chunk; uint8 images are scaled to [0, 1]."""
    return torch.cat([model(pixels(part)) for part in x.split(_CHUNK)])


def error_percent(model: DRMM, x: Tensor, y: Tensor) -> float:
    """Share of images whose label is not the most probable class, in percent."""
    return round(100 * float((predict_logits(model, x).argmax(1) != y).double().mean()), 4)


def _test_error(model: DRMM, data: Dataset) -> float | None:
    known = data.y_test >= 0
    if not known.any():
        return None
    return error_percent(model, torch.from_numpy(data.x_test[known]), torch.from_numpy(data.y_test[known]))


def _check_folder(spec: RunSpec, folder: Path, *, resume: bool) -> None:
    if not resume:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder} exists: choose another --out, or go on with --resume")
        return
    if not (folder / "run.json").is_file():
        raise RunError(f"{folder} holds no run to resume: leave --resume out")
    before, now = _flat(read_json(folder / "run.json").get("spec", {})), _flat(asdict(spec))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise RunError(f"{folder} was started with another {changed[0]}: resume with the same options")


def _flat(spec: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in spec.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


@dataclass(frozen=True)
class _Parts:
    """What a run learns from.

    Attributes:
        images: levels, uint8 (N, C, H, W).
        labels: class indices (N,), -1 where hidden.
        known: places in the data set's training part of the images with a label.
        validation: held-out images and labels.
    """

    images: Tensor
    labels: Tensor
    known: npt.NDArray[np.int64]
    validation: tuple[Tensor, Tensor] | None


def _parts(data: Dataset, spec: RunSpec) -> _Parts:
    """Hold out the validation part, draw the labels to keep, hide the others."""
    images, labels, seed = data.x_train, data.y_train, spec.training.seed
    kept, validation = np.arange(len(labels)), None
    if spec.validation:
        held = holdout(labels, spec.validation, seed=seed)
        validation = (torch.from_numpy(images[held]), torch.from_numpy(labels[held]))
        kept = np.setdiff1d(kept, held)
        images, labels = images[kept], labels[kept]
    if spec.labels_per_class is not None:
        labels = mask_labels(labels, stratified_labels(labels, spec.labels_per_class, seed=seed))
    check_labels(labels, len(labels), classes=list(range(len(data.classes))))
    return _Parts(torch.from_numpy(images), torch.from_numpy(labels), kept[labels >= 0], validation)


def _recipe(spec: RunSpec, data: Dataset) -> Recipe:
    channels, height, width = data.x_train.shape[1:]
    shape = (channels, height, width)
    return Recipe(resolve(spec.preset, shape), shape, tuple(data.classes), spec.constraint, spec.width)
