"""From a net to its graph of operations: traced without its hooks, without its mode, without in-place writes."""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from drmm.errors import LiftError
from drmm.lifting.recording import recorded
from drmm.lifting.shadows import is_torch_layer, torch_type
from drmm.lifting.signatures import pieces
from drmm.lifting.untouched import untouched
from drmm.rendering import Rendering

__all__ = ["LiftError", "kind_of", "name_of", "path_of", "record", "trace"]

# Outputs that are their input, or look at its memory: a write to either is a write to both.
_SAME = {"Identity", "Dropout", "Dropout2d", "dropout", "dropout2d", "contiguous", "to", "float", "detach"}
_VIEWS = {
    "Flatten", "Unflatten", "chunk", "diagonal", "expand", "expand_as", "flatten", "getitem", "movedim", "narrow",
    "permute", "reshape", "select", "split", "squeeze", "swapaxes", "t", "transpose", "unbind", "unflatten",
    "unsqueeze", "view", "view_as",
}  # fmt: skip

# Layers that draw in training what no rendering draws.
_OTHERWISE_IN_TRAINING = {"AlphaDropout", "FeatureAlphaDropout", "RReLU"}
_DTYPES = {bool: torch.bool, float: torch.float64, int: torch.int64}  # torch takes either

# What would help, by what the error says.
_ADVICE = {
    "cannot be iterated": "name as many parts as there are (n, c, h, w = x.shape; a, b = x.chunk(2, 1)), or index",
    "control flow|an integer|__index__|__round__": (
        "its forward must not branch or loop on values or sizes of features; lift the part that does not, or with "
        "image_shape=(C, H, W) where it asks for the size of images alone"
    ),
    "": "its forward must run with a stand-in for the images; lift the part that does",
}


def trace(
    net: nn.Module, opaque: frozenset[str] = frozenset(), shape: Sequence[int] | None = None
) -> tuple[fx.Graph, str | None]:
    """The graph of a net in evaluation, free of in-place operations and of what the output does not need.

    Args:
        net: left as it was, hooks and training mode included.
        opaque: paths of modules not to look into.
        shape: of an image, by which control flow on its size is decided.

    Returns:
        The graph, and in what the graph in training mode differs from it: the name of an operation, or None.

    Raises:
        LiftError: if the net cannot be traced.
    """
    evaluation, _ = record(net, opaque, shape)
    try:
        training, draws = record(net, opaque, shape, training=True)
    except LiftError:
        difference: str | None = "its control flow"
    else:
        difference = _difference(evaluation, training, net) or ("its random choices" if draws else None)
    _functionalise(evaluation, net)
    evaluation.eliminate_dead_code(is_impure_node=lambda node: node.op in {"placeholder", "output"})
    return evaluation, difference


def name_of(node: fx.Node, net: nn.Module) -> str:
    """How messages call a node: a layer by its path and class, a function by its name and the module it is in."""
    if node.op == "call_module":
        return f"layer {str(node.target)!r} ({kind_of(node, net)})"
    path = path_of(node)
    return f"{kind_of(node, net)!r} ({node.name}" + (f" in {path!r})" if path else ")")


def path_of(node: fx.Node) -> str:
    """Path of the innermost module that a node was traced in; "" is the net itself."""
    stack = node.meta.get("nn_module_stack") or {"": ("", nn.Module)}
    path, _ = list(stack.values())[-1]
    return str(path)


def kind_of(node: fx.Node, net: nn.Module) -> str:
    """Name of an operation: of a layer's class in `torch.nn`, of a function or a method."""
    if node.op == "call_module":
        layer = net.get_submodule(str(node.target))
        return (torch_type(layer) or type(layer)).__name__
    return str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


