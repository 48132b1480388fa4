"""The README: its code runs, and its figures are those of the committed result files."""

import json
import re
from pathlib import Path

import pytest

from drmm.app import demo_table
from drmm.benchmark import table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def between(name: str) -> str:
    """What stands between two markers of the README."""
    return README.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip()


def test_the_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        exec(compile(block, "README.md", "exec"), space)
    accuracy = float(capsys.readouterr().out.splitlines()[0])
    assert accuracy > 0.8


def test_the_demo_figures_are_the_committed_ones() -> None:
    assert between("demo") == demo_table(json.loads((ROOT / "results" / "demo.json").read_text())).strip()


def test_the_speed_figures_are_the_committed_ones() -> None:
    assert between("bench") == table(json.loads((ROOT / "results" / "bench.json").read_text())).strip()


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
