"""A model and images as they were: what is worked out later is of these, or refused."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from drmm.errors import InputError
from drmm.rendering import Choice, Linear, Sequential

__all__ = ["Later", "Moment", "unwatched"]

_ODD = -7046029254386353131  # 2⁶⁴ / golden ratio, whose multiples share few bits
_CHUNK = 2**16  # words that are summed at once: they stay in a processor's cache
_IS_UNWATCHED = ContextVar("_IS_UNWATCHED", default=False)


@contextmanager
def unwatched() -> Iterator[None]:
    """Within it nobody changes weights or images, and nobody looks whether: for one picture looking takes longest.

    What is inferred within it has to be read within it.
    """
    before = _IS_UNWATCHED.set(True)
    try:
        yield
    finally:
        _IS_UNWATCHED.reset(before)


def _lasts_anyway() -> bool:
    """A compiler sees no values, and nothing changes between the steps of what it makes."""
    return torch.compiler.is_compiling() or _IS_UNWATCHED.get()


class Inferring(Protocol):
    """A model whose inference somebody asks about later."""

    @property
    def levels(self) -> Sequential:
        """The renderings."""

    @property
    def templates(self) -> Linear | Choice:
        """The class templates."""

    def upper_bound(self, x: Tensor) -> Tensor:
        """How high the score of each class may be, (N, C), of images (N, C, H, W)."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a model inferred: itself and its images (N, C, H, W), with checksums of both, () and (N,)."""

    model: Inferring
    x: Tensor
    weights: Tensor
    images: Tensor

    @classmethod
    def now(cls, model: Inferring, x: Tensor) -> Self:
        """As both are."""
        if _lasts_anyway():
            return cls(model, x.detach(), torch.zeros(()), torch.zeros(()))
        return cls(model, x.detach(), _checksum(_tensors(model)), _checksums(x))

    def select(self, index: Tensor | slice) -> Moment:
        """Of some images."""
        return Moment(self.model, self.x[index], self.weights, self.images[index])

    @property
    def has_weights(self) -> bool:
        """Whether the model's weights are the same."""
        if _lasts_anyway():
            return True
        weights = _checksum(_tensors(self.model))
        return weights.device == self.weights.device and torch.equal(self.weights, weights)

    @property
    def lasts(self) -> bool:
        """Whether weights and images are the same."""
        return self.has_weights and (_lasts_anyway() or torch.equal(self.images, _checksums(self.x)))


class Question(Protocol):
    """What is to be worked out of a moment."""

    @property
    def moment(self) -> Moment:
        """When the model inferred."""

    def select(self, index: Tensor | slice) -> Self:
        """Of some images."""


_Q = TypeVar("_Q", bound=Question)


class Later(ABC, Generic[_Q]):
    """A number for each image, (N,), given or worked out when somebody first reads it.

    It takes as long as inference or longer, and is of the weights and the images of the inference: where either
    has changed, reading is an error, and never of others. Pickles and deep copies hold the numbers themselves.

    Args:
        value: the numbers; None works them out.
        question: what is to be worked out; None if that is lost.
    """

    _asked: ClassVar[str]

    def __init__(self, value: Tensor | None, question: _Q | None = None) -> None:
        self._value, self._question = value, question

    @abstractmethod
    def _answer(self, question: _Q) -> Tensor:
        """The numbers."""

    def read(self) -> Tensor:
        """The numbers, (N,).

        Raises:
            InputError: if the weights or the images have changed before they were first read.
        """
        if self._value is None:
            if self._question is None or not self._question.moment.lasts:
                raise InputError(
                    f"the weights or the images have changed since inference, so that the {self._asked} is lost: "
                    "infer again, or infer with certify=True"
                )
            self._value = self._answer(self._question)
        return self._value

    def select(self, index: Tensor | slice) -> Self:
        """Those of some images."""
        if self._value is not None:
            return type(self)(self._value[index])
        return type(self)(None, None if self._question is None else self._question.select(index))

    def __getstate__(self) -> dict[str, Any]:
        """The numbers, or that they are lost."""
        known = self._value is not None or (self._question is not None and self._question.moment.lasts)
        return {"_value": self.read() if known else None, "_question": None}


def _tensors(model: Inferring) -> Iterable[Tensor]:
    for part in (model.levels, model.templates):
        yield from part.parameters()
        yield from part.buffers()


def _checksum(tensors: Iterable[Tensor]) -> Tensor:
    """A number for the bits of tensors, (). A version counter would not do: edits of `.data` leave it as it is.

    The sum of the 64-bit words of each chunk, each times a key of its place. Changes of the highest bits alone, as
    of two signs, would cancel in such a sum: so the upper half of each word is added to the lower.
    """
    sums, small = [], []
    for tensor in tensors:
        row = tensor.detach().reshape(-1).view(torch.uint8)
        if row.numel() % 8 or row.storage_offset() % 8 or row.numel() < _CHUNK:
            small.append(row)
        else:
            sums += _sums(row.view(torch.int64))
    if small:
        row = torch.cat(small)
        sums += _sums(nn.functional.pad(row, (0, -row.numel() % 8)).view(torch.int64))
    return _checksums(torch.stack(sums)[None])[0] if sums else torch.zeros((), dtype=torch.int64)


def _sums(words: Tensor) -> list[Tensor]:
    keys = _keys(words.device)
    return [(part >> 32).add_(part).mul_(keys[: len(part)]).sum() for part in words.split(_CHUNK)]


@cache
def _keys(device: torch.device) -> Tensor:
    return _mixed(torch.arange(1, _CHUNK + 1, device=device) * _ODD) | 1


def _checksums(x: Tensor) -> Tensor:
    """A number for the bits of each row, (N,), for which no device has to be waited for.

    The sum of the mixed 64-bit words, each with its place. Without the mixing two changes of sign would cancel.
    """
    rows = x.detach().flatten(1).contiguous().view(torch.uint8)
    words = nn.functional.pad(rows, (0, -rows.shape[1] % 8)).view(torch.int64)
    return _mixed(words + torch.arange(words.shape[1], device=x.device) * _ODD).sum(1)


def _mixed(words: Tensor) -> Tensor:
    """Words each of whose bits depends on many, in place."""
    words ^= words >> 32
    words *= _ODD
    words ^= words >> 29
    return words
