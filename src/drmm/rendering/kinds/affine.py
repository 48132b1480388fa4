"""The kind that chooses nothing, and of it what is made of templates."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.rendering.base import NoBoundError, Rendering, Switches
from drmm.rendering.kinds.functions import present, pull_back, tensors_of
from drmm.rendering.kinds.shared import Linear

__all__ = ["AffineRendering", "Dictionary"]

Entries = Callable[[Tensor], Tensor]

_ENTRIES = 2**26  # of a matrix that is read off a rendering, at most
_AT_ONCE = 2**22
_NOISE = 16  # times the rounding error: a smaller entry may be one that should be 0


class AffineRendering(Linear):
    """The kind that chooses nothing: y = A x + b. It declares nothing, or what a large or tight one needs.

    Attributes:
        increasing: whether no output falls when an input grows: no entry of A is negative, so that bounds pass
            through.
    """

    increasing: bool = False

    def reweighted(self, x: Tensor, change: Entries) -> Tensor:
        """A x with `change` applied to every entry of A, and without b: (N, ...) to (N, ...).

        By default A is read off the rendering at this size. A layer that shares weights is faster by hand: for a
        convolution it is the convolution with `change(weight)`.

        Args:
            x: (N, ...).
            change: from entries to entries of the same shape; keeps 0.

        Raises:
            InputError: if A is too large to read off, or `infer` and `render` do not belong together.
        """
        source = self._sources(tuple(x.shape[1:]), x)
        if source is not None:
            moved = torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], 1)[:, source.flatten()]
            return moved.reshape(len(x), *source.shape) * change(x.new_ones(()))
        return self._read(x, change)

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """A⁺L + A⁻U + b and A⁺U + A⁻L + b; where the two are one known x, what `infer` says."""
        if lower is upper:
            known = self.forward(lower)
            return known, known
        blank = lower.new_zeros(1, *lower.shape[1:])
        if self.increasing:
            self._check_increasing(blank)
            return self.forward(lower), self.forward(upper)
        try:
            positive = self.reweighted(torch.cat([lower, upper]), lambda entries: entries.clamp(min=0))
            negative = self.reweighted(torch.cat([upper, lower]), lambda entries: entries.clamp(max=0))
        except InputError as error:
            raise NoBoundError(str(error)) from error
        both = positive + negative + self.forward(blank)
        smallest, largest = both.unflatten(0, (2, lower.shape[0]))
        return smallest, largest

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
        """As many as there are entries of A that are not 0."""
        del every
        blank = paths.new_zeros(len(paths), *switches.shape)
        with torch.no_grad():
            return pull_back(lambda x: self.reweighted(x, present), (blank,), paths)[0]

    def _check_increasing(self, like: Tensor) -> None:
        """Refuse a map that falls, by an image of a few large numbers among many small ones."""
        if torch.compiler.is_compiling():  # which sees no values, of a model that has been checked before
            return
        draws = torch.rand(like.shape, generator=torch.Generator().manual_seed(0)).to(like) ** 8
        blank, image = self.forward(torch.cat([torch.zeros_like(like), draws]))
        rounding = 1e2 * torch.finfo(like.dtype).eps * (1 + float(blank.abs().max()) + float(image.abs().max()))
        if bool((image < blank - rounding).any()):
            raise NoBoundError(f"no bound for {self.name}: it is declared increasing, but it falls")

    def _sources(self, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        """Which input each output is, `inputs` where it is constant; None if A is more than that.

        Asked by two images of distinct numbers: a sum, a share or a multiple of them is none of them.
        """
        inputs = math.prod(shape)
        if inputs > 2**22:
            return None
        draws = torch.rand(2, inputs, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        signed = torch.where(draws < 0.5, draws - 2, draws + 1)
        images = torch.cat([signed, torch.zeros(1, inputs, dtype=torch.float64)]).to(like.device)
        first, second, blank = self._answers(images.reshape(3, *shape), like)
        sources = []
        for image, answer in zip(images, (first, second), strict=False):
            values, places = image.to(answer.dtype).sort()
            nearest = torch.searchsorted(values, answer.contiguous()).clamp(max=inputs - 1)
            sources.append(torch.where((values[nearest] == answer) & (blank == 0), places[nearest], -1))
        constant = (first == blank) & (second == blank)
        moved = ((sources[0] == sources[1]) & (sources[0] >= 0)) | constant
        return torch.where(constant, inputs, sources[0]) if bool(moved.all()) else None

    def _answers(self, images: Tensor, like: Tensor) -> Tensor:
        """What `infer` says to probing images, in a precision that the rendering takes."""
        own = next((t.dtype for t in tensors_of(self) if t.is_floating_point()), torch.float64)
        for precision in (own, like.dtype, torch.float32):
            try:
                answers, switches = self.infer(images.to(precision))
            except RuntimeError as error:
                failure = error
                continue
            if any(True for _ in switches.leaves()):
                raise InputError(f"{self.name} is declared affine, but it chooses: derive it from Gate or Pool")
            return answers.detach()
        raise InputError(
            f"the matrix of {self.name} cannot be read off: give it reweighted ({failure})"
        ) from failure

    def _read(self, x: Tensor, change: Entries) -> Tensor:
        """`reweighted` by the rows of A: what `render` draws from each unit of the output."""
        shape = tuple(x.shape[1:])
        offset = self._answers(x.new_zeros(1, *shape), x)
        outputs, inputs = offset.numel(), math.prod(shape)
        if outputs * inputs > _ENTRIES:
            raise InputError(
                f"the matrix of {self.name} is too large to read off here ({outputs} x {inputs}): declare "
                "increasing = True for bounds, and give it reweighted for path counts"
            )
        probe = torch.linspace(-1, 1, inputs, dtype=offset.dtype, device=x.device).cos()
        rows, answers, largest, smallest = x.flatten(1), [], 0.0, math.inf
        agreed = (self.forward(probe.reshape(1, *shape)) - offset).flatten()
        for units in torch.arange(outputs, device=x.device).split(max(1, _AT_ONCE // inputs)):
            entries = self._rows(units, offset, shape)
            _check_transposed(self, entries @ probe, agreed[units], entries, offset)
            sizes = entries.detach().abs()
            largest = max(largest, float(sizes.max()))
            smallest = min(smallest, float(torch.where(sizes > 0, sizes, math.inf).min()))
            answers.append(rows @ change(entries.to(rows)).mT)
        if change is present and smallest < _NOISE * torch.finfo(offset.dtype).eps * largest:
            raise InputError(
                f"entries of the matrix of {self.name} are as small as rounding errors: give it reweighted, so "
                "that paths can be told from those"
            )
        return torch.cat(answers, 1).reshape(len(x), *offset.shape[1:])

    def _rows(self, units: Tensor, offset: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Rows of A, (units, inputs)."""
        one_hot = torch.zeros(len(units), offset.numel(), dtype=offset.dtype, device=offset.device)
        one_hot[torch.arange(len(units)), units] = 1
        switches = self.infer(offset.new_zeros(len(units), *shape))[1]
        return self.render(one_hot.reshape(len(units), *offset.shape[1:]), switches).flatten(1)


