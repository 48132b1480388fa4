"""Two-message bound: an upper bound on the joint MAP score for any signs, equal to it where inference is exact.

Each unit carries the largest and the smallest value that it can take over all switches at and below it:
U = max(0, max_t Σ w⁺U + w⁻L) and L = min(0, min_t Σ w⁺L + w⁻U). Where every upper weight is non-negative,
U is what the bottom-up pass computes, and the bound is tight.
"""

from __future__ import annotations

from torch import Tensor

from drmm.rendering.base import NoBoundError, Rendering

__all__ = ["NoBoundError", "bound"]


def bound(rendering: Rendering, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each output, over all inputs in [lower, upper] and all switches.

    Args:
        rendering: one level, in evaluation mode.
        lower: (N, ...).
        upper: same shape.

    Raises:
        NoBoundError: if the rendering is of no kind, or its kind cannot tell.
    """
    return rendering.bounds(lower, upper)
