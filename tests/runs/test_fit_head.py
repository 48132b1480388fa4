"""Runs that learn class templates alone, or tune a net from there, have all that other runs have."""

from pathlib import Path

import pytest
import torch
from photos import small, write_photos

from drmm.cli.apply import predict
from drmm.cli.prune import prune
from drmm.errors import InputError
from drmm.report import write_report
from drmm.runs.fit import fit_run
from drmm.runs.run import Run
from drmm.storage.models import start_model
from drmm.trust import assessment


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drmm.data.caches.cache_dir", lambda: tmp_path / "cache")


def test_it_is_judged_and_used_like_others(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", each=6)
    experiment = small(photos).changed("training", learning="head").changed("trust", folds=2)
    results = fit_run(experiment, tmp_path / "run", progress=False)
    run = Run.open(tmp_path / "run")
    assert run.assessment is not None
    assert results["cross_fitted"]["labels"] == len(run.assessment.held_out.label) > 0
    assert predict(tmp_path / "run", [photos], tmp_path / "out.csv") > 0
    write_report(tmp_path / "run", tmp_path / "report.html")
    with pytest.raises(InputError, match="learned by head does not go on learning"):
        fit_run(run.experiment.changed("training", epochs=99), tmp_path / "run", resume=True, progress=False)
    with pytest.raises(InputError, match="learned by head does not go on learning: leave --epochs out"):
        prune(tmp_path / "run", tmp_path / "pruned", keep=0.5, epochs=1)


def test_it_has_no_epochs(tmp_path: Path, run_drmm) -> None:
    photos, sets = write_photos(tmp_path / "photos"), ["training.min_steps=0", "trust.folds=0"]
    words = ["fit", photos, "--width", 2, "--epochs", 1, *(word for one in sets for word in ("--set", one))]
    for learning, has_epochs in {"head": False, "sgd": True}.items():  # the second as a control
        out = tmp_path / learning
        code, said, err = run_drmm(*words, "--set", f"training.learning={learning}", "--out", out)
        assert code == 0, err
        assert ("epochs" in Run.open(out).results) == has_epochs
        assert any(line.split()[:1] == ["epochs"] for line in said.splitlines()) == has_epochs
        code, said, err = run_drmm("fit", "--out", out, "--resume")
        assert code == 0, err
        assert "was finished before" in said
        assert ("add more --epochs" in said) == has_epochs


@pytest.mark.parametrize("does_harm", [False, True])
def test_a_tuned_net_is_kept_unless_its_head_alone_is_better(
    does_harm: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, told = write_photos(tmp_path / "photos", each=6), []
    judged = []
    monkeypatch.setattr(assessment, "does_harm", lambda *found: judged.append(found) or does_harm)
    tuning = {"learning": "tune", "epochs": 2, "min_steps": 0}
    experiment = small(photos).changed("training", **tuning).changed("trust", folds=2, epochs_share=0.5)
    results = fit_run(experiment, tmp_path / "run", progress=False, tell=told.append)
    run = Run.open(tmp_path / "run")
    levels = start_model(run.recipe, experiment.training.seed).levels.state_dict()
    weights = [name for name in levels if name.endswith("weight")]
    kept = all(torch.equal(levels[name], run.model.levels.state_dict()[name]) for name in weights)
    assert kept == does_harm
    assert any("such a head is kept" in line for line in told) == does_harm
    tuned, of_head, y, _ = judged[0]
    assert (
        sum(len(fold.index) for fold in tuned) == sum(len(fold.index) for fold in of_head) == int((y >= 0).sum())
    )
    answers = of_head if does_harm else tuned
    assert results["cross_fitted"]["labels"] == sum(len(fold.index) for fold in answers)
    assert predict(tmp_path / "run", [photos], tmp_path / "out.csv") > 0
    with pytest.raises(InputError, match="learned by tune does not go on learning"):
        fit_run(run.experiment.changed("training", epochs=99), tmp_path / "run", resume=True, progress=False)
