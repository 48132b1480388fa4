"""The max over "where is it": max-pooling and its position switches, one tie rule for the whole library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, SupportsInt, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.rendering.base import Switches, Window, chosen
from drmm.rendering.kinds import Pool, is_exporting

__all__ = [
    "AdaptiveMaxPool2d",
    "Largest",
    "MaxPool2d",
    "add_at",
    "best_place",
    "best_position",
    "draw_at",
    "parts",
    "position_of",
    "window_of",
    "windows",
]


def window_of(pool: nn.MaxPool2d | nn.AvgPool2d) -> Window:
    """The pooling window's geometry, every field as (height, width); averages have no dilation."""
    dilation = pool.dilation if isinstance(pool, nn.MaxPool2d) else 1
    return Window(_pair(pool.kernel_size), _pair(pool.stride), _pair(pool.padding), _pair(dilation))


def windows(x: Tensor, window: Window, size: Sequence[int], fill: float) -> Tensor:
    """What each unit sees, (N, C, H, W) to (N, C, H', W', positions).

    Args:
        x: the features below.
        window: the geometry.
        size: (H', W').
        fill: what stands outside of the picture.
    """
    (top, left), reach = window.padding, _reach(window, torch.Size(size))
    beyond = (max(0, reach[0] - x.shape[-2] - top), max(0, reach[1] - x.shape[-1] - left))
    x = F.pad(x, (left, beyond[1], top, beyond[0]), value=fill)
    rows, columns = (
        torch.arange(size[i], device=x.device)[:, None] * window.stride[i]
        + torch.arange(window.kernel[i], device=x.device) * window.dilation[i]
        for i in (0, 1)
    )
    return x[..., rows[:, None, :, None], columns[None, :, None, :]].flatten(-2)


def best_position(x: Tensor, pool: nn.MaxPool2d) -> tuple[Tensor, Tensor]:
    """The largest value of each window, and where in the window it is.

    Ties go to the first position in row-major order: one winner, never several.

    Args:
        x: (N, C, H, W).
        pool: the windows.

    Returns:
        The maxima (N, C, H', W') and t of the same shape.
    """
    y, index = best_place(x, pool)
    return y, position_of(index, window_of(pool), x.shape[-1])


def best_place(x: Tensor, pool: nn.MaxPool2d) -> tuple[Tensor, Tensor]:
    """As `best_position`, but where in the picture it is, int64: the row-major index of the pixel."""
    y, index = F.max_pool2d(
        x, pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode, return_indices=True
    )
    return y, index


def position_of(index: Tensor, window: Window, width: int) -> Tensor:
    """T of each unit from its index in the picture.

    Args:
        index: row-major index in a picture of this width, (N, C, H', W'), inside the unit's window.
        window: the geometry.
        width: of the picture.
    """
    wide = max(width, _span(window)[1])
    if wide > width:  # a window wider than the picture: give every position an index of its own
        index = index + torch.div(index, width, rounding_mode="floor") * (wide - width)
    rows, columns = _corners(window, index.shape[-2:], index.device)
    corner = (rows - window.padding[0]) * wide + columns - window.padding[1]
    # How far it is from the corner fits into a byte or two, and integers wrap: so do their differences.
    narrow = _narrow((_span(window)[0] - 1) * wide + _span(window)[1])
    offset = index.to(narrow) - corner.to(narrow)
    down = window.dilation[0] * wide
    row = _quotient(offset, down, window.kernel[0])
    column = _quotient(offset - row * down, window.dilation[1], window.kernel[1])
    return (row * window.kernel[1] + column).to(_smallest(window.positions))


def place_of(t: Tensor, window: Window, wide: int) -> Tensor:
    """The inverse of `position_of`, in a picture with its padding, that wide; int64."""
    narrow = _narrow((_span(window)[0] - 1) * wide + _span(window)[1])
    t = t.to(narrow)
    row = _quotient(t, window.kernel[1], window.kernel[0])
    column = t - row * window.kernel[1]
    rows, columns = _corners(window, t.shape[-2:], t.device)
    return rows * wide + columns + (row * (window.dilation[0] * wide) + column * window.dilation[1])


def add_at(canvas: Tensor, index: Tensor, z: Tensor) -> Tensor:
    """Add each unit to the canvas, in place, where `best_place` found it.

    Args:
        canvas: (N, C, H, W).
        index: row-major index on the canvas, (N, C, H', W').
        z: same shape.
    """
    if _is_channels_last(canvas):
        _rows(canvas).scatter_add_(1, _rows(index), _rows(z))
    else:
        canvas.view(*canvas.shape[:2], -1).scatter_add_(-1, index.flatten(-2), z.flatten(-2))
    return canvas


