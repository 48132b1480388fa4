"""What studies share: results say what made them, and are shown again without running anything."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from scripts.study import difference, kept, mean_and_sd, study

ROOT = Path(__file__).parents[2]
STUDIES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "scripts").rglob("*.py")
    if "docs" not in path.parts
)
ASKED = {"--nets": {"type": int, "default": 7}}


def run(asked):
    return (
        {"law": "T1", "nets": asked.nets, "command": "of the verdict"} if asked.seeds > 8 else {"nets": asked.nets}
    )


def forbidden(asked):
    raise AssertionError("a study that is redrawn runs nothing")


def table(results):
    return f"| nets | {results['nets']} |"


def figure(results):
    drawn = Figure(figsize=(results["nets"], 1))
    drawn.subplots()
    return drawn


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Start a study with words of a command line; what it writes."""

    def of(*words, run=run):
        monkeypatch.setattr(sys, "argv", ["study", "--out", str(tmp_path), "--pictures", str(tmp_path), *words])
        study(run, table, figure, name="part/it", target="it", options=ASKED)
        return json.loads((tmp_path / "part" / "it.json").read_text(encoding="utf-8"))

    return of


def test_results_have_their_command_seeds_and_versions(start, tmp_path, capsys):
    results = start()
    assert results.items() >= {"command": "make it", "nets": 7, "seeds": 3}.items()
    assert results["seconds"] >= 0
    assert set(results["versions"]) >= {"drmm", "torch", "python"}
    assert capsys.readouterr().out == "| nets | 7 |\n"
    assert (tmp_path / "it.png").exists()


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("--data-dir", "folder"), "make it"),
        (("--seeds", "5"), "make it (--seeds 5)"),
        (("--seeds", "5", "--nets", "2"), "make it (--seeds 5 --nets 2)"),
        (("--seeds", "9"), "of the verdict"),
    ],
)
def test_the_command_has_what_changes_figures_and_no_more(start, words, command):
    assert start(*words)["command"] == command


def test_a_study_is_shown_again_without_running(start, tmp_path, capsys):
    before = start("--nets", "2")
    capsys.readouterr()
    (tmp_path / "it.png").unlink()
    assert start("--redraw", run=forbidden) == before
    assert capsys.readouterr().out == "| nets | 2 |\n"
    assert (tmp_path / "it.png").exists()
    with pytest.raises(AssertionError, match="runs nothing"):
        start(run=forbidden)  # the control


def test_what_is_kept_is_made_once(tmp_path):
    made = []
    for _ in range(2):
        assert kept(tmp_path / "a" / "b.json", lambda: {"call": len(made) or made.append(1) or 0}) == {"call": 0}
    (tmp_path / "a" / "b.json").unlink()
    assert kept(tmp_path / "a" / "b.json", lambda: {"call": len(made)}) == {"call": 1}


def test_numbers_are_summed_up():
    assert mean_and_sd([1.0, 2.0, 4.5]) == {"mean": 2.5, "sd": 1.8}
    assert mean_and_sd([1.25]) == {"mean": 1.25, "sd": 0.0}
    assert difference({0: 1.0, 1: 2.0}, {0: 0.5, 2: 9.0}) == "+0.50"
    assert difference({0: 1.0, 1: 2.5}, {0: 0.5, 1: 1.0}).startswith("+1.00 [")
    assert difference({0: 1.0}, {1: 1.0}) == "–"


@pytest.mark.parametrize("name", STUDIES)
def test_every_script_can_be_imported(name):
    importlib.import_module(name)


def test_the_makefile_starts_scripts_that_exist():
    started = re.findall(r"\$\(STUDY\)(\.[\w.]+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert len(started) > 15
    assert {f"scripts{name}" for name in started} <= set(STUDIES)


@pytest.mark.parametrize(
    ("script", "results"),
    [
        ("feedback", "feedback"),
        ("frontier", "frontier"),
        ("peers", "peers"),
        ("predictions.nuisances", "predictions/t19"),
    ],
)
def test_pictures_are_drawn_from_the_committed_results(script, results):
    content = json.loads((ROOT / "results" / f"{results}.json").read_text(encoding="utf-8"))
    importlib.import_module(f"scripts.{script}").figure(content).canvas.draw()
