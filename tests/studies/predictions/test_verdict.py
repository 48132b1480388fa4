"""Intervals that cover, and verdicts that follow from them."""

import numpy as np
import pytest

from drmm.errors import InputError
from drmm.studies.predictions import Interval, interval, judge


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    found = [interval(rng.exponential(2.0, 60), seed=i) for i in range(200)]
    covered = np.mean([one.low <= 2 <= one.high for one in found])
    assert 0.88 <= covered <= 0.99
    narrow = np.mean(
        [one.mean - (one.mean - one.low) / 4 <= 2 <= one.mean + (one.high - one.mean) / 4 for one in found]
    )
    assert narrow < 0.6, "control: a quarter of the width does not"


def test_verdicts():
    assert judge(Interval(1, 0.5, 2)) == "confirmed"
    assert judge(Interval(1, -0.5, 2)) == "inconclusive"
    assert judge(Interval(-1, -2, -0.5)) == "refuted"
    assert judge(Interval(1, 0.5, 2), threshold=3) == "refuted"
    assert str(interval([1.0, 1.0, 1.0])) == "1 [1, 1]"


@pytest.mark.parametrize("values", [[], [1.0, 2.0], [1.0, 2.0, np.nan], np.zeros((3, 3))])
def test_too_little_to_say(values):
    with pytest.raises(InputError, match="three or more finite"):
        interval(values)
