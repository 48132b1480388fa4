"""Whatever happens, a user reads one line: what went wrong, and where the details are."""

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest
from commands import read_csv, refused

from drmm import cli as command_line
from drmm import files
from drmm.cli import app
from drmm.cli import apply as commands
from drmm.data import tables
from drmm.files import write_csv

RUN = "import sys; sys.argv = sys.argv[1:]; import drmm.cli; drmm.cli.main()"


def raising(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException) -> None:
    """Let `drmm settings` meet an error, and details go to `tmp_path`."""

    def show_settings(*_: object) -> None:
        secret = os.environ["SECRET"]
        raise error if secret else AssertionError

    monkeypatch.setenv("SECRET", "hunter2")
    monkeypatch.setattr("drmm.cli.fit.show_settings", show_settings)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ZeroDivisionError("[/b] division\nby zero \x1b[31m"), 1, "ZeroDivisionError: [/b] division by zero"),
        (KeyError("caf\udce9"), 1, "this should not have happened"),
        (OSError(28, "No space left on device", "/x/[a]"), 2, "/x/[a]: No space left on device"),
        (PermissionError(13, "Permission denied", "/x"), 2, "/x: Permission denied"),
        (MemoryError(), 2, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "not enough memory"),
        (ModuleNotFoundError("No module named 'pyvista'"), 1, "No module named 'pyvista'"),
    ],
)
def test_what_nobody_foresaw_is_one_line_and_a_file(error, code, says, tmp_path, run_drmm, monkeypatch) -> None:
    raising(monkeypatch, tmp_path, error)
    left, out, err = run_drmm("settings", "\ud800")
    assert (left, out, err.count("\n")) == (code, "", 1)
    assert err.startswith("error: ")
    assert "\x1b" not in err
    assert says in err
    (file,) = tmp_path.iterdir()
    assert str(file) in err
    details = file.read_text()
    assert "drmm settings" in details
    assert "torch " in details
    assert "in show_settings" in details, "the traceback"
    assert "hunter2" not in details


def test_debug_shows_what_python_says(tmp_path, run_drmm, monkeypatch) -> None:
    raising(monkeypatch, tmp_path, ZeroDivisionError("by zero"))
    monkeypatch.setenv("DRMM_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run_drmm("settings")
    monkeypatch.delenv("DRMM_DEBUG")
    assert run_drmm("settings")[0] == 1, "control"


def test_details_that_cannot_be_written_are_one_line_too(tmp_path, run_drmm, monkeypatch) -> None:
    raising(monkeypatch, tmp_path / "none", ZeroDivisionError("by zero"))
    code, _, err = run_drmm("settings")
    assert (code, err.count("\n")) == (1, 1)
    assert "DRMM_DEBUG=1" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_what_is_stopped_tidies_up(number, code, tmp_path, run_drmm, monkeypatch) -> None:
    def stopped(*_: object) -> None:
        write_csv(tmp_path / "whole.csv", ["a"], [])
        monkeypatch.setattr(Path, "replace", lambda *_: os.kill(os.getpid(), number))
        write_csv(tmp_path / "half.csv", ["a"], [])

    monkeypatch.setattr("drmm.cli.fit.show_settings", stopped)
    before = signal.getsignal(signal.SIGTERM)
    left, _, err = run_drmm("settings")
    signal.signal(signal.SIGTERM, before)
    assert (left, err.count("\n")) == (code, 1)
    assert err.startswith("interrupted: ")
    assert [path.name for path in tmp_path.iterdir()] == ["whole.csv"]


def ended(*words: str, out: str) -> tuple[int, str]:
    """Exit code and standard error of a command that prints to a file or into a shell's pipe."""
    command = f'"$0" -c "$1" drmm {" ".join(words)} {out}; echo "code $?" >&2'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, RUN], stderr=subprocess.PIPE, text=True, check=False
    )
    lines = done.stderr.splitlines()
    return int(lines[-1].removeprefix("code ")), "\n".join(lines[:-1])


def test_a_disk_that_is_full_is_told_once() -> None:
    code, err = ended("-h", out="> /dev/full")
    assert code == 2
    assert err.count("\n") == 0
    assert "No space left" in err
    assert ended("-h", out="> /dev/null") == (0, ""), "control"


def test_a_reader_of_the_first_lines_hears_nothing() -> None:
    assert ended("-h", out="| true") == (0, "")


def test_the_package_has_main_and_does_not_wait_for_it() -> None:
    code = "import sys, drmm.cli; assert 'typer' not in sys.modules; assert callable(drmm.cli.main); "
    code += "assert 'typer' in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert importlib.reload(command_line).main is app.main


