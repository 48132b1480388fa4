"""The learning rate, by level and by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from drmm.learning.config import Training
from drmm.model.deep import DRMM

__all__ = ["first_to_learn", "rates", "warm_cosine"]

_LEAST_RATE = 0.1  # of the learning rate: levels below one with less stay as they are


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


def first_to_learn(model: DRMM, config: Training) -> int:
    """Number of the first level, from the pixels up, whose rate is no less than a tenth of the learning rate."""
    rate, first = config.learning_rate, len(model.levels)
    for number in reversed(range(len(model.levels))):
        if list(model.levels[number].parameters()):
            rate *= config.rate_decay
            if rate < _LEAST_RATE * config.learning_rate:
                return first
        first = number
    return first


def warm_cosine(steps: int) -> Callable[[int], float]:
    """Share of the learning rate at each step: a short warm-up, then a cosine to 0."""
    warm = max(1, min(100, steps // 10))
    return lambda step: min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
