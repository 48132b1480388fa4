"""Batches for few-label learning: some labelled images in every batch, in an order that only the seed decides."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from drmm.data.images import pixels

__all__ = ["Batches", "labelled_alone", "unlabelled"]


class Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """One epoch: every image once as unlabelled material, with labelled images mixed into each batch.

    The order is a function of the seed and the epoch alone, so that a resumed run sees the same batches.

    Args:
        x: images (N, C, H, W), float in [0, 1], or uint8 levels (scaled when a batch is taken).
        y: class indices (N,), -1 where there is no label.
        batch_size: images in a batch, labelled ones included.
        labelled: how many of them have a label.
        seed: of the run.
        epoch: counted from 0.
        rank: which share of each batch this process takes.
        world_size: number of processes.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        batch_size: int,
        labelled: int,
        seed: int,
        epoch: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.x, self.y = x, y
        batches = _plan(y.numpy(), batch_size, labelled, np.random.default_rng([seed, epoch]))
        mine = slice(rank, None, world_size)
        self.indices = [np.concatenate([known[mine], part[mine]]) for known, part in batches]

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of images, float (B, C, H, W) in [0, 1], and labels (B,)."""
        for index in self.indices:
            chosen = torch.from_numpy(index)
            yield pixels(self.x[chosen]), self.y[chosen]


def labelled_alone(y: Tensor, *, batch_size: int, labelled: int) -> tuple[Tensor, int]:
    """The images with a label, repeated: as many batches of them as all images would make.

    For learning from labels alone, in as many steps.

    Args:
        y: class indices (N,), -1 where there is no label.
        batch_size: images in a batch of all, labelled ones included.
        labelled: how many of them have a label.

    Returns:
        Places of the images, and how many to take in a batch: the labelled images once, if they are few.
    """
    few = torch.nonzero(y >= 0).squeeze(1)
    size = min(batch_size, len(few))
    batches = max(1, round(len(y) / (batch_size - min(labelled, batch_size - 1))))
    return few.repeat(-(-batches * size // len(few)))[: batches * size], size


def unlabelled(x: Tensor, *, batch_size: int, seed: int, epoch: int, most: int) -> Iterator[Tensor]:
    """Some batches of an epoch, images alone: what statistics are measured on.

    Args:
        x: images, as for `Batches`.
        batch_size: images in a batch.
        seed: of the run.
        epoch: whose order to take.
        most: how many batches.
    """
    hidden = torch.full((len(x),), -1)
    batches = Batches(x, hidden, batch_size=batch_size, labelled=0, seed=seed, epoch=epoch)
    return (images for images, _ in islice(batches, most))


def _plan(
    y: np.ndarray, batch_size: int, labelled: int, order: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Indices of the images in each batch: of those with a label that are mixed in, and of its part of all."""
    known = np.flatnonzero(y >= 0)
    everything = order.permutation(len(y))
    if len(known) in {0, len(y)} or not labelled:
        per_batch, extra = batch_size, 0
    else:
        extra = min(labelled, batch_size - 1)
        per_batch = batch_size - extra
    n_batches = max(1, round(len(y) / per_batch))
    rounds = -(-n_batches * extra // max(1, len(known)))
    stream = np.concatenate([known[:0], *(order.permutation(known) for _ in range(rounds))])
    parts = np.array_split(everything, n_batches)
    return [(stream[i * extra : (i + 1) * extra], part) for i, part in enumerate(parts)]
