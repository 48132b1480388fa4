"""Figures do not depend on the backend, and letters without a glyph stop nobody."""

import os
import subprocess
import sys

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from drmm.display.figure import canvas, save_figure

NO_GLYPH = "\U0001f642 \U00013000"


@pytest.mark.parametrize("constrained", [True, False])
def test_missing_glyphs_are_no_warning(tmp_path, constrained):
    figure = canvas(4, 3, constrained=constrained)
    figure.subplots().set_title(NO_GLYPH)
    figure.canvas.draw()
    save_figure(figure, tmp_path / "a.png")
    for kind in ("png", "svg", "pdf"):
        figure.savefig(tmp_path / f"b.{kind}", bbox_inches="tight")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (600, 450)


def test_other_figures_warn():
    figure = Figure()
    FigureCanvasAgg(figure)
    figure.text(0, 0, NO_GLYPH)
    with pytest.raises(UserWarning, match="missing from"):
        figure.canvas.draw()


RUN = "import sys; sys.argv = sys.argv[1:]; from drmm.cli.app import main; main()"


@pytest.mark.parametrize("backend", ["module://no_such_module", "nonsense"])
def test_no_command_asks_for_the_backend(tmp_path, backend):
    words = ["drmm", "dp", "a:b:1", "b:c:1", "--out", str(tmp_path / "dp.png")]
    environment = {**os.environ, "MPLBACKEND": backend}
    run = subprocess.run(
        [sys.executable, "-c", RUN, *words], capture_output=True, text=True, check=False, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "dp.png").stat().st_size > 1000


def test_the_backend_would_have_mattered():
    code = "import matplotlib.pyplot as plt; plt.figure()"
    environment = {**os.environ, "MPLBACKEND": "module://no_such_module"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=environment)
    assert run.returncode != 0
