"""Runs of version 0.1.0, whose `run.json` had another form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["experiment_tables"]

_DATA = ("labels_per_class", "clusters", "validation", "size")
_MODEL = ("preset", "constraint", "width", "depth")
_MACHINE = ("accelerator", "devices", "precision", "compile")
_RENAMED = {"interpolation": "mixup", "shift": "translation", "collage": "cutmix"}


def experiment_tables(plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tables of an experiment from `run.json` or `pruning.json`, whichever version wrote it.

    Returns:
        What `Experiment.of_tables` reads; None if it does not say.
    """
    if "spec" not in plan:
        tables = plan.get("experiment", plan if "data" in plan else None)
        return dict(tables) if isinstance(tables, Mapping) else None
    spec = plan["spec"]
    if not isinstance(spec, Mapping) or "data" not in spec:
        return None
    training, machine = dict(spec.get("training") or {}), {}
    for name in _MACHINE:
        if name in training:
            machine[name] = training.pop(name)
    objective = {_RENAMED.get(name, name): value for name, value in (spec.get("objective") or {}).items()}
    if not objective.get("mixup"):  # without it, its parts said nothing
        objective |= {name: 0 for name in ("translation", "cutmix") if name in objective}
    select = dict(spec.get("select") or {})
    tables = {
        "data": {"source": spec["data"], **{name: spec[name] for name in _DATA if name in spec}},
        "model": {name: spec[name] for name in _MODEL if name in spec},
        "objective": objective,
        "training": {"min_steps": 0, **training},
        "machine": machine,
        "select": {**select, "criterion": spec.get("criterion")},
    }
    return tables | ({"teacher": {"source": spec["teacher"]}} if spec.get("teacher") else {})
