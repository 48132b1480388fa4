"""The kinds of rendering: what a class declares, and all that follows from it.

- `AffineRendering` chooses nothing: a dictionary, a blur, a shift.
- `Gate` chooses one of a few linear pieces for each unit: ReLU, absolute value, dropout.
- `Pool` chooses one of several places for each unit: max-pooling, maxout.
- `Norm` scales each unit by a gain that is frozen on the way down: batch norm.
- `Join` makes one of several inputs (`drmm.rendering.joins`).

Bounds, path counts, the traceback, guided backprop and pruning ask a rendering's kind, and no list of classes.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from drmm.errors import InputError
from drmm.rendering.base import Box, Channels, Down, NoBoundError, Rendering, Switches, Window, chosen

__all__ = [
    "AffineRendering",
    "Dictionary",
    "Gate",
    "Norm",
    "Pool",
    "extremes",
    "interval",
    "is_exporting",
    "picked",
    "present",
    "pull_back",
]

Entries = Callable[[Tensor], Tensor]

_ENTRIES = 2**26  # of a matrix that is read off a rendering, at most
_AT_ONCE = 2**22
_NOISE = 16  # times the rounding error: a smaller entry may be one that should be 0


def present(entries: Tensor) -> Tensor:
    """1 where an entry of a matrix is not 0: what path counts put in its place."""
    return (entries != 0).to(entries.dtype)


def is_exporting() -> bool:
    """Whether an exporter traces; torch before 2.7 does not say."""
    return bool(getattr(torch.compiler, "is_exporting", bool)())


def pull_back(function: Callable[..., Tensor], points: tuple[Tensor, ...], z: Tensor) -> tuple[Tensor, ...]:
    """Jᵀz for each argument of a function, J being its derivative at the points; differentiable in z."""

    def pulled(*inputs: Tensor) -> tuple[Tensor, ...]:
        canvases: tuple[Tensor, ...] = torch.func.vjp(function, *inputs[:-1])[1](inputs[-1])
        return canvases

    if is_exporting():  # which does not look into a transform of torch
        from torch.fx.experimental.proxy_tensor import (  # noqa: PLC0415  (slow)
            disable_proxy_modes_tracing,
            make_fx,
        )

        with torch._C.DisableTorchFunction(), disable_proxy_modes_tracing():  # noqa: SLF001
            table: Any = torch.export.default_decompositions()
            pulled = make_fx(pulled, table)(*points, z)
    return pulled(*points, z)


def extremes(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Smallest and largest of several, unit by unit."""
    stacked = torch.stack(torch.broadcast_tensors(*values))
    return stacked.amin(0), stacked.amax(0)


def interval(
    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    weight: Tensor,
    bias: Tensor | None,
    lower: Tensor,
    upper: Tensor,
) -> tuple[Tensor, Tensor]:
    """Σ w⁺L + w⁻U and Σ w⁺U + w⁻L; where the two are one known x, as at the pixels, just Σ w x."""
    if lower is upper:
        known = apply(lower, weight, bias)
        return known, known
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    return (
        apply(lower, positive, bias) + apply(upper, negative, None),
        apply(upper, positive, bias) + apply(lower, negative, None),
    )


class _Channelwise(Rendering):
    """What works on every channel alone, unless its class says otherwise."""

    def narrowed(self, kept: Channels) -> Rendering:
        """A copy, which fits where nothing in it belongs to a channel.

        Raises:
            InputError: if it holds tensors, which may belong to channels.
        """
        del kept
        if any(True for _ in _tensors(self)):
            raise InputError(
                f"a model with {self.name} cannot be pruned: it holds tensors, so give it narrowed (a copy for "
                "some of the channels)"
            )
        return copy.deepcopy(self)


class _Linear(_Channelwise):
    """What is one affine map whatever the switches: the way down of its bound is `render`."""

    def relaxed(self, lower: Tensor, upper: Tensor, switches: Switches | None = None) -> tuple[Box, Down]:
        """Exact."""
        box = self.bounds(lower, upper)
        y, switches = self.infer(lower)

        def down(z: Tensor) -> tuple[Tensor, Tensor]:
            w = self.render(z, switches)
            return w, (z * y).flatten(1).sum(1) - (w * lower).flatten(1).sum(1)

        return box, down


