"""Functions that know nothing of stand-ins for tensors, recorded all the same while a net is traced."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

__all__ = ["recorded"]

_FACTORIES = (
    "arange", "as_tensor", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "tensor", "zeros",
)  # fmt: skip


@contextmanager
def recorded(net: nn.Module, *, numbers: bool) -> Iterator[None]:
    """Let `len`, `int`, `float` and torch's factories take stand-ins: `int(x.shape[2])`, `torch.zeros(len(x), 4)`.

    Args:
        net: whose own code is to see them: beside `forward`, and beside functions that its modules keep.
        numbers: whether `int` and `float` are among them, which are then no types to give to torch.
    """
    places: list[tuple[dict[str, Any], str, object]] = [
        (vars(torch), name, _recording(getattr(torch, name))) for name in _FACTORIES
    ]
    for module in net.modules():
        for function in (module.forward, *vars(module).values()):
            beside = getattr(function, "__globals__", {})
            if not beside.get("__name__", "torch").startswith("torch."):
                ours = {**_BUILTINS, **(_NUMBERS if numbers else {})}
                places += [(beside, name, value) for name, value in ours.items() if name not in beside]
    before = [(namespace, name, namespace.get(name)) for namespace, name, _ in places]
    try:
        for namespace, name, value in places:
            namespace[name] = value
        yield
    finally:
        for namespace, name, value in reversed(before):
            if value is None:
                namespace.pop(name, None)  # several modules may share it
            else:
                namespace[name] = value


def _recording(function: Callable[..., Any], *, inside: bool = True) -> Callable[..., Any]:
    """The function, which becomes an operation of the graph where it meets a stand-in.

    Args:
        function: of Python or torch.
        inside: whether a list of stand-ins counts, as sizes do; not for its length.
    """

    def record(*args: Any, **kwargs: Any) -> Any:
        stand_ins = [value for value in args if isinstance(value, fx.Proxy)]
        if inside:
            leaves: list[Any] = []
            fx.node.map_aggregate((args, kwargs), leaves.append)
            stand_ins = [leaf for leaf in leaves if isinstance(leaf, fx.Proxy)]
        if not stand_ins:
            return function(*args, **kwargs)
        return stand_ins[0].tracer.create_proxy("call_function", function, args, kwargs)

    return record


class _Number(type):
    """Class of what stands for a type of numbers, also in `isinstance`."""

    number: type

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return _recording(cls.number)(*args, **kwargs)

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, cls.number)


class _Int(metaclass=_Number):
    number = int


class _Float(metaclass=_Number):
    number = float


_NUMBERS = {"float": _Float, "int": _Int}
_BUILTINS = {"len": _recording(builtins.len, inside=False)}
