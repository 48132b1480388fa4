"""What the slides claim, and what was found: the table of `docs/predictions.md` and the verdicts in the handbook.

`docs/verdicts.toml` has the claims, the rules and the text; here is only what is computed. `make readme` writes
the verdicts into the documents.
"""

from __future__ import annotations

import json
import math
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
from drmm.studies.predictions import MARGINS, Interval, interval, judge, together

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
CLAIMS: dict[str, list[dict[str, Any]]] = tomllib.loads((ROOT / "docs/verdicts.toml").read_text(encoding="utf-8"))
WORDS = {  # what a verdict is called, in the order of a summary
    "confirmed": "Confirmed",
    "only if": "Conditional",
    "refuted": "Refuted",
    "not reproduced": "Not reproduced at this budget",
    "inconclusive": "Inconclusive",
    "open": "Not measured yet",
}
KINDS = {"algebra": "Algebra", "experiment": "Experiments"}


@dataclass(frozen=True)
class Prediction:
    """A claim of the slides and its verdict.

    Attributes:
        law: by what it is known, such as T6.
        claim: in one line.
        slide: title of the slide that makes it.
        verdict: one of `WORDS`.
        says: a sentence with the figures.
        kind: one of `KINDS`.
        command: what repeats the check.
        file: what to read, from the repository's root.
    """

    law: str
    claim: str
    slide: str
    verdict: str
    says: str
    kind: str = "experiment"
    command: str = ""
    file: str = ""


# --- figures that are computed of results ---


