"""A model's card: a head that hubs read, figures with intervals, and text of others that does nothing."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from made import HOSTILE, dataset, trusted, write_run
from scipy.stats import binomtest

from drmm.files import read_json, write_json


@pytest.fixture
def run(tmp_path: Path) -> Path:
    data = dataset()
    folder = write_run(tmp_path / "run", data)
    trusted(folder, data, wrong=[0])
    return folder


def card(folder: Path, run_drmm) -> tuple[dict, str]:
    code, said, err = run_drmm("card", folder, "--force")
    assert (code, err) == (0, "")
    assert f"written to {folder / 'README.md'}" in said
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def changed(folder: Path, **results: object) -> Path:
    write_json(folder / "results.json", {**read_json(folder / "results.json"), **results})
    return folder


def test_the_head_that_hubs_read(run, run_drmm) -> None:
    head, _ = card(changed(run, dataset="noise: # 1"), run_drmm)
    assert head["license"] is None, "it is left to the user"
    assert (head["library_name"], head["pipeline_tag"]) == ("drmm", "image-classification")
    [entry] = head["model-index"]
    [result] = entry["results"]
    assert entry["name"] == "run"
    assert result["task"] == {"type": "image-classification"}
    assert result["dataset"] == {"name": "noise: # 1", "type": "noise: # 1"}
    assert result["metrics"] == [{"type": "accuracy", "value": 0.875, "name": "test accuracy"}]


def test_figures_have_intervals(run, run_drmm) -> None:
    _, text = card(changed(run, test_images=40, balanced_error=12.0, recall={"0": 50.0, "1": 100.0}), run_drmm)
    low, high = binomtest(5, 40).proportion_ci()
    assert f"| test error | 12.50 % | {100 * low:.1f} to {100 * high:.1f} % | 40 pictures |" in text
    assert "| balanced error | 12.00 % |  | the same |" in text
    assert re.search(r"\| cross-fitted error \| 3\.3 % \| 0\.1 to 17\.2 % \| 30 labels", text)
    assert "| 0 | 2 | 50.0 % |\n| 1 | 2 | 100.0 % |\n| 2 | 2 |  |\n" in text
    assert "calibrated on 30 labels (temperature " in text
    assert "fewer than 1 % of the training pictures" in text
    assert "- drmm: 0.1.0" in text
    _, text = card(changed(run, test_images=None), run_drmm)  # the control: as of earlier runs
    assert "| test error | 12.50 % | unknown |" in text


def test_a_model_that_nothing_is_known_of(run, run_drmm) -> None:
    for name in ("results.json", "trust.safetensors", "trust.json", "labels.csv"):
        (run / name).unlink()
    head, text = card(run, run_drmm)
    assert head["model-index"] == []
    assert "None is known." in text
    assert "The run does not say: its confidence is the net's own" in text, "as who reads the file sees it"
    assert "| class |" not in text


def test_clusters_are_no_classes(tmp_path, run_drmm) -> None:
    folder = write_run(tmp_path / "run", dataset(), labels_per_class=0)
    _, text = card(changed(folder, test_error=None, cluster_accuracy=80.0), run_drmm)
    assert "into 3 clusters, found without labels" in text
    assert "| cluster accuracy | 80.00 % |" in text
    assert "Clusters are not classes" in text


def test_names_stand_there_and_do_nothing(tmp_path, run_drmm) -> None:
    odd = [*HOSTILE, "a | b", "*x*_y_[z](http://x)", "c\nd\n---"]
    data = dataset(odd, train=2 * len(odd))
    folder = write_run(tmp_path / "run*", data)
    head, text = card(changed(folder, dataset=odd[0]), run_drmm)
    assert head["model-index"][0]["results"][0]["dataset"]["name"] == odd[0]
    assert "<script>" not in text
    assert r"a \| b" in text
    assert r"\*x\*\_y\_\[z\](http://x)" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.endswith("|  |")]
    assert len(rows) == len(odd)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert not np.any([line == "---" for line in text.splitlines()])


def test_no_path_of_its_maker_is_told(run, run_drmm) -> None:
    assert "--out" in read_json(run / "results.json")["command"], "control"
    _, text = card(run, run_drmm)
    assert "drmm fit" not in text
    assert str(run.parent) not in text


def test_what_is_there_stays(run, tmp_path, run_drmm) -> None:
    (run / "README.md").write_text("mine")
    code, _, err = run_drmm("card", run)
    assert code == 2
    assert err == f"error: {run / 'README.md'} exists: choose another --out, or replace it with --force\n"
    assert (run / "README.md").read_text() == "mine"
    assert run_drmm("card", run, "--out", tmp_path / "card.md")[0] == 0
    (run / "model.json").unlink()
    code, _, err = run_drmm("card", run, "--out", tmp_path / "other.md")
    assert code == 2
    assert "has not finished" in err
    assert not (tmp_path / "other.md").exists()
