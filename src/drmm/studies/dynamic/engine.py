"""The recursion, its tables and the backtrace, for any semiring.

Slide "Unrolling the DP in Time": the value of a node by at most ℓ steps follows from those of its neighbours by
at most ℓ - 1, v_x^(ℓ) = ⊕_{steps to x} w ⊗ v_y^(ℓ-1) (⊗ …). Path length ℓ is the recursion variable; in a network
it is the level. Each entry of a table is a hypothesis, "the best (sub)path I've found thus far", and knows the
hypotheses that it rests on, so that backtracing is following links.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from drmm.errors import InputError
from drmm.studies.dynamic.problem import Node, Problem, Step, chain
from drmm.studies.dynamic.semirings import Semiring

__all__ = ["Entry", "Hypothesis", "Tables", "solve", "unroll"]

V = TypeVar("V")


@dataclass(frozen=True, slots=True, eq=False)
class Hypothesis(Generic[V]):
    """What a node believes from some length on, until it is superseded.

    Attributes:
        node: whose.
        length: the number of steps at which it was first made.
        value: by at most so many steps.
        step: the step that won; None where ⊕ pools all of them.
        tails: the hypotheses it rests on, one for each tail of the step.
    """

    node: Node
    length: int
    value: V
    step: Step | None = None
    tails: tuple[Hypothesis[V], ...] = field(default=(), repr=False)

    def backtrace(self) -> list[Hypothesis[V]]:
        """This hypothesis and all that it rests on, each once, longest first."""
        seen, waiting = {self}, [self]
        while waiting:
            for tail in waiting.pop().tails:
                if tail not in seen:
                    seen.add(tail)
                    waiting.append(tail)
        return sorted(seen, key=lambda hypothesis: -hypothesis.length)

    def path(self) -> tuple[Node, ...]:
        """The nodes from this one to where its path ends.

        Raises:
            InputError: if it rests on several paths at once.
        """
        nodes, here = [self.node], self
        while here.tails:
            if len(here.tails) > 1:
                raise InputError(f"{here.node} collects {len(here.tails)} nodes and is no path: use backtrace()")
            here = here.tails[0]
            nodes.append(here.node)
        return tuple(nodes)

    def shares(self) -> dict[Node, float]:
        """How much the value grows with that of each node below: the sum over paths of the product of their gains.

        At the pixels of a network it is the rendering μ_ĉĝ (slide "The Sum-over-Paths Formulation").
        """
        share: dict[Hypothesis[V], float] = {self: 1.0}
        nodes: dict[Node, float] = {}
        for hypothesis in self.backtrace():  # a tail is shorter than what rests on it, and comes later
            nodes[hypothesis.node] = nodes.get(hypothesis.node, 0.0) + share[hypothesis]
            if hypothesis.step is not None:
                for tail, (_, gain) in zip(hypothesis.tails, hypothesis.step.links(), strict=True):
                    share[tail] = share.get(tail, 0.0) + gain * share[hypothesis]
        return nodes


@dataclass(frozen=True, slots=True)
class Entry(Generic[V]):
    """One row of a node's table.

    Attributes:
        length: ℓ.
        value: by at most ℓ steps.
        next: the nodes that come next on the best path so far, none at its end; None where nothing is reached.
        superseded: whether a better hypothesis has come since.
    """

    length: int
    value: V
    next: tuple[Node, ...] | None
    superseded: bool


@dataclass(frozen=True, slots=True)
class Tables(Generic[V]):
    """Everything that was ever believed.

    Attributes:
        problem: what was solved.
        semiring: how.
        lengths: the last length ℓ.
        history: the hypotheses of each node, oldest first; none where nothing was reached.
    """

    problem: Problem
    semiring: Semiring[V]
    lengths: int
    history: dict[Node, list[Hypothesis[V]]]

    def value(self, node: Node, length: int | None = None) -> V:
        """The value by at most `length` steps, by any number of them if None: the semiring's 0̄ if unreachable.

        Raises:
            InputError: if there is no such node.
        """
        hypothesis = self._standing(node, length)
        return self.semiring.zero if hypothesis is None else hypothesis.value

    def best(self, node: Node, length: int | None = None) -> Hypothesis[V]:
        """The hypothesis that stands at `length`, at the end if None.

        Raises:
            InputError: if there is no such node, or nothing is reached from it.
        """
        hypothesis = self._standing(node, length)
        if hypothesis is None:
            within = "" if length is None else f" within {length} steps"
            raise InputError(f"nothing is reached from {node}{within}: its value is {self.semiring.zero}")
        return hypothesis

    def path(self, node: Node, length: int | None = None) -> tuple[Node, ...]:
        """Backtrace: the best path from a node (slide "Backtrace: Reconstruct best (active) paths").

        A tie goes to the older hypothesis, and among those of one length to the step that was given first.

        Raises:
            InputError: if there is none, or the semiring pools paths and keeps no best one.
        """
        hypothesis = self.best(node, length)
        if hypothesis.step is None:
            raise InputError(f"{self.semiring.name} pools all paths and has no best one: use min-sum or max-sum")
        return hypothesis.path()

    def rows(self, node: Node, length: int | None = None) -> list[Entry[V]]:
        """The table of a node as it stands at `length`, at the end if None: a row for every length so far.

        Raises:
            InputError: if there is no such node.
        """
        last = self._standing(node, length)
        rows = []
        for row in range(1 + (self.lengths if length is None else length)):
            hypothesis = self._standing(node, row)
            if hypothesis is None:
                rows.append(Entry(row, self.semiring.zero, None, superseded=False))
            else:
                following = tuple(tail.node for tail in hypothesis.tails)
                rows.append(Entry(row, hypothesis.value, following, superseded=hypothesis is not last))
        return rows

    def _standing(self, node: Node, length: int | None) -> Hypothesis[V] | None:
        self.problem.check(node)
        made = (h for h in reversed(self.history[node]) if length is None or h.length <= length)
        return next(made, None)


def unroll(problem: Problem, semiring: Semiring[V], lengths: int | None = None) -> Tables[V]:
    """Length by length, until nothing changes: the slides' recursion, on any graph.

    At length ℓ the value of a node takes in all paths of at most ℓ steps, each once, in any semiring. A node is
    looked at again only where something below it has changed.

    Args:
        problem: with or without cycles.
        semiring: how values combine.
        lengths: stop at this length; None is as many as it takes.

    Raises:
        InputError: if values change for ever, as on a negative cycle in min-sum, and `lengths` is None.
    """
    deciding = _Deciding(problem, semiring)
    history: dict[Node, list[Hypothesis[V]]] = {node: [] for node in problem.nodes}
    current: dict[Node, Hypothesis[V]] = {}
    dirty: Iterable[Node] = problem.nodes
    length = last = 0
    while dirty and (lengths is None or length <= lengths):
        made = list(deciding.changes(dirty, current, length))
        if made and lengths is None and length >= max(1, len(problem.nodes)):
            raise InputError(_endless(made[0], semiring))
        for hypothesis in made:
            history[hypothesis.node].append(hypothesis)
            current[hypothesis.node] = hypothesis
            last = length
        dirty = list(dict.fromkeys(head for h in made for head in problem.heads[h.node]))
        length += 1
    return Tables(problem, semiring, last if lengths is None else lengths, history)


def solve(problem: Problem, semiring: Semiring[V]) -> Tables[V]:
    """One pass, each node once and after all that it depends on: what a convnet does, level by level.

    Its value is that of `unroll` at the end. The length of a hypothesis is the level of its node.

    Raises:
        InputError: if there is a cycle.
    """
    deciding = _Deciding(problem, semiring)
    current: dict[Node, Hypothesis[V]] = {}
    level: dict[Node, int] = {}
    for node in problem.order():
        below = (level[tail] for number in problem.ways[node] for tail in problem.steps[number].tails)
        level[node] = 1 + max(below, default=-1)
        for hypothesis in deciding.changes([node], current, level[node]):
            current[node] = hypothesis
    history = {node: [current[node]] if node in current else [] for node in problem.nodes}
    return Tables(problem, semiring, max(level.values(), default=0), history)


class _Deciding(Generic[V]):
    """The recursion relation."""

    def __init__(self, problem: Problem, semiring: Semiring[V]) -> None:
        self.problem = problem
        self.semiring = semiring
        one = semiring.one
        self.weight = [one if s.weight is None else semiring.lift(s.weight) for s in problem.steps]

    def changes(
        self, nodes: Iterable[Node], current: dict[Node, Hypothesis[V]], length: int
    ) -> Iterator[Hypothesis[V]]:
        """A new hypothesis for each node whose value is another than it was; equals never replace what stands."""
        zero = self.semiring.zero
        for node in nodes:
            ways = self.problem.ways[node]
            values = [self._extend(number, current) for number in ways]
            value = self.semiring.total(values)
            if value == (current[node].value if node in current else zero):
                continue
            won = self.semiring.winner(values)
            if won is None:
                yield Hypothesis(node, length, value)
            else:
                step = self.problem.steps[ways[won]]
                yield Hypothesis(node, length, value, step, tuple(current[tail] for tail in step.tails))

    def _extend(self, number: int, current: dict[Node, Hypothesis[V]]) -> V:
        """The value of one step: its weight ⊗ each tail's value times its gain."""
        value, semiring = self.weight[number], self.semiring
        step = self.problem.steps[number]
        for position, tail in enumerate(step.tails):
            if tail not in current:
                return semiring.zero
            below = current[tail].value
            if step.gains:
                below = semiring.scale(below, step.gains[position])
            value = semiring.times(value, below)
        return value


def _endless(hypothesis: Hypothesis[Any], semiring: Semiring[Any]) -> str:
    """Why values change for ever: the cycle that improves them, if one path wins."""
    nodes = [hypothesis.node]
    while hypothesis.tails:
        hypothesis = max(hypothesis.tails, key=lambda tail: tail.length)
        if hypothesis.node in nodes:
            cycle = chain([*nodes[nodes.index(hypothesis.node) :], hypothesis.node])
            return (
                f"{semiring.name} gets better for ever on the cycle {cycle}: change its weights, or pass lengths="
            )
        nodes.append(hypothesis.node)
    return f"{semiring.name} changes for ever on a cycle: pass lengths=, or use a graph without cycles"
