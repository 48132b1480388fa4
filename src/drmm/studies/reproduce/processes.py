"""One function in several processes that train together, from within a library: no script is started again."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any, TypeVar

import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from drmm.errors import DrmmError, RunError
from drmm.learning.allocator import tune_allocator
from drmm.learning.processes import follow

__all__ = ["end_with_parent", "launch"]

_Answer = TypeVar("_Answer")


def end_with_parent() -> None:
    """End this process when the one that started it is gone: the worker of a killed command works for nobody."""
    parent = parent_process()
    if parent is not None:
        Thread(target=_outlive, args=(parent,), daemon=True).start()


def _outlive(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def launch(function: Callable[..., _Answer], processes: int, *args: Any, threads: int = 1) -> _Answer:
    """Call a function with the same arguments in new processes, which Lightning takes for those of DDP.

    Lightning starts the command line again for every further device, or copies trainers from process to process;
    neither does for a function that is called by another one's worker. With its processes started already, it
    only connects them.

    Args:
        function: of a module; it may train with as many devices as there are processes.
        processes: how many.
        args: that can be pickled.
        threads: of each process.

    Returns:
        What the function returned in the first process.

    Raises:
        DrmmError: as the function raised it in the process that failed first; the others are ended.
        RunError: if a process was killed.
    """
    answers = get_context("spawn").SimpleQueue()
    port = _free_port() if processes > 1 else None
    try:
        spawn(_take_part, (function, args, port, threads, answers), nprocs=processes)
    except (ProcessExitedException, ProcessRaisedException) as error:
        if not answers.empty() and isinstance(answer := answers.get(), DrmmError):
            raise answer from None
        if isinstance(error, ProcessExitedException):
            raise RunError(
                f"a process was ended from outside (exit code {error.exit_code}): "
                "free memory, or use fewer devices or smaller batches"
            ) from error
        raise
    return answers.get()  # type: ignore[no-any-return]


def _take_part(
    rank: int,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    port: int | None,
    threads: int,
    answers: Any,
) -> None:
    if port is not None:
        follow(rank, port)
    torch.set_num_threads(threads)
    tune_allocator()
    try:
        answer = function(*args)
    except DrmmError as error:
        answers.put(error)
        sys.exit(2)
    if rank == 0:
        answers.put(answer)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
