"""The one idea: a rendering infers going up and renders going down, transposes for frozen switches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from drmm.errors import InputError

if TYPE_CHECKING:
    from drmm.rendering.kinds import Dictionary

__all__ = [
    "Box",
    "Channels",
    "Down",
    "NoBoundError",
    "Rendering",
    "Switches",
    "Window",
    "chosen",
    "constant",
    "masked",
]

Box = tuple[Tensor, Tensor]  # the smallest and the largest value of each unit, (N, ...) each
Down = Callable[[Tensor], tuple[Tensor, Tensor]]  # from z to w and b, (N,), such that ⟨z, y⟩ ≤ ⟨w, x⟩ + b


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

    @classmethod
    def joined(cls, pieces: Sequence[Switches]) -> Switches:
        """The switches of all images, of those of some after others; what the batch shares is the first one's."""
        first = pieces[0]
        changed: dict[str, Any] = {
            name: torch.cat([getattr(piece, name) for piece in pieces])
            for name in _BATCHED
            if getattr(first, name) is not None
        }
        parts = zip(*(piece.parts for piece in pieces), strict=True)
        return replace(first, **changed, parts=tuple(map(cls.joined, parts)))

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


class NoBoundError(TypeError):
    """A rendering whose smallest and largest values nobody has written down."""


@dataclass(frozen=True)
class Channels:
    """Some of the channels.

    Attributes:
        index: which ones, sorted, (K,).
        total: how many there were.
    """

    index: Tensor
    total: int

    def among(self, size: int) -> Tensor:
        """Their places where every channel has size / total entries: flat features, or entries of a template."""
        each = size // self.total
        return (self.index[:, None] * each + torch.arange(each, device=self.index.device)).flatten()


