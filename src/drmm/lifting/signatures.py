"""The arguments of torch's functions and methods by name, however they are spelled, and the dimensions in them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.operator_schemas import get_signature_for_torch_op

from drmm.lifting.arguments import Arguments

__all__ = ["named", "names_dimensions", "pieces", "renamed", "works_along_images"]

_ALIASES = {"axis": "dim", "keepdims": "keepdim"}  # torch takes numpy's names too
_DIMENSIONS = {
    "dim", "dims", "dim0", "dim1", "axis0", "axis1", "dimension", "source", "destination", "start_dim",
}  # fmt: skip
_ALONG_THE_FIRST = {
    "T",
    "addbmm",
    "flipud",
    "masked_select",
    "ravel",
    "row_stack",
    "t",
    "take",
    "vsplit",
    "vstack",
}
_NOT_OVER_ALL = {"log_softmax", "softmax", "softmin", "squeeze"}  # without a dimension they choose one


def renamed(call: Arguments) -> Arguments:
    """Arguments under torch's own names."""
    args, kwargs = call
    return args, {_ALIASES.get(name, name): value for name, value in kwargs.items()}


def named(target: object, name: str, call: Arguments) -> dict[str, Any]:
    """Arguments by name, defaults included.

    Args:
        target: the function; of a method, its name.
        name: of the operation.
        call: its arguments, with nodes for values of the graph.

    Returns:
        Nothing where torch says no signature.
    """
    args, kwargs = renamed(call)
    for signature in _signatures(target, name):
        # Sizes and dimensions may come one by one.
        for positional in (args, (*args[:1], args[1:])):
            try:
                bound = signature.bind(*positional, **kwargs)
            except TypeError:
                continue
            wanted = signature.parameters
            if all(_fits(value, wanted[key].annotation) for key, value in bound.arguments.items()):
                bound.apply_defaults()
                return dict(bound.arguments)
    return {}


def works_along_images(target: object, name: str, call: Arguments) -> bool:
    """Whether an operation says that it takes the first dimension for anything but the images.

    A negative dimension says nothing: nobody knows yet how many there are.
    """
    if name in _ALONG_THE_FIRST:
        return True
    arguments = named(target, name, call)
    dims = [value for key, value in arguments.items() if key in _DIMENSIONS]
    if name == "getitem":
        index = call[0][1]
        return _picks_images(index[0] if isinstance(index, tuple) and index else index)
    if name == "permute" and dims:
        first, *others = dims[0]
        return first not in (0, -1 - len(others))
    if dims:
        return any(_is_first(dim) for dim in dims) or (dims[0] in (None, [], ()) and name not in _NOT_OVER_ALL)
    # One signature without dimensions where others have some: over all of them.
    alone = not any(isinstance(value, fx.Node) for key, value in arguments.items() if key != "input")
    return bool(arguments) and alone and name not in _NOT_OVER_ALL and _may_name_dimensions(target, name)


def names_dimensions(target: object, name: str, call: Arguments) -> bool:
    """Whether an operation says along which dimensions it works."""
    return bool(_DIMENSIONS & named(target, name, call).keys())


def pieces(node: fx.Node) -> int | None:
    """How many outputs an operation has, or sizes a slice of a shape has; None if that depends on sizes."""
    name = getattr(node.target, "__name__", str(node.target))
    match node.args[1] if name == "getitem" else None:
        case slice(start=None, stop=int(count), step=None) if count > 0:  # as in shape[:2]
            return count
        case slice(start=int(count), stop=None, step=None) if count < 0:  # as in shape[-2:]
            return -count
    values: list[Any] = [*named(node.target, name, (node.args, node.kwargs)).values(), None, None]
    how = values[1]
    if isinstance(how, list | tuple) and name in {"split", "split_with_sizes"}:
        return len(how)
    if name not in {"chunk", "dsplit", "hsplit", "tensor_split"}:
        return None
    return len(how) + 1 if isinstance(how, list | tuple) else how if isinstance(how, int) else None


def _picks_images(index: object) -> bool:
    return index is not Ellipsis and index not in (slice(None), slice(0, None), slice(None, None, 1))


def _is_first(dim: object) -> bool:
    return 0 in dim if isinstance(dim, Sequence) else dim == 0


def _may_name_dimensions(target: object, name: str) -> bool:
    return any(_DIMENSIONS & signature.parameters.keys() for signature in _signatures(target, name))


def _signatures(target: object, name: str) -> list[inspect.Signature]:
    """Of a function written in Python its own, else of the operation that torch has under this name."""
    if inspect.isfunction(target):
        return [inspect.signature(target)]
    operation = getattr(torch.ops.aten, name, None)
    found: Any = None if operation is None else get_signature_for_torch_op(operation)
    return found or []


def _fits(value: object, annotation: object) -> bool:
    """Whether a value can be a tensor or a bool where one is wanted: all tensors are values of the graph."""
    if annotation in {torch.Tensor, bool}:
        return isinstance(value, fx.Node) or (annotation is bool and isinstance(value, bool))
    return True
