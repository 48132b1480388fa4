"""A run keeps by what its E-step chooses switches, and goes on by nothing else."""

from pathlib import Path

import pytest

from drmm.errors import RunError
from drmm.files import read_json
from drmm.runs.experiment import Experiment
from drmm.runs.fit import fit_run
from drmm.storage.models import load_model

SMALL = ("data.source=digits", "data.labels_per_class=4", "model.preset=dense", "model.width=4", "trust.folds=0")
QUICK = (*SMALL, "training.epochs=1", "training.min_steps=0")


@pytest.mark.parametrize("learning", ["eg", "em"])
def test_a_run_keeps_its_e_step_and_resumes_with_it_alone(learning: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    experiment = Experiment().set(*QUICK, f"training.learning={learning}", "training.e_step=traceback")
    fit_run(experiment, out, progress=False)
    assert read_json(out / "run.json")["training"]["e_step"] == "traceback"
    assert load_model(out)[0].templates.weight.isfinite().all()
    fit_run(experiment, out, resume=True, progress=False)
    with pytest.raises(RunError, match=r"another training\.e_step: resume with the same settings"):
        fit_run(experiment.set("training.e_step=bottom-up"), out, resume=True, progress=False)


def test_a_run_from_before_there_was_a_choice_went_bottom_up() -> None:
    tables = Experiment().set(*QUICK).tables()
    del tables["training"]["e_step"]
    assert Experiment.of_tables(tables).training.e_step == "bottom-up"
