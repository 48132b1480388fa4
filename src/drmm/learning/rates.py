"""The learning rate, by level and by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any

from torch.nn import Parameter

from drmm.learning.config import Training
from drmm.model.deep import DRMM

__all__ = ["first_to_learn", "rates", "warm_cosine"]

_LEAST_RATE = 0.1  # of the learning rate: levels below one with less stay as they are


def rates(model: DRMM, config: Training) -> list[dict[str, Any]]:
    """Parameters by level, from the class templates down, and their learning rates."""
    if config.rate_decay == 1:
        return [{"params": list(model.parameters()), "lr": config.learning_rate}]
    return [{"params": parameters, "lr": rate} for _, parameters, rate in _from_above(model, config) if parameters]


def first_to_learn(model: DRMM, config: Training) -> int:
    """Number of the first level, from the pixels up, whose rate is no less than a tenth of the learning rate."""
    least = _LEAST_RATE * config.learning_rate
    learned = takewhile(lambda level: level[2] >= least or not level[1], _from_above(model, config))
    return min(number for number, *_ in learned)


def _from_above(model: DRMM, config: Training) -> Iterator[tuple[int, list[Parameter], float]]:
    """Number of each level from the class templates down, its parameters, and the rate that these have."""
    rate = config.learning_rate
    for number, level in reversed(list(enumerate([*model.levels, model.templates]))):
        parameters = list(level.parameters())
        yield number, parameters, rate
        if parameters:
            rate *= config.rate_decay


def warm_cosine(steps: int) -> Callable[[int], float]:
    """Share of the learning rate at each step: a short warm-up, then a cosine to 0."""
    warm = max(1, min(100, steps // 10))
    return lambda step: min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
