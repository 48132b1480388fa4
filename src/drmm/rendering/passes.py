"""One pass up and one pass down, rendering by rendering, with all that is on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from drmm.rendering.base import Rendering, Switches
from drmm.rendering.compose import Sequential
from drmm.rendering.level import Level

__all__ = ["Descent", "ForwardPass", "backward_pass", "draw", "forward_pass", "layers_of", "parts_of"]

Descent = Callable[[Rendering, Tensor, Switches], Tensor]
"""How one rendering sends z (N, ...) down, given its switches; `draw` is the exact way."""


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """What a bottom-up pass found.

    Attributes:
        features: I^(0) = x, I^(1), …, I^(L), each (N, ...).
        switches: ĝ^(1), …, ĝ^(L).
    """

    features: tuple[Tensor, ...]
    switches: tuple[Switches, ...]


def forward_pass(renderings: Sequence[Rendering], x: Tensor) -> ForwardPass:
    """Infer one rendering after the other.

    Args:
        renderings: pixels first: a model's levels, its `atoms`, or its `layers_of`.
        x: images (N, C, H, W).
    """
    features, switches = [x], list[Switches]()
    for rendering in renderings:
        # An in-place gate overwrites what the one below it found: it gets a copy.
        y, choice = rendering.infer(features[-1].clone())
        features.append(y)
        switches.append(choice)
    return ForwardPass(tuple(features), tuple(switches))


def draw(rendering: Rendering, z: Tensor, switches: Switches) -> Tensor:
    """The exact way down: Λ_g z, which is the gradient at frozen switches."""
    return rendering.render(z, switches)


def backward_pass(
    renderings: Sequence[Rendering], z: Tensor, switches: Sequence[Switches], way: Descent = draw
) -> list[Tensor]:
    """Render one after the other, top-down.

    Args:
        renderings: pixels first.
        z: (N, ...), of the shape of the top features.
        switches: of each rendering.
        way: how each sends down.

    Returns:
        What comes down to the pixels, to the first features, …, to the top (z itself).
    """
    templates = [z]
    for rendering, choice in zip(reversed(renderings), reversed(switches), strict=True):
        templates.append(way(rendering, templates[-1], choice))
    return templates[::-1]


def layers_of(levels: Sequential) -> tuple[Rendering, ...]:
    """The renderings one by one, pixels first, nested sequences and fused levels taken apart."""
    return tuple(layer for atom in levels.atoms for layer in atom.unfused().atoms)


def parts_of(levels: Sequential) -> tuple[Rendering, ...]:
    """As `layers_of`, but where a fused level chooses its position before its gate, as bounds do."""
    parts = (atom.parts if isinstance(atom, Level) else (atom,) for atom in levels.atoms)
    return tuple(part for each in parts for part in each)
