"""`drmm predict --engine ray`: the rows of one process, whatever is killed on the way."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep
from types import FunctionType, ModuleType

import pytest
from commands import refused
from pyarrow import parquet

from drmm import progress
from drmm.cli import on_ray

MAKE = on_ray._make  # before a test replaces it


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="needs Ray: pip install 'drmm[ray]'")


@pytest.fixture
def words(run, pictures, tmp_path, monkeypatch) -> list:
    """A command, whose paths are relative. Workers import what this module has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "_INTERVAL", 1000.0)  # an error is one line, however slow the machine
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
    return ["predict", run, pictures.name, "--engine", "ray", "--out", "out", "--shards", 4]


def made(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def killing(place: Path, number: int, *rest: object):
    """A worker is killed once, then the command itself, by one that has done its work."""
    if number == 1 and not Path(place, "killed").exists():
        Path(place, "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 4:
        sleep(60)  # it is done by nobody
    done = MAKE(place, number, *rest)
    if number == 1:
        os.kill(int(Path(place, "pid").read_text()), signal.SIGKILL)
    return done


def test_the_rows_of_one_process_though_workers_and_the_command_are_killed(
    ray, words, pictures, tmp_path, run_drmm
) -> None:
    (pictures / "digit4.png").write_bytes(b"no picture")
    (tmp_path / "pid").touch()
    code = (
        "import os, sys; from pathlib import Path; from drmm.cli import app, on_ray; import test_on_ray\n"
        "Path('pid').write_text(str(os.getpid())); on_ray._make = test_on_ray.killing; app.main()"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # what Ray leaves would keep pipes open
    killed = subprocess.run(command, **nowhere, check=False, timeout=200)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "killed").exists()
    first = tmp_path / "out" / "part-1-of-4.parquet"
    before = first.stat()

    code, said, err = run_drmm(*words[:-2])  # as many shards as were begun
    assert code == 0, err
    assert "pictures cannot be read, such as pictures/digit4.png" in err
    assert "predictions written to out" in said
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [name for name in made(tmp_path / "out") if not name.startswith(".")] == [
        f"part-{number}-of-4.parquet" for number in (1, 2, 3, 4)
    ]
    assert run_drmm("predict", *words[1:3], "--shard", "1/1", "--out", "one")[0] == 0
    assert parquet.read_table("out").equals(parquet.read_table("one"))
    assert parquet.read_table("one").num_rows == 5


def meanwhile(place: Path, *rest: object):
    shutil.copy(place / "pictures" / "digit0.png", place / "pictures" / "more.png")
    return MAKE(place, *rest)


def test_what_goes_wrong_in_a_task_is_one_line(ray, words, tmp_path, run_drmm, monkeypatch) -> None:
    monkeypatch.setattr(on_ray, "_make", meanwhile)
    refused(run_drmm(*words), "pictures changed while it was read: start again")
    assert made(tmp_path / "out") == []


def test_workers_without_drmm(ray, words, run_drmm, monkeypatch) -> None:
    make = FunctionType(MAKE.__code__, MAKE.__globals__, MAKE.__name__)
    make.__module__ = "not_there"
    monkeypatch.setitem(sys.modules, make.__module__, ModuleType(make.__module__))
    setattr(sys.modules[make.__module__], make.__name__, make)
    monkeypatch.setattr(on_ray, "_make", make)
    refused(run_drmm(*words), "a worker of Ray has no drmm: install this version wherever Ray runs")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "a:b"])
def test_a_cluster_that_is_not_there(address, ray, words, run_drmm) -> None:
    refused(run_drmm(*words, "--address", address), f"no Ray at {address}", "--address is host:port, or auto")


def test_without_ray(words, tmp_path, run_drmm, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(run_drmm(*words), "--engine ray needs Ray: pip install 'drmm[ray]'")
    words[2] = "gone"
    refused(run_drmm(*words), "no file or folder gone")
    assert made(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--engine", "ray", "--shard", "1/2"], "leave --shard out"),
        (["--engine", "ray", "--force"], "shards replace no file: leave --force out"),
        (["--shards", 4], "add --engine ray"),
        (["--address", "auto"], "add --engine ray"),
    ],
)
def test_options_that_do_not_go_together(more, says, run, pictures, tmp_path, run_drmm) -> None:
    refused(run_drmm("predict", run, pictures, "--out", tmp_path / "out", *more), says)
    assert made(tmp_path / "out") == []
