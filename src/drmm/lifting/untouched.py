"""A net is run or traced, and then is as it was before: mode, attributes, what it keeps, random numbers."""

from __future__ import annotations

import operator
import pickle
import random
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial, singledispatch
from types import CellType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["GLOBAL_HOOKS", "untouched"]

GLOBAL_HOOKS: dict[str, dict[int, Any]] = {
    f"_{kind}_hooks": vars(torch.nn.modules.module)[f"_global_{kind}_hooks"]
    for kind in ("forward_pre", "forward", "backward_pre", "backward")
}
"""The hooks that run for every module there is, by what a module calls its own."""

_FOREIGN = {*sys.stdlib_module_names, "drmm", "numpy", "torch"}  # code that keeps nothing about a user's net

Kept = tuple[Collection[object], Callable[[], None] | None]
"""What a thing holds, and what puts it back."""


@contextmanager
def untouched(net: nn.Module, *, training: bool) -> Iterator[Callable[[], bool]]:
    """A mode for every submodule, set without calling their own `train`; afterwards the net is as it was.

    So are lists, dictionaries, sets and objects that it, its classes, its methods or its hooks hold or name, its
    buffers, and the generators of torch, numpy and Python. Not so: what is written into parameters or into tensors
    that are held elsewhere, iterators, files.

    Yields:
        Whether anything was drawn inside; it knows afterwards.
    """
    put_back = list(_keep([net, GLOBAL_HOOKS]))
    with _watched_randomness() as draws:
        try:
            for module in net.modules():
                module.training = training
            yield draws
        finally:
            for each in put_back:
                each()


@contextmanager
def _watched_randomness() -> Iterator[Callable[[], bool]]:
    """Whether anything was drawn inside, by torch, numpy or Python; all generators are put back."""

    def states() -> bytes:
        return pickle.dumps((torch.get_rng_state().numpy(), np.random.get_state(), random.getstate()))  # noqa: NPY002

    before, numbers, python = states(), np.random.get_state(), random.getstate()  # noqa: NPY002
    drawn = False
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        try:
            yield lambda: drawn
        finally:
            drawn = states() != before
            np.random.set_state(numbers)  # noqa: NPY002
            random.setstate(python)


# --- what is held, and how it is put back ---


def _keep(things: Iterable[object]) -> Iterator[Callable[[], None]]:
    """What puts back all that can be reached from some things."""
    found: dict[int, object] = {}  # held, so that no other object gets its number
    ahead = list(things)
    while ahead:
        thing = ahead.pop()
        if id(thing) in found:
            continue
        found[id(thing)] = thing
        held, put_back = _kept(thing)
        ahead.extend(held)
        if put_back is not None:
            yield put_back


@singledispatch
def _kept(thing: object) -> Kept:
    """An object: its attributes, and those of its class."""
    users = isinstance(thing, SimpleNamespace) or not _is_foreign(type(thing).__module__)
    return ([vars(thing), *type(thing).__mro__] if users and hasattr(thing, "__dict__") else []), None


@_kept.register
def _(thing: nn.Module) -> Kept:
    """A module: also the numbers in its buffers and other tensors. All that a list holds would be too many."""
    own = (value for value in (*vars(thing).values(), *thing.buffers(recurse=False)) if isinstance(value, Tensor))
    kept = [
        (tensor, tensor.clone(), tensor._version)  # noqa: SLF001
        for tensor in own
        if not (tensor.requires_grad or tensor.is_inference() or is_lazy(tensor))
    ]

    def put_back() -> None:
        for tensor, before, version in kept:
            if tensor._version != version:  # noqa: SLF001
                tensor.copy_(before)

    return [vars(thing), *type(thing).__mro__], put_back


@_kept.register
def _(thing: ModuleType) -> Kept:
    del thing
    return [], None


@_kept.register(list)
@_kept.register(deque)
def _(thing: list[object] | deque[object]) -> Kept:
    before = list(thing)

    def put_back() -> None:
        if len(thing) != len(before) or not all(map(operator.is_, thing, before)):
            thing.clear()
            thing.extend(before)

    return before, put_back


@_kept.register(dict)
def _(thing: dict[Any, Any]) -> Kept:
    before = dict(thing)

    def put_back() -> None:
        if [*map(id, thing)] != [*map(id, before)]:
            thing.clear()
        for key, value in before.items():
            thing[key] = value  # noqa: PERF403  (a counter's update would add)

    return list(before.values()), put_back


@_kept.register(set)
def _(thing: set[Any]) -> Kept:
    before = set(thing)

    def put_back() -> None:
        if thing != before:
            thing.clear()
            thing.update(before)

    return before, put_back


@_kept.register(tuple)
def _(thing: tuple[object, ...]) -> Kept:
    return thing, None


@_kept.register
def _(thing: MethodType) -> Kept:
    return (thing.__self__, thing.__func__), None


@_kept.register(partial)
def _(thing: partial[Any]) -> Kept:
    return (thing.func, thing.args, thing.keywords), None


@_kept.register
def _(thing: FunctionType) -> Kept:
    """What a method, a hook or a function knows from outside: its globals and its closure."""
    if _is_foreign(thing.__module__):
        return [], None
    space = thing.__globals__
    names = {name: space[name] for name in thing.__code__.co_names if name in space}
    cells = [(cell, cell.cell_contents) for cell in thing.__closure__ or () if _is_filled(cell)]

    def put_back() -> None:
        space.update({name: value for name, value in names.items() if space.get(name) is not value})
        for cell, value in cells:
            cell.cell_contents = value

    return [*names.values(), *(value for _, value in cells)], put_back


@_kept.register
def _(thing: type) -> Kept:
    if _is_foreign(thing.__module__):
        return [], None
    before = dict(vars(thing))

    def put_back() -> None:
        for name in vars(thing).keys() - before.keys():
            delattr(thing, name)
        for name, value in before.items():
            if vars(thing).get(name) is not value:
                setattr(thing, name, value)

    return [value for name, value in before.items() if not name.startswith("__")], put_back


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # its variable is not set yet
        return False


def _is_foreign(module: str | None) -> bool:
    return (module or "builtins").partition(".")[0] in _FOREIGN