class Dictionary(AffineRendering):
    """An affine rendering whose matrix is made of templates (C, ...): `Conv2d` and `Linear`, which can be learned.

    Attributes:
        weight: the templates.
        bias: of each, (C,), or None.
    """

    weight: Any
    bias: Any

    @property
    def gamma(self) -> Dictionary:
        """Itself."""
        return self

    @abstractmethod
    def correlate(self, x: Tensor, weight: Tensor) -> Tensor:
        """What `infer` makes of x (N, ...) with another weight, and without its bias."""

    @abstractmethod
    def patches(self, x: Tensor) -> Tensor:
        """What the entries of its templates meet, one row for each image and place: (N · places, D)."""

    @abstractmethod
    def with_weight(self, weight: Tensor, bias: Tensor | None) -> Dictionary:
        """A new dictionary of the same geometry, of as many channels as the weight has."""

    def drawing(self, switches: Switches) -> Tensor:
        """The weight that `render` draws with."""
        del switches
        weight: Tensor = self.weight
        return weight

    def reweighted(self, x: Tensor, change: Entries) -> Tensor:
        """With `change` applied to the weight: every entry of the matrix is one of its numbers, or 0."""
        return self.correlate(x, change(self.weight.detach()).to(x.dtype))


def _check_transposed(
    rendering: Rendering, drawn: Tensor, inferred: Tensor, entries: Tensor, offset: Tensor
) -> None:
    """Refuse a matrix that `infer` and `render` do not agree on, or a map that is not affine."""
    rounding = torch.finfo(offset.dtype).eps ** 0.5
    scale = entries.abs().sum(1) + offset.abs().max()
    if bool(((drawn - inferred).abs() > rounding * scale).any()):
        raise InputError(
            f"infer and render of {rendering.name} are no affine map and its transpose: see "
            "drmm.testing.check_rendering"
        )
