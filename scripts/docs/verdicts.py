"""What the slides claim, and what was found: the table of `docs/predictions.md` and the verdicts in the handbook.

`docs/verdicts.toml` has the claims, the rules and the text; here is only what is computed. `make readme` writes
the verdicts into the documents.
"""

from __future__ import annotations

import json
import operator
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, median
from string import Formatter
from typing import Any

from drmm.studies import reproduce

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
CLAIMS: dict[str, list[dict[str, Any]]] = tomllib.loads((ROOT / "docs/verdicts.toml").read_text(encoding="utf-8"))
WORDS = {  # what a verdict is called, in the order of a summary
    "confirmed": "Confirmed",
    "only if": "Conditional",
    "refuted": "Refuted",
    "inconclusive": "Inconclusive",
    "open": "Not measured yet",
}
SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Prediction:
    """A claim of the slides and its verdict.

    Attributes:
        law: by what it is known, such as T6.
        claim: in one line.
        slide: title of the slide that makes it.
        verdict: one of `WORDS`.
        says: a sentence with the figures.
        command: what repeats the check.
        file: what to read, from the repository's root.
    """

    law: str
    claim: str
    slide: str
    verdict: str
    says: str
    command: str = ""
    file: str = ""


# --- figures that are computed of results ---


def results(name: str) -> dict[str, Any]:
    """One file of results."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def shifts() -> Mapping[str, Any]:
    """Accuracy of 30 clusters of digits that move, with and without the position as a latent."""
    rows = results("shifted_digits")["components"]["30"]
    others = [row["majority"]["mean"] for name, row in rows.items() if not name.startswith("rendering")]
    return {"own": rows["rendering"]["majority"]["mean"], "best": max(others)}


def lifted() -> Mapping[str, Any]:
    """How many nets by others, and what inference costs beside a forward pass."""
    costs = [row["inference_to_forward"] for row in results("lift")["rows"]]
    return {"nets": len(costs), "low": min(costs), "high": max(costs)}


def race() -> Mapping[str, Any]:
    """Mean of the best errors of each learning rule, and the median of the seconds to 5 % error."""
    runs = [run for run in results("learning")["runs"] if run["kind"] == "race"]
    by_rule = {rule: [run for run in runs if run["method"] == rule] for rule in ("sgd", "eg", "em")}
    return {
        rule: {
            "best": mean(min(point[2] for point in run["points"]) for run in mine),
            "seconds": median(run["reached"]["5.0"][1] for run in mine),
        }
        for rule, mine in by_rule.items()
    }


def gains() -> Mapping[str, Any]:
    """Mean change of accuracy by four iterations of feedback, over all damages, in points."""
    nets = [net for data in results("feedback")["figures"].values() for net in data.values()]
    damages = [damage for net in nets for damage in net["damages"].values()]
    points = {
        name: mean(damage[name]["4"]["accuracy"] - damage["bottom_up"] for damage in damages)
        for name in ("traceback, compete", "pull", "control: blur")
    }
    return {"cases": len(damages), **points}


def wins() -> Mapping[str, Any]:
    """At how many sizes P(on) beats others by more than the spread over seeds."""
    sizes = [rows["after two more epochs"] for rows in results("pruning")["neurons"].values()]
    margins = {other: [size[f"on - {other}"] for size in sizes] for other in ("magnitude", "random")}
    won = {other: sum(one["mean"] + one["sd"] < 0 for one in margin) for other, margin in margins.items()}
    return {"sizes": len(sizes), "half": len(sizes) / 2, **won}


def mnist() -> Mapping[str, Any]:
    """The benchmark's rows, such as "best 100"."""
    rows = [row for row in reproduce.rows(RESULTS / "reproduce") if row.dataset == "mnist"]
    return {
        f"{row.method} {row.labels}": {
            "mean": mean(row.errors),
            "text": reproduce.spread(row.errors),
            "draws": len(row.errors),
            "minutes": row.minutes,
        }
        for row in rows
    }


def drawing() -> Mapping[str, Any]:
    """Test error with the generative terms less that without, on the same label draws; how many are not 0."""
    pairs = {
        pair.labels: (mean(pair.differences), *pair.interval)
        for pair in reproduce.comparisons(reproduce.rows(RESULTS / "reproduce"))
        if (pair.dataset, pair.method, pair.against) == ("mnist", "rc+kl+nn", "kl")
    }
    listed = [
        f"{middle:+.2f} points at {labels:,} labels [{low:+.2f}, {high:+.2f}]"
        for labels, (middle, low, high) in pairs.items()
    ]
    lower, higher = sum(high < 0 for _, _, high in pairs.values()), sum(low > 0 for _, low, _ in pairs.values())
    return {"pairs": len(pairs), "lower": lower, "higher": higher, "listed": ", ".join(listed)}


COMPUTED: dict[str, Callable[[], Mapping[str, Any]]] = {
    make.__name__: make for make in (shifts, lifted, race, gains, wins, mnist, drawing)
}


class Figures(dict[str, Any]):
    """By name: what is computed, or else a file of results; read when it is asked for."""

    def __missing__(self, name: str) -> Any:
        self[name] = COMPUTED[name]() if name in COMPUTED else results(name)
        return self[name]


# --- verdicts ---


