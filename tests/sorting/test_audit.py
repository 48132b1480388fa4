"""The exact bound: against counting, by simulation, and at its ends."""

from math import comb

import numpy as np
import pytest

from drmm.errors import InputError
from drmm.sorting.audit import drawn, most_wrong, pictures_needed, wrong_allowed


def counted(wrong: int, n: int, of: int) -> int:
    """The definition, by counting samples."""

    def is_likely(number: int) -> bool:
        seen = sum(comb(number, k) * comb(of - number, n - k) for k in range(wrong + 1))
        return 20 * seen > comb(of, n)

    return max(number for number in range(wrong, of - n + wrong + 1) if is_likely(number))


@pytest.mark.parametrize("of", [1, 2, 9, 40])
def test_the_bound_is_the_counted_one(of: int) -> None:
    for n in range(of + 1):
        for wrong in range(n + 1):
            assert most_wrong(wrong, n, of) == counted(wrong, n, of)


def test_at_the_ends() -> None:
    assert most_wrong(0, 0, 50) == 50, "nothing seen"
    assert most_wrong(3, 50, 50) == 3, "all seen"
    assert most_wrong(50, 50, 50) == 50
    assert most_wrong(0, 0, 0) == 0
    assert most_wrong(0, 149, 10**9) / 10**9 == pytest.approx(1 - 0.05 ** (1 / 149), abs=1e-6), "the binomial one"


def test_it_holds_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0)
    of, truly, n = 500, 30, 60
    bounds = [most_wrong(int(draws.hypergeometric(truly, of - truly, n)), n, of) for _ in range(1000)]
    held = np.mean(np.array(bounds) >= truly)
    assert held >= 0.95 - 0.02
    assert held < 1, "control: it is not a bound for every draw"


@pytest.mark.parametrize("of", [10, 149, 300, 10_000])
@pytest.mark.parametrize("wrong", [0, 1, 3])
@pytest.mark.parametrize("promise", [0.5, 0.9, 0.98, 0.999])
def test_so_many_are_needed_and_no_fewer(of: int, wrong: int, promise: float) -> None:
    needed, allowed = pictures_needed(wrong, of, promise), wrong_allowed(of, promise)
    if needed is None:
        assert wrong > allowed
    else:
        assert most_wrong(wrong, needed, of) <= allowed
        assert needed == wrong or most_wrong(wrong, needed - 1, of) > allowed


def test_allowed_numbers_are_not_lost_in_rounding() -> None:
    assert [wrong_allowed(10, 0.9), wrong_allowed(100, 0.98), wrong_allowed(3, 0.98)] == [1, 2, 0]


def test_what_cannot_be() -> None:
    for wrong, n, of in ((-1, 2, 3), (3, 2, 3), (1, 4, 3)):
        with pytest.raises(InputError, match="count again"):
            most_wrong(wrong, n, of)


def test_the_draw() -> None:
    pictures = [f"{i}.png" for i in range(100)]
    some = drawn(pictures, 20, 0)
    assert len(set(some)) == 20
    assert drawn(pictures[::-1], 20, 0) == some, "whatever the order"
    assert drawn(pictures, 50, 0)[:20] == some
    assert drawn(pictures, 20, 1) != some
    assert sorted(drawn(pictures, 1000, 0)) == sorted(pictures)
    often = np.bincount([pictures.index(drawn(pictures, 1, seed)[0]) for seed in range(2000)], minlength=100)
    assert often.min() > 0, "plain: each as likely as any other"
