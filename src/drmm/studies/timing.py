"""Times that can be compared on a machine that others use: actions in turns, ratios within a round."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

__all__ = ["ratio", "take_turns"]


def take_turns(
    actions: Mapping[str, Callable[[], object]], rounds: int = 21, patience: float = math.inf
) -> dict[str, list[float]]:
    """Time actions in rounds, each of which starts with another one: what else the machine does slows all alike.

    Args:
        actions: by name.
        rounds: how many, after two to warm up.
        patience: seconds after which there are no more rounds, but at least 3.

    Returns:
        Seconds that each action took, round by round.
    """
    names = list(actions)
    times: dict[str, list[float]] = {name: [] for name in names}
    deadline = time.perf_counter() + patience
    for i in range(-2, rounds):
        if i >= 3 and time.perf_counter() > deadline:
            break
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = time.perf_counter()
            actions[name]()
            if i >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """How many times as long as the others: the median over rounds."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))
