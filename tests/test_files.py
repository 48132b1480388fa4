"""Files: whole or not at all, with the modes that the user's system says."""

import csv
import json
import os
import stat
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from drmm.errors import RunError
from drmm.files import (
    check_absent,
    locked,
    new_folder,
    read_csv,
    read_json,
    replacing,
    write_bytes,
    write_csv,
    write_json,
)


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_files_and_folders_have_the_modes_of_the_umask(tmp_path, umask):
    write_bytes(tmp_path / "runs" / "a.json", b"{}")
    with new_folder(tmp_path / "made") as folder:
        write_bytes(folder / "b.json", b"{}")
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert mode(tmp_path / "runs" / "a.json") == mode(tmp_path / "made" / "b.json") == mode(plain)
    assert mode(plain) == 0o666 & ~umask
    assert mode(tmp_path / "made") == mode(tmp_path / "runs") == 0o777 & ~umask


@pytest.mark.parametrize("own", [0o600, 0o644, 0o640, 0o755, 0o444])
def test_what_is_replaced_keeps_its_mode(tmp_path, own):
    path, folder = tmp_path / "a", tmp_path / "folder"
    path.write_bytes(b"old")
    folder.mkdir()
    path.chmod(own)
    folder.chmod(own | 0o700)
    write_bytes(path, b"new")
    with new_folder(folder) as temporary:
        (temporary / "b").touch()
    assert (path.read_bytes(), mode(path)) == (b"new", own)
    assert (mode(folder), [file.name for file in folder.iterdir()]) == (own | 0o700, ["b"])


def test_nothing_is_left_of_what_fails(tmp_path):
    write_bytes(tmp_path / "a", b"old")

    def fail(opened):
        with opened as temporary:
            (temporary / "b" if temporary.is_dir() else temporary).write_bytes(b"half")
            raise KeyboardInterrupt

    for opened in (replacing(tmp_path / "a"), new_folder(tmp_path / "c")):
        with pytest.raises(KeyboardInterrupt):
            fail(opened)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


# --- tables ---

NAMES = (
    "=1+1",
    "+1+x",
    "-x",
    "@x",
    "\tx",
    "\rx",
    "\nx",
    " =x",
    "'=x",
    "''-x",
    "＝x",
    "a\rb",
    'a"b',
    "a,b",
    "it's",
    "'x",
    "",
)


def test_no_text_of_a_table_is_a_formula(tmp_path):
    rows = [[name, name] for name in NAMES]
    write_csv(tmp_path / "t.csv", ["name", "=head"], rows)
    with (tmp_path / "t.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [
        cell for cell in cells if cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
    ]
    assert [[row["name"], row["=head"]] for row in read_csv(tmp_path / "t.csv")] == rows, "and comes back"
    with (tmp_path / "bare.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["name", "=head"], *rows])
    bare = [list(row.values()) for row in read_csv(tmp_path / "bare.csv")]
    assert bare != rows, "control: written as they are, some do not come back"


def test_numbers_of_a_table_stay_numbers(tmp_path):
    numbers = [-1.5, "-1.5", "+2", "-inf", "1e-3", -3, np.float32(-0.5), None]
    write_csv(tmp_path / "t.csv", ["x", "name"], [[number, ""] for number in numbers])
    assert [row["x"] for row in read_csv(tmp_path / "t.csv")] == ["" if n is None else str(n) for n in numbers]
    assert "'" not in (tmp_path / "t.csv").read_text()


@pytest.mark.parametrize("content", [b"\xff", b"a\n\x00\xfe", None])
def test_a_table_that_cannot_be_read_is_one_line(content, tmp_path):
    if content is not None:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(RunError, match=r"t\.csv"):
        read_csv(tmp_path / "t.csv")


def test_json_has_no_number_that_is_none(tmp_path):
    write_json(
        tmp_path / "a.json", {"a": float("nan"), "b": [float("inf"), 1.5, {"c": -float("inf")}], "d": "NaN"}
    )
    assert read_json(tmp_path / "a.json") == {"a": None, "b": [None, 1.5, {"c": None}], "d": "NaN"}
    assert "NaN" in json.dumps({"a": float("nan")}), "control"


# --- places ---


def test_a_link_still_leads_where_it_led(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "there" / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    for name in ("link", "dangling"):
        write_bytes(tmp_path / name, b"new")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "there" / "real").read_bytes() == (tmp_path / "new").read_bytes() == b"new"


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, says in (("pipe", "no ordinary file"), (".", "is a folder")):
        with pytest.raises(RunError, match=says):
            write_bytes(tmp_path / name, b"")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize(
    ("name", "suffix", "fits"),
    [
        ("a.txt", ".csv", True),
        ("a.txt", ".md", True),
        ("a.txt", ".json", True),
        ("a.log", ".png", True),
        ("a.png", ".png", True),
        ("a", ".png", True),
        ("a.txt", ".png", False),
        ("a.png", ".csv", False),
        ("a.csv", ".html", False),
    ],
)
def test_a_name_promises_what_is_in_the_file(tmp_path, name, suffix, fits):
    with nullcontext() if fits else pytest.raises(RunError, match=f"let it end in {suffix}"):
        check_absent(tmp_path / name, suffix)


def test_a_name_as_long_as_names_can_be(tmp_path):
    write_bytes(tmp_path / ("x" * 255), b"")
    with new_folder(tmp_path / ("y" * 255)) as folder:
        (folder / "a").touch()
    with pytest.raises(RunError, match="File name too long"):
        write_bytes(tmp_path / ("x" * 256), b"")


HOLD = "import sys, time; from pathlib import Path; from drmm.files import locked\n"
HOLD += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"


def test_one_process_at_a_time(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(RunError, match="another process is writing"), locked(tmp_path):
        pytest.fail("both have it")
    other.kill()
    other.wait()
    other.stdout.close()
    with locked(tmp_path):
        assert list(tmp_path.iterdir()) == [], "control: a killed process leaves nothing behind"
