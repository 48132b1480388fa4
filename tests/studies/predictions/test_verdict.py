"""Intervals that cover, and verdicts that follow from them."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import bootstrap

from drmm.errors import InputError
from drmm.studies.predictions import LEAST, MARGINS, Interval, interval, judge, together

INF = float("inf")


def coverage(intervals):
    """How often an interval holds the true mean, 0."""
    return np.mean([low <= 0 <= high for low, high in intervals])


def test_few_nets_are_covered_as_often_as_it_says():
    drawn = np.random.default_rng(0).standard_normal((1000, LEAST))
    found = [interval(values) for values in drawn]
    assert 0.93 <= coverage([(one.low, one.high) for one in found]) <= 0.97
    by_chance = [
        bootstrap((values,), np.mean, n_resamples=500, rng=np.random.default_rng(0)).confidence_interval
        for values in drawn[:300]
    ]
    assert coverage(by_chance) < 0.91, "control: the bias-corrected bootstrap that this was"
    width = [
        (one.mean - 1.96 * half, one.mean + 1.96 * half) for one, half in zip(found, _errors(drawn), strict=True)
    ]
    assert coverage(width) < 0.91, "control: the normal distribution"


def _errors(drawn):
    return drawn.std(1, ddof=1) / drawn.shape[1] ** 0.5


@pytest.mark.parametrize(("nets", "images"), [(1.0, 0.2), (0.2, 1.0), (0.7, 0.7)])
def test_nets_and_images_both_count(nets, images):
    rng = np.random.default_rng(0)
    shape = (500, LEAST, 40)
    by_net, by_image = nets * rng.standard_normal(shape[:2]), 3 * images * rng.standard_normal(shape[::2])
    values = by_net[:, :, None] + by_image[:, None] + rng.standard_normal(shape)
    found = [interval(one) for one in values]
    assert coverage([(one.low, one.high) for one in found]) >= 0.93
    assert {one.n for one in found} == {LEAST}
    alone = [[interval(one.mean(axis)) for one in values] for axis in (0, 1)]
    least = min(coverage([(one.low, one.high) for one in side]) for side in alone)
    assert least < 0.9, "control: over nets alone, or over images alone"


@pytest.mark.parametrize(
    ("low", "high", "margin", "outcome"),
    [
        (0.5, 2, 0, "confirmed"),
        (0.5, 2, 0.4, "confirmed"),
        (0.5, 2, 0.6, "inconclusive"),
        (-0.5, 2, 0, "inconclusive"),
        (-2, -0.5, 0, "refuted"),
        (0.001, 0.009, 0.01, "refuted"),  # surely above 0, surely not worth the name
        (-0.009, 0.009, 0.01, "refuted"),  # a null that was measured well
        (-0.5, 0.5, 0.01, "inconclusive"),  # and one that was not
        (-0.5, 2, -1, "confirmed"),  # as good as
        (0, 0, 0, "inconclusive"),
    ],
)
def test_verdicts_have_three_ways(low, high, margin, outcome):
    effect = Interval((low + high) / 2, low, high, LEAST)
    assert judge(effect, margin) == outcome
    assert judge(dataclasses.replace(effect, n=LEAST - 1), margin) == "inconclusive", "control: too few nets"
    if outcome != "inconclusive":
        assert judge(-effect, -margin) == {"confirmed": "refuted", "refuted": "confirmed"}[outcome]


@pytest.mark.parametrize(
    ("outcomes", "outcome"),
    [
        (["confirmed", "confirmed"], "confirmed"),
        (["confirmed", "inconclusive"], "inconclusive"),
        (["confirmed", "inconclusive", "refuted"], "refuted"),
    ],
)
def test_a_claim_of_several_effects(outcomes, outcome):
    assert together(iter(outcomes)) == outcome


def test_what_is_shown():
    assert str(interval([1.0, 1.0, 1.0])) == "1 [1, 1]"
    assert interval([1.0, 2.0]).n == 2
    with pytest.raises(TypeError):
        MARGINS["share"] = 0.0


@pytest.mark.parametrize(
    "values", [[], [1.0], [1.0, 2.0, np.nan], [1.0, INF], np.zeros((1, 3)), np.zeros((3, 1)), 1.0]
)
def test_too_little_to_say(values):
    with pytest.raises(InputError, match="two or more finite"):
        interval(values)
