"""One record says all about a run: it is read, set, compared and kept without loss."""

import dataclasses
import json
import re

import pytest

from drmm.errors import InputError
from drmm.learning.config import Machine, Training
from drmm.learning.objective import Objective
from drmm.learning.recipes import DEFAULT, names, read_recipe
from drmm.runs.experiment import Data, Experiment, Teacher


def full() -> Experiment:
    """Every table with something in it that is not the default."""
    experiment = Experiment.read("best").set(
        "data.source=photos", "data.size=28,32", "data.labels_per_class=5", "model.width=8",
        "machine.compile=true", "teacher.source=kl", "select.depth=2,3", "select.preset=dense",
        "select.criterion=bic", "training.patience=3",
    )  # fmt: skip
    fitted = experiment.model.fitted((3, 28, 32), ("cat", "dog [red] $x$"))
    data = dataclasses.replace(experiment.data, digest="0123")
    return dataclasses.replace(experiment, model=fitted, data=data)


def test_the_default_recipe_is_the_default() -> None:
    assert Experiment.read() == Experiment.read(DEFAULT)
    assert Experiment.read("best") != Experiment.read(), "control"


@pytest.mark.parametrize("name", names())
def test_a_recipe_says_what_its_file_says(name: str) -> None:
    experiment = Experiment.read(name)
    for table, values in read_recipe(name).tables.items():
        for key, value in values.items():
            said = tuple(value) if isinstance(value, list) else value
            assert getattr(getattr(experiment, table), key) == said


def test_a_recipe_of_ones_own_extends_one_beside_it(tmp_path) -> None:
    (tmp_path / "base.toml").write_text('extends = "best"\n[objective]\nkl = 0.25\n')
    (tmp_path / "mine.toml").write_text('extends = "base.toml"\n[model]\nwidth = 4\n')
    experiment = Experiment.read(tmp_path / "mine.toml")
    assert (experiment.objective.kl, experiment.objective.mixup, experiment.model.width) == (0.25, 1, 4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[objective]\nkll = 1\n", "no setting 'kll': did you mean 'kl'?"),
        ("[objectiv]\nkl = 1\n", "no table [objectiv]: did you mean 'objective'?"),
        ("[objective]\nkl = 'much'\n", "objective: kl cannot be 'much'"),
        ("[data]\ndigest = 3\n[training]\nepochs = 0\n", "epochs must be at least 1"),
        ('extends = "mine.toml"\n', "extends itself"),
        ("[objective\n", "is not TOML"),
        ("kl = 1\n", "no table [kl]"),
    ],
)
def test_a_recipe_that_cannot_be_used(text: str, says: str, tmp_path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(InputError, match=re.escape(says)) as error:
        Experiment.read(tmp_path / "mine.toml")
    assert "mine.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_set_reads_text_by_the_types_of_the_settings() -> None:
    experiment = Experiment().set(
        "objective.kl=0.3", "training.seed= 7 ", "machine.compile=true", "select.width=8, 16", "data.size=28,28",
        "training.patience=4", "training.initialisation=glorot", "data.source= a = b",
    )  # fmt: skip
    assert experiment.objective.kl == 0.3
    assert (experiment.training.seed, experiment.training.patience) == (7, 4)
    assert experiment.training.initialisation == "glorot"
    assert experiment.machine.compile is True
    assert experiment.select.width == (8, 16)
    assert experiment.data.size == (28, 28)
    assert experiment.data.source == " a = b", "a path is kept as it is"
    back = experiment.set("objective.kl=none", "training.patience=None", "select.width=", "data.size=none")
    assert (back.objective.kl, back.training.patience, back.select.width, back.data.size) == (None, None, (), None)
    assert Experiment() == Experiment().set(), "what is set is another record"


def test_settings_that_belong_together_are_checked_together() -> None:
    for order in (("objective.cutmix=0.5", "objective.mixup=1"), ("objective.mixup=1", "objective.cutmix=0.5")):
        assert Experiment().set(*order).objective.cutmix == 0.5
    with pytest.raises(InputError, match="objective: cutmix is a part of mixup"):
        Experiment().set("objective.cutmix=0.5")


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("objective.kll=1", "no setting objective.kll: did you mean 'objective.kl'?"),
        ("model.epochs=1", "no setting model.epochs: did you mean 'training.epochs'?"),
        ("optimiser.rate=1", "no settings optimiser: "),
        ("machine.qqqq=1", "no setting machine.qqqq: choose from machine.accelerator, "),
        ("data.digest=00", "no setting data.digest"),
        ("model.classes=a,b", "no setting model.classes"),
        ("kl=1", "write table.name=value"),
        ("objective.kl", "write table.name=value"),
        ("data.size=28", "data: size cannot be "),
        ("machine.compile=perhaps", "compile cannot be 'perhaps': it is true or false"),
        ("training.learning=luck", "learning cannot be 'luck': it is sgd, eg, em"),
        ("data.validation=-1", "data: validation must be at least 0, not -1"),
    ],
)
def test_what_cannot_be_set_is_told_in_one_line(assignment: str, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)) as error:
        Experiment().set(assignment)
    assert "\n" not in str(error.value)


