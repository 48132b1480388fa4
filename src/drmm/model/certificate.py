"""The certificate of inference: an upper bound on the score, computed when somebody reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, Self, final

import torch
from torch import Tensor, nn

from drmm.errors import InputError
from drmm.model.modes import evaluation
from drmm.model.moment import Moment, stale

__all__ = ["Certificate"]


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
    def of(cls, model: Bounded, moment: Moment, label: Tensor | None) -> Self:
        """The bound that a model has for images, as both were.

        Args:
            model: what infers.
            moment: when it did.
            label: bound this class, (N,); None bounds all of them.
        """
        return cls(None, _Question(model, moment, label))

    def read(self) -> Tensor:
        """The bound, (N,).

        Raises:
            InputError: if the weights or the images have changed before it was first read.
        """
        if self._value is None:
            if self._question is None:
                raise InputError(stale("bound"))
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
        answered = self._value is not None or (self._question is not None and self._question.moment.lasts)
        return {"_value": self.read() if answered else None, "_question": None}


@dataclass(frozen=True, slots=True)
class _Question:
    """Which bound is asked for, and of when."""

    model: Bounded
    moment: Moment
    label: Tensor | None

    def answer(self) -> Tensor:
        self.moment.check("bound")
        # Inference was in a mode in which nothing depended on the batch: the same map as in evaluation.
        with evaluation(self.model.levels), evaluation(self.model.templates):
            ceiling = self.model.upper_bound(self.moment.x)
        return ceiling.amax(1) if self.label is None else ceiling.gather(1, self.label[:, None]).squeeze(1)

    def select(self, index: Tensor | slice) -> _Question:
        return _Question(self.model, self.moment.select(index), None if self.label is None else self.label[index])
