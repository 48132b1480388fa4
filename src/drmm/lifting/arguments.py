"""The arguments of a traced operation, with holes where values of the graph go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

__all__ = ["Arguments", "Batch", "Call", "Hole", "Parts", "Setting"]

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
    """A function with some of its arguments filled in; the values that it is called with go into the holes.

    Attributes:
        arguments: with holes; a call among them gets the same values.
    """

    def __init__(self, function: Callable[..., Any], arguments: Arguments) -> None:
        self._function = function
        self.arguments = arguments
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __call__(self, *values: Any) -> Any:
        """The function's value."""

        def fill(leaf: Any) -> Any:
            if isinstance(leaf, Batch):
                return len(values[0])
            if isinstance(leaf, Call):
                return leaf(*values)
            return values[leaf.index] if isinstance(leaf, Hole) else leaf

        filled: Any = fx.node.map_aggregate(self.arguments, fill)
        args, kwargs = filled
        return self._function(*args, **kwargs)


@dataclass(frozen=True)
class Parts:
    """The arguments of an operation, taken apart.

    Attributes:
        call: with holes in place of nodes, and calls in place of tuples and masks, which are made where they are
            used.
        features: whose holes come first.
        settings: whose holes follow.
        flows: of the operation, and of those that make its tuples: the arguments that pictures flow through.
        gated: whether masks are among the arguments, so that it is another map for other features.
    """

    call: Arguments
    features: tuple[fx.Node, ...]
    settings: tuple[fx.Node, ...]
    flows: Mapping[fx.Node, tuple[fx.Node, ...]]
    gated: bool
