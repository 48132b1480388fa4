"""The certificate of inference: an upper bound on the score, computed when somebody reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from drmm.model.modes import evaluation
from drmm.model.moment import Later, Moment

__all__ = ["Asked", "Certificate"]


@dataclass(frozen=True, slots=True)
class Asked:
    """Which bound is asked for.

    Attributes:
        moment: when the model inferred.
        label: bound this class, (N,); None bounds all of them.
    """

    moment: Moment
    label: Tensor | None

    def select(self, index: Tensor | slice) -> Asked:
        """Of some images."""
        return Asked(self.moment.select(index), None if self.label is None else self.label[index])


@final
class Certificate(Later[Asked]):
    """How high any configuration of each image can score, (N,): it takes two to four forward passes."""

    _asked = "bound"

    @classmethod
    def unknown(cls, value: Tensor) -> Self:
        """There is no bound: infinity for each image.

        Args:
            value: numbers of the same shape and type, (N,).
        """
        return cls(torch.full_like(value, math.inf))

    def where(self, mask: Tensor, other: Certificate) -> Certificate:
        """This one for the images where `mask` (N,) is True, `other` elsewhere."""
        return self if self is other else Certificate(torch.where(mask, self.read(), other.read()))

    def _answer(self, question: Asked) -> Tensor:
        model = question.moment.model
        # Inference was in a mode in which nothing depended on the batch: the same map as in evaluation.
        with evaluation(model.levels), evaluation(model.templates):
            ceiling = model.upper_bound(question.moment.x)
        return ceiling.amax(1) if question.label is None else ceiling.gather(1, question.label[:, None]).squeeze(1)
