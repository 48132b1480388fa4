"""A model and images as they were: what is worked out later is of these, or refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from drmm.errors import InputError

__all__ = ["Moment"]

_ODD = -7046029254386353131  # 2⁶⁴ / golden ratio, whose multiples share few bits
_CHUNK = 2**16  # words that are summed at once: they stay in a processor's cache


class Inferring(Protocol):
    """A model whose inference somebody asks about later."""

    @property
    def levels(self) -> nn.Module:
        """The renderings."""

    @property
    def templates(self) -> nn.Module:
        """The class templates."""


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
        return cls(model, x.detach(), _checksum(_tensors(model)), _checksums(x))

    def select(self, index: Tensor | slice) -> Moment:
        """Of some images."""
        return Moment(self.model, self.x[index], self.weights, self.images[index])

    @property
    def has_weights(self) -> bool:
        """Whether the model's weights are the same."""
        weights = _checksum(_tensors(self.model))
        return weights.device == self.weights.device and torch.equal(self.weights, weights)

    @property
    def lasts(self) -> bool:
        """Whether weights and images are the same."""
        return self.has_weights and torch.equal(self.images, _checksums(self.x))

    def check(self, asked: str) -> None:
        """Refuse to work out what was asked for.

        Raises:
            InputError: if the weights or the images have changed.
        """
        if not self.lasts:
            raise InputError(stale(asked))


def stale(asked: str) -> str:
    """What is said where it cannot be worked out any more."""
    return (
        f"the weights or the images have changed since inference, so that the {asked} is lost: infer again, "
        "or infer with certify=True"
    )


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
    rows = x.detach().reshape(len(x), -1).contiguous().view(torch.uint8)
    words = nn.functional.pad(rows, (0, -rows.shape[1] % 8)).view(torch.int64)
    return _mixed(words + torch.arange(words.shape[1], device=x.device) * _ODD).sum(1)


def _mixed(words: Tensor) -> Tensor:
    """Words each of whose bits depends on many, in place."""
    words ^= words >> 32
    words *= _ODD
    words ^= words >> 29
    return words