def results(name: str) -> dict[str, Any]:
    """One file of results."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def shifts() -> Mapping[str, Any]:
    """Accuracy of 30 clusters of digits that move, with the position as a latent and in the best without."""
    study = results("shifted_digits")
    rows = {name: row["majority"] for name, row in study["components"]["30"].items()}
    own = rows["rendering"]
    best = max(
        (row for name, row in rows.items() if not name.startswith("rendering")), key=lambda row: row["mean"]
    )
    gain = Interval.of(own["mean"] - best["mean"], math.hypot(own["sd"], best["sd"]), study["seeds"])
    return {"own": own["mean"], "best": best["mean"], "gain": gain}


def lifted() -> Mapping[str, Any]:
    """How many nets by others, and what inference costs beside a forward pass."""
    costs = [row["inference_to_forward"] for row in results("lift")["rows"]]
    return {"nets": len(costs), "low": min(costs), "high": max(costs)}


def race() -> Mapping[str, Any]:
    """Errors of each learning rule, of EM before its first M-step and after the last, and what M-steps bring."""
    runs = [run for run in results("learning")["runs"] if run["kind"] == "race"]
    errors = {
        rule: [[point[2] for point in run["points"]] for run in runs if run["method"] == rule]
        for rule in ("sgd", "eg", "em")
    }
    best = {rule: mean(min(points) for points in found) for rule, found in errors.items()}
    seconds = median(run["reached"]["5.0"][1] for run in runs if run["method"] == "em")
    gain = interval([points[0] - points[-1] for points in errors["em"]])
    before, after = (mean(points[end] for points in errors["em"]) for end in (0, -1))
    return {**best, "before": before, "after": after, "seconds": seconds, "gain": gain}


def steps() -> Mapping[str, Any]:
    """By E-step: points of error that M-steps take off, J in the end and the last share of proposals taken."""
    runs = results("e_steps")["em"]

    def of(found: list[Mapping[str, list[float]]]) -> Mapping[str, Any]:
        gain = interval([run["error"][0] - run["error"][-1] for run in found])
        nats, accepted = (mean(run[key][-1] for run in found) for key in ("objective", "accepted"))
        return {"gain": gain, "nats": nats, "accepted": accepted}

    before = mean(run["error"][0] for run in runs["bottom-up"])
    return {"before": before, "draws": len(runs["bottom-up"]), **{name: of(found) for name, found in runs.items()}}


def gains() -> Mapping[str, Any]:
    """Change of accuracy by four iterations of feedback, over all damages, in points; over kinds of nets."""
    study = results("feedback")
    nets = [net["damages"].values() for data in study["figures"].values() for net in data.values()]
    points = {
        name: [mean(damage[name]["4"]["accuracy"] - damage["bottom_up"] for damage in damages) for damages in nets]
        for name in ("traceback, compete", "pull", "control: blur")
    }
    found = {name: interval(by_net) for name, by_net in points.items()}
    return {"nets": len(nets), "seeds": len(study["seeds"]), **found}


def recovery() -> Mapping[str, Any]:
    """How often each rule finds the class that drew a picture, and by how many points more than max-sum."""
    study = results("gaussian")

    def span(rule: str, figure: str = "class") -> str:
        means = [mean(kind[rule][figure]) for kind in study["own"].values()]
        return f"{min(means):.0f} to {max(means):.0f}"

    def gain(rows: Mapping[str, Any], figure: str) -> Interval:
        found, others = (rows[rule][figure] for rule in ("Gaussian", "max-sum"))
        return interval([one - other for one, other in zip(found, others, strict=True)])

    gains = [gain(kind, "class") for kind in study["own"].values()]
    spans = {"inner": span("max-sum"), "found": span("Gaussian"), "every": span("every configuration")}
    return {
        **spans,
        "optimum": span("Gaussian", "optimum"),
        "gains": gains,
        "listed": ", ".join(map(str, gains)),
        "nets": gains[0].n,
        "digits": -gain(study["digits"], "error"),
        "errors": f"{mean(study['digits']['Gaussian']['error']):.0f} against "
        f"{mean(study['digits']['max-sum']['error']):.0f}",
    }


def sizes() -> Mapping[str, Any]:
    """By how many points nets pruned by P(on) err less than by others, at each size."""
    study = results("pruning")
    rows = {keep: row["after two more epochs"] for keep, row in study["neurons"].items()}
    less = {
        other: {
            keep: Interval.of(-row[f"on - {other}"]["mean"], row[f"on - {other}"]["sd"], study["seeds"])
            for keep, row in rows.items()
        }
        for other in ("magnitude", "random")
    }
    texts = {other: ", ".join(map(str, found.values())) for other, found in less.items()}
    return {"effects": list(less["random"].values()), "seeds": study["seeds"], "kept": ", ".join(rows), **texts}


def drawn() -> Mapping[str, Any]:
    """By how many points more samples with switches of a patch prior are recognised; of one model."""
    rows = results("samples")["rows"]
    patch, alone = rows["borrowed, 5 neighbours"], rows["independent"]
    return {"gain": Interval.of(patch["recognised"] - alone["recognised"], 0.0, 1)}


def signs() -> Mapping[str, Any]:
    """Test errors by the sign of the KL term, and what the printed one gains on the labels alone, in points."""
    errors = results("kl_sign")["test_error"]
    pairs = zip(errors["labels alone"], errors["printed"], strict=True)
    spreads = {name: reproduce.spread(found) for name, found in errors.items()}
    return {**spreads, "draws": len(errors["printed"]), "gain": interval([alone - own for alone, own in pairs])}


def mnist() -> Mapping[str, Any]:
    """The benchmark's rows, such as "best 100", and by how many points this one errs less than the slides'."""
    rows = {
        f"{row.method} {row.labels}": row
        for row in reproduce.rows(RESULTS / "reproduce")
        if row.dataset == "mnist"
    }
    slides = reproduce.PUBLISHED["mnist"]["rc+kl+nn"][100]
    found = {
        name: {"text": reproduce.spread(row.errors), "draws": len(row.errors), "minutes": row.minutes}
        for name, row in rows.items()
    }
    return {**found, "gain": interval([slides - error for error in rows["best 100"].errors])}


def drawing() -> Mapping[str, Any]:
    """By how many points the test error is lower with the generative terms, on the same label draws."""
    pairs = {
        pair.labels: -interval(pair.differences)
        for pair in reproduce.comparisons(reproduce.rows(RESULTS / "reproduce"))
        if (pair.dataset, pair.method, pair.against) == ("mnist", "rc+kl+nn", "kl")
    }
    listed = [f"{found} points with {labels:,} labels" for labels, found in pairs.items()]
    return {"effects": list(pairs.values()), "listed": ", ".join(listed)}


COMPUTED: dict[str, Callable[[], Mapping[str, Any]]] = {
    make.__name__: make
    for make in (shifts, lifted, race, steps, gains, recovery, sizes, drawn, signs, mnist, drawing)
}


class Figures(dict[str, Any]):
    """By name: what is computed, or else a file of results; read when it is asked for."""

    def __missing__(self, name: str) -> Any:
        self[name] = COMPUTED[name]() if name in COMPUTED else results(name)
        return self[name]

    def at(self, field: str) -> Any:
        """Such as "demo[models][soft]"."""
        return Formatter().get_field(field, (), self)[0]


# --- verdicts ---


def judged(claim: Mapping[str, Any]) -> Prediction:
    """A law, or an experiment by its effects and their margin."""
    figures = Figures()
    for name, field in claim.get("figures", {}).items():
        figures[name] = figures.at(field)
    kind, verdict = (
        ("algebra", claim["verdict"]) if "verdict" in claim else ("experiment", decided(claim, figures))
    )
    says = Formatter().vformat(claim["says"], (), figures)
    return Prediction(
        claim["law"], claim["claim"], claim["slide"], verdict, says, kind, claim["command"], claim["file"]
    )


def decided(claim: Mapping[str, Any], figures: Figures) -> str:
    """Whether all effects exceed the margin; `words` has other names for what comes out."""
    found = [figures.at(effect) for effect in claim["effects"]]
    effects = [one for each in found for one in (each if isinstance(each, list) else [each])]
    outcome = together(judge(effect, MARGINS[claim["margin"]]) for effect in effects)
    word: str = claim.get("words", {}).get(outcome, outcome)
    return word


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
        rows.setdefault(fields["law"].casefold(), []).append(
            Prediction(**fields, kind=study.get("kind", "experiment"), file=file)
        )
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
    lines = [
        f"{len(every)} claims.",
        *(summary(kind, every) for kind in KINDS),
        "",
        '<div class="verdicts" markdown>',
    ]
    for chapter, rows in chapters.items():
        if rows:
            heading = chapter.replace("_", " ").capitalize()
            lines += ["", f"### {heading}", "", "| claim | verdict | what was found |", "|---|---|---|"]
            lines += [_row(row, document) for row in rows]
    return "\n".join([*lines, "", "</div>"])


def summary(kind: str, every: list[Prediction]) -> str:
    """How many claims of a kind have which verdict."""
    found = [row.verdict for row in every if row.kind == kind]
    counts = [f"{WORDS[word].lower()}: {found.count(word)}" for word in WORDS if word in found]
    return f"{KINDS[kind]}: {' · '.join(counts)}."


def quote(law: str, document: str) -> str:
    """The verdicts on a law, as a quotation."""
    rows = [row for rows in predictions().values() for row in rows if row.law.casefold() == law.casefold()]
    if not rows:
        raise SystemExit(f"{document}: there is no prediction {law}")
    return "\n>\n".join(
        f"> **{WORDS[row.verdict]}** ({row.kind}). {row.says} {_check(row, document)}".rstrip() for row in rows
    )


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
    verdict = f'<b class="{row.verdict.replace(" ", "-")}">{WORDS[row.verdict]}</b> ({row.kind})'
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
