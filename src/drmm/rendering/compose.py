"""Composition: a sequence infers from the pixels up and renders from the top down."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import cast, final

from torch import Tensor, nn

from drmm.rendering.base import Box, Down, Rendering, Switches

__all__ = ["Sequential", "downwards"]


@final
class Sequential(nn.Sequential, Rendering):
    """Renderings one on top of the other; takes the arguments of `torch.nn.Sequential`.

    Raises:
        TypeError: if a module is not a `Rendering`.
    """

    def __init__(self, *levels: Rendering | OrderedDict[str, Rendering]) -> None:
        super().__init__(*levels)  # type: ignore[arg-type]
        for level in self:
            if not isinstance(level, Rendering):
                raise TypeError(
                    f"{type(level).__name__} is not a Rendering: use drmm.lift, or give it infer and render"
                )

    @property
    def renderings(self) -> tuple[Rendering, ...]:
        """The levels, pixels first."""
        return tuple(cast("Rendering", module) for module in self)

    @property
    def atoms(self) -> tuple[Rendering, ...]:
        """The levels, pixels first, nested sequences taken apart."""
        return tuple(atom for level in self.renderings for atom in level.atoms)

    def atom_switches(self, switches: Switches) -> tuple[Switches, ...]:
        """The switches of each of the atoms."""
        pairs = zip(self.renderings, switches.parts, strict=True)
        return tuple(atom for level, part in pairs for atom in level.atom_switches(part))

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """(N, ...) through every level, bottom-up."""
        shape, parts = tuple(x.shape[1:]), []
        for level in self.renderings:
            x, switches = level.infer(x)
            parts.append(switches)
        return x, Switches(shape, parts=tuple(parts))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Through every level in reverse order, top-down."""
        steps = list(zip(self.renderings, switches.parts, strict=True))
        while steps:
            level, part = steps.pop()
            gain = level.gain(part) if steps else None
            if gain is None:
                z = level.render(z, part)
            else:
                level, part = steps.pop()
                z = level.render_scaled(z, part, gain)
        return z

    def render_levels(self, z: Tensor, switches: Switches) -> list[Tensor]:
        """Every intermediate template: [z^(0) (the picture), z^(1), …, z^(L) = z]."""
        templates = [z]
        for level, part in zip(reversed(self.renderings), reversed(switches.parts), strict=True):
            templates.append(level.render(templates[-1], part))
        return templates[::-1]

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Level by level, bottom-up."""
        for level in self.renderings:
            lower, upper = level.bounds(lower, upper)
        return lower, upper

    def relaxed(self, lower: Tensor, upper: Tensor, switches: Switches | None = None) -> tuple[Box, Down]:
        """Level by level: bounds bottom-up, the way down top-down."""
        parts = [None] * len(self) if switches is None else switches.parts
        ways = list[Down]()
        for level, part in zip(self.renderings, parts, strict=True):
            (lower, upper), way = level.relaxed(lower, upper, part)
            ways.append(way)

        return (lower, upper), downwards(ways)

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
        """Level by level, top-down."""
        for level, part in zip(reversed(self.renderings), reversed(switches.parts), strict=True):
            paths = level.count(paths, part, every=every)
        return paths

    def reinfer(self, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
        """Level by level, bottom-up, each with the template that comes down to it."""
        templates = self.render_levels(z, switches)[1:]
        parts = []
        for level, part, template in zip(self.renderings, switches.parts, templates, strict=True):
            x, new = level.reinfer(x, part, template)
            parts.append(new)
        return x, replace(switches, parts=tuple(parts))

    def guided(self, z: Tensor, switches: Switches) -> Tensor:
        """Level by level, top-down."""
        for level, part in zip(reversed(self.renderings), reversed(switches.parts), strict=True):
            z = level.guided(z, part)
        return z

    @property
    def shuts(self) -> bool:
        """Whether one of its levels does."""
        return any(level.shuts for level in self.renderings)

    def forward(self, x: Tensor) -> Tensor:
        """The convnet's view: the top features alone, without keeping switches."""
        return nn.Sequential.forward(self, x)  # type: ignore[no-any-return]


def downwards(ways: Sequence[Down]) -> Down:
    """The way down through several renderings, given pixels first."""

    def down(z: Tensor) -> tuple[Tensor, Tensor]:
        total = z.new_zeros(len(z))
        for way in reversed(ways):
            z, offset = way(z)
            total = total + offset
        return z, total

    return down
