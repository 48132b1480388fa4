"""Structure selection: planted structures are found, complexity is paid for, nothing is learned twice."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import drmm
from drmm.errors import InputError, RunError
from drmm.learning.em import fit_em
from drmm.learning.initialisation import initialise
from drmm.learning.selection import Grid, Trial, _winner, select
from drmm.runs import fit as runs
from drmm.runs.experiment import Experiment
from drmm.storage.models import Recipe, load_model

PLANTED = 4
SHAPE = (1, 6, 6)
BASE = Recipe("dense", SHAPE, ("thing",), depth=1)
WIDTHS = Grid(width=(1, 2, 3, 4, 6)).candidates(BASE)


def planted_templates(n: int, seed: int = 0) -> torch.Tensor:
    """Orthonormal templates (n, 36) without a mean; the first ones do not depend on n."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(36, 20, generator=generator)
    return torch.linalg.qr(square - square.mean(0))[0].T[:n]


def renderings(seed: int = 0, n: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of a one-level DRMM with four templates, one of them on, and pixel noise."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.eye(PLANTED)[torch.randint(PLANTED, (n,), generator=generator)]
    x = a @ planted_templates(PLANTED, seed) + 0.05 * torch.randn(n, 36, generator=generator)
    return x.reshape(n, *SHAPE), torch.full((n,), -1)


def rendering_model(model: drmm.DRMM, x: torch.Tensor, heights: torch.Tensor) -> drmm.DRMM:
    """EM from the model's dictionary and these heights of its units, without the discriminative relaxation."""
    with torch.no_grad():
        model.templates.weight.copy_(heights[None])
    fit_em(model.eval(), x, max_iter=20, tolerance=1e-4, progress=False)
    model.settle([x])
    return model


def from_patches(recipe: Recipe, x: torch.Tensor, y: torch.Tensor) -> drmm.DRMM:
    return rendering_model(initialise(recipe.build(0), "data", x=x), x, torch.ones(recipe.width or 0))


def from_the_truth(recipe: Recipe, x: torch.Tensor, y: torch.Tensor) -> drmm.DRMM:
    """As many planted templates as there is room for, then others: a wider net can do all that a narrower can."""
    width = recipe.width or 0
    model = recipe.build(0)
    with torch.no_grad():
        model.levels.renderings[1].weight.copy_(planted_templates(width))
    model.calibrate([x])
    return rendering_model(model, x, (torch.arange(width) < PLANTED).float())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_number_of_templates_is_found(seed: int, tmp_path: Path) -> None:
    x, y = renderings(seed)
    winners = {
        criterion: select(WIDTHS, from_patches, x, y, criterion=criterion, seed=seed, folder=tmp_path).winner.width
        for criterion in ("heldout", "bic", "picture")
    }
    assert winners["heldout"] == winners["bic"] == PLANTED
    assert winners["picture"] >= PLANTED, "control: templates that are missing are missed"


def test_what_does_not_pay_for_complexity_takes_the_larger_net() -> None:
    """Control: on the images that were learned from, the picture alone is best told with most templates."""
    x, y = renderings()
    fits = {}

    def learn(recipe: Recipe, x: torch.Tensor, y: torch.Tensor) -> drmm.DRMM:
        model = from_the_truth(recipe, x, y)
        with torch.no_grad():
            fits[recipe.width] = float(model.log_likelihood(x, model.infer(x)).mean())
        return model

    candidates = Grid(width=(2, PLANTED, 10)).candidates(BASE)
    selection = select(candidates, learn, x, y, criterion="bic", seed=0, progress=False)
    assert selection.winner.width == PLANTED
    assert fits[2] < fits[PLANTED] < fits[10]


def counting(recipe: Recipe, x: torch.Tensor, y: torch.Tensor) -> drmm.DRMM:
    """Learns nothing but the priors, and remembers that it was called."""
    CALLS.append(recipe)
    model = recipe.build(0).eval()
    model.settle([x])
    return model


CALLS: list[Recipe] = []


def test_a_finished_candidate_is_not_learned_again(tmp_path: Path) -> None:
    x, y = renderings(n=40)
    whole = select(WIDTHS, counting, x, y, seed=0, folder=tmp_path / "whole", progress=False)
    CALLS.clear()

    def dies(recipe: Recipe, x: torch.Tensor, y: torch.Tensor) -> drmm.DRMM:
        if len(CALLS) == 2:
            raise KeyboardInterrupt
        return counting(recipe, x, y)

    with pytest.raises(KeyboardInterrupt):
        select(WIDTHS, dies, x, y, seed=0, folder=tmp_path / "a", progress=False)
    resumed = select(WIDTHS, counting, x, y, seed=0, folder=tmp_path / "a", progress=False)
    assert list(WIDTHS) == CALLS
    assert forgetting_time(resumed.rows()) == forgetting_time(whole.rows())
    other = select(WIDTHS, counting, x, y, seed=1, progress=False)
    assert forgetting_time(other.rows()) != forgetting_time(whole.rows()), "control: the seed decides"


def forgetting_time(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_candidates_of_another_selection_are_not_taken_for_these(tmp_path: Path) -> None:
    x, y = renderings(n=40)
    select(WIDTHS, counting, x, y, seed=0, folder=tmp_path, progress=False)
    for images, candidates, seed in ((x + 0.1, WIDTHS, 0), (x, WIDTHS[::-1], 0), (x, WIDTHS, 1)):
        with pytest.raises(RunError, match="another selection"):
            select(candidates, counting, images, y, seed=seed, folder=tmp_path, progress=False)
    record = json.loads((tmp_path / "0.json").read_text())
    del record["images"]
    (tmp_path / "0.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="damaged"):
        select(WIDTHS, counting, x, y, seed=0, folder=tmp_path, progress=False)


def test_free_parameters_are_counted() -> None:
    x, y = renderings(n=40)
    trial = select(WIDTHS, counting, x, y, seed=0, progress=False).trials[3]
    dictionary, norm, templates, switches, noise, brightness = 36 * 4 + 4, 2 * 4, 4 + 1, 4, 1, 2
    assert trial.parameters == dictionary + norm + templates + switches + noise + brightness
    pooled = Grid(depth=(1, 2)).candidates(Recipe("conv_small", (1, 8, 8), ("a", "b"), width=2))
    x, y = torch.rand(30, 1, 8, 8), torch.arange(30) % 2
    trial = select(pooled, counting, x, y, seed=0, progress=False).trials[0]
    units = 2 * 6 * 6  # an on/off switch each, and one of four positions
    assert trial.parameters == 2 * 25 + 2 * 2 + (2 * 2 + 2) + 1 + 2 + 1 + units * (1 + 3)


@pytest.mark.parametrize("constraint", ["hard", "weight_norm"])
def test_the_length_of_a_normed_template_counts_once(constraint: str) -> None:
    plain = replace(BASE, width=4)
    x, y = renderings(n=40)
    recipes = [plain, replace(plain, constraint=constraint)]
    soft, other = select(recipes, counting, x, y, seed=0, progress=False).trials
    assert soft.parameters == other.parameters
    built = [sum(p.numel() for p in recipe.build(seed=0).parameters()) for recipe in recipes]
    if constraint == "weight_norm":
        assert built[0] < built[1], "control: what is stored is one number a template more"


def test_the_best_wins_and_in_a_tie_the_smallest() -> None:
    def trial(width: int, wrong: list[float], bic: float) -> Trial:
        images = {"error": tuple(wrong), "picture": tuple(wrong)}
        return Trial(replace(BASE, width=width), width, 0.0, bic, images)

    large, small, worse = trial(8, [0, 100, 0], -3), trial(4, [100, 0, 0], -2), trial(2, [100, 0, 100], -1)
    assert _winner([large, small, worse], "error") == small.recipe
    assert _winner([large, small, worse], "picture") == worse.recipe
    assert _winner([worse, small, large], "bic") == large.recipe
    assert small.standard_error("error") == pytest.approx(100 / 3)
    assert small.standard_error("bic") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("select.foo=1", "no setting select.foo"),
        ("select.width", "cannot set 'select.width'"),
        ("select.width=abc,8", "abc"),
        ("select.width=8.5", "whole number"),
        ("select.depth=0,1", "whole numbers of 1 or more"),
        ("select.criterion=aic", "criterion cannot be 'aic': it is error, picture, heldout, bic or none"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Experiment().set(words)


def test_only_a_grid_with_values_is_a_choice() -> None:
    assert not Grid()
    assert not Grid(criterion="bic")
    assert all((Grid(width=(8,)), Grid(depth=(1,)), Grid(preset=("auto",))))


def test_words_make_a_grid() -> None:
    words = ("select.width=2, 4", "select.preset=auto,conv_small,dense", "select.depth=1", "select.criterion=bic")
    grid = Experiment().set(*words).select
    assert grid.criterion == "bic"
    base = Recipe("conv_small", (1, 6, 6), ("a", "b"), constraint="hard", depth=3)
    names = [(recipe.preset, recipe.width, recipe.depth) for recipe in grid.candidates(base)]
    assert names == [(p, w, 1) for p in ("dense", "conv_small", "dense") for w in (2, 4)]
    assert all(recipe.constraint == "hard" for recipe in grid.candidates(base))


@pytest.mark.parametrize(
    ("candidates", "criterion", "message"),
    [
        (WIDTHS[:1], None, "no choice"),
        ((WIDTHS[0], WIDTHS[0]), None, "twice"),
        ((WIDTHS[0], replace(BASE, depth=0)), None, "depth"),
        ((WIDTHS[0], replace(BASE, preset="conv_small")), None, "receptive field"),
        (WIDTHS, "error", "label"),
        (WIDTHS, "aic", "choose from"),
    ],
)
def test_candidates_that_cannot_be_compared_are_refused(candidates, criterion, message) -> None:
    x, y = renderings(n=40)
    CALLS.clear()
    with pytest.raises(InputError, match=message):
        select(candidates, counting, x, y, criterion=criterion, seed=0, progress=False)
    assert CALLS == []


def test_images_that_cannot_judge_are_refused() -> None:
    x, y = renderings(n=40)
    with pytest.raises(InputError, match="holdout"):
        select(WIDTHS, counting, x[:1], y[:1], seed=0, progress=False)
    with pytest.raises(InputError, match="not finite"):
        select(WIDTHS, counting, 0 * x, y, seed=0, progress=False)


# --- the command line ---


def settings(*assignments: str) -> list[str]:
    """On the command line."""
    return [word for assignment in assignments for word in ("--set", assignment)]


QUICK = settings("training.batch_size=256", "training.min_steps=0", "machine.accelerator=cpu")
FIT = ["fit", "digits", *QUICK]
GRID = [*FIT, "--labels-per-class", "20", "--epochs", "4"]
GRID += settings("training.learning_rate=0.01", "select.width=2,8", "trust.folds=0")


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "selection.csv").open() as file:
        return list(csv.DictReader(file))


def test_fit_selects_and_resumes(tmp_path: Path, run_drmm, monkeypatch) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, out, err = run_drmm(*GRID, "--out", whole)
    assert code == 0, err
    assert "candidate 2 of 2: conv_small, width 8" in err
    assert "selected by error" in out
    assert out.count("←") == 1
    selection = json.loads((whole / "results.json").read_text())["selection"]
    rows = table(whole)
    assert [float(row["error"]) for row in rows] == [row["error"] for row in selection["candidates"]]
    assert [row["winner"] for row in rows] == ["False", "True"]
    assert load_model(whole)[1].width == 8
    # Why neither complete-data criterion is the default: each unit pays for its switches.
    assert float(rows[0]["heldout"]) > float(rows[1]["heldout"])
    assert float(rows[0]["bic"]) < float(rows[1]["bic"])

    learned = []

    def dies_at_the_second(model, *args, **options):
        learned.append(model)
        if len(learned) == 2:
            raise KeyboardInterrupt
        return train(model, *args, **options)

    train = runs.train
    monkeypatch.setattr(runs, "train", dies_at_the_second)
    assert run_drmm(*GRID, "--out", killed)[0] == 130
    code, _, err = run_drmm(*GRID, "--out", killed, "--resume")
    assert code == 0, err
    assert len(learned) == 4, "one before the interruption, one candidate and the winner after it"
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)

    code, _, err = run_drmm("fit", "--out", whole, "--resume", "--epochs", 5)
    assert code == 0, err
    assert len(learned) == 5, "the winner learns on, and nothing is selected again"
    assert load_model(whole)[1].width == 8
    assert json.loads((whole / "results.json").read_text())["selection"] == selection


@pytest.mark.filterwarnings("ignore:every image is labelled")
@pytest.mark.parametrize("learning", ["sgd", "eg", "em"])
@pytest.mark.parametrize("labels", [[], ["--labels-per-class", "0"]])
def test_every_rule_selects_with_labels_and_without(learning, labels, tmp_path: Path, run_drmm) -> None:
    words = [*FIT, "--preset", "dense", "--epochs", 1, *labels, "--out", tmp_path / "run"]
    chosen = settings(f"training.learning={learning}", "select.width=4,8", "select.depth=1,2")
    code, _, err = run_drmm(*words, *chosen)
    assert code == 0, err
    rows = table(tmp_path / "run")
    assert [(row["width"], row["depth"]) for row in rows] == [("4", "1"), ("4", "2"), ("8", "1"), ("8", "2")]
    assert [row["error"] == "" for row in rows] == [bool(labels)] * 4
    winner = load_model(tmp_path / "run")[1]
    assert [(row["width"], row["depth"]) for row in rows if row["winner"] == "True"] == [
        (str(winner.width), str(winner.depth))
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (settings("select.foo=1"), "no setting select.foo"),
        (settings("select.width=abc"), "abc"),
        (settings("select.width=8"), "no choice"),
        (settings("select.width=8,"), "no choice"),
        (settings("select.width=8,8"), "twice"),
        (settings("select.depth=3,9"), "no depth 9"),
        (settings("select.preset=dense,transformer"), "transformer"),
        (settings("select.preset=dense,conv_large"), "receptive field"),
        ([*settings("select.width=4,8"), "--width", "4"], "both given and selected"),
        ([*settings("select.depth=1,2", "model.depth=2")], "both given and selected"),
        ([*settings("select.preset=dense,conv_small"), "--preset", "dense"], "both given and selected"),
        ([*settings("select.width=4,8", "select.criterion=error"), "--labels-per-class", "0"], "label"),
        (settings("select.width=4,8", "machine.devices=2"), "one device"),
        (settings("select.criterion=bic"), "select.width=8,16"),
    ],
)
def test_a_bad_selection_is_one_line_and_nothing_is_written(words, message, tmp_path: Path, run_drmm) -> None:
    code, _, err = run_drmm(*FIT, "--labels-per-class", 5, *words, "--out", tmp_path / "run")
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "run").exists()
