"""What a folder says about a model: its weights, how it was learned, from which images, with which results.

Folders of `drmm fit`, `drmm prune` and `drmm demo`, and any with a model: what one does not say is None.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drmm.data import Dataset, load
from drmm.errors import InputError, RunError
from drmm.files import read_json
from drmm.model.deep import DRMM
from drmm.model.storage import Recipe, load_model

__all__ = ["Curve", "Source", "number", "read_source"]

Curve = tuple[tuple[float, ...], tuple[float, ...]]
"""What was logged: epochs (or iterations), and values."""


@dataclass(frozen=True)
class Source:
    """A model and all that its folder says about it.

    Attributes:
        folder: that was asked for.
        name: of the model within a folder of several; empty otherwise.
        model: in evaluation mode.
        recipe: what its inputs and outputs mean.
        spec: what was asked of the run; empty where that is not known.
        results: figures that were written when it was done; likewise.
        command: that made it; likewise.
        versions: of what made it; likewise.
        contenders: rows of the demo's table, by folder.
        curves: what was logged, by name.
        labels: place among the training images and class of each label that was known; None where that is unknown.
        data: the images; None if they are gone.
        why_no_data: in one line.
    """

    folder: Path
    name: str
    model: DRMM
    recipe: Recipe
    spec: Mapping[str, Any]
    results: Mapping[str, Any]
    command: str
    versions: Mapping[str, str]
    contenders: Mapping[str, Mapping[str, Any]]
    curves: Mapping[str, Curve]
    labels: tuple[tuple[int, str], ...] | None
    data: Dataset | None
    why_no_data: str

    @property
    def clusters(self) -> bool:
        """Whether the model found clusters, which no class stands for."""
        return self.spec.get("labels_per_class") == 0 or (
            self.data is not None and self.recipe.classes != tuple(self.data.classes)
        )


def read_source(folder: Path, data_dir: Path | None = None) -> Source:
    """Read a folder; nothing is downloaded.

    Args:
        folder: of a run, a pruned model or a demo.
        data_dir: where the data sets' files are.

    Raises:
        RunError: if there is no model, or a file is damaged.
    """
    results = _json(folder, "results.json")
    plan = _json(folder, "run.json") or _json(folder, "pruning.json")
    contenders = _mapping(results.get("models"))
    name = _place(folder, plan, contenders)
    model, recipe = load_model(folder / name)
    spec = _mapping(plan.get("spec"))
    data, why = _data(spec or {"data": results.get("dataset")}, recipe, data_dir)
    about = plan or results
    return Source(
        folder=folder,
        name=name,
        model=model,
        recipe=recipe,
        spec=spec,
        results=results,
        command=str(about.get("command") or ""),
        versions={str(key): str(value) for key, value in _mapping(about.get("versions")).items()},
        contenders={key: _mapping(row) for key, row in contenders.items()},
        curves=_curves(folder / name / "logs"),
        labels=_labels(folder / "labels.csv"),
        data=data,
        why_no_data=why,
    )


def number(facts: Mapping[str, Any], key: str) -> float | None:
    """A figure, if there is one under that name."""
    value = facts.get(key)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known and value is not None else None


def _place(folder: Path, plan: Mapping[str, Any], contenders: Mapping[str, Any]) -> str:
    """Where in a folder the model is that the report is about: the demo's soft one, else its first."""
    if (folder / "model.json").exists():
        return ""
    for name in ("soft", *contenders):
        within = Path(name).name == name  # names are from a file: none leads out of the folder
        if within and name in contenders and (folder / name / "model.json").is_file():
            return name
    if plan:
        raise RunError(f"{folder} has not finished: go on with the same command and --resume")
    raise RunError(f"{folder} holds no model: pass a folder of drmm fit, drmm prune or drmm demo")


def _json(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name) if (folder / name).exists() else {}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _data(spec: Mapping[str, Any], recipe: Recipe, data_dir: Path | None) -> tuple[Dataset | None, str]:
    """The images, or why there are none."""
    name, size = spec.get("data"), spec.get("size")
    if not isinstance(name, str):
        return None, "The folder does not say which images the model learned from."
    try:
        data = load(name, data_dir=data_dir, download=False, size=None if size is None else (size[0], size[1]))
    except (InputError, RunError) as error:
        return None, f"The images are not here ({error})."
    if data.x_train.shape[1:] != recipe.image_shape:
        return None, f"{name} holds images of another shape now."
    return data, ""


def _curves(folder: Path) -> dict[str, Curve]:
    """Columns of the logs against epoch or iteration; what a killed run left unfinished is skipped."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for file, clock in (("metrics.csv", "epoch"), ("em.csv", "iteration")):
        for row in _rows(folder / file):
            x = _float(row.get(clock))
            for name in row.keys() - {clock, "step", "seconds", None}:
                y = _float(row[name])
                if x is not None and y is not None:
                    xs, ys = found.setdefault(name, ([], []))
                    xs.append(x + (clock == "epoch"))  # epochs are counted from 0
                    ys.append(y)
    return {name: (tuple(xs), tuple(ys)) for name, (xs, ys) in sorted(found.items())}


def _labels(path: Path) -> tuple[tuple[int, str], ...] | None:
    if not path.exists():
        return None
    try:
        return tuple((int(row["index"]), row["label"]) for row in _rows(path))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}): copy it again or train again") from error


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path} is damaged ({error}): copy it again or train again") from error


def _float(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
