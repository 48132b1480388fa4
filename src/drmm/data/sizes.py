"""At which size pictures are learned from: by a rule, where nobody says."""

__all__ = ["RULE", "working_size"]

from collections.abc import Collection
from statistics import median_low

_LARGEST, _SMALLEST, _STEP = 64, 8, 8
RULE = (
    f"pictures of one size stay as they are up to {_LARGEST} pixels a side; others become squares of {_LARGEST}, "
    f"or of the median shorter side where that is less, in steps of {_STEP}"
)


def working_size(sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
    """The size at which pictures are learned from, by `RULE`.

    Args:
        sizes: (H, W) of every picture, upright; at least one.

    Returns:
        (H, W).
    """
    first, *_ = sizes
    if max(first) <= _LARGEST and set(sizes) == {first}:
        return first
    side = median_low(map(min, sizes)) // _STEP * _STEP
    side = min(max(side, _SMALLEST), _LARGEST)
    return side, side
