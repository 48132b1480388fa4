"""The ablations: a variant is the row with what its name says changed; runs of another recipe are made again."""

import runpy
from dataclasses import asdict
from pathlib import Path

import pytest

from drmm.studies.reproduce import METHODS, PROTOCOLS

ABLATIONS = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "ablations.py"))
CHANGES, BASE, recipe = ABLATIONS["CHANGES"], ABLATIONS["BASE"], ABLATIONS["recipe"]


def test_the_row_is_that_of_the_table():
    objective, training = recipe(BASE, 3)
    assert objective == METHODS["kl"].objective
    assert asdict(training) == asdict(PROTOCOLS["mnist"].training_on(100)) | {"seed": 3, "epochs": 1}


@pytest.mark.parametrize("name", [name for name in CHANGES if name != BASE])
def test_a_variant_differs_in_what_it_says(name):
    base, changed = ([asdict(part) for part in recipe(which, 0)] for which in (BASE, name))
    asked = asdict(CHANGES[name])
    for before, after, said in zip(base, changed, (asked["objective"], asked["training"]), strict=True):
        assert {key for key in before if before[key] != after[key]} == set(said)
    assert any(asked.values())


def test_runs_of_another_recipe_are_not_kept():
    objective, training = recipe(BASE, 0)
    one = {"variant": BASE, "seed": 0, "objective": asdict(objective), "training": asdict(training)}
    assert ABLATIONS["is_up_to_date"](one)
    assert not ABLATIONS["is_up_to_date"](one | {"objective": asdict(objective) | {"kl": 9.0}})
    assert not ABLATIONS["is_up_to_date"](one | {"variant": "forgotten"})
