"""The published tables: cells that can be killed and resumed, a protocol that is kept, a table that is honest."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drmm.errors import InputError, RunError
from drmm.learning import recipes
from drmm.learning.batches import Batches, labelled_alone
from drmm.learning.config import Machine
from drmm.runs import fit
from drmm.runs.experiment import Experiment
from drmm.studies.reproduce import (
    BENCHMARKS,
    PUBLISHED,
    ROWS,
    Benchmark,
    Cell,
    Failure,
    benchmark,
    cells,
    comparisons,
    dry_run,
    figure,
    markdown,
    rows,
    run_cells,
    run_one,
)


@pytest.fixture(scope="module")
def plan():
    return replace(benchmark("mnist-5k", epochs=4, width=2, images=200), labels=(20,))


def objective(row):
    return BENCHMARKS["mnist"].experiment(row, 100, 0).resolved().objective


def test_every_row_of_the_slides_is_a_recipe():
    for table in PUBLISHED.values():
        assert table.keys() <= set(ROWS)
    assert set(ROWS) <= set(recipes.names())
    weights = objective("kl").weights()
    assert weights["reconstruction"] == weights["nonnegativity"] == 0, "the bare convnet draws nothing"
    assert objective("rc+kl+nn").weights()["reconstruction"] > 0, "control"
    assert objective("printed").kl_sign == "printed"
    assert objective("rc").kl == objective("rc").balance == 0


def test_benchmarks():
    full, small = benchmark("mnist"), benchmark("mnist", epochs=2, width=4, images=1000)
    assert full.labels == (50, 100, 1000)
    whole, scaled = (plan.experiment("kl", 100, 0) for plan in (full, small))
    assert (scaled.training.epochs, scaled.model.width, scaled.data.images) == (2, 4, 1000)
    assert scaled.changed("model", width=None).changed("data", images=None) == whole
    assert benchmark("mnist", epochs=5).experiment("best", 100, 0).training.epochs == 15
    assert benchmark("cifar10").preset == "conv_large"
    with pytest.raises(InputError, match="no published table for 'imagenet'"):
        benchmark("imagenet")


@pytest.mark.parametrize("name", ROWS)
def test_a_recipe_is_the_row_as_it_is_run(name):
    """60,000 images with 100 labels: the same objective, schedule and constraint; fewer images, as many steps."""
    recipe, row = Experiment.read(name), BENCHMARKS["mnist"].experiment(name, 100, 0)
    steps = round(60_000 / 112)
    assert recipe.training.enough_for(steps) == row.training
    few = recipe.training.enough_for(10)
    assert few.epochs == pytest.approx(row.training.epochs * 60_000 / 1120, abs=1)
    assert few.epochs > row.training.epochs, "control"
    assert set(recipe.differences(row)) == {
        "data.source", "data.labels_per_class", "model.preset", "training.min_steps",
    }  # fmt: skip


def test_more_labels_have_more_of_a_batch():
    found = {n: benchmark("mnist").experiment("kl", n, 0).training for n in (20, 100, 500, 1000, 50_000)}
    assert [one.labelled_per_batch for one in found.values()] == [16, 16, 31, 62, 64]
    assert {one.batch_size - one.labelled_per_batch for one in found.values()} == {112}
    recipe = Experiment.read("kl").training
    assert (found[100].labelled_per_batch, found[100].batch_size) == (recipe.labelled_per_batch, recipe.batch_size)


def test_the_benchmark_is_told_in_words():
    found = benchmark("mnist", epochs=3, width=8, images=5000).in_words([20, 1000])
    assert "conv_small, 8 wide, 5,000 training images" in found
    assert "\n3 epochs" in found
    assert found.endswith("Labelled images in a batch: 16 of 128 with 20 labels, 62 of 174 with 1,000 labels.")
    assert "all training images" in benchmark("svhn").in_words([500])


def test_what_is_told_of_a_dry_run_of_a_taught_model():
    """Every image has a label then, and the model is the hard one."""
    found = dry_run(benchmark("mnist", width=2), "hard-taught", Machine("cpu"), 2)
    assert len(found.losses) == 2


def test_a_hard_model_is_taught(plan, tmp_path):
    """It learns what the other found out: with the teacher's labels in place of none."""
    seen, train = [], fit.train

    def watched(model, x, y, **options):
        seen.append((y.clone(), options["objective"]))
        return train(model, x, y, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "train", watched)
        found = run_one(Cell(plan, "hard-taught", 20, 0), tmp_path)
    (few, _), (taught, objective) = seen
    assert int((few >= 0).sum()) == 20
    assert bool((taught >= 0).all())
    assert bool((taught == few)[few >= 0].all()), "true labels stay"
    assert objective.kl == objective.balance == 0
    assert found["certified"] == 100
    assert found["experiment"]["model"]["constraint"] == "hard"
    assert found["experiment"]["teacher"]["source"] == "kl"
    assert run_one(Cell(plan, "kl", 20, 0), tmp_path)["experiment"]["teacher"] is None, "control"


