"""A run: data, label split, model, learning and results in one folder that explains itself.

The folder holds `run.json` (everything that was asked for), `labels.csv` (which images had a label),
`checkpoints/`, `logs/` (CSV and TensorBoard), `model.json` and `model.safetensors`, and at last `results.json`.
Where a structure was selected there are also `selection/` (each candidate's scores) and `selection.csv`.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drmm._version import __version__
from drmm.data import Dataset, holdout, load, mask_labels, stratified_labels
from drmm.data.labels import UNLABELLED, check_labels
from drmm.errors import InputError, RunError
from drmm.files import check_new, read_json, write_csv, write_json
from drmm.learning.metrics import cluster_accuracy, error_percent, name_clusters, predict_logits, taught_labels
from drmm.learning.objective import Objective
from drmm.learning.selection import Criterion, Grid, check_selection, select
from drmm.learning.train import Training, train
from drmm.model.deep import DRMM
from drmm.model.presets import Constraint, resolve
from drmm.model.storage import Recipe, load_model, save_model

__all__ = ["RunSpec", "fit_run", "versions"]


@dataclass(frozen=True)
class RunSpec:
    """What to do.

    Attributes:
        data: name of a data set, or a folder of images.
        labels_per_class: how many labels to keep; None keeps all there are, and 0 none: images fall into clusters.
        validation: labelled training images held out to watch the error during training.
        preset: "auto" or a preset's name.
        constraint: "soft", "hard" or "weight_norm".
        width: of the preset; None is its own default.
        depth: likewise.
        clusters: how many, where no image has a label; None is as many as there are classes.
        size: (H, W) to resize a folder's images to.
        teacher: folder of a trained model, whose labels the images without one get; None learns without.
        objective: what to minimise.
        training: how.
        select: settings to choose between before the winner is trained; None trains what the spec says.
        criterion: what chooses (`drmm.learning.selection`); None is its default.
    """

    data: str
    labels_per_class: int | None = None
    validation: int = 0
    preset: str = "auto"
    constraint: Constraint = "soft"
    width: int | None = None
    depth: int | None = None
    clusters: int | None = None
    size: tuple[int, int] | None = None
    teacher: str | None = None
    objective: Objective = field(default_factory=Objective)
    training: Training = field(default_factory=Training)
    select: Grid | None = None
    criterion: Criterion | None = None


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
    if spec.teacher is not None:
        parts = replace(parts, labels=_from_teacher(Path(spec.teacher), recipe, parts))
    candidates = _candidates(spec, recipe, parts)
    if leader and not resume:
        _write_plan(spec, data, parts, folder, command)
    start = time.perf_counter()
    with _cleared_after_mistakes(folder, keep=resume or not leader):
        recipe, selection = _select(candidates, parts, spec, folder, progress=progress)
        model = _learn(recipe, parts, spec, folder=folder, resume=resume, progress=progress)
    if not leader:
        return {}
    save_model(model, recipe, folder)
    results = {
        "dataset": data.name,
        "labels": len(parts.known),
        "images": len(parts.images),
        "seed": spec.training.seed,
        "learning": spec.training.learning,
        "constraint": spec.constraint,
        "validation_error": None if parts.validation is None else error_percent(model, *parts.validation),
        "test_error": None if _is_clustering(spec, data) else _test_error(model, data),
        "cluster_accuracy": _cluster_accuracy(model, data) if _is_clustering(spec, data) else None,
        "seconds": round(time.perf_counter() - start, 1),
        "resumed": resume,
        "command": command,
        "versions": versions(),
        "selection": selection,
    }
    write_json(folder / "results.json", results)
    return results


def _write_plan(spec: RunSpec, data: Dataset, parts: _Parts, folder: Path, command: str) -> None:
    write_json(folder / "run.json", {"command": command, "spec": asdict(spec), "versions": versions()})
    split = [(int(i), data.classes[data.y_train[i]]) for i in parts.known]
    write_csv(folder / "labels.csv", ["index", "label"], split)


def _candidates(spec: RunSpec, recipe: Recipe, parts: _Parts) -> tuple[Recipe, ...]:
    """What to choose from, or the one recipe there is; each can be built."""
    if spec.select is None:
        if spec.criterion is not None:
            raise InputError("a criterion needs something to choose between: add --select, as in width=8,16")
        recipe.build(seed=0)
        return (recipe,)
    if spec.training.devices > 1:
        raise InputError("structures are selected on one device: leave --devices out, or select first")
    for name in ("width", "depth", "preset"):
        if getattr(spec.select, name) and getattr(spec, name) not in {None, "auto"}:
            raise InputError(f"{name} is both given and selected: leave --{name} out")
    candidates = spec.select.candidates(recipe)
    check_selection(candidates, parts.labels, spec.criterion, spec.training.seed)
    return candidates


def _select(
    candidates: tuple[Recipe, ...], parts: _Parts, spec: RunSpec, folder: Path, *, progress: bool
) -> tuple[Recipe, dict[str, Any] | None]:
    """The recipe to train, and how it was chosen."""
    if spec.select is None:
        return candidates[0], None
    selection = select(
        candidates,
        lambda recipe, x, y: _learn(recipe, replace(parts, images=x, labels=y), spec, progress=progress),
        parts.images,
        parts.labels,
        criterion=spec.criterion,
        seed=spec.training.seed,
        folder=folder / "selection",
        progress=progress,
    )
    rows = selection.rows()
    write_csv(folder / "selection.csv", list(rows[0]), [list(row.values()) for row in rows])
    return selection.winner, {"criterion": selection.criterion, "candidates": rows}


def _learn(
    recipe: Recipe,
    parts: _Parts,
    spec: RunSpec,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: bool,
) -> DRMM:
    return train(
        recipe.build(spec.training.seed),
        parts.images,
        parts.labels,
        objective=spec.objective,
        config=spec.training,
        validation=parts.validation,
        folder=folder,
        resume=resume,
        progress=progress,
    )


@contextmanager
def _cleared_after_mistakes(folder: Path, *, keep: bool) -> Iterator[None]:
    """Where nothing could be learned, remove the folder unless it is to be kept."""
    try:
        yield
    except InputError:
        begun = ("checkpoints/*.ckpt", "em/*.safetensors", "selection/*.json")
        if not keep and not any(any(folder.glob(pattern)) for pattern in begun):
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


def _from_teacher(folder: Path, recipe: Recipe, parts: _Parts) -> Tensor:
    """What the images' labels are, with a trained model's where there is none."""
    if len(parts.known) == len(parts.labels):
        raise InputError("there is nothing to teach: every image has a label; leave --teacher out")
    model, its = load_model(folder)
    if (its.classes, its.image_shape) != (recipe.classes, recipe.image_shape):
        raise InputError(f"the model in {folder} knows other classes or image sizes: take one of the same data")
    return taught_labels(model, parts.images, parts.labels)


def _test_error(model: DRMM, data: Dataset) -> float | None:
    known = data.y_test >= 0
    if not known.any():
        return None
    return error_percent(model, torch.from_numpy(data.x_test[known]), torch.from_numpy(data.y_test[known]))


def _cluster_accuracy(model: DRMM, data: Dataset) -> float | None:
    """On the test set, with clusters named by what most of their training images are; in percent."""
    if not (data.y_test >= 0).any() or not (data.y_train >= 0).any():
        return None
    train, test = (
        predict_logits(model, torch.from_numpy(x)).argmax(1).numpy() for x in (data.x_train, data.x_test)
    )
    return cluster_accuracy(test, data.y_test, name_clusters(train, data.y_train))


def _check_folder(spec: RunSpec, folder: Path, *, resume: bool) -> None:
    if not resume:
        check_new(folder, "choose another --out, or go on with --resume")
        return
    if not (folder / "run.json").is_file():
        raise RunError(f"{folder} holds no run to resume: leave --resume out")
    # A run of an earlier version does not know settings that came later: it was as they are by default.
    default = _flat({"objective": asdict(Objective()), "training": asdict(Training())})
    before, now = default | _flat(read_json(folder / "run.json").get("spec", {})), _flat(asdict(spec))
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
    if spec.labels_per_class == 0:
        labels = np.full_like(labels, UNLABELLED)
    elif spec.labels_per_class is not None:
        labels = mask_labels(labels, stratified_labels(labels, spec.labels_per_class, seed=seed))
    clustering = _is_clustering(spec, data)
    if spec.clusters is not None and not clustering:
        raise InputError("clusters need images without labels: use labels_per_class 0, or leave clusters out")
    if not clustering:
        check_labels(labels, len(labels), classes=list(range(len(data.classes))))
    return _Parts(torch.from_numpy(images), torch.from_numpy(labels), kept[labels >= 0], validation)


def _is_clustering(spec: RunSpec, data: Dataset) -> bool:
    return spec.labels_per_class == 0 or (spec.clusters is not None and bool((data.y_train == UNLABELLED).all()))


def _recipe(spec: RunSpec, data: Dataset) -> Recipe:
    channels, height, width = data.x_train.shape[1:]
    shape = (channels, height, width)
    classes = tuple(data.classes)
    if _is_clustering(spec, data):
        n_clusters = len(classes) if spec.clusters is None else spec.clusters
        if n_clusters < 2:
            raise InputError(f"images cannot fall into {n_clusters} clusters: say how many there are, 2 or more")
        classes = tuple(f"cluster {i}" for i in range(n_clusters))
    return Recipe(resolve(spec.preset, shape), shape, classes, spec.constraint, spec.width, spec.depth)
