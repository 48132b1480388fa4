"""Timing in turns."""

from drmm.studies.timing import ratio, take_turns


def test_each_round_starts_with_another_action():
    order = []
    times = take_turns({name: lambda name=name: order.append(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "bcacababcbcacab"
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_patience_leaves_three_rounds():
    assert len(take_turns({"a": lambda: None}, rounds=50, patience=0)["a"]) == 3


def test_the_ratio_is_the_median_within_rounds():
    assert ratio([1, 2, 30], [1, 1, 10]) == 2