def test_cells_come_seed_by_seed(plan):
    found = cells(plan, [10, 20], ["kl", "rc"], 2)
    assert [(cell.seed, cell.labels, cell.row) for cell in found][:5] == [
        (0, 10, "kl"), (0, 10, "rc"), (0, 20, "kl"), (0, 20, "rc"), (1, 10, "kl"),
    ]  # fmt: skip
    for bad, says in (
        (([10], ["magic"], 1), "no row 'magic'"),
        (([10], ["kl"], 0), "at least 1"),
        (([0], ["kl"], 1), "at least 1"),
    ):
        with pytest.raises(InputError, match=says):
            cells(plan, *bad)


@pytest.mark.parametrize("row", ["supervised", "kl", "kl-long", "rc+kl+nn"])
def test_one_cell(plan, row, tmp_path):
    cell = Cell(plan, row, 20, 3)
    found = run_one(cell, tmp_path, command="drmm reproduce mnist-5k")
    assert json.loads(cell.path(tmp_path).read_text()) == json.loads(json.dumps(found))
    assert {"dataset", "labels", "seed", "method", "test_error", "seconds", "command", "versions"} <= found.keys()
    assert found["epochs"] == (8 if "long" in row else 4)
    assert found["images"] == (20 if row == "supervised" else 200)
    assert 0 < found["test_error"] <= 95
    assert [path.name for path in cell.path(tmp_path).parent.iterdir()] == [cell.path(tmp_path).name], (
        "no checkpoint"
    )


@pytest.mark.parametrize(("known", "size"), [(50, 50), (100, 100), (500, 128)])
def test_labels_alone_make_as_many_batches_as_all_images(known, size):
    y = torch.full((4000,), -1)
    y[torch.randperm(4000)[:known]] = torch.arange(known) % 10
    some = {"batch_size": 128, "labelled": 32}
    few, found = labelled_alone(y, **some)
    assert found == size
    assert torch.equal(few.unique(), torch.nonzero(y >= 0).squeeze(1))
    order = {"seed": 0, "epoch": 0}
    alone = Batches(torch.zeros(len(few), 1), y[few], batch_size=size, labelled=32, **order)
    assert len(alone) == len(Batches(torch.zeros(4000, 1), y, **some, **order))


def test_cells_are_functions_of_their_seed(plan, tmp_path):
    errors = [
        run_one(Cell(plan, "rc+kl+nn", 20, seed), tmp_path / str(i))["test_error"]
        for i, seed in enumerate([0, 0, 1])
    ]
    assert errors[0] == errors[1]
    assert errors[0] != errors[2], "control: another seed, another draw"


