"""Write the figures of results/*.json between the README's markers: `make readme`."""

import json
from pathlib import Path

from drmm.app import demo_table
from drmm.benchmark import table

ROOT = Path(__file__).parents[1]
TABLES = {"demo": demo_table, "bench": table}


def filled(text: str) -> str:
    """The README with every marked table made anew."""
    for name, make in TABLES.items():
        rows = make(json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))).strip()
        before, rest = text.split(f"<!-- {name} -->")
        after = rest.split(f"<!-- /{name} -->")[1]
        text = f"{before}<!-- {name} -->\n{rows}\n<!-- /{name} -->{after}"
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
