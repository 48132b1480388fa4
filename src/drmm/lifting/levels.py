"""A translated net, cut into levels where it is narrow: wherever one value holds all that comes after."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence

from torch import fx, nn

from drmm.lifting.tracing import path_of
from drmm.lifting.translation import Item, Translation, unused
from drmm.rendering import Aside, Graph, Rendering, Step

__all__ = ["levels_of"]


def levels_of(net: Translation) -> OrderedDict[str, Rendering]:
    """The levels of a net, pixels first: single renderings, and graphs such as residual blocks."""
    levels: OrderedDict[str, Rendering] = OrderedDict()
    start, segment = net.images, list[Item]()
    for item, ends in _with_cuts(net):
        segment.append(item)
        if ends:
            name, level = _level(net, start, segment)
            levels[unused(name, levels)] = level
            start, segment = item.node, []
    return levels


def _with_cuts(net: Translation) -> list[tuple[Item, bool]]:
    """What the output needs, in order, without constants; and whether a level ends after each."""
    needed = _needed(net)
    items = [item for item in net.items.values() if item.node in needed and not _is_constant(net, item.node)]
    last = {net.images: -1}
    for i, item in enumerate(items):
        last.update(dict.fromkeys([item.node, *item.sources], i))
    cuts, open_until = [], last[net.images]
    for i, item in enumerate(items):
        # A value from further below that is still needed further up goes around this one.
        cuts.append((item, item.function is None and open_until <= i))
        open_until = max(open_until, last[item.node])
    return cuts


def _needed(net: Translation) -> set[fx.Node]:
    needed: set[fx.Node] = set()
    ahead = [net.output]
    while ahead:
        node = ahead.pop()
        if node not in needed and node in net.items:
            ahead.extend(net.items[node].sources)
        needed.add(node)
    return needed


def _is_constant(net: Translation, node: fx.Node) -> bool:
    """Whether a value depends on no features, so that every level can have it."""
    item = net.items.get(node)
    return item is not None and item.function is not None and all(_is_constant(net, n) for n in item.inputs)


def _level(net: Translation, start: fx.Node, segment: Sequence[Item]) -> tuple[str, Rendering]:
    first = segment[0]
    operation = net.operations.get(net.name(first.node))
    if len(segment) == 1 and isinstance(operation, Rendering) and not first.settings:
        return net.name(first.node), operation
    numbers = {start: 0}
    nodes: list[Step | Aside] = []
    constants: dict[int, nn.Module] = {}

    def add(item: Item) -> None:
        for source in item.sources:
            if source not in numbers:
                add(net.items[source])
        if item.function is None:
            inputs, settings = (tuple(numbers[n] for n in group) for group in (item.inputs, item.settings))
            nodes.append(Step(net.name(item.node), inputs, settings))
        else:
            nodes.append(Aside(item.function, tuple(numbers[n] for n in item.inputs)))
            if (owner := net.owners.get(item.node)) is not None:
                constants[id(owner)] = owner
        numbers[item.node] = len(nodes)

    for item in segment:
        add(item)
    operations = {node.operation: net.operations[node.operation] for node in nodes if isinstance(node, Step)}
    return _name(segment), Graph(operations, nodes, numbers[segment[-1].node], list(constants.values()))


def _name(segment: Sequence[Item]) -> str:
    """The innermost module that all of a level is in; its last operation where that is the whole net."""
    paths = [
        (str(item.node.target) if item.node.op == "call_module" else path_of(item.node)).split(".")
        for item in segment
        if item.function is None
    ]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return "_".join(parts[0] for parts in shared) or segment[-1].node.name
