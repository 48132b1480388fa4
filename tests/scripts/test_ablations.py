"""The ablations: a variant is the row with what its name says changed; runs of another recipe are made again."""

from dataclasses import replace

import pytest

from drmm.studies.reproduce import BENCHMARKS
from scripts.ablations import BASE, CHANGES, is_up_to_date, recipe, settings


def test_the_row_is_that_of_the_table():
    row = BENCHMARKS["mnist"].experiment("kl", 100, 3)
    assert recipe(BASE, 3) == replace(row, training=replace(row.training, epochs=1))


@pytest.mark.parametrize("name", [name for name in CHANGES if name != BASE])
def test_a_variant_differs_in_what_it_says(name):
    changed = {assignment.partition("=")[0] for assignment in CHANGES[name]}
    assert changed
    assert set(recipe(name, 0).differences(recipe(BASE, 0))) == changed


def test_runs_of_another_recipe_are_not_kept():
    one = {"variant": BASE, "seed": 0, "error": 2.0, **settings(recipe(BASE, 0))}
    assert is_up_to_date(one)
    assert not is_up_to_date(one | {"objective": one["objective"] | {"kl": 9.0}})
    assert not is_up_to_date(one | {"variant": "forgotten"})
