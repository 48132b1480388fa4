"""Branches and skip connections: renderings and joins on a directed acyclic graph, drawn in reverse order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn

from drmm.rendering.base import Box, Down, Rendering, Switches
from drmm.rendering.joins import Join

__all__ = ["Aside", "Graph", "Step"]

Value = TypeVar("Value")
Visit = Callable[[Rendering | Join, Sequence[Value], Sequence[object]], Value]
Descent = Callable[[Rendering | Join, Tensor, Switches, Sequence[Any]], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Step:
    """One rendering or join. Values are numbered: 0 is the graph's input, node i makes value i + 1.

    Attributes:
        operation: its name in the graph.
        inputs: the values that pictures flow through.
        settings: the values that it depends on otherwise; its `infer` and `render` get them after the features.
    """

    operation: str
    inputs: tuple[int, ...]
    settings: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Aside:
    """A value that no picture flows through: a parameter, a size, or what is computed from those.

    Attributes:
        function: of the values in `inputs`. Where those are features, it may look at their sizes only.
        inputs: numbers of values.
    """

    function: Callable[..., object]
    inputs: tuple[int, ...] = ()


@final
class Graph(Rendering):
    """Renderings and joins on a directed acyclic graph; the transpose of a fork is a sum.

    Args:
        operations: by name; shared with nobody or with other graphs.
        nodes: in an order in which each comes after its inputs.
        output: number of the value that is the graph's output.
        constants: modules whose parameters the asides read, so that they are the graph's parameters too.

    Attributes:
        steps: number of the value that it makes, and step, bottom-up: `switches.parts` starts with theirs.
    """

    def __init__(
        self,
        operations: Mapping[str, Rendering | Join],
        nodes: Sequence[Step | Aside],
        output: int,
        constants: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.operations = nn.ModuleDict(operations)
        self.constants = nn.ModuleList(constants)
        self.nodes = tuple(nodes)
        self.steps = tuple((i, node) for i, node in enumerate(self.nodes, 1) if isinstance(node, Step))
        self.output = output
        self._spent = _last_uses(self.nodes, output)
        features = {0, *(number for number, _ in self.steps)}
        self._measured = tuple(sorted(features & {k for node in self.nodes for k in _looked_at(node)}))

    def operation(self, step: Step) -> Rendering | Join:
        """The rendering or join of a step."""
        return self.operations[step.operation]  # type: ignore[return-value]

    def walk(self, first: Value, visit: Visit[Value], features: Callable[[Value], Tensor]) -> Value:
        """Go through the graph bottom-up.

        Args:
            first: the value of the input.
            visit: makes a step's value from its operation, its inputs' values and its settings.
            features: a tensor of the size that a value's features have, for asides that look at sizes.
        """
        values: dict[int, Any] = {0: first}
        plain: dict[int, Any] = {}
        for i, node in enumerate(self.nodes, 1):
            settings = [plain[k] if k in plain else features(values[k]) for k in _looked_at(node)]
            if isinstance(node, Aside):
                plain[i] = node.function(*settings)
            else:
                values[i] = visit(self.operation(node), [values[k] for k in node.inputs], settings)
            for k in self._spent[i - 1]:
                values.pop(k, None)
        return values[self.output]  # type: ignore[no-any-return]

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Every step in order."""
        parts: list[Switches] = []
        sizes: dict[int, Switches] = {}

        def visit(operation: Rendering | Join, xs: Sequence[Tensor], settings: Sequence[Any]) -> Tensor:
            y, switches = operation.infer(*xs, *settings)
            parts.append(switches)
            if (number := self.steps[len(parts) - 1][0]) in self._measured:
                sizes[number] = Switches(tuple(y.shape[1:]))
            return y

        y = self.walk(x, visit, lambda value: value)
        sizes[0] = Switches(tuple(x.shape[1:]))
        return y, Switches(sizes[0].shape, parts=(*parts, *(sizes[k] for k in self._measured)))

    def forward(self, x: Tensor) -> Tensor:
        """The convnet's view: the features alone, without keeping switches."""
        return self.walk(x, lambda operation, xs, settings: operation(*xs, *settings), lambda value: value)

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Every step in reverse order; what branches draw on one canvas adds up."""
        return self.descend(z, switches, _render)

    def render_values(self, z: Tensor, switches: Switches) -> dict[int, Tensor]:
        """The template that comes down to each value, by its number: 0 is the picture, `output` is z."""
        return self._descend(z, switches, _render, keep=True)

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Step by step, bottom-up."""

        def visit(
            operation: Rendering | Join, inputs: Sequence[tuple[Tensor, Tensor]], settings: Sequence[object]
        ) -> tuple[Tensor, Tensor]:
            operation = operation.given(*settings)
            if isinstance(operation, Join):
                lowers, uppers = zip(*inputs, strict=True)
                return operation.bounds(lowers, uppers)
            return operation.bounds(*inputs[0])

        return self.walk((lower, upper), visit, lambda value: value[0])

    def relaxed(self, lower: Tensor, upper: Tensor, switches: Switches | None = None) -> tuple[Box, Down]:
        """Step by step: bounds bottom-up, the way down top-down."""
        ways: list[Callable[[Tensor], tuple[Any, Tensor]]] = []

        def visit(operation: Rendering | Join, inputs: Sequence[Box], settings: Sequence[object]) -> Box:
            part = None if switches is None else switches.parts[len(ways)]
            operation = operation.given(*settings)
            relaxed: tuple[Box, Callable[[Tensor], tuple[Any, Tensor]]]
            if isinstance(operation, Join):
                lowers, uppers = zip(*inputs, strict=True)
                relaxed = operation.relaxed(lowers, uppers)
            else:
                relaxed = operation.relaxed(*inputs[0], part)
            ways.append(relaxed[1])
            return relaxed[0]

        box = self.walk((lower, upper), visit, lambda value: value[0])

        def down(z: Tensor) -> tuple[Tensor, Tensor]:
            total = z.new_zeros(len(z))
            drawn = {self.output: z}
            for (number, step), way in reversed(list(zip(self.steps, ways, strict=True))):
                if number not in drawn:
                    continue
                canvases, offset = way(drawn.pop(number))
                total = total + offset
                for k, canvas in zip(step.inputs, _canvases(canvases), strict=True):
                    drawn[k] = drawn[k] + canvas if k in drawn else canvas
            return drawn.get(0, torch.zeros_like(lower)), total

        return box, down

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
        """Step by step, top-down."""

        def visit(
            operation: Rendering | Join, z: Tensor, part: Switches, settings: Sequence[Any]
        ) -> tuple[Tensor, ...]:
            return _canvases(operation.given(*settings).count(z, part, every=every))

        return self.descend(paths, switches, visit)

    def reinfer(self, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
        """Step by step, bottom-up; a step that draws nothing infers as always."""
        # The template of a value passes through what lies above it alone, and that is updated later.
        templates = self.render_values(z, switches)
        parts: list[Switches] = []

        def visit(operation: Rendering | Join, xs: Sequence[Tensor], settings: Sequence[Any]) -> Tensor:
            number = len(parts)
            template, part = templates.get(self.steps[number][0]), switches.parts[number]
            operation = operation.given(*settings)
            if template is None:
                y, new = operation.infer(*xs)
            elif isinstance(operation, Join):
                y, new = operation.reinfer(xs, part, template)
            else:
                y, new = operation.reinfer(xs[0], part, template)
            parts.append(new)
            return y

        y = self.walk(x, visit, lambda value: value)
        return y, replace(switches, parts=(*parts, *switches.parts[len(parts) :]))

    def guided(self, z: Tensor, switches: Switches) -> Tensor:
        """Step by step, top-down."""

        def visit(
            operation: Rendering | Join, above: Tensor, part: Switches, settings: Sequence[Any]
        ) -> tuple[Tensor, ...]:
            operation = operation.given(*settings)
            return _canvases((operation.render if isinstance(operation, Join) else operation.guided)(above, part))

        return self.descend(z, switches, visit)

    @property
    def shuts(self) -> bool:
        """Whether one of its renderings does."""
        return any(getattr(operation, "shuts", False) for operation in self.operations.values())

    def descend(self, z: Tensor, switches: Switches, visit: Descent) -> Tensor:
        """Go through the graph top-down; what comes to a value from several sides adds up.

        Args:
            z: (N, ...), of the output's shape.
            switches: ĝ of the graph.
            visit: what a step sends down to each of its inputs, from its operation, what came down to it, its
                switches and its settings.
        """
        canvas = self._descend(z, switches, visit, keep=False).get(0)
        return z.new_zeros(z.shape[0], *switches.shape) if canvas is None else canvas

    def _descend(self, z: Tensor, switches: Switches, visit: Descent, *, keep: bool) -> dict[int, Tensor]:
        settings = self._settings(z, switches)
        drawn = {self.output: z}
        steps = zip(self.steps, switches.parts, strict=False)
        for (number, step), part in reversed(list(steps)):
            if number not in drawn:
                continue
            above = drawn[number] if keep else drawn.pop(number)
            canvases = visit(self.operation(step), above, part, [settings[k] for k in step.settings])
            for k, canvas in zip(step.inputs, canvases, strict=True):
                drawn[k] = drawn[k] + canvas if k in drawn else canvas
        return drawn

    def _settings(self, z: Tensor, switches: Switches) -> dict[int, Any]:
        """Every aside, and blank features of the measured sizes."""
        measured = switches.parts[len(self.steps) :]
        values: dict[int, Any] = {
            k: z.new_zeros(()).expand(z.shape[0], *part.shape)
            for k, part in zip(self._measured, measured, strict=True)
        }
        for i, node in enumerate(self.nodes, 1):
            if isinstance(node, Aside):
                values[i] = node.function(*(values[k] for k in node.inputs))
        return values


def _render(
    operation: Rendering | Join, z: Tensor, switches: Switches, settings: Sequence[Any]
) -> tuple[Tensor, ...]:
    return _canvases(operation.render(z, switches, *settings))


def _canvases(drawn: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (drawn,) if isinstance(drawn, Tensor) else drawn


def _looked_at(node: Step | Aside) -> tuple[int, ...]:
    """The values that a node depends on, other than those that pictures flow through."""
    return node.inputs if isinstance(node, Aside) else node.settings


def _last_uses(nodes: Sequence[Step | Aside], output: int) -> list[list[int]]:
    """For each node, the values that nobody needs after it."""
    last: dict[int, int] = {}
    for i, node in enumerate(nodes):
        last.update(dict.fromkeys([i + 1, *node.inputs, *_looked_at(node)], i))
    last.pop(output, None)
    spent: list[list[int]] = [[] for _ in nodes]
    for value, i in last.items():
        spent[i].append(value)
    return spent
