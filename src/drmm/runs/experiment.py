"""What a run is, as one frozen record: the data, the model, the objective, the training, the machine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from drmm.data import Dataset, load
from drmm.data.decoding import Shape
from drmm.errors import InputError
from drmm.learning.config import Machine, Training
from drmm.learning.objective import Objective
from drmm.learning.recipes import DEFAULT, read_recipe
from drmm.learning.selection import Grid
from drmm.records import DERIVED, Record, Setting, from_table, in_table, nearest, settings_of
from drmm.storage.models import Recipe

__all__ = ["Data", "Experiment", "Teacher", "Trust"]


@dataclass(frozen=True)
class Data(Record):
    """Which images, and which of their labels.

    Attributes:
        source: name of a data set, or a folder or archive of pictures.
        labels_per_class: how many labels to keep; none keeps all there are, and 0 none: images fall into clusters.
        clusters: how many, where no image has a label; none is as many as there are classes.
        validation: labelled training images held out to watch the error while training.
        images: how many training images to take, drawn by the seed; none takes all.
        size: height and width to resize pictures to; none takes what drmm.data.sizes says.
        shape: how pictures of another aspect ratio fill that: stretched, padded with black, or cropped.
        labels: a CSV or Parquet table with columns file and label; without one, folders are classes.
        classes: folders that are classes, though they are called unlabelled, train or test.
        digest: of the names and bytes of all that was read; a run keeps it, to know the same images again.
    """

    source: str = ""
    labels_per_class: int | None = None
    clusters: int | None = None
    validation: int = 0
    images: int | None = None
    size: tuple[int, int] | None = None
    shape: Shape = "stretch"
    labels: str = ""
    classes: tuple[str, ...] = ()
    digest: str = field(default="", metadata=DERIVED)

    def __post_init__(self) -> None:
        least = {"labels_per_class": 0, "clusters": 2, "validation": 0, "images": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise InputError(f"{name} must be at least {smallest}, not {value}")
        if self.size is not None and min(self.size) < 4:
            raise InputError(
                f"pictures of {self.size[0]}x{self.size[1]} pixels are too small: use a size of 4 or more"
            )


@dataclass(frozen=True)
class Teacher(Record):
    """Whose labels the images without one get.

    Attributes:
        source: folder of a trained model, or a recipe that is learned first on the same images and labels.
        digest: of the model's files.
    """

    source: str = ""
    digest: str = field(default="", metadata=DERIVED)


@dataclass(frozen=True)
class Trust(Record):
    """How a run finds out how far its model can be trusted: how sure and how right nets are without some labels.

    Attributes:
        folds: parts of the labels that are held out in turn; 0 holds none out, and confidence is not calibrated.
        epochs_share: of the run's own epochs, for each of these nets. Where there is a KL term they learn without
            drawing, and an epoch takes half of the time.
    """

    folds: int = 5
    epochs_share: float = 0.6

    def __post_init__(self) -> None:
        if self.folds < 0 or self.folds == 1:
            raise InputError(f"folds must be 2 or more, or 0 for none, not {self.folds}")
        if not 0 < self.epochs_share <= 1:
            raise InputError(f"epochs_share must be more than 0, and at most 1, not {self.epochs_share}")

    def lesson(self, training: Training, objective: Objective) -> tuple[Training, Objective]:
        """How the nets without some labels learn, and by what, of how the model does."""
        epochs, steps = (math.ceil(self.epochs_share * n) for n in (training.epochs, training.min_steps))
        return replace(training, epochs=epochs, min_steps=steps), objective.without_drawing()

    def lesson_of_labels(
        self, training: Training, objective: Objective, machine: Machine, y: Tensor
    ) -> tuple[Training, Objective] | None:
        """The same from labels alone, which fewer steps learn; None where nothing else is learned from.

        Args:
            training: how the model learns.
            objective: by what.
            machine: on what: several devices do not share a few labels.
            y: class indices (N,), -1 where there is no label.
        """
        is_shared = objective.asks_unlabelled and not training.labels_only and bool((y < 0).any())
        if training.learning != "sgd" or machine.devices > 1 or not is_shared:
            return None
        short, _ = self.lesson(training.of_labels(), objective)
        return replace(short, epochs=1), replace(objective.of_labels(), reconstruction=0.0, nonnegativity=0.0)


@dataclass(frozen=True)
class Experiment:
    """All that decides a run; `run.json` is exactly this record.

    A table may be given for a record: `Experiment(training={"epochs": 5})`.

    Attributes:
        data: which images and labels.
        model: how the model is built.
        objective: what is minimised.
        training: how.
        machine: on what.
        teacher: whose labels the images without one get; none learns without.
        select: structures to choose between before the winner is trained; an empty one trains what the model says.
        trust: how it is found out how far the model can be trusted.
    """

    data: Data = field(default_factory=Data)
    model: Recipe = field(default_factory=Recipe)
    objective: Objective = field(default_factory=Objective)
    training: Training = field(default_factory=Training)
    machine: Machine = field(default_factory=Machine)
    teacher: Teacher | None = None
    select: Grid = field(default_factory=Grid)
    trust: Trust = field(default_factory=Trust)

    def __post_init__(self) -> None:
        for name, record in _RECORDS.items():
            table = getattr(self, name)
            if isinstance(table, str) and record is Teacher:
                table = {"source": table}
            if isinstance(table, Mapping):
                object.__setattr__(self, name, from_table(record, table))
        if self.teacher is not None and not self.teacher.source:
            object.__setattr__(self, "teacher", None)

    @classmethod
    def read(cls, recipe: str | Path = DEFAULT) -> Experiment:
        """The experiment of a recipe (`drmm.learning.recipes`): a name that is shipped, or a TOML file.

        Raises:
            InputError: if there is none such, or it has settings that do not exist.
        """
        tables = read_recipe(recipe).tables
        try:
            return cls.of_tables(tables)
        except InputError as error:
            raise InputError(f"recipe {recipe}: {error}") from error

    @classmethod
    def of_tables(cls, tables: Mapping[str, Any]) -> Experiment:
        """From the tables of a recipe or of `run.json`; what they do not say is as by default.

        Raises:
            InputError: if they have tables or settings that do not exist.
        """
        for name in tables:
            if name not in _RECORDS:
                raise InputError(f"no table {name!r}{nearest(name, _RECORDS)}")
        records: dict[str, Any] = {}
        for name, table in tables.items():
            if table is not None:
                with in_table(name):
                    records[name] = from_table(_RECORDS[name], table)
        return cls(**records)

    def tables(self) -> dict[str, Any]:
        """What `run.json` holds; `of_tables` reads it."""
        return asdict(self)

    def set(self, *assignments: str) -> Experiment:
        """The same experiment with other settings.

        Args:
            assignments: "table.name=value", as in "objective.kl=0.3"; tuples with commas, "none" for nothing.

        Raises:
            InputError: if one is not of that form, there is no such setting, or its value cannot be read.
        """
        asked: dict[str, dict[str, str]] = {}
        for assignment in assignments:
            path, equals, value = assignment.partition("=")
            table, _, name = path.strip().partition(".")
            if not equals or not name:
                raise InputError(f"cannot set {assignment!r}: write table.name=value, as in objective.kl=0.3")
            asked.setdefault(table, {})[name] = value
        changed = self
        for table, values in asked.items():  # what belongs together is checked together
            changed = changed.changed(table, **values)
        return changed

    def changed(self, table: str, **values: Any) -> Experiment:
        """The same experiment with other values in one of its tables; text is read as `set` reads it.

        Raises:
            InputError: if there is no such table or setting, or a value cannot be read.
        """
        if table not in _RECORDS:
            raise InputError(f"no settings {table}{nearest(table, _RECORDS)}")
        record = _RECORDS[table]
        known = [setting.name for setting in settings_of(record())]
        for name in values:
            if name not in known:
                raise InputError(f"no setting {table}.{name}{_nearest_setting(table, name)}")
        with in_table(table):
            after: Any = (getattr(self, table) or record()).set_params(**values)
        return replace(self, **{table: after})

    def load(self, data_dir: Path | None = None, *, download: bool = True, store: Path | None = None) -> Dataset:
        """The images; arguments and errors as of `drmm.data.load`."""
        asked = self.data
        return load(
            asked.source,
            data_dir=data_dir,
            download=download,
            size=asked.size or self.model.size,
            classes=asked.classes,
            shape=asked.shape,
            labels=asked.labels or None,
            store=store,
        )

    def resolved(self) -> Experiment:
        """With a value in place of every none that depends on the constraint, the learning rule or the teacher."""
        taught = self.teacher is not None
        objective = self.objective.resolved(self.model.constraint, self.training.learning, taught=taught)
        return replace(self, objective=objective, training=self.training.resolved())

    def filled_in(self, other: Experiment) -> Experiment:
        """Resolved, and with what a run takes from its data as another experiment on the same data has it."""
        data = self.data if self.data.size else replace(self.data, size=other.data.size)
        model = self.model.fitted(other.model.image_shape, other.model.classes)
        return replace(self.resolved(), data=data, model=replace(model, channels=other.model.channels))

    def differences(self, other: Experiment) -> list[str]:
        """Settings that two experiments do not share, as "table.name"."""
        return [
            f"{table}.{name}"
            for table in _RECORDS
            for name, mine, theirs in _paired(getattr(self, table), getattr(other, table), _RECORDS[table])
            if mine != theirs
        ]

    def settings(self) -> dict[str, list[Setting]]:
        """Every setting by table, with its value here and its meaning."""
        return {name: settings_of(getattr(self, name) or record()) for name, record in _RECORDS.items()}


_RECORDS: dict[str, type[Record]] = {
    "data": Data,
    "model": Recipe,
    "objective": Objective,
    "training": Training,
    "machine": Machine,
    "teacher": Teacher,
    "select": Grid,
    "trust": Trust,
}


def _paired(mine: Record | None, theirs: Record | None, record: type[Record]) -> Iterator[tuple[str, Any, Any]]:
    """Every field of two records side by side; a record that is missing is as by default."""
    for one in fields(record):
        yield one.name, getattr(mine or record(), one.name), getattr(theirs or record(), one.name)


def _nearest_setting(table: str, name: str) -> str:
    """The nearest setting of the table, or of another one that has it."""
    elsewhere = [
        f"{other}.{name}"
        for other, record in _RECORDS.items()
        if other != table and name in {setting.name for setting in settings_of(record())}
    ]
    own = [setting.name for setting in settings_of(_RECORDS[table]())]
    return f": did you mean {elsewhere[0]!r}?" if elsewhere else nearest(name, own, f"{table}.")