def test_changed_takes_values_and_text() -> None:
    assert Experiment().changed("training", epochs=3) == Experiment().set("training.epochs=3")
    assert Experiment().changed("training", epochs="3").training.epochs == 3
    assert Experiment().teacher is None
    assert Experiment().changed("teacher", source="kl").teacher == Teacher("kl")
    with pytest.raises(InputError, match=r"did you mean 'training\.epochs'"):
        Experiment().changed("training", epoch=3)


def test_tables_stand_for_records() -> None:
    made = Experiment(training={"epochs": 5}, data={"source": "digits"}, teacher="kl")
    assert (made.training, made.data, made.teacher) == (Training(epochs=5), Data("digits"), Teacher("kl"))
    with pytest.raises(InputError, match="no setting 'epoch'"):
        Experiment(training={"epoch": 5})
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.training = Training()


def test_resolved_has_a_value_for_every_none() -> None:
    soft = Experiment().resolved()
    weights = ("reconstruction", "kl", "balance", "nonnegativity")
    assert [getattr(soft.objective, name) for name in weights] == [1.0, 0.5, 0.5, 0.5]
    assert [getattr(Experiment().objective, name) for name in weights] == [None] * 4, "control"
    assert soft.training.initialisation == "default"
    for assignment, expected in (
        ("model.constraint=hard", [0.0, 0.5, 0.5, 0.0]),
        ("training.learning=eg", [1.0, 0.0, 0.0, 0.0]),
        ("teacher.source=kl", [1.0, 0.0, 0.0, 0.5]),
    ):
        objective = Experiment().set(assignment).resolved().objective
        assert [getattr(objective, name) for name in weights] == expected
    assert Experiment().set("training.learning=em").resolved().training.initialisation == "data"
    given = Experiment().set("model.constraint=hard", "objective.reconstruction=0.25").resolved()
    assert given.objective.reconstruction == 0.25, "what is given stays"
    assert soft.resolved() == soft


def test_differences_are_named() -> None:
    one = full()
    assert one.differences(one) == []
    other = one.set("objective.kl=0.1", "training.epochs=9", "machine.devices=2")
    assert one.differences(other) == ["objective.kl", "training.epochs", "machine.devices"]
    alone = dataclasses.replace(one, teacher=None)
    assert one.differences(alone) == alone.differences(one) == ["teacher.source"]
    assert one.differences(dataclasses.replace(one, data=dataclasses.replace(one.data, digest=""))) == [
        "data.digest"
    ]


@pytest.mark.parametrize("experiment", [Experiment(), full(), full().resolved(), *map(Experiment.read, names())])
def test_tables_come_back_through_json(experiment: Experiment) -> None:
    back = Experiment.of_tables(json.loads(json.dumps(experiment.tables())))
    assert back == experiment
    assert back.differences(experiment) == []
    assert json.dumps(back.tables()) == json.dumps(experiment.tables())
    assert Experiment.of_tables(experiment.set("training.seed=5").tables()) != experiment, "control"


def test_what_tables_do_not_say_is_as_by_default() -> None:
    tables = Experiment().tables()
    del tables["objective"]["mixup"], tables["machine"], tables["select"]["depth"]
    assert Experiment.of_tables(tables) == Experiment()
    with pytest.raises(InputError, match=r"no table 'objectiv': did you mean 'objective'\?"):
        Experiment.of_tables({"objectiv": {}})
    with pytest.raises(InputError, match=r"machine: .*table"):
        Experiment.of_tables({"machine": 3})


def test_every_setting_has_a_meaning() -> None:
    tables = full().settings()
    assert list(tables) == ["data", "model", "objective", "training", "machine", "teacher", "select", "trust"]
    for table in tables.values():
        for setting in table:
            assert setting.meaning
            assert setting.choices
    values = {setting.name: setting.value for setting in tables["objective"]}
    assert values == full().objective.get_params()
    machine = {setting.name for setting in tables["machine"]}
    assert machine == {field.name for field in dataclasses.fields(Machine)}
    data = {setting.name for setting in tables["data"]}
    assert {field.name for field in dataclasses.fields(Data)} - data == {"digest"}, "nobody sets it"


def test_records_have_scikit_learns_parameters() -> None:
    assert Objective().set_params(kl=0.3).get_params()["kl"] == 0.3
    with pytest.raises(InputError, match="did you mean 'kl'"):
        Objective().set_params(kll=0.3)
