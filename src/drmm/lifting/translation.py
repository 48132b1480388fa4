"""Every operation of a traced graph as a rendering, a join, or an aside."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, fx, nn

from drmm.lifting.arguments import Arguments, Batch, Call, Hole, Setting
from drmm.lifting.operations import LOOKS_AT_SIZE, TUPLES, rendering_of, whole_module
from drmm.lifting.shadows import holder, shadow
from drmm.lifting.tracing import LiftError, kind_of, name_of, path_of, trace
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


@dataclass(frozen=True)
class _Parts:
    """The arguments of an operation, taken apart.

    Attributes:
        call: with holes in place of nodes.
        features: whose holes come first.
        settings: whose holes follow.
    """

    call: Arguments
    features: tuple[fx.Node, ...]
    settings: tuple[fx.Node, ...]


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
        self._tuples: set[fx.Node] = set()
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
            raise LiftError("the net must return one tensor of logits (N, classes) that depend on the images")

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

    # --- one node ---

    def _translate(self, node: fx.Node) -> None:
        if node.op == "get_attr":
            self._constant(node)
            return
        inputs = [n for n in node.all_input_nodes if n in self._features or n in self._tuples]
        if not inputs or _looks_at_size(node):
            parts = self._parts(node, aside=True)
            self.items[node] = Item(node, parts.settings, function=Call(self._aside(node), parts.call))
            return
        if kind_of(node, self._net) in TUPLES or _is_max_with_place(node):
            self._tuples.add(node)
            return
        self._features.add(node)
        self._step(node)

    def _step(self, node: fx.Node) -> None:
        lead: Any = node.args[0] if node.args else None
        picked = lead in self._tuples and node.target in {operator.getitem, getattr}
        whole: fx.Node = lead if picked else node
        parts = self._parts(whole)
        operation = self._operation(whole, parts)
        if picked and not _is_max_with_place(whole):
            operation = _picked(operation, cast("int", node.args[1]))
        elif picked and node.args[1] not in {0, "values"}:
            raise LiftError(
                f"{name_of(whole, self._net)} gives places, which no picture flows through: use the values"
            )
        self.operations.setdefault(self.name(node), operation)
        self.items[node] = Item(node, parts.features, parts.settings)

    def _operation(self, node: fx.Node, parts: _Parts) -> Rendering | Join:
        if node.op == "call_module" and self.name(node) in self.operations:
            return self.operations[self.name(node)]
        inputs = len(parts.features)
        if not self._strict and path_of(node) and whole_module(node, self._net, inputs):
            raise TakeWhole({path_of(node)})
        operation = rendering_of(node, self._net, parts.call, inputs, strict=self._strict)
        is_layer = node.op == "call_module"
        if isinstance(operation, Dropout | Dropout2d) and not (is_layer or self._drops(node)):
            operation = Identity()
        home = self._net.get_submodule(str(node.target) if is_layer else path_of(node))
        if operation is not home:
            operation.training = home.training
        return operation

    def _drops(self, node: fx.Node) -> bool:
        """Whether a functional dropout drops features in training."""
        return self._with_dropout and node.meta.get("drops", False)

    def _parts(self, node: fx.Node, *, aside: bool = False) -> _Parts:
        """A node's arguments; of an aside, all nodes are settings."""
        nodes: list[fx.Node] = []
        fx.node.map_arg((node.args, node.kwargs), nodes.append)
        if any(n in self._tuples for n in nodes):
            raise LiftError(f"{name_of(node, self._net)} takes several outputs at once: index them first")
        batches = {n for n in nodes if not aside and _is_batch_size(n)}
        features = tuple(n for n in nodes if n in self._features and not aside)
        settings = tuple(n for n in dict.fromkeys(nodes) if n not in {*features, *batches})
        numbers = iter(range(len(features)))

        def hole(source: fx.Node) -> Any:
            if source in batches:
                return Batch()
            if source in settings:
                return Setting(len(features) + settings.index(source))
            return Hole(next(numbers))

        filled: Any = fx.node.map_arg((node.args, node.kwargs), hole)
        return _Parts((tuple(filled[0]), dict(filled[1])), features, settings)

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
        self._name = name

    def __call__(self, value: object, *args: object, **kwargs: object) -> object:
        return getattr(value, self._name)(*args, **kwargs)


class _Pick(nn.Module):
    """One of several outputs of a function.

    Args:
        function: returns a sequence of tensors.
        index: which one.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], index: int) -> None:
        super().__init__()
        self.function = function
        self.index = index

    def forward(self, *values: object) -> Tensor:
        return self.function(*values)[self.index]


def _picked(operation: Any, index: int) -> Rendering | Join:
    operation.function = _Pick(operation.function, index)
    return cast("Rendering | Join", operation)


def _looks_at_size(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in LOOKS_AT_SIZE
    return node.target is getattr and node.args[1] in {"shape", "ndim", "device", "dtype", "is_cuda", "layout"}


def _is_batch_size(node: fx.Node) -> bool:
    """Whether a value is the number of images: `x.size(0)` or `x.shape[0]`."""
    if node.op == "call_method" and node.target == "size":
        return [*node.args[1:], *node.kwargs.values()] == [0]
    if node.target is not operator.getitem or node.args[1] != 0:
        return False
    whole = node.args[0]
    return (
        isinstance(whole, fx.Node) and _looks_at_size(whole) and (whole.target is getattr or len(whole.args) == 1)
    )


def _is_max_with_place(node: fx.Node) -> bool:
    """`x.max(dim)`, which gives values and places."""
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    return name == "max" and ("dim" in node.kwargs or isinstance((*node.args, None, None)[1], int))


def unused(name: str, taken: Container[str]) -> str:
    """A name for a module: no method's, and no other module's."""
    while name in taken or hasattr(Sequential, name) or hasattr(nn.ModuleDict, name):
        name += "_"
    return name


def translated(net: nn.Module, *, strict: bool) -> tuple[Translation, frozenset[str], str | None]:
    """A net traced and translated.

    Args:
        net: left as it was.
        strict: as for `drmm.lift`.

    Returns:
        The translation; the paths of modules that it takes as a whole; in what training differs, see `trace`.

    Raises:
        LiftError: as for `drmm.lift`.
    """
    opaque: frozenset[str] = frozenset()
    while True:
        graph, difference = trace(net, opaque)
        try:
            return Translation(net, graph, strict=strict, with_dropout=difference is None), opaque, difference
        except TakeWhole as request:
            opaque |= request.paths
