"""The certificate of inference: an upper bound on the score, computed when somebody reads it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol, Self, final

import torch
from torch import Tensor, nn

from drmm.errors import InputError
from drmm.model.modes import evaluation

__all__ = ["Certificate"]

_ODD = -7046029254386353131  # 2⁶⁴ / golden ratio, whose multiples share few bits

_STALE = (
    "the weights or the images have changed since inference, so that the bound is lost: infer again, "
    "or infer with certify=True"
)


class Bounded(Protocol):
    """A model that can say how high the score of each class may be."""

    @property
    def levels(self) -> nn.Module:
        """The renderings."""

    @property
    def templates(self) -> nn.Module:
        """The class templates."""

    def upper_bound(self, x: Tensor) -> Tensor:
        """The bound (N, C) of images (N, C, H, W)."""


@final
class Certificate:
    """How high any configuration of each image can score, (N,).

    The bound takes two to four forward passes, so that it is computed when it is first read. Until then the
    certificate keeps the model and the images, with a checksum of both: where either has changed since, reading
    is an error, and never the bound of other weights. Pickles and deep copies hold the bound itself.
    """

    def __init__(self, value: Tensor | None, question: _Question | None = None) -> None:
        self._value, self._question = value, question

    @classmethod
    def unknown(cls, value: Tensor) -> Self:
        """There is no bound: infinity for each image.

        Args:
            value: numbers of the same shape and type, (N,).
        """
        return cls(torch.full_like(value, math.inf))

    @classmethod
    def of(cls, model: Bounded, x: Tensor, label: Tensor | None) -> Self:
        """The bound that a model has for images, as both are now.

        Args:
            model: what infers.
            x: images (N, C, H, W).
            label: bound this class, (N,); None bounds all of them.
        """
        return cls(None, _Question(model, x, label, _checksum(_tensors(model)), _checksums(x)))

    def read(self) -> Tensor:
        """The bound, (N,).

        Raises:
            InputError: if the weights or the images have changed before it was first read.
        """
        if self._value is None:
            if self._question is None or not self._question.holds():
                raise InputError(_STALE)
            self._value, self._question = self._question.answer(), None
        return self._value

    def select(self, index: Tensor | slice) -> Certificate:
        """The certificate of some images."""
        if self._value is not None:
            return Certificate(self._value[index])
        return Certificate(None, None if self._question is None else self._question.select(index))

    def where(self, mask: Tensor, other: Certificate) -> Certificate:
        """This one for the images where `mask` (N,) is True, `other` elsewhere."""
        return self if self is other else Certificate(torch.where(mask, self.read(), other.read()))

    def __getstate__(self) -> dict[str, Any]:
        """The bound, or that it is lost."""
        answered = self._value is not None or (self._question is not None and self._question.holds())
        return {"_value": self.read() if answered else None, "_question": None}


class _Question:
    """Which bound is asked for, and checksums of what it depends on."""

    def __init__(self, model: Bounded, x: Tensor, label: Tensor | None, weights: Tensor, images: Tensor) -> None:
        self._model, self._x, self._label = model, x.detach(), label
        self._weights, self._images = weights, images

    def holds(self) -> bool:
        weights, images = _checksum(_tensors(self._model)), _checksums(self._x)
        moved = weights.device != self._weights.device
        return not moved and torch.equal(self._weights, weights) and torch.equal(self._images, images)

    def answer(self) -> Tensor:
        # Inference was in a mode in which nothing depended on the batch: the same map as in evaluation.
        with evaluation(self._model.levels), evaluation(self._model.templates):
            ceiling = self._model.upper_bound(self._x)
        return ceiling.amax(1) if self._label is None else ceiling.gather(1, self._label[:, None]).squeeze(1)

    def select(self, index: Tensor | slice) -> _Question:
        label = None if self._label is None else self._label[index]
        return _Question(self._model, self._x[index], label, self._weights, self._images[index])


def _tensors(model: Bounded) -> Iterable[Tensor]:
    for part in (model.levels, model.templates):
        yield from part.parameters()
        yield from part.buffers()


def _checksum(tensors: Iterable[Tensor]) -> Tensor:
    """A number for the bits of tensors, (). A version counter would not do: edits of `.data` leave it as it is."""
    parts = [tensor.detach().reshape(-1).view(torch.uint8) for tensor in tensors]
    return _checksums(torch.cat(parts)[None])[0] if parts else torch.zeros((), dtype=torch.int64)


def _checksums(x: Tensor) -> Tensor:
    """A number for the bits of each row, (N,), for which no device has to be waited for.

    The sum of the mixed 64-bit words, each with its place. Without the mixing two changes of sign would cancel.
    """
    rows = x.detach().reshape(len(x), -1).contiguous().view(torch.uint8)
    words = nn.functional.pad(rows, (0, -rows.shape[1] % 8)).view(torch.int64)
    mixed = words + torch.arange(words.shape[1], device=x.device) * _ODD
    mixed ^= mixed >> 32
    mixed *= _ODD
    mixed ^= mixed >> 29
    return mixed.sum(1)
