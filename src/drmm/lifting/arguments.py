"""The arguments of a traced operation, with holes where values of the graph go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

__all__ = ["Arguments", "Batch", "Call", "Hole", "Setting"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Hole:
    """Where a value of the graph stands among an operation's arguments."""

    def __init__(self, index: int) -> None:
        self.index = index


class Setting(Hole):
    """The same for a value that no picture flows through."""


class Batch:
    """Where the number of images stands among an operation's arguments."""


class Call:
    """A function with some of its arguments filled in; the values that it is called with go into the holes."""

    def __init__(self, function: Callable[..., Any], arguments: Arguments) -> None:
        self._function = function
        self._arguments = arguments

    def __call__(self, *values: Any) -> Any:
        """The function's value."""

        def fill(leaf: Any) -> Any:
            if isinstance(leaf, Batch):
                return len(values[0])
            return values[leaf.index] if isinstance(leaf, Hole) else leaf

        filled: Any = fx.node.map_aggregate(self._arguments, fill)
        args, kwargs = filled
        return self._function(*args, **kwargs)
