"""`drmm export`: the file that a stranger runs by the page's own block says what `drmm predict` says."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import Answer, read_csv, refused
from PIL import Image
from typer.testing import CliRunner

from drmm.cli import app as cli
from drmm.export import files as exported

Drmm = Callable[..., Answer]
PAGE = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def model(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the run."""
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    done = CliRunner().invoke(cli.cli, ["export", str(run), "--to", str(file)])
    assert done.exit_code == 0, done.output
    first, second = done.output.splitlines()  # stderr too: exporters are quiet
    assert first.startswith(f"{file} written: ")
    assert first.endswith("MB, ONNX opset 18")
    assert second.startswith("on 72 pictures, in batches of 1, 7, 64, every label is that of PyTorch")
    return file


@pytest.fixture
def odd(pictures: Path) -> Path:
    """Pictures that have to be converted and resized: in colour, transparent, turned, a large JPEG."""
    digit = Image.open(pictures / "digit0.png").resize((40, 30))
    digit.convert("RGB").save(pictures / "wide.png")
    digit.convert("LA").save(pictures / "clear.png")
    see_through = digit.convert("RGBA")
    see_through.putalpha(digit)
    see_through.save(pictures / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    digit.save(pictures / "turned.jpg", exif=exif)
    noise = np.random.default_rng(0).integers(0, 255, (300, 200, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((800, 600)).save(pictures / "large.jpg")
    return pictures


@pytest.mark.filterwarnings("ignore:.* resized to 8x8")
def test_the_pages_block_says_what_predict_says(
    run: Path, model: Path, odd: Path, run_drmm: Drmm, tmp_path: Path
) -> None:
    assert run_drmm("predict", run, odd, "--out", tmp_path / "p.csv")[0] == 0
    rows = read_csv(tmp_path / "p.csv")
    [block] = re.findall(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    without_us = "import sys\nfor name in ('torch', 'drmm'): sys.modules[name] = None\n"
    (model.parent / "stranger.py").write_text(without_us + block)
    command = [sys.executable, "stranger.py", *[row["image"] for row in rows]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=model.parent)
    assert done.returncode == 0, done.stderr
    said = [line.split("\t") for line in done.stdout.splitlines()]
    assert [words[:2] for words in said] == [[row["image"], row["label"]] for row in rows]
    assert len(said) == 10
    for column, name in ((2, "confidence"), (3, "familiarity")):
        mine = [float(row[name]) for row in rows]
        assert [float(words[column]) for words in said] == pytest.approx(mine, abs=1e-5 if column == 2 else 0.01)
        assert np.ptp(mine) > 0.02, "control: pictures differ"


def test_what_cannot_be_is_one_line_and_leaves_nothing(
    run: Path, pictures: Path, run_drmm: Drmm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported, "onnx_bytes", lambda *_: pytest.fail("it worked first"))
    to = tmp_path / "to" / "model.onnx"
    refused(run_drmm("export", run, "--to", tmp_path / "model.h5"), "let it end in .onnx or .pt2")
    refused(run_drmm("export", run, "--to", tmp_path), "let it end in")
    refused(run_drmm("export", run, "--to", to, "--with", "certificates"), "did you mean 'certificate'?")
    refused(run_drmm("export", run, "--to", to, "--with", "evidence,"), "no answer ''")
    refused(run_drmm("export", tmp_path / "none", "--to", to), "holds no model")
    refused(run_drmm("export", run, "--to", tmp_path / "a.pt2", "--int8"), "leave --int8 out")
    refused(run_drmm("export", run, "--to", to, "--int8", "--with", "evidence"), "leave --int8 out")
    refused(run_drmm("export", run, "--to", to, "--calibrate-on", pictures), "--calibrate-on is for --int8")
    with pytest.raises(pytest.fail.Exception, match="it worked first"):  # the control
        run_drmm("export", run, "--to", to)
    monkeypatch.setattr(exported, "find_spec", lambda name: None if name == "onnxscript" else name)
    refused(run_drmm("export", run, "--to", to), "needs onnxscript: pip install 'drmm[onnx]'")
    assert not to.parent.exists()


def test_a_run_that_has_not_finished(run: Path, run_drmm: Drmm, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "model.json").unlink()
    refused(run_drmm("export", tmp_path / "run", "--to", tmp_path / "m.pt2"), "has not finished", "--resume")


def test_a_file_that_is_there_stays(run: Path, run_drmm: Drmm, tmp_path: Path) -> None:
    to = tmp_path / "model.pt2"
    to.write_text("mine")
    refused(run_drmm("export", run, "--to", to), "exists: choose another --to, or replace it with --force")
    assert to.read_text() == "mine"
    code, _, err = run_drmm("export", run, "--to", to, "--force", "--with", "certificate")
    assert (code, err) == (0, "")
    assert to.read_bytes() != b"mine"
    assert [one.name for one in tmp_path.iterdir()] == ["model.pt2"]


def test_pictures_for_integers_are_the_runs_own_or_named(
    run: Path, pictures: Path, run_drmm: Drmm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, seen = tmp_path / "model.onnx", []
    monkeypatch.setattr(exported, "onnx_bytes", lambda answering, *_: b"")
    monkeypatch.setattr(exported, "onnx_answer", lambda _: None)
    monkeypatch.setattr(exported, "check", lambda *_: "alike")
    monkeypatch.setattr(exported, "quantised", lambda _, x: (seen.append(x), (b"smaller", "as good"))[1])
    for more in ([], ["--calibrate-on", pictures]):
        code, out, err = run_drmm("export", run, "--to", to, "--int8", "--force", *more)
        assert code == 0, err
        assert "as good" in out
    assert [len(x) for x in seen] == [1797 - 500 - 50, 5]
    assert {str(x.dtype) for x in seen} == {"torch.uint8"}
    assert to.read_bytes() == b"smaller"
    digit = np.asarray(Image.open(pictures / "digit0.png"))
    assert np.array_equal(seen[1][0, 0], digit)
