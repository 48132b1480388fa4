"""A shortest path step by step, as the slides show it: a table for each node, and the backtrace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from drmm.display.text import one_line
from drmm.studies.dynamic.engine import Hypothesis, Tables
from drmm.studies.dynamic.problem import Node, chain

__all__ = ["number", "walkthrough"]

_LEGEND = "× superseded by a better hypothesis   ● on the best path"
_MOST_ROWS = 1500


def walkthrough(tables: Tables[Any], start: Node) -> Iterator[RenderableType]:
    """Initialise, each update, and the backtrace from a node (slides "DP Update 1" and on).

    The tables of a large graph are left out.

    Args:
        tables: from `unroll`, of a problem with one tail a step.
        start: where the path starts.

    Raises:
        InputError: if there is no such node, or no best path from it.
    """
    tables.path(start)
    active = tables.best(start).backtrace()
    rows = len(tables.problem.nodes) * (tables.lengths + 1) * (tables.lengths + 2)
    if rows > _MOST_ROWS:
        yield Text(f"{rows} rows of tables are left out: give a smaller graph to see them", style="dim")
    else:
        yield _section("Initialise", tables, 0)
        for length in range(1, tables.lengths + 1):
            yield _section(f"DP update {length}: send values, decide best active paths", tables, length)
        yield _section(f"Backtrace from {one_line(str(start))}", tables, tables.lengths, active)
    for rank, here in enumerate(active[:-1], 1):
        name, following = one_line(str(here.node)), one_line(str(here.tails[0].node))
        yield Text(f"{rank}. {name} at length {here.length}: next is {following}")
    path, value = chain([one_line(str(node)) for node in tables.path(start)]), number(tables.value(start))
    yield Text.assemble(
        "best path: ", (path, "bold"), f", {tables.semiring.heading} ", (value, "bold"), f"\n{_LEGEND}"
    )


def number(value: object) -> str:
    """A value as short text; what cannot be reached is Inf or -Inf."""
    if isinstance(value, float):
        return f"{value:g}".replace("inf", "Inf")
    return ", ".join(number(part) for part in value) if isinstance(value, tuple) else str(value)


def _section(title: str, tables: Tables[Any], length: int, active: list[Hypothesis[Any]] | None = None) -> Group:
    each = [_table(tables, node, length, active or []) for node in tables.problem.nodes]
    return Group(Text(f"\n{title}", style="bold"), Columns(each, padding=(0, 2)))


def _table(tables: Tables[Any], node: Node, length: int, active: list[Hypothesis[Any]]) -> Table:
    """One node's table as it stands at a length; rows still to come are empty."""
    table = Table(title=Text(f"node {one_line(str(node))}", style="bold"), box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("len", tables.semiring.heading, "next", ""):
        table.add_column(heading, justify="left" if heading == "next" else "right")
    chosen = {hypothesis.length for hypothesis in active if hypothesis.node == node}
    for row in tables.rows(node, length):
        mark, style = ("×", "dim") if row.superseded else ("", "")
        if row.length in chosen:
            mark, style = "●", "bold green"
        following = "" if row.next is None else ", ".join(one_line(str(tail)) for tail in row.next) or "-"
        table.add_row(str(row.length), number(row.value), Text(following), mark, style=style)
    for later in range(length + 1, tables.lengths + 1):
        table.add_row(str(later), "", "", "")
    return table
