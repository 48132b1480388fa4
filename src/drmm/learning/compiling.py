"""The passes through a model's levels, compiled by `torch.compile`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.learning.config import Machine
from drmm.learning.quiet import ignoring
from drmm.model.deep import DRMM

__all__ = ["Compiled", "compiling"]

# What the compiler warns itself of.
_COMPILER_CHATTER = (
    ".*torch.autograd.function.Function.* should not be instantiated",
    "The .grad attribute of a Tensor that is not a leaf Tensor",
)

# Two sizes of batches, twice nine levels, and what is left of each after a break.
_MOST_GRAPHS = 256


class Compiled:
    """A model whose passes through the levels are compiled; all else is the model's own.

    What the model keeps track of beside them is not compiled: its weight changes at every step, and every step
    would be compiled anew.
    """

    def __init__(self, model: DRMM) -> None:
        self._model = model
        self.levels = _CompiledLevels(model.levels)

    def __getattr__(self, name: str) -> Any:
        """What is not compiled."""
        return getattr(self._model, name)


class _CompiledLevels:
    """Bottom-up, with and without switches, and top-down: where the time goes, and functions of tensors.

    The compiler does not learn of sizes that vary (`dynamic`): it has made programs of the position switches that
    did not run.
    """

    def __init__(self, levels: Any) -> None:
        self._levels = levels
        self.infer = torch.compile(levels.infer, dynamic=False)
        self.render_levels = torch.compile(levels.render_levels, dynamic=False)
        self._forward = torch.compile(levels.forward, dynamic=False)

    def __call__(self, x: Tensor) -> Tensor:
        """The features alone."""
        return self._forward(x)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        """What is not compiled."""
        return getattr(self._levels, name)


@contextmanager
def compiling(machine: Machine) -> Iterator[None]:
    """Leave room for the graphs of all levels, and say in one line what the compiler cannot do."""
    if not machine.compile:
        yield
        return
    from torch._dynamo import config as dynamo  # noqa: PLC0415
    from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415

    try:
        with dynamo.patch(recompile_limit=_MOST_GRAPHS), ignoring(_COMPILER_CHATTER):
            yield
    except TorchDynamoException as error:
        reason = shorten(str(error), 200) or type(error).__name__
        raise InputError(
            f"torch.compile cannot compile this model ({reason}): set machine.compile to false"
        ) from error