def test_a_cell_that_was_stopped_goes_on_and_says_so(plan, tmp_path, monkeypatch):
    cell = Cell(plan, "kl", 20, 0)
    whole = run_one(cell, tmp_path / "whole")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[run_one.__module__], "error_percent", stop)
        with pytest.raises(KeyboardInterrupt):
            run_one(cell, tmp_path / "stopped")
    found = run_one(cell, tmp_path / "stopped")
    assert found["test_error"] == whole["test_error"]
    assert (whole["resumed"], found["resumed"]) == (False, True), "its seconds are not those of a whole run"


def test_what_is_there_is_not_run_again(plan, tmp_path):
    todo, told = cells(plan, [20], ["kl", "rc"], 1), []
    first = todo[0].path(tmp_path)
    run_one(todo[0], tmp_path)
    before = first.read_bytes()
    failures = run_cells(todo, tmp_path, workers=2, done=lambda cell, result: told.append((cell.row, result)))
    assert not failures
    assert first.read_bytes() == before
    assert [name for name, _ in told] == ["kl", "rc"]
    assert all(result["test_error"] > 0 for _, result in told)


def test_another_benchmark_is_refused(plan, tmp_path):
    run_one(Cell(plan, "kl", 20, 0), tmp_path)
    for other in (replace(plan, epochs=2), replace(plan, width=3), replace(plan, images=150)):
        with pytest.raises(InputError, match="run with other settings"):
            run_cells(cells(other, [20], ["kl"], 1), tmp_path)


def scaled(run):
    """A benchmark as small as a run says."""
    tables = run["experiment"]
    name, width, images = tables["data"]["source"], tables["model"]["width"], tables["data"]["images"]
    longer = benchmark(name, epochs=1000).experiment(run["method"], 100, 0).training.epochs / 1000
    return benchmark(name, epochs=round(tables["training"]["epochs"] / longer), width=width, images=images)


def test_the_committed_runs_are_of_the_committed_benchmark():
    """A cell of another one raises (the tests beside this one), and one that is not there would be run."""
    out = Path(__file__).parents[3] / "results" / "reproduce"
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("*/*/*.json"))]
    todo = [Cell(scaled(run), run["method"], run["labels"], run["seed"]) for run in runs]
    assert sum(cell.benchmark == benchmark("mnist") for cell in todo) > 50, "in full size"
    assert all(cell.path(out).is_file() for cell in todo)
    assert not run_cells(todo, out)


def test_a_row_that_learned_for_fewer_epochs_is_refused(plan, tmp_path, monkeypatch):
    cell = Cell(plan, "kl", 20, 0)
    run_one(cell, tmp_path)
    assert not run_cells([cell], tmp_path), "control"
    as_recipes_say = Benchmark.experiment

    def longer(self, row, labels, seed):
        experiment = as_recipes_say(self, row, labels, seed)
        return experiment.changed("training", epochs=2 * experiment.training.epochs)

    monkeypatch.setattr(Benchmark, "experiment", longer)
    with pytest.raises(InputError, match="run with other settings"):
        run_cells([cell], tmp_path)


def test_what_cannot_be_run_is_told_and_the_rest_goes_on(plan, tmp_path):
    todo = [Cell(plan, "kl", 25, 0), Cell(plan, "kl", 20, 0), Cell(plan, "kl", 5000, 0)]
    failures = run_cells(todo, tmp_path)
    assert [type(failure) for failure in failures] == [Failure, Failure]
    assert "cannot be shared equally by 10 classes" in failures[0].why
    assert "500 labels of each class are too many" in failures[1].why
    assert todo[1].path(tmp_path).exists()


def write(folder, plan, labels, method, seed, error, **others):
    """What a cell of a benchmark, or of a data set's own, leaves."""
    plan = benchmark(plan) if isinstance(plan, str) else plan
    path = folder / plan.dataset / str(labels) / f"{method}-{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    tables = plan.experiment(method, labels, seed).resolved().tables()
    run = {"dataset": plan.dataset, "labels": labels, "method": method, "seed": seed, "test_error": error}
    path.write_text(json.dumps(run | {"seconds": 90, "experiment": tables} | others))