def judged(claim: Mapping[str, Any]) -> Prediction:
    """A law, or an experiment by its rule."""
    figures = Figures()
    for name, field in claim.get("figures", {}).items():
        figures[name] = Formatter().get_field(field, (), figures)[0]
    verdict = claim.get("verdict") or next(
        case["verdict"] for case in claim["rule"] if all(holds(each, figures) for each in case.get("if", ()))
    )
    says = Formatter().vformat(claim["says"], (), figures)
    return Prediction(claim["law"], claim["claim"], claim["slide"], verdict, says, claim["command"], claim["file"])


def holds(condition: str, figures: Figures) -> bool:
    """Whether a comparison such as "shifts[own] > 80" is true; figures and numbers may stand on both sides."""
    match = re.fullmatch(r"(.+) (<=?|>=?) (.+)", condition)
    if match is None:
        raise SystemExit(f"docs/verdicts.toml: want FIGURE > FIGURE or a number, got {condition}")
    left, right = (_value(side, figures) for side in match.group(1, 3))
    return bool(SIGNS[match[2]](left, right))


def _value(side: str, figures: Figures) -> float:
    try:
        return float(side)
    except ValueError:
        return float(Formatter().get_field(side, (), figures)[0])


def studied() -> dict[str, list[Prediction]]:
    """What results/predictions/ says, by law."""
    rows: dict[str, list[Prediction]] = {}
    for path in sorted((RESULTS / "predictions").glob("*.json")):
        study = json.loads(path.read_text(encoding="utf-8"))
        fields = {name: study[name] for name in ("law", "claim", "slide", "verdict", "says", "command")}
        if fields["verdict"] not in WORDS:
            raise SystemExit(f"{path}: verdict must be one of {', '.join(WORDS)}, got {fields['verdict']}")
        number = re.fullmatch(r"T(\d+)", fields["law"])
        law = sorted((ROOT / "tests/laws").glob(f"test_t{int(number[1]):02}_*.py")) if number else []
        file = (law or [path])[0].relative_to(ROOT).as_posix()
        rows.setdefault(fields["law"].casefold(), []).append(Prediction(**fields, file=file))
    return rows


@cache
def predictions() -> dict[str, list[Prediction]]:
    """Every claim by chapter; what no chapter knows comes last, under "others"."""
    studies, chapters = studied(), dict[str, list[Prediction]]()
    for chapter, claims in CLAIMS.items():
        chapters[chapter] = []
        for claim in claims:
            known = [judged(claim)] if "says" in claim else []
            known += studies.pop(claim["law"].casefold(), [])
            open_claim = Prediction(claim["law"], claim["claim"], claim["slide"], "open", "")
            chapters[chapter] += known or [open_claim]
    return {**chapters, "others": [row for rows in studies.values() for row in rows]}


# --- Markdown ---


def table(document: str) -> str:
    """All claims with their verdicts, as Markdown."""
    chapters = predictions()
    every = [row for rows in chapters.values() for row in rows]
    counts = {word: sum(row.verdict == word for row in every) for word in WORDS}
    summary = " · ".join(f"{WORDS[word].lower()}: {count}" for word, count in counts.items() if count)
    lines = [f"{len(every)} claims: {summary}.", "", '<div class="verdicts" markdown>']
    for chapter, rows in chapters.items():
        if rows:
            heading = chapter.replace("_", " ").capitalize()
            lines += ["", f"### {heading}", "", "| claim | verdict | what was found |", "|---|---|---|"]
            lines += [_row(row, document) for row in rows]
    return "\n".join([*lines, "", "</div>"])


def quote(law: str, document: str) -> str:
    """The verdicts on a law, as a quotation."""
    rows = [row for rows in predictions().values() for row in rows if row.law.casefold() == law.casefold()]
    if not rows:
        raise SystemExit(f"{document}: there is no prediction {law}")
    return "\n>\n".join(f"> **{WORDS[row.verdict]}.** {row.says} {_check(row, document)}".rstrip() for row in rows)


def quoted(document: str, text: str) -> str:
    """A document with the table, and every verdict between its markers `<!-- verdict: T6 -->`, made anew."""
    text = re.sub(
        r"(<!-- predictions -->\n).*(<!-- /predictions -->)",
        lambda match: f"{match[1]}\n{table(document)}\n\n{match[2]}",
        text,
        flags=re.DOTALL,
    )
    return re.sub(
        r"(<!-- verdict: ([^>]+?) -->\n).*?(<!-- /verdict -->)",
        lambda match: f"{match[1]}\n{quote(match[2], document)}\n\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


def _row(row: Prediction, document: str) -> str:
    verdict = f'<b class="{row.verdict.replace(" ", "-")}">{WORDS[row.verdict]}</b>'
    cells = (f"{row.claim} (“{row.slide}”)", verdict, f"{row.says} {_check(row, document)}".strip())
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _check(row: Prediction, document: str) -> str:
    """What to read, and the command."""
    link = ""
    if row.file:
        target = os.path.relpath(ROOT / row.file, (ROOT / document).parent)
        kind = {"tests": "law", "docs": "guide", "results": "figures"}[row.file.split("/")[0]]
        link = f"[{row.law if kind == 'law' and row.law[1:].isdigit() else kind}]({target})"
    return " · ".join(part for part in (link, f"`{row.command}`" if row.command else "") if part)
