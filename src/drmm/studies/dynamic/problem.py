"""What a dynamic program is about: nodes, and the steps by which the value of one follows from others."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

from drmm.errors import InputError
from drmm.studies.dynamic.semirings import Semiring

__all__ = ["SLIDES_EDGES", "Node", "Problem", "Step", "chain", "edge", "paths"]

Node = Hashable

# Slide "Review of DP with an Example": the weights with which its tables come out.
SLIDES_EDGES = (("a", "b", 0.0), ("b", "c", 1.0), ("a", "c", 3.0))


@dataclass(frozen=True, slots=True)
class Step:
    """One way to a node: its weight ⊗ each tail's value times its gain.

    A node *chooses* among its steps by ⊕, and a step *collects* its tails by ⊗: an AND/OR graph, or hypergraph. An
    edge of a graph is a step with one tail; a step without tails is where recursion starts.

    Attributes:
        head: the node whose value it helps to decide.
        tails: the nodes that it needs.
        weight: a finite number; None is the semiring's 1̄.
        gains: a factor for the value of each tail; none at all means 1 for each.
    """

    head: Node
    tails: tuple[Node, ...] = ()
    weight: float | None = None
    gains: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.weight is not None and not math.isfinite(self.weight):
            raise InputError(f"the weight of {self} must be a finite number: leave out what cannot be reached")
        if self.gains and len(self.gains) != len(self.tails):
            raise InputError(f"{self} needs one gain for each of its {len(self.tails)} tails")
        if not all(math.isfinite(gain) for gain in self.gains):
            raise InputError(f"the gains of {self} must be finite numbers")

    def links(self) -> Iterator[tuple[Node, float]]:
        """Each tail with its gain."""
        yield from zip(self.tails, self.gains or (1.0,) * len(self.tails), strict=True)

    def __str__(self) -> str:
        return chain((self.head, *self.tails)) if len(self.tails) < 2 else f"{self.head} → {len(self.tails)} nodes"


class Problem:
    """Nodes and steps, independent of the semiring.

    Args:
        steps: in the order that decides ties.
        nodes: all nodes, in the order of the tables; by default those of the steps, as they appear.

    Raises:
        InputError: if a step has a node that is not among `nodes`.
    """

    def __init__(self, steps: Iterable[Step], nodes: Iterable[Node] | None = None) -> None:
        self.steps = tuple(steps)
        mentioned = dict.fromkeys(node for step in self.steps for node in (step.head, *step.tails))
        self.nodes: tuple[Node, ...] = tuple(mentioned if nodes is None else dict.fromkeys(nodes))
        self._known = set(self.nodes)
        for node in mentioned:
            self.check(node)

    def check(self, node: Node) -> None:
        """Do nothing, for a node of this problem.

        Raises:
            InputError: for any other.
        """
        if node not in self._known:
            some = ", ".join(str(known) for known in self.nodes[:8])
            raise InputError(f"there is no node {node}: the nodes are {some}{', …' * (len(self.nodes) > 8)}")

    @cached_property
    def ways(self) -> dict[Node, list[int]]:
        """The numbers of the steps to each node."""
        ways: dict[Node, list[int]] = {node: [] for node in self.nodes}
        for number, step in enumerate(self.steps):
            ways[step.head].append(number)
        return ways

    @cached_property
    def heads(self) -> dict[Node, list[Node]]:
        """The nodes that depend on each node, each once."""
        heads: dict[Node, dict[Node, None]] = {node: {} for node in self.nodes}
        for step in self.steps:
            for tail in step.tails:
                heads[tail][step.head] = None
        return {node: list(above) for node, above in heads.items()}

    def order(self) -> list[Node]:
        """All nodes, each after those that it depends on.

        Raises:
            InputError: if there is a cycle.
        """
        sorter = TopologicalSorter(
            {node: [t for i in self.ways[node] for t in self.steps[i].tails] for node in self.nodes}
        )
        try:
            return list(sorter.static_order())
        except CycleError as error:
            cycle: Sequence[Node] = error.args[1]
            raise InputError(
                f"the cycle {chain(reversed(cycle))} has no order: use unroll, which goes by length"
            ) from None

    def violations(self, semiring: Semiring[Any]) -> tuple[Step, ...]:
        """The steps that make the recursion inexact: a gain that cannot be pulled out of a choice.

        Scaling is no operation of a semiring. A gain does no harm if it commutes with every ⊕ at and below its
        tail: in max-sum, if it is above 0. Where there is nothing to choose below, as at the pixels, any gain will
        do. For a network this is the theory's condition: non-negative templates above the pixels, Γ^(1) of either
        sign.

        Raises:
            InputError: if there is a cycle.
        """
        choice: dict[Node, bool] = {}
        for node in self.order():
            ways = [self.steps[i] for i in self.ways[node]]
            choice[node] = len(ways) > 1 or any(choice[tail] for step in ways for tail in step.tails)
        return tuple(
            step
            for step in self.steps
            if any(choice[tail] and not semiring.distributes(gain) for tail, gain in step.links())
        )


def paths(
    edges: Iterable[tuple[Node, Node, float]], *destinations: Node, nodes: Iterable[Node] | None = None
) -> Problem:
    """All paths from every node to the destinations (slide "Review of DP with an Example").

    Args:
        edges: (from, to, weight); parallel edges are different paths.
        *destinations: where paths end.
        nodes: all nodes, if some have no edge, or to set their order.

    Raises:
        InputError: if a destination is on no edge and not among `nodes`, or a weight is not a finite number.
    """
    steps = [Step(head, (tail,), weight) for head, tail, weight in edges]
    known = dict.fromkeys(node for step in steps for node in (step.head, *step.tails)) if nodes is None else nodes
    return Problem([*(Step(node) for node in destinations), *steps], known)


def edge(text: str) -> tuple[str, str, float]:
    """An edge from its name, FROM:TO:WEIGHT.

    Raises:
        InputError: if it is none.
    """
    parts = text.split(":")
    try:
        head, tail, weight = parts[0], parts[1], float(parts[2])
    except (IndexError, ValueError):
        raise InputError(f"an edge is FROM:TO:WEIGHT, as in s:t:1.5, got {text}") from None
    if len(parts) > 3 or not head or not tail:
        raise InputError(f"an edge is FROM:TO:WEIGHT, as in s:t:1.5, got {text}")
    return head, tail, weight


def chain(nodes: Iterable[Node]) -> str:
    """Nodes with arrows between them."""
    return " → ".join(str(node) for node in nodes)
