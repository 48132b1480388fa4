"""The learning rate, by level and by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from drmm.learning.config import Training
from drmm.model.deep import DRMM

__all__ = ["partly_still", "rates", "warm_cosine"]

_LEAST_RATE = 0.1  # of the learning rate: levels with less stay as they are


def rates(model: DRMM, config: Training) -> list[dict[str, Any]]:
    """Parameters by level, from the class templates down, and their learning rates."""
    rate, groups = config.learning_rate, []
    if config.rate_decay == 1:
        return [{"params": list(model.parameters()), "lr": rate}]
    for level in (model.templates, *reversed(list(model.levels))):
        if parameters := list(level.parameters()):
            groups.append({"params": parameters, "lr": rate})
            rate *= config.rate_decay
    return groups


@contextmanager
def partly_still(model: DRMM, config: Training) -> Iterator[None]:
    """For a while, levels that would learn very slowly ask for no gradients."""
    still = [
        parameter
        for group in rates(model, config)
        for parameter in group["params"]
        if parameter.requires_grad and group["lr"] < _LEAST_RATE * config.learning_rate
    ]
    for parameter in still:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in still:
            parameter.requires_grad = True


def warm_cosine(steps: int) -> Callable[[int], float]:
    """Share of the learning rate at each step: a short warm-up, then a cosine to 0."""
    warm = max(1, min(100, steps // 10))
    return lambda step: min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