# --- paths, as they are typed ---


@pytest.mark.parametrize("words", [["--out=~/a b.png"], ["--out", "~/a b.png"]])
def test_a_home_is_found_where_no_shell_looked(words, tmp_path, run_drmm, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_drmm("dp", *words)
    assert code == 0
    assert f"drawn into {tmp_path}/home/a b.png" in out
    assert (tmp_path / "home" / "a b.png").is_file()
    assert not (tmp_path / "~").exists()


def test_the_home_of_nobody_is_a_folder_like_others(tmp_path, run_drmm, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["fit", "~nobody9/x"], ["fit", "digits", "--recipe", "~nobody9/x.toml"]):
        refused(run_drmm(*words, "--out", "run"), "~nobody9/x")
    refused(run_drmm("predict", "~nobody9/run", "x"), "~nobody9/run holds no model")


@pytest.mark.parametrize(
    "words",
    [["predict", "", "x"], ["predict", "x", ""], ["dp", "--out", ""], ["dp", "--out="], ["fit", "x", "--out", ""]],
)
def test_an_empty_path_is_no_path(words, run_drmm) -> None:
    refused(run_drmm(*words), "is empty")


@pytest.mark.parametrize("words", [["--teacher", ""], ["--preset", ""]])
def test_an_empty_name_is_not_left_out(words, tmp_path, run_drmm) -> None:
    refused(run_drmm("fit", "digits", "--out", tmp_path / "run", *words), "is empty")
    refused(run_drmm("fit", "digits", "--out", tmp_path / "run", "--recipe", ""), "no recipe ''")
    refused(run_drmm("settings", "--recipe", ""), "no recipe ''")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("/dev/null", "no ordinary file"),
        ("made/file/x.png", "is no folder"),
        ("made", "is a folder"),
        ("x" * 300, "File name too long"),
        ("x.jpg", "let it end in .png"),
        ("x.png.gz", "let it end in .png"),
        ("made/locked/x.png", "no permission"),
    ],
)
def test_a_place_that_takes_no_picture_is_found_first(out, says, tmp_path, run_drmm, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made" / "locked").mkdir(parents=True)
    (tmp_path / "made" / "file").touch()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and access(path, mode))
    monkeypatch.setattr("drmm.cli.studies.unroll", lambda *_: pytest.fail("it went on"))
    refused(run_drmm("dp", "--out", out, "--force"), says)
    with pytest.raises(pytest.fail.Exception):
        run_drmm("dp", "--out", f"{'x' * 200}.png")  # the control


def test_predictions_so_far_are_not_lost_with_a_full_disk(run, pictures, tmp_path, run_drmm, monkeypatch) -> None:
    out, elsewhere, written = tmp_path / "=out.csv", tmp_path / "elsewhere", []
    elsewhere.mkdir()

    def until_full(file: TextIO, rows: Iterable) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(files.add_rows(file, rows))

    monkeypatch.setattr(tables, "add_rows", until_full)
    monkeypatch.setattr(commands, "CERTIFIED_AT_ONCE", 2)
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    answer = run_drmm("predict", run, pictures, "--out", out)
    (kept,) = elsewhere.iterdir()
    refused(answer, f"cannot write {out}: No space left", f"the rows so far are in {kept}")
    assert len(read_csv(kept)) == 4
    assert not list(tmp_path.glob("*.csv"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    written.clear()
    answer = run_drmm("predict", run, pictures, "--out", out)
    refused(answer, f"cannot write {out}: No space left")
    assert "the rows so far" not in answer[2]


def test_names_of_pictures_are_no_formulas(run, pictures, tmp_path, run_drmm, monkeypatch) -> None:
    names = ["=1+1.png", "@x.png", "-1+x.png", "+.png", "\tx.png"]
    for picture, name in zip(sorted(pictures.iterdir()), names, strict=True):
        picture.rename(pictures / name)
    monkeypatch.chdir(pictures)
    code, _, err = run_drmm("predict", run, *(f"./{name}" for name in names[:2]), *names[3:], "--out", "o.csv")
    assert code == 0, err
    rows = read_csv(Path("o.csv"))
    assert [row["image"] for row in rows] == ["'=1+1.png", "'@x.png", "'+.png", "'\tx.png"]
    assert all(np.isfinite(float(row["log_joint"])) for row in rows), "numbers stay numbers"


def test_the_package_runs_as_a_module() -> None:
    said = subprocess.run([sys.executable, "-m", "drmm", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("drmm ")
