"""Work that threads do ahead, in order: Pillow lets go of Python's lock while it decodes."""

__all__ = ["ahead"]

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_GROUP = 8  # items at once: handing a tiny picture to a thread costs as much as decoding it


def ahead(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The result of each item, in order; so many are worked on ahead as keep all processors busy, and no more.

    Args:
        work: raises whatever ends the iteration.
        items: in whatever number.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    groups = iter(items)
    waiting: deque[Future[list[R]]] = deque()
    with ThreadPoolExecutor(processors) as pool:
        while group := list(islice(groups, _GROUP)):
            waiting.append(pool.submit(_each, work, group))
            if len(waiting) > processors:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _each(work: Callable[[T], R], group: list[T]) -> list[R]:
    return [work(item) for item in group]
