"""The README: its code runs, and its figures are those of the committed result files."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        exec(compile(block, "README.md", "exec"), space)
    accuracy = float(capsys.readouterr().out.splitlines()[0])
    assert accuracy > 0.8


def test_the_figures_are_the_committed_ones() -> None:
    assert runpy.run_path(str(ROOT / "scripts" / "fill_readme.py"))["filled"](README) == README


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