class AffineRendering(_Linear):
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
        own = next((t.dtype for t in _tensors(self) if t.is_floating_point()), torch.float64)
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


class _Choosing(_Channelwise):
    """A gate or a pool: its choice goes into the switches, where priors, samples and the traceback find it.

    Attributes:
        drawn: whether the choice is drawn at random, so that it has no prior and nothing is inferred again.
        largest: whether it is always the largest of what there is to choose from, and never falls when an input
            grows: whatever it has chosen then is a bound from below for other inputs.
    """

    drawn: bool = False
    largest: bool = False

    @abstractmethod
    def line(self, z: Tensor, x: Tensor, lower: Tensor, upper: Tensor, switches: Switches | None) -> Tensor:
        """What is nowhere below z · y, unit by unit, and linear in x; arguments as for `relaxed`, z as y.

        With switches, units where z is not positive keep their choice.
        """

    def relaxed(self, lower: Tensor, upper: Tensor, switches: Switches | None = None) -> tuple[Box, Down]:
        """By `line`."""
        box = self.bounds(lower, upper)
        if switches is not None and self.largest:
            box = self.infer(lower.clone())[0], box[1]
        own = switches if self.largest else None
        blank = torch.zeros_like(lower)

        def down(z: Tensor) -> tuple[Tensor, Tensor]:
            def line(x: Tensor) -> Tensor:
                return self.line(z, x, lower, upper, own)

            return pull_back(line, (blank,), torch.ones_like(z))[0], line(blank).flatten(1).sum(1)

        return box, down

    def _noted(self, shape: tuple[int, ...], choice: Tensor, options: int) -> Switches:
        """Switches that hold a choice: `a` if it is on or off, `t` if it is one of several, `kept` if drawn."""
        switches = Switches(shape)
        if choice.dtype != torch.bool:
            choice = choice.to(torch.uint8 if options <= 256 else torch.int32)
        if self.drawn:
            return replace(switches, kept=choice)
        if choice.dtype == torch.bool:
            return replace(switches, a=choice)
        return replace(switches, t=choice, window=Window((1, options), (0, 0), (0, 0), (1, 1)))

    def _choice(self, switches: Switches) -> tuple[str, Tensor]:
        """The choice, and where the switches hold it."""
        if switches.kept is not None:
            return "kept", switches.kept
        name, choice = next(switches.choices(), ("t" if isinstance(self, Pool) else "a", None))
        return name, chosen(choice, name)


