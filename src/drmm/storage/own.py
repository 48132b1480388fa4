"""A net of one's own: found by its name, or given as it is, and made a DRMM for other classes."""

from __future__ import annotations

import copy
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from drmm.errors import InputError
from drmm.lifting.assembly import lift
from drmm.lifting.translation import unused
from drmm.lifting.verification import Verification
from drmm.model.deep import DRMM
from drmm.model.efficientnet import in_colour, whitened
from drmm.model.presets import Shape
from drmm.rendering import Affine, Linear, Sequential
from drmm.storage.preprocessing import Preprocessing
from drmm.storage.weights import load_weights

__all__ = ["OwnNet", "found", "name_of"]

_FORM = "package.module:factory"
Tell = Callable[[str], object]


class OwnNet:
    """A net that is not ours, and what it was trained on.

    Args:
        name: "package.module:factory"; or any, where the net itself is given.
        net: a module, which is copied, or what makes one when it is called; None looks the name up.
        preprocessing: of the pictures.

    Raises:
        InputError: if there is none such, or it is no net.
    """

    def __init__(self, name: str, net: object, preprocessing: Preprocessing) -> None:
        self.name, self.preprocessing = name, preprocessing
        self._net = _made(name, found(name) if net is None or isinstance(net, str) else net)

    def model(
        self,
        n_classes: int,
        image_shape: Shape,
        *,
        weights: Path | None = None,
        digest: str = "",
        tell: Tell = lambda _: None,
    ) -> DRMM:
        """The DRMM of it, for pictures in [0, 1]: its preprocessing, its levels, and class templates.

        The templates are the net's own where it has as many logits as there are classes, and fresh ones otherwise.
        Where it ends with no linear layer, they are of its output.

        Args:
            n_classes: number of class templates.
            image_shape: (C, H, W); grey pictures go into three channels where the net takes three.
            weights: file of them; None takes those that the net has.
            digest: SHA-256 of that file, if it is known.
            tell: is told what was loaded, and what is no exact rendering.

        Raises:
            InputError: if the pictures do not fit the net, or the weights are not all of its own.
            LiftError: if an operation has no rendering.
            RunError: if the weights cannot be read.
        """
        loaded = None if weights is None else load_weights(self._net, weights, digest)
        channels = self._channels(image_shape)
        lifted = lift(self._net, image_shape=(channels, *image_shape[1:]), strict=False)
        if loaded is not None:
            loaded.require(self._net, lifted.levels)
        theirs = lifted.levels._modules  # noqa: SLF001  (a layer that is used twice is a level twice)
        levels: OrderedDict[str, Any] = OrderedDict()
        if channels != image_shape[0]:
            levels[unused("in_colour", theirs)] = Affine(in_colour, increasing=True)
        mean, std = self.preprocessing.mean, self.preprocessing.std
        levels[unused("preprocessing", theirs)] = whitened(channels, mean, std)
        levels.update(theirs)
        templates = Linear(lifted.templates.weight.shape[1], n_classes)
        are_theirs = lifted.n_classes == n_classes
        if are_theirs:
            _take_over(templates, lifted.templates.weight, lifted.templates.bias)
        tell(f"weights: {f'as {self.name} has them' if loaded is None else loaded.account()}")
        start = "the net's own" if are_theirs else "fresh ones"
        tell(f"class templates: {start}, {n_classes} on {templates.in_features:,} features")
        if inexact := lifted.approximations:
            some = ", ".join(inexact[:3]) + (", ..." if len(inexact) > 3 else "")
            tell(f"a local linear map, and no exact rendering, draws {len(inexact)} of its operations: {some}")
        return DRMM(Sequential(levels), templates, image_shape=image_shape)

    def _channels(self, image_shape: Shape) -> int:
        """Of the pictures that the net takes."""
        channels, height, width = image_shape
        asked = self.preprocessing.channels
        possible = [channels, 3] if channels == 1 else [channels]
        if asked is not None:
            if asked not in possible:
                raise InputError(
                    f"the preprocessing is of {asked} channels, and pictures have {channels}: say mean and std "
                    "for these"
                )
            possible = [asked]
        verification = Verification(self._net, strict=False)
        for number in possible[:-1]:
            with suppress(InputError):
                verification.require(torch.zeros(1, number, height, width), "")
                return number
        shown = f"a picture of {possible[-1]}x{height}x{width}"
        verification.require(torch.zeros(1, possible[-1], height, width), shown)
        return possible[-1]


def found(name: str) -> object:
    """What a name of the form "package.module:factory" stands for; the working directory counts, as in python -m.

    Raises:
        InputError: if there is none such, or importing it fails.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise InputError(f"a net is named {_FORM}, not {name!r}")
    with _working_directory():
        try:
            within = import_module(module)
        except ModuleNotFoundError as error:
            raise InputError(
                f"{error}, for the net {name}: install it, or start in the folder where it lies"
            ) from error
        except (Exception, SystemExit) as error:
            raise InputError(f"importing {module}, for the net {name}, fails ({_said(error)}): mend it") from error
    try:
        return reduce(getattr, attribute.split("."), within)
    except AttributeError as error:
        raise InputError(f"{module} has no {attribute!r}: name what makes the net, as {_FORM}") from error


def name_of(net: object) -> str:
    """The name by which a net can be found again; one in brackets where there is none."""
    if isinstance(net, str):
        return net
    module, attribute = getattr(net, "__module__", ""), getattr(net, "__qualname__", "")
    with suppress(InputError):
        if module != "__main__" and found(f"{module}:{attribute}") is net:
            return f"{module}:{attribute}"
    return f"<{getattr(net, '__name__', type(net).__name__)}>"


def _made(name: str, source: object) -> nn.Module:
    """A net of its own, in single precision on the CPU: whoever made it may keep it."""
    if not isinstance(source, nn.Module):
        if not callable(source):
            raise InputError(f"{name} is {_kind(source)}, which makes no net: name a function that returns one")
        with _working_directory():
            try:
                source = source()
            except (Exception, SystemExit) as error:
                raise InputError(f"{name}() fails ({_said(error)}): it is called without arguments") from error
    if not isinstance(source, nn.Module):
        raise InputError(f"{name}() returns {_kind(source)}: it has to return an nn.Module")
    try:
        return copy.deepcopy(source).float().cpu()
    except Exception as error:  # what cannot be copied raises anything
        raise InputError(f"the net of {name} cannot be copied ({_said(error)}): make it without that") from error


@contextmanager
def _working_directory() -> Iterator[None]:
    """Modules are looked for there first, as in python -m."""
    here = os.getcwd()  # noqa: PTH109  (as sys.path has it)
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


@torch.no_grad()
def _take_over(templates: Linear, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    templates.weight.copy_(weight)
    templates.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)


def _kind(thing: object) -> str:
    return "None" if thing is None else f"a {type(thing).__name__}"


def _said(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
