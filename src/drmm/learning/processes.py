"""Which processes train together: those that this library or torchrun started, whatever else left its ranks.

SLURM, torchrun and their like say in environment variables which rank a process has. They stay there for whatever
is started from it, a plain `drmm fit` too, which would take itself for a helper and write nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen
from threading import Event, Thread

__all__ = ["LOST", "follow", "is_leader", "lead", "local_rank", "of_torchrun", "watch"]

LOST = "a process that trained with this one has ended: go on with --resume"

_LEADER = "DRMM_LEADER"  # the process that started the others
_RANKS = ("LOCAL_RANK", "RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_EVERY, _PATIENCE = 0.5, 60.0  # seconds between looks, and for a process to see for itself that others are gone


def local_rank() -> int:
    """Of this process among those that train together; 0 if it trains alone, as the worker of a pool does."""
    is_one = os.environ.get(_LEADER) == str(os.getppid()) or of_torchrun()
    return int(os.environ.get("LOCAL_RANK", "0")) if is_one else 0


def of_torchrun() -> int:
    """How many processes torchrun started here, itself and not by way of others, of which this is one; else 0."""
    try:
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:
        return 0
    is_parent = b"torchrun" in parent or b"torch.distributed.run" in parent
    return int(os.environ.get("LOCAL_WORLD_SIZE", "0")) if is_parent else 0


def is_leader() -> bool:
    """Whether this process is the one that writes, among those that train together."""
    return local_rank() == 0


def lead() -> None:
    """Make the processes that this one will start its helpers, unless it is one of some or leads already."""
    if not of_torchrun() and os.environ.get(_LEADER) not in {str(os.getpid()), str(os.getppid())}:
        _forget()
        os.environ[_LEADER] = str(os.getpid())


def follow(rank: int, port: int) -> None:
    """Make this process the one of that rank among those that its parent started; they meet at a port."""
    _forget()
    os.environ.update(
        {_LEADER: str(os.getppid()), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    )


def watch(helpers: Sequence[Popen[bytes]], patience: float = _PATIENCE) -> Event:
    """End this process in one line when one that it trains with is gone, which it may wait for without an end.

    Args:
        helpers: those that it started; where there are none, the one that started it is watched.
        patience: seconds in which it may leave in its own way.

    Returns:
        What ends the watch when it is set.
    """
    over = Event()
    Thread(target=_watch, args=(helpers, patience, over), daemon=True).start()
    return over


def _watch(helpers: Sequence[Popen[bytes]], patience: float, over: Event) -> None:
    parent = os.getppid()
    while not any(helper.poll() for helper in helpers) and (helpers or os.getppid() == parent):
        if over.wait(_EVERY):
            return
    if not over.wait(patience):
        for helper in helpers:
            helper.kill()
        sys.stderr.write(f"error: {LOST}\n")
        sys.stderr.flush()
        os._exit(2)


def _forget() -> None:
    for name in _RANKS:
        os.environ.pop(name, None)
