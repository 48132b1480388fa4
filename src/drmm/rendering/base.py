"""The one idea: a rendering infers going up and renders going down, transposes for frozen switches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Rendering", "Switches", "Window", "chosen", "masked"]


_BATCHED = ("a", "t", "s", "kept", "point")  # the tensors of `Switches` that have a batch dimension


@dataclass(frozen=True, slots=True)
class Window:
    """Where the position t of a pooled unit may point: the geometry of its pooling window.

    Every field is (height, width) in units of the level below.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def positions(self) -> int:
        """How many values t can take."""
        return self.kernel[0] * self.kernel[1]


@dataclass(frozen=True, slots=True)
class Switches:
    """ĝ of one rendering for a batch of images: what was chosen going up, replayed going down.

    Attributes:
        shape: shape of the input without the batch, the canvas that `render` draws on.
        a: on/off of each unit, bool (N, ...) (slide "Each layer of the DRMM is a sparse coding model").
        t: position of each pooled unit in its window, row-major, uint8 (N, C, H, W) (int32 for huge windows).
        s: sign of each unit, bool (N, ...), True where it is positive.
        kept: units that were not dropped, bool (N, ...): missing at random, not chosen, so without a prior.
        gain: frozen scale of each channel, shared by the batch.
        point: where a smooth function was made linear, (N, ...): in approximate renderings only.
        window: the geometry that t refers to.
        parts: the switches of the renderings that a composite is made of.
    """

    shape: tuple[int, ...]
    a: Tensor | None = None
    t: Tensor | None = None
    s: Tensor | None = None
    kept: Tensor | None = None
    gain: Tensor | None = None
    point: Tensor | None = None
    window: Window | None = None
    parts: tuple[Switches, ...] = ()

    def map(self, function: Callable[[Tensor], Tensor]) -> Switches:
        """The same switches with `function` applied to every tensor that has a batch dimension."""
        changed: dict[str, Any] = {name: function(value) for name, value in self._tensors(_BATCHED)}
        return replace(self, **changed, parts=tuple(part.map(function) for part in self.parts))

    def select(self, index: Tensor | slice) -> Switches:
        """The switches of some images of the batch."""
        return self.map(lambda choice: choice[index])

    def where(self, mask: Tensor, other: Switches) -> Switches:
        """These switches for the images where `mask` (N,) is True, those of `other` elsewhere."""
        changed: dict[str, Any] = {
            name: torch.where(mask.reshape(-1, *[1] * (mine.ndim - 1)), mine, getattr(other, name))
            for name, mine in self._tensors(_BATCHED)
        }
        parts = tuple(part.where(mask, theirs) for part, theirs in zip(self.parts, other.parts, strict=True))
        return replace(self, **changed, parts=parts)

    def choices(self) -> Iterator[tuple[str, Tensor]]:
        """The choices of this rendering itself: those of a, t and s that it has, by name."""
        yield from self._tensors(("a", "t", "s"))

    def leaves(self) -> Iterator[Switches]:
        """Every part that holds a choice, bottom-up."""
        if any(True for _ in self.choices()):
            yield self
        for part in self.parts:
            yield from part.leaves()

    def map_leaves(self, function: Callable[[Switches], Switches]) -> Switches:
        """The same structure with `function` applied to every part that holds a choice, bottom-up."""
        own = function(self) if any(True for _ in self.choices()) else self
        return replace(own, parts=tuple(part.map_leaves(function) for part in self.parts))

    def choosing(self, other: Switches) -> Switches:
        """The choices of `other` with the frozen scales of these: what other images chose, as it is drawn now."""
        others = other.leaves()

        def take(leaf: Switches) -> Switches:
            chosen: dict[str, Any] = dict(next(others).choices())
            return replace(leaf, **chosen)

        return self.map_leaves(take)

    def nbytes(self) -> int:
        """Memory that the choices take, in bytes."""
        return sum(choice.nbytes for leaf in self.leaves() for _, choice in leaf.choices())

    def _tensors(self, names: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            if (value := getattr(self, name)) is not None:
                yield name, value


class Rendering(nn.Module, ABC):
    """One level of the picture: bottom-up inference and top-down rendering share one linear map.

    For frozen switches g, `infer` is the affine map x ↦ A_g x + b_g and `render` is the transpose A_gᵀ
    (Law 0, the dot-product test). Subclasses are final. Writing one takes these two methods; combining
    them takes none (`Sequential`). See `docs/new_rendering.md`.
    """

    @abstractmethod
    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Bottom-up: the level's features and the best switches.

        Args:
            x: I^(ℓ-1), (N, ...).

        Returns:
            y = I^(ℓ), (N, ...), and ĝ^(ℓ).
        """

    @abstractmethod
    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Top-down: Λ_g z, drawn on a canvas of shape (N, *switches.shape).

        Args:
            z: z^(ℓ), same shape as the `y` of `infer`.
            switches: ĝ^(ℓ), from `infer` or from a prior.
        """

    def forward(self, x: Tensor) -> Tensor:
        """The convnet's view: the features alone."""
        return self.infer(x)[0]


def chosen(choice: Tensor | None, name: str) -> Tensor:
    """The switches that a rendering needs for drawing.

    Raises:
        ValueError: if they are another rendering's, which hold none.
    """
    if choice is None:
        raise ValueError(f"these switches hold no {name}: pass the ones that this rendering's infer returned")
    return choice


def masked(z: Tensor, mask: Tensor) -> Tensor:
    """Z where the mask, bool of the same shape, is True, 0 elsewhere: as bytes, three times as fast on a CPU."""
    return z * mask.view(torch.int8)
