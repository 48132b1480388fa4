"""Runs that are trained once for all tests of the command line."""

from pathlib import Path

import numpy as np
import pytest
from commands import EM, FIT
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from drmm.cli import app as cli


def fitted(folder: Path, words: list[str]) -> Path:
    result = CliRunner().invoke(cli.cli, [*words, "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs; no test changes it."""
    return fitted(tmp_path_factory.mktemp("runs") / "a", [*FIT, "--views", "none"])


@pytest.fixture(scope="session")
def em_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations of EM; no test changes it."""
    return fitted(tmp_path_factory.mktemp("runs") / "em", EM)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, digit in enumerate(load_digits().images[:5]):
        Image.fromarray((digit * 15.9).astype(np.uint8)).save(folder / f"digit{i}.png")
    return folder
