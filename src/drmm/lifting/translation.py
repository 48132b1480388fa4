"""Every operation of a traced graph as a rendering, a join, or an aside."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import Tensor, fx, nn

from drmm.lifting.arguments import Batch, Call, Hole, Parts, Setting
from drmm.lifting.operations import (
    attends,
    draws,
    gives_tuple,
    is_flat,
    mixes_images,
    out_of_place,
    read,
    rendering_of,
    stacks,
    unstacks,
    uses_batch,
)
from drmm.lifting.shadows import holder, shadow
from drmm.lifting.tracing import LiftError, name_of, path_of, trace
from drmm.rendering import Dropout, Dropout2d, Identity, Join, Rendering, Sequential

__all__ = ["Item", "TakeWhole", "Translation", "translated", "unused"]


class TakeWhole(Exception):  # noqa: N818
    """The modules at these paths are to be approximated as a whole."""

    def __init__(self, paths: Iterable[str]) -> None:
        super().__init__()
        self.paths = frozenset(paths)


@dataclass(frozen=True)
class Item:
    """A step or an aside, in terms of traced nodes.

    Attributes:
        node: whose value it makes.
        inputs: the features that it takes; of an aside, whatever it takes.
        settings: what a step depends on otherwise.
        function: of an aside; a step has an operation, by its name.
    """

    node: fx.Node
    inputs: tuple[fx.Node, ...]
    settings: tuple[fx.Node, ...] = ()
    function: Callable[..., object] | None = None

    @property
    def sources(self) -> tuple[fx.Node, ...]:
        """Everything that it depends on."""
        return (*self.inputs, *self.settings)


class Translation:
    """Every operation of a traced graph as a rendering, a join, or an aside.

    Args:
        net: the net.
        graph: traced in evaluation.
        strict: whether what has no exact rendering is an error.
        with_dropout: whether functional dropouts drop features in training.
    """

    def __init__(self, net: nn.Module, graph: fx.Graph, *, strict: bool, with_dropout: bool) -> None:
        self._net = net
        self._strict = strict
        self._with_dropout = with_dropout
        self.operations: dict[str, Rendering | Join] = {}
        self.owners: dict[fx.Node, nn.Module] = {}  # of the parameters that constants are made of
        self._holders: dict[str, nn.Module] = {}
        self.items: dict[fx.Node, Item] = {}
        self._names: dict[str | fx.Node, str] = {}
        self._features: set[fx.Node] = set()
        # Tuples of features, and masks: they are made anew where they are used.
        self._tuples: set[fx.Node] = set()
        self._masks: set[fx.Node] = set()
        images, *others = [node for node in graph.nodes if node.op == "placeholder"]
        if any(node.users for node in others):
            raise LiftError(
                f"the net takes more than images ({others[0].name}): lift a module that takes one tensor"
            )
        self.images = images
        self._features.add(images)
        self._translate_all(node for node in graph.nodes if node.op not in {"placeholder", "output"})
        self._overwrite()
        output: Any = graph.output_node().args[0]
        self.output: fx.Node = output
        if output not in self._features or output is images:
            why = f": {self._no_features(output)}" if output in self._tuples | self._masks else ""
            raise LiftError(
                f"the net must return one tensor of logits (N, classes) that depend on the images{why}"
            )

    @property
    def classes(self) -> int | None:
        """How many logits there are, as far as the layers tell."""
        node = self.output
        while node in self.items:
            operation = self.operations.get(self.name(node))
            layer = getattr(operation, "function", operation)
            for size in ("out_channels", "out_features", "num_features"):
                if isinstance(getattr(layer, size, None), int):
                    return int(getattr(layer, size))
            node = self.items[node].inputs[0]
        return None

    def _translate_all(self, nodes: Iterable[fx.Node]) -> None:
        """Translate every node; modules to take as a whole are collected, so that one more trace does for all."""
        wholes: set[str] = set()
        try:
            for node in nodes:
                try:
                    self._translate(node)
                except TakeWhole as request:
                    wholes |= request.paths
        except LiftError:  # perhaps because of what is not translated yet
            if not wholes:
                raise
        if wholes:
            raise TakeWhole(wholes)

    def _no_features(self, node: fx.Node) -> str:
        """Why a value is no features."""
        if node in self._tuples:
            return f"{name_of(node, self._net)} gives several outputs: index them"
        first = [node, *self._made(node)][-1]
        return f"{name_of(first, self._net)} compares, rounds or gives places, which no picture flows through"

    # --- one node ---

    def _translate(self, node: fx.Node) -> None:
        if node.op == "get_attr":
            self._constant(node)
            return
        if draws(node, self._net):
            raise LiftError(
                f"{name_of(node, self._net)} draws at random in evaluation too, so that logits are others each "
                "time: pass training=self.training, or leave it out where that is False"
            )
        if not self._flow(node) and self._masks.isdisjoint(_sources(read(node, self._net))):
            parts = self._parts(node, aside=True)
            self.items[node] = Item(node, parts.settings, function=Call(self._aside(node), parts.call))
        elif is_flat(node, self._net) or not self._flow(node):
            self._masks.add(node)
            self._check_images(node)
        elif gives_tuple(node, self._net) or _regroups(node, self._tuples):
            self._tuples.add(node)
            self._check_images(node)
        else:
            self._features.add(node)
            self._check_images(node)
            self._step(node)

    def _flow(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """The arguments that pictures flow through."""
        return tuple(n for n in _sources(read(node, self._net)) if n in self._features or n in self._tuples)

    def _check_images(self, node: fx.Node) -> None:
        """Refuse what takes the first dimension, or approximate all of the module that it is in."""
        lead = node.args[0] if node.args else None
        stacked = [n for n in node.all_input_nodes if n in self._tuples and stacks(n, self._net)]
        if stacked and not unstacks(node, self._net):
            raise LiftError(self._moved(stacked[0]))
        if lead in self._tuples and not stacked and node.op != "call_function":
            raise LiftError(self._no_features(cast("fx.Node", lead)))
        made = stacked or stacks(node, self._net) or (_is_pick(node) and lead in self._tuples)
        mixes = not made and mixes_images(node, self._net)
        if not self._strict and path_of(node) and (mixes or attends(node, self._net, len(self._flow(node)))):
            raise TakeWhole({path_of(node)})
        if uses_batch(node, self._net):
            raise LiftError(
                f"{name_of(node, self._net)} normalises with the batch, so that an image's logits depend on the "
                "others: pass training=self.training"
            )
        if mixes:
            raise LiftError(self._moved(node))

    def _moved(self, node: fx.Node) -> str:
        return (
            f"{name_of(node, self._net)} mixes images or moves them: keep them in the first dimension, and work "
            "along the others (dim=1, 2, ...)"
        )

    def _step(self, node: fx.Node) -> None:
        parts = self._parts(node)
        self.operations.setdefault(self.name(node), self._operation(node, parts))
        self.items[node] = Item(node, parts.features, parts.settings)

    def _operation(self, node: fx.Node, parts: Parts) -> Rendering | Join:
        if node.op == "call_module" and self.name(node) in self.operations:
            return self.operations[self.name(node)]
        operation = rendering_of(node, self._net, parts, strict=self._strict)
        is_layer = node.op == "call_module"
        if isinstance(operation, Dropout | Dropout2d) and not (is_layer or self._drops(node)):
            operation = Identity()
        home = self._net.get_submodule(str(node.target) if is_layer else path_of(node))
        if operation is not home:
            operation.training = home.training
        layers = [self.owners[n] for n in self._made(node) if n.op == "call_module"]
        if layers:
            operation.function = _WithLayers(operation.function, layers)  # type: ignore[arg-type]
        return operation

    def _drops(self, node: fx.Node) -> bool:
        """Whether a functional dropout drops features in training."""
        return self._with_dropout and node.meta.get("drops", False)

    def _made(self, node: fx.Node) -> Iterator[fx.Node]:
        """The tuples and masks that an operation is made of."""
        for source in node.all_input_nodes:
            if source in self._tuples or source in self._masks:
                yield source
                yield from self._made(source)

    def _leaves(self, node: fx.Node) -> Iterator[fx.Node]:
        """The arguments of an operation, and of the tuples and masks that it is made of."""
        for source in _sources((node.args, node.kwargs)):
            if source in self._tuples or source in self._masks:
                yield from self._leaves(source)
            else:
                yield source

    def _parts(self, node: fx.Node, *, aside: bool = False) -> Parts:
        """A node's arguments; of an aside, all nodes are settings."""
        leaves = tuple(self._leaves(node))
        batches = {n for n in leaves if not aside and _counted(n) in self._features}
        features = tuple(n for n in leaves if n in self._features and not aside)
        settings = tuple(n for n in dict.fromkeys(leaves) if n not in {*features, *batches})
        numbers = iter(range(len(features)))

        def fill(source: fx.Node) -> Any:
            if source in self._tuples or source in self._masks:
                call = filled(source)
                is_layer = source.op == "call_module"
                return Call(self._aside(source), call) if is_layer else out_of_place(source, self._net, call)
            if source in batches:
                return Batch()
            if source in settings:
                return Setting(len(features) + settings.index(source))
            return Hole(next(numbers))

        def filled(operation: fx.Node) -> Any:
            args, kwargs = cast("Any", fx.node.map_arg((operation.args, operation.kwargs), fill))
            return tuple(args), dict(kwargs)

        made = tuple(self._made(node))
        flows = {n: self._flow(n) for n in (node, *made) if n not in self._masks}
        return Parts(filled(node), features, settings, flows, gated=not self._masks.isdisjoint(made))

    def _constant(self, node: fx.Node) -> None:
        """A parameter or another attribute of the net, read anew whenever it is needed."""
        if "value" in node.meta:
            self.items[node] = Item(node, (), function=_Value(node.meta["value"]))
            return
        path, _, name = str(node.target).rpartition(".")
        owner = self.owners[node] = self._holders.setdefault(path, holder(self._net.get_submodule(path)))
        self.items[node] = Item(node, (), function=_Attribute(owner, name))

    def _aside(self, node: fx.Node) -> Callable[..., object]:
        """The function of a value that no picture flows through."""
        if node.op == "call_module":
            layer = self.owners[node] = shadow(self._net.get_submodule(str(node.target)))
            return layer
        return node.target if callable(node.target) else _Method(str(node.target))

    def _overwrite(self) -> None:
        """Let gates and sums write onto features that are new memory and that nobody else reads."""
        uses: dict[str, list[Item]] = {}
        for item in self.items.values():
            uses.setdefault(self.name(item.node), []).append(item)
        theirs = set(map(id, self._net.modules()))
        for name, operation in self.operations.items():
            if operation.may_overwrite and id(operation) not in theirs:
                spare = all(self._is_spare(item.inputs[0]) for item in uses[name])
                operation.inplace = spare  # type: ignore[assignment]

    def _is_spare(self, node: fx.Node) -> bool:
        operation = self.operations.get(self.name(node))
        return len(node.users) == 1 and operation is not None and operation.fresh

    def name(self, node: fx.Node) -> str:
        """A layer's path, so that a layer that is used twice is one operation; else the node's name."""
        key: str | fx.Node = str(node.target) if node.op == "call_module" else node
        if key not in self._names:
            name = str(node.target).replace(".", "_") if node.op == "call_module" else node.name
            self._names[key] = unused(name, self._names.values())
        return self._names[key]


