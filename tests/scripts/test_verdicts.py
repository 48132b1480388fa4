"""Verdicts: the rule in the data file decides, by the figures; the text is filled with the same figures."""

import runpy
from pathlib import Path

import pytest

VERDICTS = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "docs" / "verdicts.py"))
Figures, holds, judged = (VERDICTS[name] for name in ("Figures", "holds", "judged"))
CLAIM = {
    "law": "shifts",
    "claim": "c",
    "slide": "s",
    "figures": {"row": "study[rows][of ours, 2]"},
    "rule": [{"verdict": "confirmed", "if": ["row[own] > row[best]", "row[own] > 50"]}, {"verdict": "refuted"}],
    "says": "{row[own]:.0f} % against {row[best]:.1f} %",
    "command": "make shifted",
    "file": "docs/learning.md",
}


@pytest.fixture
def verdict(monkeypatch):
    """The verdict on figures of an own and of the best other method."""

    def of(own, best):
        results = {"study": {"rows": {"of ours, 2": {"own": own, "best": best}}}}
        monkeypatch.setitem(judged.__globals__, "results", results.__getitem__)
        return judged(CLAIM)

    return of


@pytest.mark.parametrize(
    ("own", "best", "word"), [(82, 35, "confirmed"), (35, 82, "refuted"), (40, 30, "refuted")]
)
def test_the_first_case_whose_conditions_all_hold_is_the_verdict(verdict, own, best, word):
    assert verdict(own, best).verdict == word
    assert verdict(own, best).says == f"{own} % against {best:.1f} %"


def test_a_claim_without_a_rule_keeps_its_verdict():
    law = {key: value for key, value in CLAIM.items() if key not in {"rule", "figures"}}
    assert judged(law | {"verdict": "only if", "says": "holds"}).verdict == "only if"


@pytest.mark.parametrize(("sign", "expected"), [("<", False), ("<=", True), (">", False), (">=", True)])
def test_conditions_compare(sign, expected):
    assert holds(f"a[x, y] {sign} 3.5", Figures(a={"x, y": 3.5})) is expected


def test_a_condition_that_compares_nothing_is_refused():
    with pytest.raises(SystemExit, match="want FIGURE > FIGURE"):
        holds("a[x]", Figures(a={"x": 1}))


def test_every_claim_can_be_judged_and_is_named_once():
    claims = [claim for chapter in VERDICTS["CLAIMS"].values() for claim in chapter]
    assert len({claim["law"] for claim in claims}) == len(claims)
    for claim in claims:
        if "says" in claim:
            assert judged(claim).verdict in VERDICTS["WORDS"]
            assert "rule" not in claim or "if" not in claim["rule"][-1], "the last case is for all that is left"
