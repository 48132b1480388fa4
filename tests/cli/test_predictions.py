"""What is said of a promise, whatever the labels show."""

from types import SimpleNamespace

import numpy as np
import pytest

from drmm.cli.predictions import notes_of
from drmm.trust.assessment import Surest


@pytest.mark.parametrize(
    ("surest", "labels", "words"),
    [
        (Surest(0.6, promised=True, labels=149), 500, ["surest 60 %", "98 % or more", "95 % confidence"]),
        (
            Surest(0.6, promised=False, labels=149),
            100,
            ["surest 60 %", "calibrated", "100 labels", "149 or more might"],
        ),
        (Surest(0.6, promised=False, labels=149), 400, ["400 labels cannot prove it, 401 or more"]),
        (Surest(0.0, promised=False, labels=149), 100, ["no picture may be sorted", "149 or more might"]),
        (Surest(0.6, promised=False, labels=None), 100, ["no number of labels"]),
        (Surest(0.6, promised=False, labels=149), 0, ["not calibrated"]),
    ],
)
def test_what_is_said_of_a_promise(surest: Surest, labels: int, words: list[str]) -> None:
    held_out = SimpleNamespace(label=np.zeros(labels, int))
    assessment = SimpleNamespace(surest=lambda _: surest, held_out=held_out, strangers=0.0)
    [said] = notes_of(assessment, 0.98)
    assert all(word in said for word in words), said
    assert surest.promised == ("or more of them are right" in said), "a guess is no promise"
    assert "\n" not in said


def test_strangers_are_said_first_and_nothing_is_promised_of_them() -> None:
    held_out = SimpleNamespace(label=np.zeros(500, int))
    surest = Surest(0.6, promised=False, labels=149)
    strange = SimpleNamespace(surest=lambda _: surest, held_out=held_out, strangers=0.2, warning="at least 20 %")
    first, second = notes_of(strange, 0.98)
    assert first == "at least 20 %"
    assert "nothing can be promised" in second
    assert "labels cannot prove" not in second, "more labels of the same classes would not help"


def test_a_lower_promise_is_named_where_it_sorts_more() -> None:
    shares = {0.98: 0.1, 0.95: 0.12, 0.9: 0.4, 0.8: 0.41}

    def surest(promise: float) -> Surest:
        return Surest(shares[promise], promised=False, labels=149)

    assessment = SimpleNamespace(surest=surest, held_out=SimpleNamespace(label=np.zeros(50, int)), strangers=0.0)
    [said] = notes_of(assessment, 0.98)
    assert "right answers" not in said
    assert "calibrated confidence (40 % with --promise 0.9); 50 labels" in said
    [said] = notes_of(assessment, 0.9)
    assert "--promise" not in said, "0.8 sorts hardly more"
