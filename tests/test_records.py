"""Settings as records: read from text and tables, changed by name, described, and as scikit-learn has them."""

import copy
import dataclasses
import inspect
import pickle
from dataclasses import dataclass, field, fields
from typing import Literal, get_type_hints

import pytest
from sklearn.base import clone

from drmm.errors import InputError
from drmm.learning.config import Machine, Training
from drmm.learning.objective import Objective
from drmm.learning.selection import Grid
from drmm.records import DERIVED, Record, from_table, nearest, parse, settings_of
from drmm.runs.experiment import Data, Experiment, Teacher
from drmm.storage.models import Recipe

RECORDS = (Data, Recipe, Objective, Training, Machine, Teacher, Grid)


@dataclass(frozen=True)
class Pen(Record):
    """What one writes with.

    It is described at length, and
    over two lines.

    Attributes:
        colour: of the ink.
        width: of the line; none is what the hand does, whose force nobody knows: it
            varies from word to word.
        strokes: how many.
        sharp: or not.
        tips: that fit.
        ink: "wet" or "dry".
        maker: that a shop fills in.

    Nothing of this: is an attribute.
    """

    colour: str = "black"
    width: float | None = None
    strokes: int = 1
    sharp: bool = True
    tips: tuple[int, ...] = ()
    ink: Literal["wet", "dry"] = "wet"
    maker: tuple[str, ...] = field(default=(), metadata=DERIVED)

    def __post_init__(self) -> None:
        if self.strokes < 1:
            raise InputError(f"strokes must be at least 1, not {self.strokes}")


