"""`drmm predict --engine ray`: shards by the workers of a cluster, or of this machine."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, closing, contextmanager
from pathlib import Path
from time import sleep
from types import ModuleType
from typing import Any

import torch

from drmm.cli.console import say
from drmm.cli.shards import Made, Shards
from drmm.errors import InputError, RunError
from drmm.progress import Meter

__all__ = ["predict_on_ray"]

_FOR_EACH = 4  # shards for each processor: the last ones end at about the same time
_PATIENCE, _REFRESH = 10.0, 0.2  # seconds


def predict_on_ray(
    run: Path, sources: Sequence[Path], out: Path, n: int | None, address: str | None, **how: Any
) -> None:
    """Make all shards that are missing, each as a task of Ray on one processor; errors as of `predict_shard`.

    A task whose worker is lost is done again, and what is done stays when all is stopped.

    Args:
        run: folder of a trained model; every worker sees it, and what follows.
        sources: of `drmm.predicting.sources.Source`.
        out: folder of the files.
        n: how many shards; by default those that were begun, or four for each processor.
        address: of a cluster; by default that of the environment's RAY_ADDRESS, or one that is started here.
        how: `promise` and `all_classes`, of `Shards`.

    Raises:
        InputError: also if Ray is missing.
        RunError: also if a cluster is not there, or a worker is lost again and again.
    """
    shards = Shards(run, sources, out, **how)
    with _ray(address) as ray, closing(Meter("shards")) as meter:
        n = n or shards.n or _FOR_EACH * math.ceil(ray.cluster_resources().get("CPU", 1))
        missing = shards.missing(range(1, n + 1), n)
        make = ray.remote(num_cpus=1)(_make)
        waiting = [
            make.remote(Path.cwd(), number, n, shards.about, (run, sources, out), how) for number in missing
        ]
        made: list[Made] = []
        try:
            while waiting:
                sleep(_REFRESH)  # signals come through here as they are, and not within Ray
                done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=0)
                made += ray.get(done)
                meter.update(len(made), len(missing))
        finally:
            _cancel(ray, waiting)
    if missing:
        shards.tell(made, out)
    else:
        say(f"all {n} shards are in {out} already: nothing to do")


def _cancel(ray: ModuleType, tasks: Sequence[Any]) -> None:
    """End tasks so that they tidy up."""
    for task in tasks:
        ray.cancel(task)
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=_PATIENCE)


def _make(
    place: Path, number: int, n: int, about: Mapping[str, str], which: Sequence[Any], how: Mapping[str, Any]
) -> Made:
    """A task: one shard, of paths that are relative to a place."""
    torch.set_num_threads(1)
    with chdir(place):
        shards = Shards(*which, **how)
        if shards.about != about:
            raise shards.changed()
        return shards.make(number, n)


@contextmanager
def _ray(address: str | None) -> Iterator[ModuleType]:
    """Ray, connected. What goes wrong in a task is raised as it was there, and what is lost in one line."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it tells its makers
    try:
        import ray  # noqa: PLC0415  # an optional package
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'drmm[ray]'") from None
    stop = signal.getsignal(signal.SIGTERM)
    _connect(ray, address)
    signal.signal(signal.SIGTERM, stop)  # Ray's own leaves without a word
    try:
        yield ray
    except ray.exceptions.RayTaskError as error:
        if "failed to import on the worker" in str(error.cause):
            raise RunError("a worker of Ray has no drmm: install this version wherever Ray runs") from error
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise RunError(
            f"Ray lost a worker again and again ({type(error).__name__}): give it more memory, and start again; "
            "shards that are done stay"
        ) from error
    finally:
        ray.shutdown()


def _connect(ray: ModuleType, address: str | None) -> None:
    """Ray by itself would ask for many minutes whether anybody is there."""
    address = address or os.environ.get("RAY_ADDRESS", "local")
    try:
        if address not in {"auto", "local"}:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"no Ray at {address} ({reason}): --address is host:port, or auto") from error
