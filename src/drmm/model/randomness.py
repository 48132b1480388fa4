"""Randomness that nobody else disturbs: draws where their generator lives, and a loan of torch's own stream.

A generator belongs to one device, and draws there alone: the numbers are moved to where they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock

import torch
from torch import Tensor

__all__ = ["categorical", "normal", "seeded", "uniform"]

# Dropout and the first weights of torch's layers take no generator: they draw from one stream that all threads of
# a process share. Whoever seeds that stream keeps others that would out until it is as it was.
_SHARED_STREAM = RLock()


def uniform(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniform numbers in [0, 1), of the device and type of `like`.

    Args:
        shape: of the numbers.
        like: a float tensor.
        generator: of any device; None is torch's own stream, of `like`'s device.
    """
    device = like.device if generator is None else generator.device
    return torch.rand(*shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal numbers; arguments as for `uniform`."""
    device = like.device if generator is None else generator.device
    return torch.randn(*shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def categorical(probabilities: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw n indices from each distribution, (..., n), by the inverse of the distribution function.

    Args:
        probabilities: (..., K), not negative; their sum need not be 1.
        n: how many.
        generator: as for `uniform`.
    """
    steps = probabilities.double().cumsum(-1)
    draws = uniform((*steps.shape[:-1], n), steps, generator) * steps[..., -1:]
    last = probabilities.shape[-1] - 1 - (probabilities > 0).flip(-1).int().argmax(-1, keepdim=True)
    return torch.minimum(torch.searchsorted(steps, draws, right=True), last)  # rounding may end beyond the last


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch's own stream begin at a seed inside, and go on as before afterwards. One thread at a time."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with _SHARED_STREAM, torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
