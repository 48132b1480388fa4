"""A promise holds as often as it says, and what looks like one does not."""

import numpy as np
import pytest
from scipy.stats import binomtest

from drmm.errors import InputError
from drmm.trust.decisions import decisions, labels_needed, promised_share


def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks, and mistakes that grow rarer with them: 30 % at the bottom, hardly any at the top."""
    rank = rng.random(n)
    return rank, rng.random(n) < risk_at(rank)


def risk_at(rank: np.ndarray) -> np.ndarray:
    return 0.3 * (1 - rank) ** 2


def true_risk(share: float) -> float:
    """Of the surest share: the mean of `risk_at` above 1 - share."""
    return 0.1 * share**2


def naive_share(rank: np.ndarray, wrong: np.ndarray, promise: float) -> float:
    """The largest share whose estimated error is small enough."""
    shares = np.arange(1, 21) / 20
    fine = [s for s in shares if wrong[rank >= 1 - s].sum() <= (1 - promise) * (rank >= 1 - s).sum()]
    return max(fine, default=0.0)


@pytest.mark.parametrize(("promise", "labels"), [(0.95, 200), (0.95, 1000), (0.98, 2000)])
def test_a_promise_holds_in_95_percent_of_draws(promise: float, labels: int) -> None:
    rng = np.random.default_rng(0)
    draws = [draw(rng, labels) for _ in range(200)]
    broken = sum(true_risk(promised_share(*one, promise)) > 1 - promise for one in draws)
    assert binomtest(broken, len(draws), 0.05, alternative="greater").pvalue > 0.01
    assert np.mean([promised_share(*one, promise) for one in draws]) > 0.1, "it promises nothing"


def test_control_the_estimated_error_promises_too_much() -> None:
    rng = np.random.default_rng(0)
    draws = [draw(rng, 200) for _ in range(200)]
    broken = sum(true_risk(naive_share(*one, 0.95)) > 0.05 for one in draws)
    assert broken > 0.25 * len(draws)


@pytest.mark.parametrize("n", [0, 1, 20, 148])
def test_few_labels_promise_nothing(n: int) -> None:
    assert promised_share(np.linspace(0, 1, n), np.zeros(n, bool), 0.98) == 0


def test_one_label_more_promises_all() -> None:
    assert promised_share(np.linspace(0, 1, 149), np.zeros(149, bool), 0.98) == 1


def test_all_wrong_promises_nothing() -> None:
    assert promised_share(np.linspace(0, 1, 1000), np.ones(1000, bool), 0.9) == 0


@pytest.mark.parametrize(
    ("promise", "wrong_share", "needed"),
    [(0.98, 0, 149), (0.95, 0, 59), (0.5, 0, 5), (0.98, 0.02, None), (0.9, 0.5, None), (0.999999, 0, None)],
)
def test_labels_needed(promise: float, wrong_share: float, needed: int | None) -> None:
    assert labels_needed(promise, wrong_share) == needed


def test_the_labels_needed_are_enough_and_one_fewer_is_not() -> None:
    n = labels_needed(0.9, 0.05)
    assert n is not None
    bounds = [
        binomtest(int(np.ceil(0.05 * m)), m, alternative="less").proportion_ci(0.95).high for m in (n, n - 1)
    ]
    assert bounds[0] <= 0.1 < bounds[1]


@pytest.mark.parametrize("promise", [0.0, 1.0, -0.5, 98.0, float("nan")])
def test_a_promise_is_a_share(promise: float) -> None:
    with pytest.raises(InputError, match="share of sorted pictures"):
        promised_share([0.5], [False], promise)
    with pytest.raises(InputError, match="share of sorted pictures"):
        labels_needed(promise)


def test_what_is_unfamiliar_is_not_sorted_however_certain() -> None:
    decided = decisions(np.array([True, True, False, False]), np.array([0.5, 0.001, 0.5, 0.001]))
    assert decided.tolist() == ["sorted", "unfamiliar", "unsure", "unfamiliar"]
    assert decisions(np.array([True, False]), None).tolist() == ["sorted", "unsure"]
