"""A tree in words, and in Graphviz's language.

Not scikit-learn's `export_text`, which works on `to_sklearn()` too: it shows the tests and one class of each leaf,
where here every node has its share of the images, its likeliest classes and its picture; and it repeats the tests
that several ways share where a node has more than two children (190 lines for 21 nodes).
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from drmm.display.text import one_line
from drmm.errors import InputError
from drmm.files import write_bytes
from drmm.trees.tree import EvolutionaryTree

__all__ = ["as_dot", "as_text", "shown_nodes", "summary", "write_pictures"]

Array = npt.NDArray[Any]

_ENLARGED = 3  # pixels of a node's picture for one of its template
_NAMED = 3  # classes that a summary names at the most


def shown_nodes(tree: EvolutionaryTree, max_depth: int | None) -> list[int]:
    """Nodes down to a level, in their order.

    Raises:
        InputError: if the level is negative, or no whole number.
    """
    if max_depth is not None and not (isinstance(max_depth, int | np.integer) and max_depth >= 0):
        raise InputError(f"max_depth={max_depth} must be 0 or more, or None for all")
    deepest = tree.depth if max_depth is None else max_depth
    return [int(node) for node in np.flatnonzero(tree.level <= deepest)]


def summary(tree: EvolutionaryTree, node: int, names: Sequence[str], *, named: int = _NAMED) -> list[str]:
    """The likeliest classes of a node with their probabilities: at the most so many, none below 5 %."""
    order = tree.classes[node].argsort()[::-1][:named]
    likely = [c for rank, c in enumerate(order) if rank == 0 or tree.classes[node, c] >= 0.05]
    return [f"{one_line(names[c])} ({tree.classes[node, c]:.0%})" for c in likely]


def as_text(tree: EvolutionaryTree, names: Sequence[str], max_depth: int | None) -> str:
    """A line for each node: its number, its share of the images, its likeliest classes."""
    shown = set(shown_nodes(tree, max_depth))
    lines: list[str] = []
    waiting = [(0, "", "")]
    while waiting:
        node, stem, branch = waiting.pop()
        children = [child for child in tree.children(node) if child in shown]
        hidden = "" if len(children) == tree.n_children[node] else f"  [{_leaves_below(tree, node)} leaves below]"
        about = ", ".join(summary(tree, node, names))
        lines.append(f"{stem}{branch}{node}: {tree.prior[node]:.1%} of images, {about}{hidden}")
        below = stem if node == 0 else stem + ("    " if branch.startswith("└") else "│   ")
        ends = ["├── "] * (len(children) - 1) + ["└── "] * bool(children)
        waiting += [(child, below, end) for child, end in zip(children, ends, strict=True)][::-1]
    return "\n".join(lines) + "\n"


def as_dot(
    tree: EvolutionaryTree, names: Sequence[str], max_depth: int | None, pictures: dict[int, str] | None = None
) -> str:
    """The tree in Graphviz's language.

    Args:
        tree: what to draw.
        names: of classes.
        max_depth: levels below the root to show; None is all.
        pictures: names of the files of the nodes' templates, as seen from the DOT file.
    """
    shown = shown_nodes(tree, max_depth)
    lines = ["digraph evolution {", '  node [shape=box, fontname="sans-serif", fontsize=10];']
    for node in shown:
        words = [f"{tree.prior[node]:.1%}", *summary(tree, node, names)]
        rows = [f"<TR><TD>{html.escape(word)}</TD></TR>" for word in words]
        if pictures is not None:
            rows.insert(0, f'<TR><TD><IMG SRC="{html.escape(pictures[node])}"/></TD></TR>')
        lines.append(
            f'  {node} [label=<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0">{"".join(rows)}</TABLE>>];'
        )
    lines += [f"  {tree.parent[node]} -> {node};" for node in shown[1:]]
    return "\n".join([*lines, "}"]) + "\n"


def write_pictures(templates: Array, nodes: Sequence[int], folder: Path) -> dict[int, str]:
    """Each node's template as a PNG file, grey or in colour.

    Args:
        templates: of all nodes, (M, C, H, W), in [0, 1]; what is outside is cut off.
        nodes: which to write.
        folder: where to.

    Returns:
        The files' names by node.

    Raises:
        RunError: if a file cannot be written.
    """
    names = {node: f"node_{node}.png" for node in nodes}
    for node, name in names.items():
        levels = np.rint(255 * np.clip(templates[node], 0, 1)).astype(np.uint8)
        levels = levels.repeat(_ENLARGED, 1).repeat(_ENLARGED, 2)
        picture = Image.fromarray(levels[0] if len(levels) != 3 else levels.transpose(1, 2, 0))
        with BytesIO() as file:
            picture.save(file, format="PNG")
            write_bytes(folder / name, file.getvalue())
    return names


def _leaves_below(tree: EvolutionaryTree, node: int) -> int:
    count, waiting = 0, [node]
    while waiting:
        children = tree.children(waiting.pop())
        waiting += children
        count += not children
    return count
