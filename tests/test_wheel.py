"""The wheel and the source archive, as users get them: whole, and running without the repository."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OWN = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "drmm").rglob("*") if path.is_file()}
OWN = {name for name in OWN if "__pycache__" not in name}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with both."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    return folder


def wheel_of(folder):
    [file] = folder.glob("*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with wheel_of(built) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == OWN
    assert {"drmm/py.typed", "drmm/learning/recipes/photos.toml"} < OWN, "control: not only modules"


def test_the_source_archive_builds_the_same(built):
    [file] = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in OWN} <= names
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names


def test_what_is_in_the_wheel_runs_elsewhere(built, tmp_path):
    with wheel_of(built) as wheel:
        wheel.extractall(tmp_path / "site")
    code = (
        "import drmm, sys\nfrom drmm.cli.app import main\n"
        "print(drmm.__file__, flush=True)\nsys.argv = ['drmm', 'settings', '--recipe', 'photos']\nmain()"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith(str(tmp_path / "site")), "control: not the repository's own"
    assert "efficientnet_lite0" in said.stdout