class _Value:
    """A constant; unlike a function's closure it can be pickled."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __call__(self) -> object:
        return self._value


class _Attribute:
    """A parameter or buffer, as it is now."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        self._owner = owner
        self._name = name

    def __call__(self) -> object:
        return getattr(self._owner, self._name)


class _Method:
    """A method of whatever it is called with."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, value: object, *args: object, **kwargs: object) -> object:
        # NumPy's functions ask for methods of what may be no array: np.prod(x.shape[1:])
        owner = value if hasattr(value, self.__name__) else np.asarray(value)
        return getattr(owner, self.__name__)(*args, **kwargs)


class _WithLayers(nn.Module):
    """A function that calls layers, whose parameters are its own.

    Args:
        function: of the features.
        layers: that it calls.
    """

    def __init__(self, function: Callable[..., Tensor], layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, *values: object) -> Tensor:
        return self.function(*values)


def _sources(arguments: Any) -> tuple[fx.Node, ...]:
    """The nodes among arguments, as often as they are there."""
    sources: list[fx.Node] = []
    fx.node.map_arg(arguments, sources.append)
    return tuple(sources)


def _is_pick(node: fx.Node) -> bool:
    return node.target in {operator.getitem, getattr}


def _regroups(node: fx.Node, tuples: Container[fx.Node]) -> bool:
    """Whether a node is some of several outputs, or these and others."""
    if node.target is operator.add:
        return any(source in tuples for source in node.args)
    return node.target is operator.getitem and node.args[0] in tuples and isinstance(node.args[1], slice)


def _counted(node: fx.Node) -> object:
    """Whose first size a value is: `x.size(0)`, `x.shape[0]`, `len(x)`; None for other values."""
    whole = node.args[0] if node.args else None
    if node.target is len or (node.target == "size" and [*node.args[1:], *node.kwargs.values()] == [0]):
        return whole
    if node.target is not operator.getitem or node.args[1] != 0 or not isinstance(whole, fx.Node):
        return None
    is_shape = whole.target is getattr and whole.args[1] == "shape"
    is_size = whole.target == "size" and len(whole.args) + len(whole.kwargs) == 1
    return whole.args[0] if is_shape or is_size else None


def unused(name: str, taken: Container[str]) -> str:
    """A name for a module: no method's, and no other module's."""
    while name in taken or hasattr(Sequential, name) or hasattr(nn.ModuleDict, name):
        name += "_"
    return name


def translated(
    net: nn.Module, *, strict: bool, shape: Sequence[int] | None = None
) -> tuple[Translation, frozenset[str], str | None]:
    """A net traced and translated.

    Args:
        net: left as it was.
        strict: as for `drmm.lift`.
        shape: as of `trace`.

    Returns:
        The translation; the paths of modules that it takes as a whole; in what training differs, see `trace`.

    Raises:
        LiftError: as for `drmm.lift`.
    """
    opaque: frozenset[str] = frozenset()
    while True:
        graph, difference = trace(net, opaque, shape)
        try:
            return Translation(net, graph, strict=strict, with_dropout=difference is None), opaque, difference
        except TakeWhole as request:
            opaque |= request.paths
