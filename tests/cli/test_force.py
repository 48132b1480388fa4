"""No command replaces a file that is there, unless it is told to."""

from pathlib import Path

import pytest
from commands import refused

from drmm.cli import demo, studies


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["predict", "RUN", "PICTURES"], "--out"),
        (["explain", "RUN", "PICTURES/digit0.png"], "--out"),
        (["report", "RUN", "--images", "2"], "--out"),
        (["sample", "RUN", "--n", "2"], "--out"),
        (["bench", "--quick"], "--json"),
        (["dp"], "--out"),
    ],
)
def test_a_file_that_is_there_stays(
    command: list[str], option: str, run: Path, pictures: Path, tmp_path: Path, run_drmm, monkeypatch
) -> None:
    monkeypatch.setattr(studies, "run_benchmark", lambda **_: {"measured": 1})
    monkeypatch.setattr(studies, "table", str)
    words = [word.replace("RUN", str(run)).replace("PICTURES", str(pictures)) for word in command]
    out = tmp_path / "precious"
    out.write_text("mine")
    refused(run_drmm(*words, option, out), f"{out} exists", "--force")
    assert out.read_text() == "mine"
    refused(run_drmm(*words, option, pictures, "--force"), "is a folder")
    code, _, err = run_drmm(*words, option, out, "--force")
    assert code == 0, err
    assert out.read_bytes() != b"mine", "control"


def test_a_file_that_is_there_is_found_before_any_work(tmp_path: Path, run_drmm, monkeypatch) -> None:
    monkeypatch.setattr(studies, "run_benchmark", lambda **_: pytest.fail("it measured first"))
    (tmp_path / "bench.json").write_text("{}")
    refused(run_drmm("bench", "--json", tmp_path / "bench.json"), "exists")
    refused(run_drmm("predict", tmp_path / "no-run", "x", "--out", tmp_path / "bench.json"), "bench.json exists")


def test_a_demo_replaces_nothing(tmp_path: Path, run_drmm, monkeypatch) -> None:
    monkeypatch.setattr(demo, "load", lambda _: pytest.fail("it went on"))
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "demo.png").write_text("mine")
    refused(run_drmm("demo", "--out", tmp_path / "demo"), "demo exists", "--force")
    assert (tmp_path / "demo" / "demo.png").read_text() == "mine"
    with pytest.raises(pytest.fail.Exception, match="it went on"):  # the control
        run_drmm("demo", "--out", tmp_path / "demo", "--force")
