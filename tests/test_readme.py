"""README and docs: their code runs, and their figures are those of the committed result files."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/architectures.md", "docs/learning.md")


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def run(document: str) -> None:
    space: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", read(document), flags=re.DOTALL):
        exec(compile(block, document, "exec"), space)


def test_the_code_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run("README.md")
    accuracy = float(capsys.readouterr().out.splitlines()[0])
    assert accuracy > 0.8


def test_the_walk_from_the_e_step_to_backprop_runs() -> None:
    run("docs/learning.md")


def test_the_page_of_architectures_runs() -> None:
    run("docs/architectures.md")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_figures_are_the_committed_ones(document: str) -> None:
    filled = runpy.run_path(str(ROOT / "scripts" / "fill_readme.py"))["filled"]
    assert filled(document, read(document)) == read(document)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    folder = (ROOT / document).parent
    for target in re.findall(r"\]\(([^)#]+)\)", read(document)):
        if "://" not in target:
            assert (folder / target).exists(), target