class _Tracer(fx.Tracer):
    """Looks into every module that is no layer of torch, no rendering, and not opaque; runs no hooks."""

    def __init__(self, opaque: frozenset[str], shape: Sequence[int] | None) -> None:
        super().__init__()
        self._opaque, self._shape = opaque, shape

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Rendering) or module_qualified_name in self._opaque or is_torch_layer(m)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        del forward  # it would run the module's hooks on what is not a tensor
        return super().call_module(m, m.forward, args, kwargs)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        try:
            return super().iter(obj)
        except fx.proxy.TraceError:
            if (count := pieces(obj.node)) is None:
                raise
            return iter([obj[i] for i in range(count)])  # type: ignore[index]

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Whether a size of the images is what the net asks for; the values that they have are not known."""
        if self._shape is not None:
            with suppress(Exception):
                return bool(_on_images(obj.node, torch.empty(2, *self._shape, device="meta")))
        return super().to_bool(obj)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _StandIn(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, type):
            a = _DTYPES.get(a, a)
        return super().create_arg(a.item() if isinstance(a, np.generic) else a)

    def create_args_for_root(self, *args: Any, **kwargs: Any) -> Any:
        forward, inputs = super().create_args_for_root(*args, **kwargs)
        return lambda *values: _logits(forward(*values)), inputs


class _StandIn(fx.Proxy):
    """A stand-in for a value; f(*parts) asks for its length first, and goes on if it has none."""

    def __len__(self) -> int:
        raise TypeError("its length is known when it meets images: write x.shape[0]")


def _on_images(value: Any, images: Tensor) -> Any:
    """A value of a graph, or an argument of one, computed of images without numbers by functions alone.

    Raises:
        TypeError: if a layer is needed for it, or numbers are.
    """
    if not isinstance(value, fx.Node):
        return value
    if value.op == "placeholder":
        return images
    args, kwargs = fx.node.map_arg((value.args, value.kwargs), lambda node: _on_images(node, images))
    made: Any = None
    if value.op == "call_method":
        made = getattr(args[0], str(value.target))(*args[1:], **kwargs)
    elif not isinstance(value.target, str):
        made = value.target(*args, **kwargs)
    if made is None or (isinstance(made, Tensor) and not made.is_meta):
        raise TypeError(value.name)
    return made


def _logits(output: object) -> fx.Proxy:
    """What a net returns, if that can be logits."""
    if isinstance(output, fx.Proxy):
        return output
    if isinstance(output, Mapping):
        places = [f"[{key!r}]" for key in output]
    elif isinstance(output, list | tuple) and not hasattr(output, "_fields"):
        places = [f"[{i}]" for i in range(len(output))]
    else:
        places = [f".{name}" for name in getattr(output, "_fields", getattr(output, "__dict__", ()))]
    place = next((place for place in places if "logits" in place), *places[:1] or [""])
    raise LiftError(
        "the net must return one tensor of logits (N, classes) that depend on the images, and returns "
        f"{'None' if output is None else type(output).__name__}: "
        + (f"lift a module whose forward is return self.net(x){place}" if place else "let its forward do so")
    )


def record(
    net: nn.Module,
    opaque: frozenset[str] = frozenset(),
    shape: Sequence[int] | None = None,
    *,
    training: bool = False,
    thorough: bool = False,
) -> tuple[fx.Graph, bool]:
    """The graph of a net as it is written, in-place operations and all; and whether it draws random numbers.

    Args:
        net: left as it was.
        opaque: paths of modules not to look into.
        shape: as of `trace`.
        training: the mode.
        thorough: whether what is made of buffers is recorded too, and not what they hold now; and numbers made by
            `int` and `float`.

    Raises:
        LiftError: if the net cannot be traced, or returns anything but a tensor.
    """
    parameters = list(inspect.signature(net.forward).parameters.values())
    spare = {p.name: p.default for p in parameters[1:] if p.default is not p.empty}
    attributes = set(vars(net))
    try:
        with untouched(net, training=training) as draws, recorded(net, numbers=thorough):
            tracer = _Tracer(opaque, shape)
            tracer.proxy_buffer_attributes = thorough
            graph = tracer.trace(net, concrete_args=spare or None)
            _take_constants(graph, net, attributes)
    except LiftError:
        raise
    except Exception as error:
        if not thorough:  # int(x.shape[2]); or a buffer's method does not take a stand-in: expand(x.shape[0], -1)
            with suppress(LiftError):
                return record(net, opaque, shape, training=training, thorough=True)
        # What users wrote into forward can raise anything when it meets a stand-in for a tensor.
        why = " ".join(str(error).split()).split(". ")[0]
        advice = next(advice for sign, advice in _ADVICE.items() if re.search(sign, why))
        raise LiftError(f"{type(net).__name__} cannot be traced ({why}): {advice}") from error
    return graph, draws()


def _take_constants(graph: fx.Graph, net: nn.Module, before: set[str]) -> None:
    """Move tensors that tracing has put on the net, or found there outside its parameters, to the graph."""
    for node in graph.nodes:
        if node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            owner = net.get_submodule(path)
            if name not in owner._parameters and name not in owner._buffers:  # noqa: SLF001
                node.meta["value"] = getattr(owner, name)
    for name in vars(net).keys() - before:
        delattr(net, name)


def _difference(one: fx.Graph, other: fx.Graph, net: nn.Module) -> str | None:
    """The first operation in which the graphs in evaluation and in training differ.

    Whether `F.dropout` drops features is no difference: it is noted on its node.
    """
    mine, theirs = ([n for n in graph.nodes if n.op != "output"] for graph in (one, other))
    for a, b in zip(mine, theirs, strict=False):
        if _fingerprint(a) != _fingerprint(b) or kind_of(a, net) in _OTHERWISE_IN_TRAINING:
            return name_of(a, net)
        if _is_dropout(a):
            a.meta["drops"] = bool(_call_arguments(b).get("training", True))
    outputs = [str(graph.output_node().args) for graph in (one, other)]
    return None if len(mine) == len(theirs) and outputs[0] == outputs[1] else "its output"


def _fingerprint(node: fx.Node) -> tuple[str, ...]:
    arguments = _call_arguments(node)
    if _is_dropout(node):
        arguments.pop("training", None)
    return node.op, str(node.target), str(arguments)


def _is_dropout(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in {F.dropout, F.dropout2d, torch.dropout}


def _call_arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of a function call by name, as far as its signature is known; the others by position."""
    if node.op == "call_function":
        try:
            return dict(inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments)  # type: ignore[arg-type]
        except (TypeError, ValueError):  # functions written in C have no signature
            pass
    return {**{str(i): value for i, value in enumerate(node.args)}, **node.kwargs}


