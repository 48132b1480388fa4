"""Guided backprop as a way down: at every gate, what speaks against a unit is left out."""

from __future__ import annotations

from torch import Tensor

from drmm.rendering import Rendering, Switches

__all__ = ["guide"]


def guide(rendering: Rendering, z: Tensor, switches: Switches) -> Tensor:
    """Send z down, positive parts only wherever a unit can be off.

    Slide "Guided Backprop Saliency Maps show False Positives being Filtered Layer-by-Layer" (Springenberg et al.,
    2015). It is no gradient and its maps do not sum up to a score. Gates say whether a unit can be off; everything
    else renders as always.

    Args:
        rendering: one level, with fixed statistics.
        z: what comes down to its output, (N, ...).
        switches: from `infer`.
    """
    return rendering.guided(z, switches)
