"""How an estimator's records of settings are put together: a recipe, and what is changed in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drmm.errors import InputError
from drmm.learning.config import Machine, Training
from drmm.learning.objective import Objective
from drmm.learning.recipes import read_recipe
from drmm.records import Record, from_table, in_table, parse
from drmm.runs.experiment import Trust
from drmm.storage.models import Recipe

__all__ = ["RECORDS", "Settings", "changed", "settings_of_recipe"]

RECORDS: dict[str, type[Record]] = {
    "model": Recipe,
    "objective": Objective,
    "training": Training,
    "machine": Machine,
}


@dataclass(frozen=True)
class Settings:
    """What an estimator learns with.

    Attributes:
        model: how the model is built.
        objective: what is minimised.
        training: how.
        machine: on what.
        teacher: name of a recipe that is learned first, or "".
        trust: how it is found out how far the model can be trusted.
    """

    model: Recipe
    objective: Objective
    training: Training
    machine: Machine
    teacher: str
    trust: Trust

    def resolved(self, *, taught: bool) -> Settings:
        """With a value in place of every none that depends on constraint, learning rule and teacher."""
        constraint, training = self.model.constraint, self.training.resolved()
        objective = self.objective.resolved(constraint, training.learning, taught=taught, e_step=training.e_step)
        return replace(self, objective=objective, training=training)


def settings_of_recipe(recipe: str | Path, parameters: Mapping[str, Any]) -> Settings:
    """A recipe's records, each replaced by a record that is given or changed by a dictionary.

    Args:
        recipe: a name that is shipped, or the path of a TOML file.
        parameters: for each name in `RECORDS` a record, a mapping of settings, or None.

    Raises:
        InputError: if there is no such recipe or setting, or one of both is something else.
    """
    if not isinstance(recipe, str | Path):
        raise InputError(f"recipe is a name or the path of a TOML file, not {recipe!r}")
    tables = read_recipe(recipe).tables
    records: dict[str, Any] = {}
    for name, kind in RECORDS.items():
        given = parameters[name]
        if isinstance(given, kind):
            records[name] = given
        elif given is None or isinstance(given, Mapping):
            with in_table(name):
                records[name] = from_table(kind, {**tables.get(name, {}), **(given or {})})
        else:
            raise InputError(f"{name} is a drmm {kind.__name__} or a dictionary of its settings, not {given!r}")
    teacher, trust = str(tables.get("teacher", {}).get("source", "")), tables.get("trust", {})
    return Settings(**records, teacher=teacher, trust=from_table(Trust, trust))


def changed(name: str, before: Any, values: Mapping[str, Any]) -> Any:
    """A record's parameter after `set_params(name__setting=value)`: still a record, or a dictionary of changes.

    Whether the values of a dictionary go together is known when it meets its recipe, and is checked then.

    Raises:
        InputError: if there is no such setting, or a value cannot be read.
    """
    if isinstance(before, Record):
        return before.set_params(**values)
    return {**(before or {}), **{key: parse(RECORDS[name], key, value) for key, value in values.items()}}