# --- in-place operations ---


def _functionalise(graph: fx.Graph, net: nn.Module) -> None:
    """Let everything that comes after an in-place operation read its result in place of what it overwrote.

    Raises:
        LiftError: if it writes to a part of features that are read again as a whole, or the other way round.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    memory: dict[fx.Node, fx.Node] = {}  # which node's memory another one shares, as a whole
    parts: dict[fx.Node, set[fx.Node]] = {}  # nodes that look at parts of a memory
    wholes: dict[fx.Node, set[fx.Node]] = {}  # what a node looks at a part of
    for node in list(graph.nodes):
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        own = memory[source] if source is not None and _shares(node, net) else node
        memory[node] = own
        if source is not None and kind_of(node, net) in _VIEWS:
            wholes[node] = {source, *wholes.get(memory[source], ())}
            for whole in wholes[node]:
                parts.setdefault(memory[whole], set()).add(node)
        if source is None or not _is_in_place(node, net):
            continue
        if node.target is operator.setitem:
            raise LiftError(
                f"{name_of(node, net)} assigns into features, which has no rendering: use torch.cat or where"
            )
        for alias in [other for other, owner in memory.items() if owner is memory[source] and other is not node]:
            for user in [user for user in alias.users if order[user] > order[node]]:
                user.replace_input_with(alias, node)
        for view in {*parts.get(memory[source], ()), *wholes.get(memory[source], ())}:
            if any(order[user] > order[node] for user in view.users):
                raise LiftError(
                    f"{name_of(node, net)} writes in place to what {view.name!r} looks at: clone it first"
                )


def _shares(node: fx.Node, net: nn.Module) -> bool:
    return kind_of(node, net) in _SAME or _is_in_place(node, net)


def _is_in_place(node: fx.Node, net: nn.Module) -> bool:
    if node.op == "call_module":
        layer = net.get_submodule(str(node.target))
        return bool(getattr(layer, "inplace", False)) and not isinstance(layer, nn.Dropout | nn.Dropout2d)
    if _is_dropout(node):  # in evaluation nothing is written
        return False
    name = kind_of(node, net)
    written = node.target in {operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem}
    return (
        written or (name.endswith("_") and not name.endswith("__")) or bool(_call_arguments(node).get("inplace"))
    )
