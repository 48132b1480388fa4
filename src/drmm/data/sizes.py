"""At which size pictures are learned from: by a rule, where nobody says."""

__all__ = ["RULE", "working_size"]

from collections.abc import Collection
from statistics import median_low

_LARGEST, _SMALLEST, _STEP = 64, 8, 8

RULE = f"the median shorter side, {_LARGEST} at the most"
"""What decides where sizes differ, in words."""


def working_size(sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
    """The size at which pictures are learned from, where nobody says.

    Pictures of one size stay as they are up to 64 pixels a side. Others become squares: of the median shorter
    side, in steps of 8, from 8 to 64.

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