def draw_at(z: Tensor, t: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """Transpose of the pooling at frozen t: put each unit at its position; overlapping windows add up.

    A position in the padding lies outside the picture, and what is drawn there is lost.

    Args:
        z: (N, C, H', W').
        t: positions, same shape.
        window: what t refers to.
        size: (H, W) of the canvas.
    """
    top, left = window.padding
    reach = _reach(window, z.shape[-2:])
    tall, wide = max(reach[0], size[0] + top), max(reach[1], size[1] + left)
    disjoint = all(
        window.stride[i] > window.dilation[i] * (window.kernel[i] - 1) or z.shape[2 + i] == 1 for i in (0, 1)
    )
    canvas = _scatter(z, place_of(t, window, wide), (tall, wide), disjoint=disjoint)
    return canvas if (tall, wide) == size else canvas[..., top : top + size[0], left : left + size[1]]


class _Max(Pool):
    """A pool that takes the largest, and does so fast: the smallest is the largest of the negative."""

    largest = True

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest of all candidates."""
        return -self(-lower), self(upper)

    def reinfer(self, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
        """The largest where z is not negative, the smallest where it is."""
        del switches
        (highest, where_highest), (lowest, where_lowest) = self.infer(x), self.infer(-x)
        t, below = chosen(where_highest.t, "t"), z < 0
        # Positions have no dimensions of size 1 that `Largest` keeps in the features.
        t = torch.where(below.reshape(t.shape), chosen(where_lowest.t, "t"), t)
        return torch.where(below, -lowest, highest), replace(where_highest, t=t)


@final
class MaxPool2d(nn.MaxPool2d, _Max):
    """The max over positions t; takes the arguments of `torch.nn.MaxPool2d` except `return_indices`."""

    fresh = True

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """(N, C, H, W) to (N, C, H', W')."""
        y, t = best_position(x, self)
        return y, Switches(tuple(x.shape[1:]), t=t, window=window_of(self))

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Put each unit at its position."""
        return _draw_chosen(z, switches)

    def candidates(self, x: Tensor) -> Tensor:
        """Every position of each window."""
        return windows(x, window_of(self), self.forward(x[:1]).shape[-2:], -math.inf)


@final
class AdaptiveMaxPool2d(nn.AdaptiveMaxPool2d, _Max):
    """The max over as many windows as the output size asks for; takes the arguments of the torch layer.

    Windows differ in size, so t counts places in the whole picture: a byte for each unit up to 256 of them.
    """

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """(N, C, H, W) to (N, C, *output_size)."""
        size: Any = self.output_size
        if is_exporting():  # files do not know the operation
            y, index = self.candidates(x).max(-1)
        else:
            y, index = F.adaptive_max_pool2d(x, size, return_indices=True)
        window = Window((x.shape[-2], x.shape[-1]), (0, 0), (0, 0), (1, 1))
        return y, Switches(tuple(x.shape[1:]), t=index.to(_smallest(window.positions)), window=window)

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Put each unit at its position."""
        return _draw_chosen(z, switches)

    def candidates(self, x: Tensor) -> Tensor:
        """Every place of the picture, -inf outside of each unit's part."""
        sizes = self.forward(x[:1]).shape[-2:]
        rows, columns = (parts(n, into) for n, into in zip(x.shape[-2:], sizes, strict=True))
        inside = (rows[:, None, :, None] & columns[None, :, None, :]).to(x.device)
        return torch.where(inside, x[:, :, None, None], -math.inf).flatten(-2)


@final
class Largest(_Max):
    """The max over whole dimensions, as `torch.amax`: where in them, or which of the channels (maxout).

    Args:
        dims: the dimensions; not the batch's.
        keepdim: whether they stay, with size 1.
        largest: False takes the smallest.
    """

    def __init__(self, dims: Sequence[int], *, keepdim: bool = False, largest: bool = True) -> None:
        super().__init__()
        self.dims = tuple(dims)
        self.keepdim = keepdim
        self.largest = largest

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """(N, ...) to (N, ...) with fewer dimensions, or with dimensions of size 1."""
        last = self._last(x)
        y, index = last.max(-1) if self.largest else last.min(-1)
        window = Window((1, last.shape[-1]), (0, 0), (0, 0), (1, 1))
        t = index.to(_smallest(window.positions))
        return self._shaped(y, x.ndim), Switches(tuple(x.shape[1:]), t=t, window=window)

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Put each unit at its position."""
        position = chosen(switches.t, "t").long().unsqueeze(-1)
        sizes = [switches.shape[dim - 1 if dim > 0 else dim] for dim in self.dims]
        flat = z.new_zeros(*position.shape[:-1], math.prod(sizes))
        canvas: Tensor = flat.scatter(-1, position, z.reshape(position.shape)).unflatten(-1, sizes)
        return canvas.movedim(tuple(range(-len(sizes), 0)), self.dims)

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest of all candidates."""
        return super().bounds(lower, upper) if self.largest else Pool.bounds(self, lower, upper)

    def reinfer(self, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
        """The largest where z is positive, the smallest where it is negative."""
        return super().reinfer(x, switches, z) if self.largest else Pool.reinfer(self, x, switches, z)

    def choose(self, candidates: Tensor) -> Tensor:
        """The largest or the smallest; the first one in a tie."""
        return candidates.argmax(-1) if self.largest else candidates.argmin(-1)

    def candidates(self, x: Tensor) -> Tensor:
        """Every place in the dimensions."""
        last = self._last(x)
        return last.reshape(*self._shaped(last[..., 0], x.ndim).shape, last.shape[-1])

    def _last(self, x: Tensor) -> Tensor:
        """The dimensions as one, which is the last."""
        return x.movedim(self.dims, tuple(range(-len(self.dims), 0))).flatten(-len(self.dims))

    def _shaped(self, y: Tensor, ndim: int) -> Tensor:
        if self.keepdim:
            for dim in sorted(dim % ndim for dim in self.dims):
                y = y.unsqueeze(dim)
        return y


def parts(n: int, into: int) -> Tensor:
    """Which of n places belong to which part of an adaptive pool, bool (into, n)."""
    index, part = torch.arange(n), torch.arange(into)[:, None]
    return (index >= part * n // into) & (index < -(-(part + 1) * n // into))


def _draw_chosen(z: Tensor, switches: Switches) -> Tensor:
    t, (*_, height, width) = chosen(switches.t, "t"), switches.shape
    if switches.window is None:
        raise ValueError("these switches hold no window: pass the ones that this rendering's infer returned")
    return draw_at(z, t, switches.window, (height, width))


def _smallest(positions: int) -> torch.dtype:
    """The type that t is kept in: a byte where it fits."""
    return torch.uint8 if positions <= 256 else torch.int32


def _pair(value: SupportsInt | Sequence[SupportsInt]) -> tuple[int, int]:
    """One size for both dimensions, or one for each, of any integer type that torch takes."""
    sizes = value if isinstance(value, Sequence) else (value,)
    return int(sizes[0]), int(sizes[-1])


def _span(window: Window) -> tuple[int, int]:
    """Rows and columns from the first to the last position of a window."""
    return (
        window.dilation[0] * (window.kernel[0] - 1) + 1,
        window.dilation[1] * (window.kernel[1] - 1) + 1,
    )


def _reach(window: Window, size: torch.Size) -> tuple[int, int]:
    """Rows and columns that the windows cover, padding included."""
    span = _span(window)
    return (size[0] - 1) * window.stride[0] + span[0], (size[1] - 1) * window.stride[1] + span[1]


def _corners(window: Window, size: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """First row (H', 1) and first column (W',) of each window, counted with the padding."""
    rows = torch.arange(size[0], device=device) * window.stride[0]
    columns = torch.arange(size[1], device=device) * window.stride[1]
    return rows[:, None], columns


def _narrow(count: int) -> torch.dtype:
    """The narrowest type that holds 0, …, count - 1: the fewer bytes, the faster."""
    return torch.uint8 if count <= 2**8 else torch.int16 if count <= 2**15 else torch.int64


def _quotient(values: Tensor, divisor: int, count: int) -> Tensor:
    """Integers divided and rounded down, less than `count`: by comparisons, which are faster, if few."""
    if divisor == 1:
        return values
    if count > 8:
        return torch.div(values, divisor, rounding_mode="floor")
    quotient = torch.zeros_like(values)
    for i in range(1, count):  # into the values' own type, ten times as fast as into bools
        quotient += values.clone().ge_(i * divisor)
    return quotient


def _scatter(z: Tensor, index: Tensor, size: tuple[int, int], *, disjoint: bool) -> Tensor:
    """Add z to a blank canvas at flat places, in the memory layout that z has.

    Args:
        z: (N, C, H', W').
        index: row-major index on the canvas, same shape.
        size: (H, W) of the canvas.
        disjoint: no place occurs twice on a canvas, so that writing, which is faster, does for adding.
    """
    height, width = size
    put = Tensor.scatter_ if disjoint else Tensor.scatter_add_
    if _is_channels_last(index):
        n, channels = z.shape[:2]
        rows: Tensor = put(z.new_zeros(n, height * width, channels), 1, _rows(index), _rows(z))
        return rows.view(n, height, width, channels).permute(0, 3, 1, 2)
    flat: Tensor = put(z.new_zeros(*z.shape[:-2], height * width), -1, index.flatten(-2), z.flatten(-2))
    return flat.view(*flat.shape[:-1], height, width)


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H·W, C), a view when x is channels-last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)
