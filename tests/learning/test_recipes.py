"""Recipes: what is shipped, what extends what, and what a file of one's own may say."""

from dataclasses import replace
from pathlib import Path

import pytest

from drmm.errors import InputError
from drmm.learning.recipes import DEFAULT, names, read_recipe
from drmm.runs.experiment import Experiment


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# --- what is shipped ---


def test_the_default_comes_first_and_no_name_twice() -> None:
    assert names()[0] == DEFAULT == "few-labels"
    assert sorted(set(names())) == sorted(names())
    assert {"best", "kl", "rc+kl+nn", "hard-taught", "supervised"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_every_shipped_recipe_reads_and_resolves(name: str) -> None:
    assert read_recipe(name).title
    experiment = Experiment.read(name).resolved()
    assert None not in {experiment.objective.kl, experiment.objective.reconstruction}
    assert experiment.training.initialisation is not None
    assert not experiment.data.source, "a recipe is for any images"
    if experiment.teacher is not None:
        assert experiment.teacher.source in names()


def test_each_shipped_recipe_is_another_one() -> None:
    experiments = [Experiment.read(name).resolved() for name in names()]
    assert all(one != other for i, one in enumerate(experiments) for other in experiments[:i])


def test_the_default_is_read_where_none_is_named() -> None:
    assert Experiment.read() == Experiment.read(DEFAULT)
    assert Experiment.read() != Experiment(), "control: it has views"


def test_the_rows_of_the_tables_say_what_they_are_called() -> None:
    def weights(name: str) -> set[str]:
        return {term for term, weight in Experiment.read(name).resolved().objective.weights().items() if weight}

    assert weights("rc") == {"cross_entropy", "reconstruction"}
    assert weights("rc+nn") == {"cross_entropy", "reconstruction", "nonnegativity"}
    assert weights("rc+kl") == {"cross_entropy", "reconstruction", "kl", "balance"}
    assert weights("rc+kl+nn") == {"cross_entropy", "reconstruction", "kl", "balance", "nonnegativity"}
    assert weights("kl") == weights("hard") == {"cross_entropy", "kl", "balance"}
    assert weights("best") == {"cross_entropy", "kl", "balance", "mixup"}
    assert weights("supervised") == weights("hard-taught") == {"cross_entropy"}
    assert weights("printed") == weights("rc+kl+nn") - {"balance"}
    assert Experiment.read("supervised").training.labels_only
    assert Experiment.read("hard-taught").model.constraint == "hard"


TIMES = [("kl", 1), ("kl-long", 2), ("hard-taught", 2), ("best", 3), ("kl-longest", 6)]


@pytest.mark.parametrize(("name", "times"), TIMES)
def test_steps_grow_with_the_epochs(name: str, times: int) -> None:
    """However few the images, as many steps are made as on MNIST: 60,000 of them, 112 a step beside labels."""
    training = Experiment.read(name).training
    assert training.epochs == 2 * times
    per_step = training.batch_size - training.labelled_per_batch
    assert training.min_steps == round(training.epochs * 60_000 / per_step)


# --- what extends what ---


def test_a_recipe_has_what_the_one_that_it_extends_says() -> None:
    kl, best = Experiment.read("kl"), Experiment.read("best")
    changes = {"epochs": 6, "min_steps": 3214}
    assert best.objective == replace(kl.objective, mixup=1)
    assert best.training == replace(kl.training, **changes)
    assert read_recipe("best").title != read_recipe("kl").title


def test_a_file_extends_what_is_shipped(tmp_path: Path) -> None:
    text = 'title = "mine"\nextends = "best"\n[objective]\nkl = 0.3\n[data]\nsize = [8, 8]\n'
    path = written(tmp_path, "mine.toml", text)
    best = Experiment.read("best")
    objective, data = replace(best.objective, kl=0.3), replace(best.data, size=(8, 8))
    assert Experiment.read(path) == replace(best, objective=objective, data=data) != best
    assert read_recipe(str(path)).title == "mine"


def test_a_file_that_extends_nothing_is_as_by_default(tmp_path: Path) -> None:
    path = written(tmp_path, "mine.toml", "[objective]\nkl = 0.3\n")
    assert Experiment.read(path) == Experiment().set("objective.kl=0.3")


@pytest.mark.parametrize("below", ["base.toml", "further/base.toml"])
def test_a_file_extends_one_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    """Wherever it is read from; a file of the same name where it is read from is another one."""
    written(tmp_path, f"recipes/{below}", 'extends = "kl"\n[training]\nepochs = 5\n')
    written(tmp_path, below, "[training]\nepochs = 99\n")
    path = written(tmp_path, "recipes/mine.toml", f'extends = "{below}"\n[model]\nwidth = 3\n')
    kl = Experiment.read("kl")
    expected = replace(kl, model=replace(kl.model, width=3), training=replace(kl.training, epochs=5))
    monkeypatch.chdir(tmp_path)
    for name in (path, Path("recipes/mine.toml"), "recipes/mine.toml"):
        assert Experiment.read(name) == expected


def test_a_file_extends_one_by_its_whole_path(tmp_path: Path) -> None:
    base = written(tmp_path, "elsewhere/base.toml", "[training]\nepochs = 5\n")
    path = written(tmp_path, "mine.toml", f'extends = "{base.as_posix()}"\n')
    assert Experiment.read(path).training.epochs == 5


# --- what is refused ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[objectives]\nkl = 1\n", r"no table \[objectives\]: did you mean 'objective'"),
        ("kl = 1\n", r"no table \[kl\]"),
        ("objective = 1\n", r"objective is a table: write \[objective\]"),
        ("[objective]\nkll = 1\n", "objective: no setting 'kll': did you mean 'kl'"),
        ("[objective]\nkl = 'much'\n", "objective: kl cannot be 'much': it is a number or none"),
        ("[objective]\ncutmix = 1\n", "objective: cutmix is a part of mixup"),
        ("[training]\nepochs = 0\n", "training: epochs must be at least 1, not 0"),
        ('extends = "kll"\n', "no recipe 'kll': did you mean 'kl'"),
        ('extends = "gone.toml"\n', "cannot read recipe .*gone.toml: No such file"),
        ("extends = 3\n", "no recipe '3'"),
        ('extends = "mine.toml"\n', "extends itself: remove its line extends"),
        ('extends = "./mine.toml"\n', "extends itself: remove its line extends"),
        ('extends = "beside/../mine.toml"\n', "extends itself: remove its line extends"),
        ("kl\n", "is not TOML"),
        ("objective = {kl = 1}\nobjective = {}\n", "is not TOML"),
        (b"\xff\xfe", "cannot read recipe"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "mine.toml"
    (tmp_path / "beside").mkdir()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message) as caught:
        Experiment.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("first", ["a.toml", "b.toml", "./a.toml"])
def test_recipes_that_extend_each_other_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    written(tmp_path, "a.toml", 'extends = "b.toml"\n')
    written(tmp_path, "b.toml", 'extends = "a.toml"\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="extends itself"):
        read_recipe(first)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("few-label", "no recipe 'few-label': did you mean 'few-labels'"),
        ("xyzzy", "no recipe 'xyzzy': choose from few-labels, best, .*, or give the path of a .toml file"),
        ("", "no recipe ''"),
        ("nowhere/mine.toml", "cannot read recipe nowhere/mine.toml: No such file"),
    ],
)
def test_a_recipe_that_is_not_there_is_one_clear_line(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_recipe(name)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    folder = tmp_path / "mine.toml"
    folder.mkdir()
    with pytest.raises(InputError, match="cannot read recipe"):
        read_recipe(folder)
