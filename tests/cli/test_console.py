"""Whatever names say, and whatever a terminal can show, no command's output breaks."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import QUICK, pixels
from PIL import Image
from rich.console import Console
from rich.errors import MarkupError

from drmm import progress
from drmm.explain.plots import Row, save_figure, sheet

CLASSES = ("[red]", "[b $x^{2$", "a\x1b[31mb", "число → 🙂")

SCRIPT = """
import json, sys
from drmm.cli.app import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["drmm", *words]
    try:
        main()
    except SystemExit as leave:
        code = leave.code or 0
    else:
        code = 0
    print(f"CODE {code}", flush=True)
"""


def drmm(folder: Path, encoding: str, *commands: list[str]) -> list[tuple[int, str]]:
    """Exit code and output of commands in a process whose console knows one encoding."""
    env = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "100"}
    words = [sys.executable, "-W", "error::UnicodeWarning", "-c", SCRIPT, json.dumps(commands)]
    done = subprocess.run(
        words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=400
    )
    output = done.stdout.decode(encoding)
    assert done.returncode == 0, output
    assert "Traceback" not in output
    *parts, rest = output.split("CODE ")
    parts = [parts[0], *(part.partition("\n")[2] for part in parts[1:])]
    codes = [int(part.partition("\n")[0]) for part in output.split("CODE ")[1:]]
    assert len(codes) == len(commands), rest
    return list(zip(codes, parts, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with names of which markup, formulas, terminals and ASCII would make something else."""
    folder = tmp_path_factory.mktemp("names")
    rng = np.random.default_rng(0)
    for i, name in enumerate((*CLASSES, "unlabelled")):
        (folder / "[b]photos$" / name).mkdir(parents=True)
        for file in ("[x].png", "$1.png", "c\x1b[0m.png", b"caf\xe9.png".decode("utf-8", "surrogateescape")):
            photo = rng.integers(50 * i, 50 * i + 50, (12, 12)).astype(np.uint8)
            Image.fromarray(photo).save(folder / "[b]photos$" / name / file)
    return folder


COMMANDS = [
    ["fit", "[b]photos$", "--epochs", "1", "--width", "2", *QUICK, "--out", "[i]run$"],
    ["fit", "--resume", "--out", "[i]run$"],
    ["predict", "[i]run$", "[b]photos$", "--out", "[p].csv"],
    ["explain", "[i]run$", "[b]photos$/[red]/$1.png", "--label", CLASSES[1], "--other", CLASSES[3]],
    ["sample", "[i]run$", "--n", "8"],
    ["report", "[i]run$", "--images", "4"],
    ["prune", "[i]run$", "--keep", "0.5", "--out", "[small]"],
    ["dp", "[red]:[/b]:1", "[/b]:$t\x1b[31m:2", "--out", "dp.png"],
    ["settings"],
    ["--help"],
    ["fit", "--help"],
]
MISTAKES = [
    (
        ["sample", "[i]run$", "--label", "[/b]", "--out", "x.png"],
        "no class '[/b]' in this model: choose from [b $x^{2$, [red], ",
    ),
    (["predict", "[/none]\x1b[31m", "x"], "[/none]"),
    (["fit", "[/none]", "--out", "new"], "no data set, folder or zip archive '[/none]'"),
    (["fit", "digits", "--out", "new", "--set", "[/b]=1"], "cannot set '[/b]=1'"),
]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_and_consoles_break_nothing(folder: Path, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "[b]photos$").symlink_to(folder / "[b]photos$")
    answers = drmm(tmp_path, encoding, *COMMANDS, *(words for words, _ in MISTAKES))
    for words, (code, output) in zip(COMMANDS, answers, strict=False):
        assert code == 0, (words, output)
        assert "\x1b" not in output, words
        assert "warning" not in output, (words, output)
    fit, _, predict, _, _, _, prune = (output for _, output in answers[:7])
    assert "written to [i]run$; next: drmm predict [i]run$ IMAGES" in fit
    assert "20 predictions written to [p].csv" in predict
    assert "written to [small]" in prune
    for (words, says), (code, output) in zip(MISTAKES, answers[len(COMMANDS) :], strict=True):
        assert code == 2, (words, output)
        assert output.startswith("error: "), output
        assert says in output, output
        assert output.count("\n") == 1, output
        assert "\x1b" not in output
    assert pixels(tmp_path / "samples.png").shape[1] > 300
    rows = (tmp_path / "[i]run$" / "labels.csv").read_text()
    assert r"[red]/caf\udce9.png" in rows


def test_a_dollar_in_a_name_begins_no_formula(tmp_path: Path) -> None:
    rows = [Row("a $caption$", torch.rand(2, 1, 8, 8))]
    figures = {name: sheet(rows, [name, "$x$"]) for name in ("$x^{$", "plain")}
    for figure in figures.values():
        save_figure(figure, tmp_path / "sheet.png")
    figures["plain"].axes[0].set_title("$x^{$")  # the control: as a formula it cannot be drawn
    with pytest.raises(ValueError, match="x\\^"):
        figures["plain"].savefig(tmp_path / "control.png")


def test_a_caption_of_a_progress_bar_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    monkeypatch.setattr(progress, "_PATIENCE", -1.0)
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100))
    assert list(progress.track([1, 2], "Reading [/b] of [red]")) == [1, 2]
    assert "Reading [/b] of [red]" in screen.getvalue()
    monkeypatch.setattr(progress, "escape", str)
    with pytest.raises(MarkupError):
        list(progress.track([1, 2], "the control: Reading [/b]"))