# --- text and values ---


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("colour", " blue ", " blue "),
        ("width", "0.5", 0.5),
        ("width", " 1e-3 ", 0.001),
        ("width", "none", None),
        ("width", "None", None),
        ("width", "null", None),
        ("width", "", None),
        ("width", 2, 2.0),
        ("width", None, None),
        ("strokes", "3", 3),
        ("strokes", " 3 ", 3),
        ("sharp", "false", False),
        ("sharp", "true", True),
        ("sharp", False, False),
        ("tips", "1, 2,3", (1, 2, 3)),
        ("tips", "4", (4,)),
        ("tips", "4,", (4,)),
        ("tips", "", ()),
        ("tips", [1, 2], (1, 2)),
        ("ink", "dry", "dry"),
    ],
)
def test_values_are_read_by_the_type_of_the_field(name: str, value: object, expected: object) -> None:
    parsed = parse(Pen, name, value)
    assert parsed == expected
    assert type(parsed) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", "wide", "width cannot be 'wide': it is a number or none"),
        ("strokes", "many", "strokes cannot be 'many': it is a whole number"),
        ("strokes", "1.5", "strokes cannot be '1.5': it is a whole number"),
        ("strokes", "none", "strokes cannot be 'none': it is a whole number"),
        ("strokes", None, "strokes cannot be None: it is a whole number"),
        ("sharp", "perhaps", "sharp cannot be 'perhaps': it is true or false"),
        ("tips", "1,x", r"tips cannot be \['1', 'x'\]: it is whole numbers, with commas between them"),
        ("ink", "frozen", "ink cannot be 'frozen': it is wet, dry"),
        ("colour", 3, "colour cannot be 3: it is text"),
        ("widht", 1, "no setting 'widht': did you mean 'width'"),
        ("maker", "me", "no setting 'maker'"),
        ("xyzzy", 1, "no setting 'xyzzy': choose from colour, width, strokes, sharp, tips, ink"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(name: str, value: object, message: str) -> None:
    for read in (
        lambda: parse(Pen, name, value),
        lambda: Pen().set_params(**{name: value}),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_the_nearest_name_is_suggested_or_all_are_listed() -> None:
    assert nearest("widht", ["colour", "width"]) == ": did you mean 'width'?"
    assert nearest("zz", ["colour", "width"]) == ": choose from colour, width"
    assert nearest("zz", (name for name in ("a", "b"))) == ": choose from a, b"


# --- changing and reading whole records ---


def test_set_params_returns_another_record() -> None:
    pen = Pen()
    changed = pen.set_params(width="0.5", tips=[1, 2])
    assert changed == Pen(width=0.5, tips=(1, 2))
    assert pen == Pen(), "which is frozen"
    assert pen.set_params() == pen
    with pytest.raises(InputError, match="strokes must be at least 1, not 0"):
        pen.set_params(strokes=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        pen.width = 1  # type: ignore[misc]


def test_a_table_changes_what_it_says() -> None:
    base = Pen(width=0.5, strokes=4, maker=("a",))
    assert from_table(Pen, {"strokes": 2}, base) == Pen(width=0.5, strokes=2, maker=("a",))
    assert from_table(Pen, {"strokes": 2}) == Pen(strokes=2)
    assert from_table(Pen, {}) == Pen()


def test_a_table_may_say_what_nobody_sets() -> None:
    """As `run.json` does: lists of JSON become the tuples that they were."""
    assert from_table(Pen, {"maker": ["a", "b"], "tips": [1]}) == Pen(maker=("a", "b"), tips=(1,))
    with pytest.raises(InputError, match="no setting 'makers'"):
        from_table(Pen, {"makers": ["a"]})


@pytest.mark.parametrize("record", RECORDS)
def test_every_record_comes_back_from_its_table(record: type[Record]) -> None:
    assert from_table(record, dataclasses.asdict(record())) == record()


def test_an_experiment_comes_back_from_its_tables() -> None:
    experiment = Experiment.read("hard-taught").set("select.width=8,16", "data.size=28,28", "training.patience=3")
    experiment = dataclasses.replace(experiment, model=experiment.model.fitted((1, 28, 28), ("a", "b")))
    again = Experiment.of_tables(experiment.tables())
    assert again == experiment
    assert again != Experiment.read("hard-taught"), "control"


# --- meanings ---


@pytest.mark.parametrize("record", [*RECORDS, Pen])
def test_every_setting_says_what_it_is_and_what_it_can_be(record: type[Record]) -> None:
    settings = settings_of(record())
    assert [setting.name for setting in settings] == [one.name for one in fields(record) if not one.metadata]
    for setting in settings:
        assert setting.meaning.endswith("."), setting.name
        assert "\n" not in setting.meaning
        assert "  " not in setting.meaning
        assert setting.choices
        assert "<" not in setting.choices, "words, and no types"


@pytest.mark.parametrize("record", RECORDS)
def test_every_attribute_is_described_and_nothing_else_is(record: type[Record]) -> None:
    described = inspect.cleandoc(record.__doc__ or "").partition("Attributes:\n")[2].splitlines()
    names = [line.split(":")[0].strip() for line in described if line.startswith("    ") and line[4] != " "]
    assert names == [one.name for one in fields(record)]


def test_meanings_are_read_from_the_docstring() -> None:
    meanings = {setting.name: setting.meaning for setting in settings_of(Pen())}
    assert meanings["width"] == (
        "of the line; none is what the hand does, whose force nobody knows: it varies from word to word."
    )
    assert meanings["ink"] == '"wet" or "dry".'
    assert "maker" not in meanings
    assert "Nothing of this" not in meanings


def test_choices_are_said_in_words() -> None:
    choices = {setting.name: setting.choices for setting in settings_of(Pen())}
    assert choices == {
        "colour": "text",
        "width": "a number or none",
        "strokes": "a whole number",
        "sharp": "true or false",
        "tips": "whole numbers, with commas between them",
        "ink": "wet, dry",
    }


def test_settings_have_the_values_of_their_record() -> None:
    values = {setting.name: setting.value for setting in settings_of(Pen(width=0.5))}
    assert values == {"colour": "black", "width": 0.5, "strokes": 1, "sharp": True, "tips": (), "ink": "wet"}
    assert get_type_hints(Pen).keys() - values.keys() == {"maker"}


# --- as scikit-learn has them ---


@pytest.mark.parametrize("record", [*RECORDS, Pen])
def test_parameters_are_all_settings(record: type[Record]) -> None:
    params = record().get_params()
    assert params == record().get_params(deep=False)
    assert list(params) == [setting.name for setting in settings_of(record())]
    assert record().set_params(**params) == record()


def test_clones_and_copies_are_equal_and_keep_what_is_derived() -> None:
    pen = Pen(width=0.5, maker=("me",))
    for twin in (clone(pen), copy.deepcopy(pen), pickle.loads(pickle.dumps(pen))):
        assert twin == pen
        assert hash(twin) == hash(pen)
    assert clone(pen).set_params(width=1) == dataclasses.replace(pen, width=1) != pen
