"""Write the figures of results/*.json between the markers of the README and the docs: `make readme`.

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`. Its figures are those of results/NAME.json, and
scripts/NAME.py, the study of that name, says how they are shown.
"""

import importlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from verdicts import quoted

from drmm.studies import benchmark, reproduce

ROOT = Path(__file__).parents[2]


def demo_table(results: dict[str, Any]) -> str:
    """The demo's figures as Markdown rows."""
    rows = [
        f"| {row['name']} | {row['test_error']:.2f} % | {row['certified']:.0f} % | {row['seconds']:.0f} |"
        for row in results["models"].values()
    ]
    head = ["| model | test error | inference certified exact | seconds of training |", "|---|--:|--:|--:|"]
    return "\n".join([*head, *rows]) + "\n"


COMMANDS: dict[str, Callable[[Any], str]] = {  # of the command line, not of a script
    "demo": demo_table,
    "bench": benchmark.table,
    "reproduce": reproduce.markdown,
}
MARKED = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- /\2 -->)", flags=re.DOTALL)
VERDICTS = "predictions"


def documents() -> list[str]:
    """README and every page of the docs."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return ["README.md", *(page.relative_to(ROOT).as_posix() for page in pages)]


def filled(document: str, text: str) -> str:
    """A document with every marked table and verdict made anew."""

    def remade(match: re.Match[str]) -> str:
        before, name, after = match.groups()
        return match[0] if name == VERDICTS else f"{before}{table(name).strip()}\n{after}"

    return quoted(document, MARKED.sub(remade, text))


def table(name: str) -> str:
    """The table of a command or a study, of its committed results."""
    results = ROOT / "results" / name
    file = results.with_suffix(".json")
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else reproduce.rows(results)
    if name in COMMANDS:
        return COMMANDS[name](content)
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # from where scripts are started
    made: str = importlib.import_module(f"scripts.{name}").table(content)
    return made


if __name__ == "__main__":
    for document in documents():
        path = ROOT / document
        path.write_text(filled(document, path.read_text(encoding="utf-8")), encoding="utf-8")
