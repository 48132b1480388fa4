"""Verdicts: effects and their margin decide, by the figures; the text is filled with the same figures."""

import json
import runpy
from pathlib import Path

import pytest

from drmm.studies.predictions import LEAST, MARGINS, Interval

ROOT = Path(__file__).parents[2]
VERDICTS = runpy.run_path(str(ROOT / "scripts" / "docs" / "verdicts.py"))
CLAIMS = [claim for chapter in VERDICTS["CLAIMS"].values() for claim in chapter]
judged = VERDICTS["judged"]
CLAIM = {
    "law": "shifts",
    "claim": "c",
    "slide": "s",
    "figures": {"row": "study[rows][of ours, 2]"},
    "effects": ["row[gains]", "row[last]"],
    "margin": "points",
    "words": {"refuted": "not reproduced"},
    "says": "{row[own]:.0f} %, by {row[last]} points",
    "command": "make shifted",
    "file": "docs/learning.md",
}


@pytest.fixture
def verdict(monkeypatch):
    """The verdict on gains, in points, that are sure to a tenth of one; all but the last come as a list."""

    def of(*gains, n=LEAST):
        *several, last = [Interval.around(gain, 0.1, n) for gain in gains]
        results = {"study": {"rows": {"of ours, 2": {"own": 82, "gains": several, "last": last}}}}
        monkeypatch.setitem(judged.__globals__, "results", results.__getitem__)
        return judged(CLAIM)

    return of


@pytest.mark.parametrize(
    ("gains", "word"),
    [
        ((2, 3, 4), "confirmed"),
        ((2, 1.05, 4), "inconclusive"),
        ((2, 0.5, 4), "not reproduced"),  # above 0, and not worth the name
        ((2, 3, -4), "not reproduced"),
    ],
)
def test_all_effects_have_to_exceed_the_margin(verdict, gains, word):
    found = verdict(*gains)
    assert (found.verdict, found.kind) == (word, "experiment")
    assert found.says.startswith(f"82 %, by {gains[-1]} [")
    assert verdict(*gains, n=LEAST - 1).verdict == "inconclusive", "control: too few nets"


def test_a_law_keeps_its_verdict():
    law = {key: value for key, value in CLAIM.items() if key not in {"effects", "margin", "figures"}}
    found = judged(law | {"verdict": "only if", "says": "holds"})
    assert (found.verdict, found.kind) == ("only if", "algebra")


def test_every_claim_can_be_judged_and_is_named_once():
    assert len({claim["law"] for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        if "says" in claim:
            assert judged(claim).verdict in VERDICTS["WORDS"]
            assert ("verdict" in claim) != ("effects" in claim), "a law has its verdict, an experiment effects"
            assert claim.get("margin", "share") in MARGINS


def test_algebra_is_marked_apart_from_experiments():
    rows = [row for chapter in VERDICTS["predictions"]().values() for row in chapter]
    kinds = {kind: {row.law for row in rows if row.kind == kind} for kind in VERDICTS["KINDS"]}
    assert {"T1", "T2", "T5", "T8", "T17"} <= kinds["algebra"]
    assert {"T6", "T7", "T10", "T18", "T19", "T21", "localisation", "MNIST"} <= kinds["experiment"]
    assert not kinds["algebra"] & kinds["experiment"]
    table = VERDICTS["table"]("docs/predictions.md")
    assert table.count("</b> (algebra)") + table.count("</b> (experiment)") == len(rows)


def test_no_study_is_decided_by_fewer_nets_than_the_rule_asks_for():
    files = (ROOT / "results" / "predictions").glob("*.json")
    studies = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    experiments = [study for study in studies if study.get("kind") != "algebra"]
    assert len(experiments) > 5
    for study in experiments:
        assert _number(study) >= LEAST or study["verdict"] == "inconclusive", study["law"]


def _number(study):
    seeds = study["seeds"]
    return seeds if isinstance(seeds, int) else len(seeds)