def test_the_table(tmp_path):
    for seed, error in enumerate([1.0, 2.0, 3.0]):
        write(tmp_path, "mnist", 100, "rc+kl+nn", seed, error)
    write(tmp_path, "mnist", 100, "kl", 0, 4.5)
    write(tmp_path, "mnist", 100, "kl", 1, 5.5, seconds=3, resumed=True)
    write(tmp_path, "mnist", 50, "rc", 0, 20.0, resumed=True)
    found = rows(tmp_path)
    assert [(row.labels, row.method) for row in found] == [(50, "rc"), (100, "kl"), (100, "rc+kl+nn")]
    text = markdown(found)
    assert "mnist, test error in % over one label draw where nothing else is said:" in text
    assert "| method | 50 labels | slides | 100 labels | slides | minutes a run |" in text
    assert "| RC + KL + NN | – | 0.91 | 2.00 ± 1.00 (3 draws) | 0.57 | 1.5 |" in text
    assert "| KL, no rendering | – | – | 5.00 ± 0.71 (2 draws) | – | 1.5 |" in text
    assert "| RC | 20.00 | 21.73 | – | 13.41 | – |" in text, "what was stopped has no time of its own"
    figure(found).canvas.draw()
    assert "Nothing has been run" in markdown(rows(tmp_path / "nothing"))


def test_a_table_that_was_scaled_down_has_no_published_column(tmp_path):
    small = benchmark("cifar10", width=16, epochs=5)
    write(tmp_path, small, 4000, "rc+kl", 0, 40.0, dataset="cifar10-jpeg")
    (row,) = rows(tmp_path)
    assert (row.scaled, row.published) == ("on cifar10-jpeg, 16 wide, 5 epochs", None)
    text = markdown([row])
    assert "cifar10 (on cifar10-jpeg, 16 wide, 5 epochs: not comparable with the slides), test error" in text
    assert "| method | 4,000 labels | minutes a run |" in text
    write(tmp_path, "cifar10", 4000, "rc+kl", 0, 40.0)
    (row,) = rows(tmp_path)
    assert (row.scaled, row.published) == ("", 23.24)
    assert "| method | 4,000 labels | slides | minutes a run |" in markdown([row])


def test_rows_are_compared_on_the_draws_that_they_share(tmp_path):
    for seed, (drawn, bare) in enumerate([(1.0, 3.0), (2.5, 3.5), (2.0, 5.0), (0.5, None)]):
        write(tmp_path, "mnist", 20, "rc+kl+nn", seed, drawn)
        if bare is not None:
            write(tmp_path, "mnist", 20, "kl", seed, bare)
    write(tmp_path, "mnist", 20, "kl-long", 0, 9.0)
    table = rows(tmp_path)
    (found,) = comparisons(table)
    assert (found.method, found.against, found.labels) == ("rc+kl+nn", "kl", 20)
    assert found.differences == (-2.0, -1.0, -3.0)
    assert found.interval == pytest.approx((-2 - 4.303 / 3**0.5, -2 + 4.303 / 3**0.5), abs=1e-3)
    assert "| mnist | 20 | RC + KL + NN | KL, no rendering | -2.00 [-4.48, +0.48] | 3 |" in markdown(
        rows(tmp_path)
    )


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        '{"labels": 100, "method": "kl", "seed": 0, "test_error": null, "seconds": 1}',
        "[",
        '{"labels": 100, "method": "kl", "seed": 0, "test_error": 1, "seconds": 1, "experiment": 3}',
        '{"labels": 100, "method": "kl", "seed": 0, "test_error": 1, "seconds": 1, "experiment": {"luck": {}}}',
    ],
)
def test_damaged_files(content, tmp_path):
    write(tmp_path, "mnist", 100, "kl", 0, 4.5)
    (tmp_path / "mnist" / "100" / "rc-0.json").write_text(content)
    with pytest.raises(RunError, match=r"rc-0\.json"):
        rows(tmp_path)
