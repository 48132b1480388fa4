"""Functions and methods of torch that choose, or have a rendering class of their own; signatures are torch's."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from drmm.lifting.arguments import Arguments, Batch, Call, Hole, Setting
from drmm.lifting.signatures import renamed
from drmm.rendering import (
    Abs,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    Affine,
    AvgPool2d,
    Clip,
    Concat,
    Dropout,
    Dropout2d,
    Flatten,
    Identity,
    Join,
    Largest,
    LeakyReLU,
    Maximum,
    MaxPool2d,
    ReLU,
    Rendering,
    Sum,
)
from drmm.rendering.convolution import draw

__all__ = ["function_rendering", "hardsigmoid", "padded", "threshold"]


def function_rendering(name: str, call: Arguments) -> Rendering | Join | None:
    """The rendering or join that a function or method of torch is.

    Args:
        name: of the function.
        call: its arguments.

    Returns:
        None if it is none of these, or not with these arguments.
    """
    build = _BUILDERS.get(name)
    if build is None:
        return None
    try:
        args, kwargs = renamed(call)
        return build(*args, **kwargs)
    except (TypeError, ValueError):
        return None


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return value


def hardsigmoid(input: object, inplace: bool = False) -> Rendering:
    """`F.hardsigmoid`: a clip between -3 and 3."""
    return Clip(-3, 3, slope=1 / 6, function=F.hardsigmoid)


def threshold(input: object, threshold: float, value: float, inplace: bool = False) -> Rendering:
    """`F.threshold`: off, and then `value`, up to the threshold."""
    return Clip(low=threshold, function=functools.partial(F.threshold, threshold=threshold, value=value))


def _clamp(input: object, min: float | None = None, max: float | None = None) -> Rendering:
    low, high = (None if bound is None else _number(bound) for bound in (min, max))
    if low == 0 and high is None:
        return ReLU()
    return Clip(-math.inf if low is None else low, math.inf if high is None else high)


def _sum(input: object, other: object, *, alpha: float = 1, sign: int = 1) -> Join:
    if type(input) is not Hole or type(other) is not Hole:
        raise TypeError
    weights = (1, sign * _number(alpha))
    return Sum(weights if input.index == 0 else weights[::-1])


def _concat(tensors: Any, dim: int = 0) -> Join:
    if any(type(t) is not Hole for t in tensors) or len(tensors) < 2:
        raise TypeError
    return Concat(dim)


def _maximum(input: object, other: object, *, largest: bool = True) -> Join:
    if type(input) is not Hole or type(other) is not Hole:
        raise TypeError
    return Maximum(largest=largest)


def _amax(input: object, dim: Any, keepdim: bool = False, *, largest: bool = True) -> Rendering:
    dims = tuple(dim) if isinstance(dim, list | tuple) else (dim,)
    if any(isinstance(d, Hole) for d in dims):
        raise TypeError
    return Largest(dims, keepdim=keepdim, largest=largest)


def _max_pool2d(
    input: object,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Rendering:
    if return_indices:
        raise TypeError
    return MaxPool2d(
        _plain(kernel_size), _plain(stride or None), _plain(padding), _plain(dilation), ceil_mode=ceil_mode
    )


def _avg_pool2d(input: object, kernel_size: Any, stride: Any = None, *args: Any, **kwargs: Any) -> Rendering:
    return AvgPool2d(_plain(kernel_size), _plain(stride or None), *map(_plain, args), **kwargs)


class _Drawn:
    """The transpose of a convolution with a weight that is a setting.

    Args:
        geometry: stride, padding, dilation and groups.
        place: of the weight among the settings.
    """

    def __init__(self, geometry: nn.Conv2d, place: int) -> None:
        self.geometry, self.place = geometry, place

    def __call__(self, z: Tensor, shape: tuple[int, ...], *settings: Tensor) -> Tensor:
        return draw(z, settings[self.place], self.geometry, shape)


def _conv2d(
    input: object,
    weight: object,
    bias: object = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Rendering:
    if type(weight) is not Setting or isinstance(padding, str):
        raise TypeError
    stride, padding, dilation, groups = map(_plain, (stride, padding, dilation, groups))
    geometry = nn.Conv2d(groups, groups, 1, stride, padding, dilation, groups, bias=False, device="meta")
    call = Call(F.conv2d, ((input, weight, bias, stride, padding, dilation, groups), {}))
    return Affine(call, transpose=_Drawn(geometry, weight.index - 1))


class _Cropped:
    """The transpose of padding by constants, which is to pad by as much less than nothing."""

    def __init__(self, pad: tuple[int, ...]) -> None:
        self.pad = pad

    def __call__(self, z: Tensor, shape: tuple[int, ...]) -> Tensor:
        del shape
        return F.pad(z, [-size for size in self.pad])


def padded(input: object, pad: Any, mode: str = "constant", value: Any = None) -> Rendering:
    """`F.pad` by constants."""
    if mode != "constant":
        raise TypeError
    pad, value = _plain(pad), _plain(value)
    return Affine(Call(F.pad, ((input, pad, mode, value), {})), increasing=True, transpose=_Cropped(pad))


def _adaptive(kind: type[Rendering]) -> Callable[..., Rendering]:
    def build(input: object, output_size: Any) -> Rendering:
        return kind(_plain(output_size))

    return build


def _plain(value: Any) -> Any:
    """Numbers and sequences of numbers; a size that the net computes is a setting."""
    values = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(v, Hole | Batch) for v in values):
        raise TypeError
    return tuple(value) if isinstance(value, list) else value


def _dropout(kind: Callable[[float], Rendering]) -> Callable[..., Rendering]:
    def build(input: object, p: float = 0.5, *args: object, **kwargs: object) -> Rendering:
        return kind(_number(p))

    return build


def _rrelu(
    input: object, lower: float = 1 / 8, upper: float = 1 / 3, *args: object, **kwargs: object
) -> Rendering:
    return LeakyReLU((_number(lower) + _number(upper)) / 2)


def _flatten(input: object, start_dim: int = 0, end_dim: int = -1) -> Rendering:
    if start_dim != 1:
        raise TypeError
    return Flatten(start_dim, end_dim)


def _view(input: object, *shape: Any) -> Rendering:
    """`x.view(x.size(0), -1)`."""
    if len(shape) == 1 and isinstance(shape[0], list | tuple):
        shape = tuple(shape[0])
    if len(shape) != 2 or shape[1] != -1 or not isinstance(shape[0], Batch):
        raise TypeError
    return Flatten()


_BUILDERS: dict[str, Callable[..., Rendering | Join]] = {
    "abs": lambda input: Abs(),
    "absolute": lambda input: Abs(),
    "adaptive_avg_pool2d": _adaptive(AdaptiveAvgPool2d),
    "adaptive_max_pool2d": lambda input, output_size, return_indices=False: AdaptiveMaxPool2d(_plain(output_size)),
    "add": _sum,
    "alpha_dropout": _dropout(lambda p: Identity()),
    "amax": _amax,
    "amin": functools.partial(_amax, largest=False),
    "avg_pool2d": _avg_pool2d,
    "cat": _concat,
    "clamp": _clamp,
    "clamp_max": lambda input, max: _clamp(input, max=max),
    "clamp_min": lambda input, min: _clamp(input, min=min),
    "clip": _clamp,
    "concat": _concat,
    "concatenate": _concat,
    "conv2d": _conv2d,
    "dropout": _dropout(Dropout),
    "dropout1d": _dropout(Dropout2d),
    "dropout2d": _dropout(Dropout2d),
    "dropout3d": _dropout(Dropout2d),
    "feature_alpha_dropout": _dropout(lambda p: Identity()),
    "flatten": _flatten,
    "hardsigmoid": hardsigmoid,
    "hardtanh": lambda input, min_val=-1, max_val=1, inplace=False: Clip(_number(min_val), _number(max_val)),
    "leaky_relu": lambda input, negative_slope=0.01, inplace=False: LeakyReLU(_number(negative_slope)),
    "max": _maximum,
    "max_pool2d": _max_pool2d,
    "maximum": _maximum,
    "min": functools.partial(_maximum, largest=False),
    "minimum": functools.partial(_maximum, largest=False),
    "pad": padded,
    "relu": lambda input, inplace=False: ReLU(),
    "relu6": lambda input, inplace=False: Clip(0, 6),
    "reshape": _view,
    "rrelu": _rrelu,
    "sub": functools.partial(_sum, sign=-1),
    "subtract": functools.partial(_sum, sign=-1),
    "threshold": threshold,
    "view": _view,
}