class Gate(_Choosing):
    """The kind that chooses one of a few linear pieces for each unit, y = slope · x + offset.

    A class declares the slopes and says which piece a unit is on; `infer` and `render` follow.

    Attributes:
        slopes: of each piece, numbers or tensors that multiply the features (such as (C, 1, 1)).
        offsets: of each piece; empty if all are 0.
    """

    slopes: Sequence[float | Tensor]
    offsets: Sequence[float | Tensor] = ()

    @abstractmethod
    def choose(self, x: Tensor) -> Tensor:
        """Which piece each unit is on: bool for two of them, else integers from 0.

        Args:
            x: (N, ...).

        Returns:
            x's shape, or with dimensions of size 1 where units share a choice, such as (N, C, 1, 1).
        """

    def pieces(self, x: Tensor) -> Sequence[tuple[Any, Any]]:
        """Slope and offset of each piece, such as multiply features x (N, ...)."""
        del x
        slopes: Sequence[Any] = getattr(self, "slopes", ())
        offsets: Sequence[Any] = self.offsets or [0.0] * len(slopes)
        if len(slopes) < 2 or len(offsets) != len(slopes):
            raise InputError(f"{self.name} must declare slopes of two or more pieces, and as many offsets if any")
        return tuple(zip(slopes, offsets, strict=True))

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Each unit on its piece; any shape."""
        choice, pieces = self.choose(x), self.pieces(x)
        sizes = zip(choice.shape[1:], x.shape[1:], strict=False)
        if choice.ndim != x.ndim or choice.shape[0] != x.shape[0] or not all(n in {1, m} for n, m in sizes):
            raise InputError(f"choose of {self.name} returns {tuple(choice.shape)} for features {tuple(x.shape)}")
        if choice.is_floating_point() or not _are_below(choice, len(pieces)):
            raise InputError(f"choose of {self.name} must return bools, or integers below {len(pieces)}")
        if choice.dtype == torch.bool and len(pieces) != 2:
            raise InputError(f"{self.name} has {len(pieces)} pieces: choose must return integers")
        return self._on_piece(x, choice), self._noted(tuple(x.shape[1:]), choice, len(pieces))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Each unit times the slope of its piece: a diagonal map is its own transpose."""
        choice = self._choice(switches)[1]
        return picked(choice, [slope * z for slope, _ in self.pieces(z)])

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The extremes of all pieces at both ends."""
        pieces = self.pieces(lower)
        ends = [[slope * end + offset for slope, offset in pieces] for end in (lower, upper)]
        for end, values in zip((lower, upper), ends, strict=True):
            _check_one_of(self, self.infer(end.clone())[0], values)
        return extremes([*ends[0], *ends[1]])

    def line(self, z: Tensor, x: Tensor, lower: Tensor, upper: Tensor, switches: Switches | None) -> Tensor:
        """The chord of the largest piece where z is positive, of the smallest where it is not."""
        pieces = self.pieces(lower)
        first, last = (extremes([slope * end + offset for slope, offset in pieces]) for end in (lower, upper))
        above = _chord(x, lower, upper, first[1], last[1])
        if switches is None:
            below = _chord(x, lower, upper, first[0], last[0])
        else:
            below = self._on_piece(x, self._choice(switches)[1])
        return z * torch.where(z > 0, above, below)

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
        """A path through each unit whose slope is not 0, or is not 0 on one of its pieces."""
        ones = torch.ones_like(paths)
        if not every:
            return torch.where(self.render(ones, switches) != 0, paths, 0.0)
        return torch.where(extremes([(slope * ones).abs() for slope, _ in self.pieces(paths)])[1] > 0, paths, 0.0)

    def reinfer(self, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
        """The piece that is best for z; what was drawn stays drawn."""
        if switches.kept is not None:
            return self._on_piece(x, switches.kept), switches
        _, fresh = self.infer(x.clone())  # a gate may overwrite its input
        name, choice = self._choice(fresh)
        pieces = [slope * x + offset for slope, offset in self.pieces(x)]
        scores = torch.stack([(z * piece).sum_to_size(choice.shape) for piece in pieces])
        best, where = scores.max(0)
        better = best > scores.gather(0, choice.long()[None])[0]
        choice = torch.where(better, where.to(choice.dtype), choice)
        changed: dict[str, Any] = {name: choice}
        return self._on_piece(x, choice), replace(fresh, **changed)

    def guided(self, z: Tensor, switches: Switches) -> Tensor:
        """Only positive parts, if a unit can be off."""
        return self.render(z.clamp(min=0) if self.shuts else z, switches)

    @property
    def shuts(self) -> bool:
        """Whether a unit can be off: the slope of a piece is 0."""
        slopes = () if self.drawn else getattr(self, "slopes", ())
        return any(bool((torch.as_tensor(slope) == 0).any()) for slope in slopes)

    @property
    def switches_off(self) -> bool:
        """Whether some pieces are weaker than others, so that a unit can be said to be on."""
        slopes = () if self.drawn else getattr(self, "slopes", ())
        strengths = [torch.as_tensor(slope).abs() for slope in slopes]
        return any(bool((strength != strengths[0]).any()) for strength in strengths)

    def shut(self, y: Tensor, switches: Switches) -> Tensor:
        """Units that are off. A saturated one lets no picture through, but adds a constant, as a bias does."""
        return super().shut(y, switches) & (y == 0)

    def open_units(self, y: Tensor, switches: Switches) -> Tensor:
        """0 where a unit is saturated."""
        return torch.where(self.render(torch.ones_like(y), switches) != 0, y, 0.0)

    def on(self, y: Tensor) -> Tensor:
        """Which units are on, from the features, bool."""
        return y != 0 if self.shuts else y > 0

    def _on_piece(self, x: Tensor, choice: Tensor) -> Tensor:
        return picked(choice, [slope * x + offset for slope, offset in self.pieces(x)])


class Pool(_Choosing):
    """The kind that chooses one of several places for each unit.

    A class lists the places; `infer` and `render` follow.
    """

    @abstractmethod
    def candidates(self, x: Tensor) -> Tensor:
        """What each unit chooses from: entries of x as they are, and -inf for a place outside of the picture.

        Args:
            x: (N, ...).

        Returns:
            (N, *output, K): K candidates of each unit.
        """

    def choose(self, candidates: Tensor) -> Tensor:
        """Which candidate each unit takes, (N, *output) integers: the largest; the first one in a tie."""
        return candidates.argmax(-1)

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """The chosen one of each unit's candidates."""
        candidates = self.candidates(x)
        if candidates.ndim < 2 or candidates.shape[0] != x.shape[0]:
            raise InputError(f"candidates of {self.name} must be (N, ..., K), got {tuple(candidates.shape)}")
        choice = self.choose(candidates)
        if choice.shape != candidates.shape[:-1]:
            raise InputError(f"choose of {self.name} returns {tuple(choice.shape)}: drop the last dimension alone")
        y = candidates.gather(-1, choice[..., None]).squeeze(-1)
        return y, self._noted(tuple(x.shape[1:]), choice, candidates.shape[-1])

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Put each unit at its place; what falls on one place adds up."""
        choice = self._choice(switches)[1].long().reshape(z.shape)
        blank = z.new_zeros(z.shape[0], *switches.shape)
        options = self.candidates(blank[:1]).shape[-1]
        spread = z.new_zeros(*z.shape, options).scatter(-1, choice[..., None], z[..., None])
        return pull_back(self.candidates, (blank,), spread)[0]

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest of all candidates."""
        self._check_places(tuple(lower.shape[1:]))
        below, above = self.candidates(lower), self.candidates(upper)
        _check_one_of(self, self.infer(upper)[0], above.unbind(-1))
        return torch.where(above == -math.inf, math.inf, below).amin(-1), above.amax(-1)

    def line(self, z: Tensor, x: Tensor, lower: Tensor, upper: Tensor, switches: Switches | None) -> Tensor:
        """By the candidate that may be the best for z: its chord above the best that the others may be."""
        candidates, low, high = self.candidates(x), self.candidates(lower), self.candidates(upper)
        outside = high == -math.inf
        above = _best(candidates, low, high)
        if switches is None:
            negative = [torch.where(outside, -math.inf, -values) for values in (candidates, high, low)]
            below = -_best(*negative)
        else:
            place = self._choice(switches)[1].long().reshape(above.shape)
            below = candidates.gather(-1, place[..., None])[..., 0]
        return z * torch.where(z > 0, above.reshape(z.shape), below.reshape(z.shape))

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
        """To the chosen candidate, or to all of them."""
        self._check_places(switches.shape)
        if not every:
            return self.render(paths, switches)
        blank = paths.new_zeros(len(paths), *switches.shape)
        options = self.candidates(blank[:1])
        spread = paths.reshape(len(paths), *options.shape[1:-1], 1).expand(-1, *options.shape[1:])
        return pull_back(self.candidates, (blank,), spread)[0]

    def reinfer(self, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
        """The largest candidate where z is positive, the smallest where it is negative; what was drawn stays."""
        candidates = self.candidates(x)
        if switches.kept is not None:
            choice, fresh = switches.kept.long(), switches
        else:
            _, fresh = self.infer(x)
            smallest = torch.where(candidates == -math.inf, math.inf, candidates).argmin(-1)
            usual = chosen(fresh.t, "t").long().reshape(smallest.shape)
            z = z.reshape(smallest.shape)
            choice = torch.where(z < 0, smallest, torch.where(z > 0, candidates.argmax(-1), usual))
            fresh = replace(fresh, t=choice.to(chosen(fresh.t, "t").dtype).reshape(chosen(fresh.t, "t").shape))
        return candidates.gather(-1, choice.reshape(*candidates.shape[:-1], 1)).squeeze(-1), fresh

    @property
    def shuts(self) -> bool:
        """It does: the candidates that are not chosen."""
        return True

    def _check_places(self, shape: tuple[int, ...]) -> None:
        """Refuse candidates that are not the inputs themselves, by an image of distinct numbers."""
        if torch.compiler.is_compiling():
            return
        image = 1 + torch.rand(1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        listed = self.candidates(image)
        known = torch.isin(listed, image) | (listed == -math.inf)
        if not bool(known.all()):
            raise InputError(
                f"candidates of {self.name} must be entries of its input (-inf outside): scale or add in a layer "
                "of its own, such as an AffineRendering below it"
            )


class Norm(_Linear):
    """The kind that scales each unit by a gain, y = gain · x + offset, whose gain is frozen on the way down."""

    @property
    def uses_batch(self) -> bool:
        """Whether its gain now comes from the batch, so that no image has a bound of its own."""
        return self.training

    def measure(self, x: Tensor) -> None:
        """Take the running statistics from features x (N, C, ...), if it keeps any."""

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Its values at both ends, in order.

        Raises:
            NoBoundError: if its gain changes with its input.
        """
        one, before = self.infer(lower)
        if lower is upper:
            return one, one
        other, after = self.infer(upper)
        gains = before.gain, after.gain
        if gains[0] is None or gains[1] is None or not torch.equal(gains[0], gains[1]):
            raise NoBoundError(
                f"no bound for {self.name}: its gain must be in its switches, and the same for all inputs"
            )
        return torch.minimum(one, other), torch.maximum(one, other)

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
        """A path through each unit whose gain is not 0."""
        del every
        return torch.where(self.render(torch.ones_like(paths), switches) != 0, paths, 0.0)


def _chord(x: Tensor, lower: Tensor, upper: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """The line through (lower, first) and (upper, last) at x; where there is but a point, the last."""
    width = upper - lower
    return last + torch.where(width > 0, (last - first) / width, 0.0) * (x - upper)


def _best(x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Of K candidates (N, ..., K) that which may be the largest, (N, ...): its chord above what others may be."""
    most, place = upper.max(-1, keepdim=True)
    others = upper.scatter(-1, place, -math.inf).amax(-1, keepdim=True)
    least, chosen = lower.gather(-1, place), x.gather(-1, place)
    return _chord(chosen, least, most, torch.maximum(least, others), most)[..., 0]


def _are_below(choice: Tensor, pieces: int) -> bool:
    """Whether integers are numbers of pieces; a compiler sees no values."""
    if torch.compiler.is_compiling() or not choice.numel():
        return True
    numbers = choice.long()
    return int(numbers.max()) < pieces and int(numbers.min()) >= 0


def picked(choice: Tensor, values: Sequence[Tensor]) -> Tensor:
    """For each unit the value of its choice, of the values' shape."""
    if choice.dtype == torch.bool:
        return torch.where(choice, values[1], values[0])
    picked = values[0]
    for number, value in enumerate(values[1:], 1):
        picked = torch.where(choice == number, value, picked)
    return picked


def _check_one_of(rendering: Rendering, y: Tensor, values: Sequence[Tensor]) -> None:
    """Refuse a gate or a pool whose own `infer` does not do what its class declares."""
    if torch.compiler.is_compiling():
        return
    rounding = 1e2 * torch.finfo(y.dtype).eps * (1 + y.abs())
    matches = torch.stack([(y - value).abs() <= rounding for value in torch.broadcast_tensors(y, *values)[1:]])
    if not bool(matches.any(0).all()):
        raise NoBoundError(f"no bound for {rendering.name}: its infer gives values that it does not declare")


def _tensors(module: nn.Module) -> list[Tensor]:
    """Parameters, buffers and other tensors that a module holds."""
    held = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    return [*module.parameters(), *module.buffers(), *held]


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