class Rendering(nn.Module, ABC):
    """One level of the picture: bottom-up inference and top-down rendering share one linear map.

    For frozen switches g, `infer` is the affine map x ↦ A_g x + b_g and `render` is the transpose A_gᵀ
    (Law 0, the dot-product test). Subclasses are final, and of one of the kinds in `drmm.rendering.kinds`, which
    answer what bounds, path counts, the traceback and pruning ask. A rendering of no kind infers, renders and
    learns; those refuse it by name. See `docs/new_rendering.md`.

    Attributes:
        fresh: whether the features that `infer` returns never share memory with its input.
        may_overwrite: whether it has an attribute `inplace` that lets `infer` overwrite its input.
    """

    fresh = False
    may_overwrite = False

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

    # --- what others ask; the kinds answer ---

    @property
    def atoms(self) -> tuple[Rendering, ...]:
        """The renderings that it is made of one after the other, pixels first: itself, unless it is a sequence."""
        return (self,)

    def atom_switches(self, switches: Switches) -> tuple[Switches, ...]:
        """The switches of each of the atoms."""
        return (switches,)

    def unfused(self) -> Rendering:
        """A slow twin of the same modules one by one: itself, unless it is a fused level."""
        return self

    @property
    def gamma(self) -> Dictionary | None:
        """Its dictionary Γ: itself, or a fused level's; None if it has none."""
        return None

    def place(self, z: Tensor, switches: Switches) -> Tensor:
        """Of a rendering with a dictionary: what comes down to the dictionary's output."""
        del switches
        return z

    def drawing(self, switches: Switches) -> Tensor:
        """Of a rendering with a dictionary: the weight that `render` draws with.

        Raises:
            InputError: if it has none.
        """
        del switches
        raise InputError(f"{self.name} has no dictionary to draw with")

    def gain(self, switches: Switches) -> Tensor | None:
        """By what `render` multiplies each channel, such as (C, 1, 1), where that is all that it does."""
        del switches
        return None

    def render_scaled(self, z: Tensor, switches: Switches, gain: Tensor) -> Tensor:
        """`render` of gain · z, the gain being that of the norm above."""
        return self.render(z * gain, switches)

    def running_gain(self) -> Tensor | None:
        """By what running statistics scale each template of its dictionary, (C,); None without a norm."""
        return None

    def given(self, *settings: object) -> Rendering:
        """This rendering with what it depends on besides its input filled in; see `Step.settings`.

        Raises:
            InputError: if it depends on nothing else.
        """
        if settings:
            raise InputError(f"{self.name} takes one input and no settings")
        return self

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of each output, over all inputs in [lower, upper] and all switches.

        Args:
            lower: (N, ...); the same object as `upper` where the input is known.
            upper: same shape.

        Raises:
            NoBoundError: if nobody knows them.
        """
        del lower, upper
        raise NoBoundError(
            f"no bound for {self.name}: derive it from a kind (docs/new_rendering.md), or give it bounds"
        )

    def relaxed(self, lower: Tensor, upper: Tensor, switches: Switches | None = None) -> tuple[Box, Down]:
        """Its bounds, and a way down that is linear: what any z makes of its outputs, bounded in its inputs.

        The way down turns z, of y's shape, into w and b: ⟨z, y⟩ ≤ ⟨w, x⟩ + b for all inputs x in [lower, upper]
        and all switches. Units that share inputs share them in the bound. By default w is 0, and b is the bounds'.

        Args:
            lower: as for `bounds`.
            upper: as for `bounds`.
            switches: ĝ of an input inside; it holds then for the switches that `infer` finds, and no others.

        Raises:
            NoBoundError: if nobody knows the bounds.
        """
        del switches
        box = self.bounds(lower, upper)
        return box, lambda z: (torch.zeros_like(lower), constant(z, box))

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
        """How many paths come down to each unit of the input, from how many come to each unit of the output.

        A path through a rendering is an entry of its matrix A_g that is not 0.

        Args:
            paths: of each unit of the output, (N, ...), float64.
            switches: ĝ.
            every: count along all switches, whatever they are.

        Raises:
            InputError: if nobody can count them.
        """
        del paths, switches, every
        raise InputError(
            f"{self.name} has no paths to count: derive it from a kind (docs/new_rendering.md), or give it count"
        )

    def reinfer(self, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
        """Infer again, knowing what comes from above: of all switches, those that maximise ⟨z, y⟩.

        A rendering that has no such choice infers as always. Where z is 0, every choice scores the same, and the
        convnet's is kept.

        Args:
            x: its input now, (N, ...).
            switches: ĝ as it was, which says how z came down inside of a composite.
            z: the template that comes down to its output, same shape as y.

        Returns:
            y and the new switches, as `infer` does.
        """
        del switches, z
        return self.infer(x)

    def guided(self, z: Tensor, switches: Switches) -> Tensor:
        """Send z down as guided backprop does: positive parts only wherever a unit can be off."""
        return self.render(z, switches)

    @property
    def shuts(self) -> bool:
        """Whether a choice of its can keep an input from reaching any output."""
        return False

    def shut(self, y: Tensor, switches: Switches) -> Tensor:
        """Which inputs the switches keep from reaching y, bool of the input's shape."""
        return self.render(torch.ones_like(y), switches) == 0

    def open_units(self, y: Tensor, switches: Switches) -> Tensor:
        """The features y, 0 where a unit is a constant that the picture does not change: paths end there."""
        del switches
        return y

    def narrowed(self, kept: Channels) -> Rendering:
        """A copy that works on some of the channels; for renderings that work channel by channel.

        Raises:
            InputError: if it does not, or nobody knows.
        """
        del kept
        raise InputError(
            f"a model with {self.name} cannot be pruned: use a chain of levels, convolutions, linear layers, "
            "norms, gates and pools, such as a preset, or give it narrowed"
        )


def chosen(choice: Tensor | None, name: str) -> Tensor:
    """The switches that a rendering needs for drawing.

    Raises:
        ValueError: if they are another rendering's, which hold none.
    """
    if choice is None:
        raise ValueError(f"these switches hold no {name}: pass the ones that this rendering's infer returned")
    return choice


def constant(z: Tensor, box: Box) -> Tensor:
    """The largest ⟨z, y⟩ of all y in a box, (N,)."""
    return (z.clamp(max=0) * box[0] + z.clamp(min=0) * box[1]).flatten(1).sum(1)


def masked(z: Tensor, mask: Tensor) -> Tensor:
    """Z where the mask, bool of the same shape, is True, 0 elsewhere: as bytes, three times as fast on a CPU.

    A compiler makes its own code of it, and files of models know no bytes of a bool.
    """
    return z * (mask if torch.compiler.is_compiling() else mask.view(torch.int8))
