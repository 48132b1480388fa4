"""A run's folder: the only code that knows the names of its files.

`run.json` is the experiment (`drmm.runs.experiment`), `labels.csv` says which images had a label, `skipped.csv`
which files of a folder were not read, `pixels/` holds the others decoded, `model.json` and `model.safetensors` are
the model, `results.json` what came out, `trust.json` and `trust.safetensors` how far the model can be trusted.
`logs/` and `checkpoints/` are of the training, `further/` of what a finished run learned later, `teacher/` of a
teacher that it learned first, `selection/` and `selection.csv` of the choice of a structure, and `folds/`, until
it is done, of nets without some labels. The folder of a pruned model has `pruning.json` in place of the first and
last, and that of the demo one model in each of its subfolders.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from drmm import __version__
from drmm.data import Dataset
from drmm.data.base import digest_of
from drmm.data.store import forget_pixels
from drmm.errors import InputError, RunError
from drmm.files import (
    check_new,
    read_bytes,
    read_csv,
    read_json,
    read_tensors,
    tensor_bytes,
    write_bytes,
    write_csv,
    write_json,
)
from drmm.learning.recipes import is_recipe
from drmm.learning.train import seconds_in
from drmm.model.deep import DRMM
from drmm.runs.earlier import experiment_tables
from drmm.runs.experiment import Data, Experiment
from drmm.storage.models import MODEL_FILES, Recipe, load_model, save_model
from drmm.trust.assessment import Assessment

__all__ = ["Curve", "Run", "number", "versions"]

Curve = tuple[tuple[float, ...], tuple[float, ...]]
"""What was logged: epochs (or iterations), and values."""

_RUN, _RESULTS, _PRUNING, _LABELS = "run.json", "results.json", "pruning.json", "labels.csv"
_MODEL, _SELECTION, _SKIPPED, _STORE = "model.json", "selection.csv", "skipped.csv", "pixels"
_TRUST, _TRUST_ARRAYS = "trust.json", "trust.safetensors"
_TAKEN = "choose another --out, or go on with --resume"
_DEMO_MODEL = "soft"  # of the models of a demo, the one that a report is about


class Run:
    """A folder with a model and what is known about it.

    Args:
        folder: of `drmm fit`, `drmm prune` or `drmm demo`, or any with a model; use `create` or `open`.
        experiment: what was asked for; None where the folder does not say.

    Attributes:
        folder: as given.
        experiment: likewise.
    """

    def __init__(self, folder: Path, experiment: Experiment | None) -> None:
        self.folder = folder
        self.experiment = experiment

    @classmethod
    def create(cls, folder: Path, experiment: Experiment) -> Run:
        """A new run: its folder with `run.json`.

        Raises:
            RunError: if the folder holds something already, or cannot be written.
        """
        check_new(folder, _TAKEN, but=_STORE)
        run = cls(folder, experiment)
        run.keep_experiment(experiment)
        return run

    @staticmethod
    def check_free(folder: Path) -> None:
        """Refuse what `create` would refuse, before any work; errors as there."""
        if not (folder / _RUN).exists():
            forget_pixels(folder / _STORE)  # of a run that was killed before it began
        check_new(folder, _TAKEN)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """A folder that is there.

        Raises:
            RunError: if it holds no run and no model, or a file is damaged.
        """
        folder = Path(folder)
        plan = _json(folder / _RUN) or _json(folder / _PRUNING)
        run = cls(folder, _experiment(folder, plan) if plan else None)
        if not plan and not run.has_model:
            raise RunError(f"{folder} holds no model: pass a folder of drmm fit, drmm prune or drmm demo")
        return run

    @classmethod
    def to_resume(cls, folder: str | Path) -> Run:
        """A run of `drmm fit` that is there, finished or not.

        Raises:
            RunError: if there is none, or a file is damaged.
        """
        run = cls.open(folder) if (Path(folder) / _RUN).is_file() else None
        if run is None or run.experiment is None:
            raise RunError(f"{folder} holds no run to resume: leave --resume out")
        return run

    def keep_experiment(self, experiment: Experiment) -> None:
        """Write `run.json`."""
        self.experiment = experiment
        write_json(self.folder / _RUN, experiment.tables())

    # --- the model -----------------------------------------------------------------------------------------------

    @cached_property
    def name(self) -> str:
        """Of the model within a folder of several, as the demo's; empty otherwise."""
        if (self.folder / _MODEL).exists():
            return ""
        for name in (_DEMO_MODEL, *self.rows):
            within = Path(name).name == name  # names are from a file: none leads out of the folder
            if within and name in self.rows and (self.folder / name / _MODEL).is_file():
                return name
        return ""

    @property
    def has_model(self) -> bool:
        """Whether there is a model that can be loaded."""
        return (self.folder / self.name / _MODEL).is_file()

    @cached_property
    def _loaded(self) -> tuple[DRMM, Recipe]:
        if not self.has_model:
            raise RunError(f"{self.folder} has not finished: go on with drmm fit --out {self.folder} --resume")
        return load_model(self.folder / self.name)

    @property
    def model(self) -> DRMM:
        """In evaluation mode.

        Raises:
            RunError: if there is none yet, or a file is damaged.
        """
        return self._loaded[0]

    @property
    def recipe(self) -> Recipe:
        """How the model is built, and what its inputs and outputs mean; errors as of `model`."""
        return self._loaded[1]

    def keep_model(self, model: DRMM, recipe: Recipe) -> None:
        """Write the model."""
        save_model(model, recipe, self.folder)
        self.__dict__.pop("_loaded", None)

    @cached_property
    def assessment(self) -> Assessment | None:
        """How far the model can be trusted; None where that is not known.

        Raises:
            RunError: if the file is damaged.
        """
        path = self.folder / self.name / _TRUST_ARRAYS
        if not path.exists():
            return None
        try:
            return Assessment.of_tensors(read_tensors(path))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error}): copy it again or train again") from error

    def keep_assessment(self, assessment: Assessment) -> None:
        """Write `trust.json`, for people, and `trust.safetensors`."""
        write_bytes(self.folder / _TRUST_ARRAYS, tensor_bytes(assessment.tensors()))
        write_json(self.folder / _TRUST, assessment.summary())
        self.__dict__.pop("assessment", None)

    @property
    def digest(self) -> str:
        """Says whether it gives the same answers as another run, in 32 hexadecimal digits.

        Raises:
            RunError: if there is no model yet, or a file cannot be read.
        """
        there = self.folder / self.name
        files = [there / name for name in (*MODEL_FILES, _TRUST_ARRAYS)]
        return digest_of([str(self.decoding).encode(), *(read_bytes(file) for file in files if file.exists())])

    # --- what it learned from ------------------------------------------------------------------------------------

    @property
    def asked(self) -> Data:
        """Which images and labels were asked for; the defaults, of no source, where the folder does not say."""
        return Data() if self.experiment is None else self.experiment.data

    @property
    def decoding(self) -> dict[str, Any]:
        """How pictures become what the model sees, as options of `drmm.data.decoding.decode_picture`."""
        channels, *size = self.recipe.image_shape
        return {"channels": channels, "size": tuple(size), "shape": self.asked.shape}

    @property
    def clusters(self) -> bool:
        """Whether the model found clusters, which no class stands for."""
        return self.asked.labels_per_class == 0 or self.asked.clusters is not None

    @property
    def store(self) -> Path:
        """Where decoded pictures are kept; a run that learned from arrays has none."""
        return self.folder / _STORE

    def data(self, data_dir: Path | None = None, *, download: bool = True) -> Dataset:
        """The images of the run.

        Args:
            data_dir: where the data sets' files are.
            download: whether to download files that are missing.

        Raises:
            RunError: if the folder does not say which, they are gone, or they have changed.
        """
        try:
            data = self.find_data(data_dir, download=download)
        except InputError as error:
            raise RunError(
                f"the images that {self.folder} learned from are gone ({error}): put them back"
            ) from error
        self.check_data(data)
        return data

    def find_data(self, data_dir: Path | None = None, *, download: bool = True) -> Dataset:
        """The images where the run says that they are, which may have changed; arguments as of `data`.

        Raises:
            InputError: if there are none.
            RunError: if the folder does not say where, or a file is missing or damaged.
        """
        experiment, store = self.experiment, self.store if self.store.is_dir() else None
        if experiment is None and isinstance(name := self.results.get("dataset"), str):
            experiment = Experiment().changed("data", source=name)
        if experiment is None:
            raise RunError(
                f"{self.folder} does not say which images its model learned from: take a folder of drmm fit"
            )
        return experiment.load(data_dir, download=download, store=store)

    def check_data(self, data: Dataset) -> None:
        """Refuse images that are not the run's.

        Raises:
            RunError: if they are others than those that the run learned from.
        """
        changed = self.asked.digest not in {"", data.digest}
        if changed or (self.has_model and self._misfits(data)):
            raise RunError(
                f"{data.name} holds other images or labels now than {self.folder} learned from: put the former "
                "ones back, or train a new run"
            )

    def _misfits(self, data: Dataset) -> bool:
        """Whether the model is one of other images or classes, where there is no digest to tell."""
        classes = self.recipe.classes if self.clusters else tuple(data.classes)
        return (self.recipe.image_shape, self.recipe.classes) != (data.x_train.shape[1:], classes)

    @cached_property
    def labels(self) -> tuple[tuple[int, str], ...] | None:
        """Index among the training images, and class, of each label that was known; None where that is unknown."""
        path = self.folder / _LABELS
        if not path.exists():
            return None
        try:
            labels = tuple((int(row["index"]), row["label"]) for row in _rows(path))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error}): copy it again or train again") from error
        known = number(self.results, "labels")
        if known is not None and known != len(labels):
            raise RunError(
                f"{path} is damaged ({len(labels)} labels of {known:.0f}): copy it again or train again"
            )
        return labels

    @cached_property
    def labelled_files(self) -> dict[str, str]:
        """The class of each picture whose label was known, by its file in the folder that the run learned from."""
        rows = _rows(self.folder / _LABELS)
        return {row["file"]: row["label"] for row in rows if row.get("file")} if self.labels else {}

    @property
    def cross_fitted_files(self) -> dict[str, npt.NDArray[np.float64]]:
        """Probability of each class (C,), by a net that did not know its label, of each labelled picture, by file.

        Of none where the run left out some images: it does not keep which.
        """
        left_out = self.experiment is None or self.experiment.data.validation or self.experiment.data.images
        if left_out or self.assessment is None or not self.labelled_files:
            return {}
        files = dict(zip((index for index, _ in self.labels or ()), self.labelled_files, strict=True))
        held_out = self.assessment.held_out
        posterior = np.exp(held_out.log_probability)
        return {files[i]: row for i, row in zip(held_out.index.tolist(), posterior, strict=True) if i in files}

    def keep_labels(self, data: Dataset, known: Iterable[int]) -> None:
        """Write `labels.csv`: the images that had a label, by index and, where they were files, by name."""
        rows = [(int(i), data.classes[data.y_train[i]], data.files[i] if data.files else "") for i in known]
        write_csv(self.folder / _LABELS, ["index", "label", "file"], rows)

    def keep_skipped(self, data: Dataset) -> None:
        """Write `skipped.csv`: the files that were not read, and why; none where all were."""
        if data.skipped:
            write_csv(self.folder / _SKIPPED, ["file", "reason"], [(one.file, one.reason) for one in data.skipped])

    # --- training ------------------------------------------------------------------------------------------------

    def training_folder(self, epochs: int | None = None) -> Path:
        """Where logs and checkpoints go: of the run, or of what it learns further, up to so many epochs."""
        return self.folder if epochs is None else self.folder / "further" / str(epochs)

    @property
    def teacher_folder(self) -> Path:
        """Where the teacher's model is: a run's folder, or within this one if it is a recipe and learned first."""
        teacher = None if self.experiment is None else self.experiment.teacher
        if teacher is None or is_recipe(teacher.source):
            return self.folder / "teacher"
        return Path(teacher.source)

    @property
    def folds_folder(self) -> Path:
        """Where nets without some labels are learned."""
        return self.folder / "folds"

    @property
    def selection_folder(self) -> Path:
        """Where the scores of candidates go."""
        return self.folder / "selection"

    def keep_selection(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `selection.csv`."""
        write_csv(self.folder / _SELECTION, list(rows[0]), [list(row.values()) for row in rows])

    @property
    def has_begun(self) -> bool:
        """Whether anything has been learned yet."""
        patterns = ("checkpoints/*.ckpt", "em/*.safetensors", "selection/*.json", "teacher/checkpoints/*.ckpt")
        return any(any(self.folder.glob(pattern)) for pattern in patterns)

    def seconds_so_far(self) -> float:
        """That former sessions learned for."""
        folders = [self.folder, self.folder / "teacher", *sorted(self.folder.glob("further/*"))]
        folders += sorted(self.folds_folder.glob("*"))
        chosen = sum(number(_json(path), "seconds") or 0.0 for path in self.selection_folder.glob("*.json"))
        return chosen + sum(seconds_in(folder) for folder in folders)

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """What was logged against epochs or iterations; what a killed run left unfinished is skipped."""
        return _curves(self.folder / self.name / "logs")

    # --- results -------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether there are results."""
        return (self.folder / _RESULTS).is_file()

    @cached_property
    def results(self) -> dict[str, Any]:
        """Figures that were written when it was done; empty before."""
        return _json(self.folder / _RESULTS)

    def keep_results(self, results: Mapping[str, Any]) -> None:
        """Write `results.json`."""
        write_json(self.folder / _RESULTS, results)
        self.__dict__.pop("results", None)

    def keep_pruning(self, results: Mapping[str, Any]) -> None:
        """Write `pruning.json`."""
        write_json(self.folder / _PRUNING, results)

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Rows of the demo's table, by folder; empty elsewhere."""
        return {name: _mapping(row) for name, row in _mapping(self.results.get("models")).items()}

    @cached_property
    def _about(self) -> dict[str, Any]:
        return self.results or _json(self.folder / _PRUNING) or _json(self.folder / _RUN)

    @property
    def command(self) -> str:
        """That made the model; empty where that is unknown."""
        return str(self._about.get("command") or "")

    @property
    def versions(self) -> dict[str, str]:
        """Of what made the model; empty where that is unknown."""
        return {str(key): str(value) for key, value in _mapping(self._about.get("versions")).items()}


def versions() -> dict[str, str]:
    """Versions of what decides a figure."""
    return {
        "drmm": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def number(facts: Mapping[str, Any], key: str) -> float | None:
    """A figure, if there is one under that name."""
    value = facts.get(key)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known and value is not None else None


def _experiment(folder: Path, plan: Mapping[str, Any]) -> Experiment | None:
    try:
        tables = experiment_tables(plan)
        return None if tables is None else Experiment.of_tables(tables)
    except (InputError, AttributeError, TypeError, ValueError) as error:  # a damaged file holds anything
        raise RunError(f"{folder} does not say what was run ({error}): train it again") from error


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _curves(folder: Path) -> dict[str, Curve]:
    """Columns of the logs by name."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for file, clock in (("metrics.csv", "epoch"), ("em.csv", "iteration")):
        for row in _rows(folder / file):
            x = _float(row.get(clock))
            for name in row.keys() - {clock, "step", "seconds", None}:
                y = _float(row[name])
                if x is not None and y is not None:
                    xs, ys = curves.setdefault(name, ([], []))
                    xs.append(x + (clock == "epoch"))  # epochs are counted from 0
                    ys.append(y)
    return {name: (tuple(xs), tuple(ys)) for name, (xs, ys) in sorted(curves.items())}


def _rows(path: Path) -> list[dict[str, str]]:
    return read_csv(path) if path.exists() else []


def _float(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
