"""Are labels lost if the process is killed while they come? 1,000 kills at random moments: `make kills`.

A process labels pictures, undoes and redoes, and says after each deed which it was. It is killed (SIGKILL) at a
random moment; the store is then opened by another one, and must know every deed that was acknowledged. A control
acknowledges deeds before it does them, and must be caught.
"""

from __future__ import annotations

import os
import random
import signal
import time
from argparse import Namespace
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from drmm.labelling.store import Store
from drmm.progress import track

Work = Callable[[Path, Connection], None]
MOST = 0.2  # seconds from the first acknowledgement to the kill


def label_on(file: Path, link: Connection) -> None:
    """Label until the process is killed; say what is done."""
    with Store(file) as store:
        number = next(iter(store.classes), None)
        number = store.add_class("cat") if number is None else number
        while True:
            deed = store.version + 1
            if deed % 7 == 0:
                store.undo()
            elif deed % 7 == 1:
                store.redo()
            else:
                store.label(f"{deed:032x}", number)
            link.send(store.version)


def promise_first(file: Path, link: Connection) -> None:
    """The control: it says what is done before it is."""
    with Store(file) as store:
        number = store.add_class(f"class {store.version}")
        while True:
            link.send(store.version + 1)
            time.sleep(0.01)
            store.label(f"{store.version:032x}", number)


def killed(work: Work, file: Path, seconds: float) -> tuple[int, int]:
    """Kill a process that works on a store so many seconds after its first acknowledgement.

    Returns:
        The last deed that was acknowledged, and the last one that the store knows.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["drmm.labelling.store"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(file, there))
    process.start()
    there.close()
    said = here.recv()
    time.sleep(seconds)
    os.kill(process.pid or 0, signal.SIGKILL)
    try:
        while True:
            said = here.recv()
    except (EOFError, OSError):  # nothing more
        process.join()
    with Store(file) as store:
        return said, store.version


def run(asked: Namespace) -> dict[str, Any]:
    """Kill one process after the other, of one store, and of a control."""
    moments = random.Random(0)  # noqa: S311  (no secret)
    results: dict[str, Any] = {"kills": asked.kills}
    with TemporaryDirectory() as folder:
        for name, work, kills in (("store", label_on, asked.kills), ("control", promise_first, asked.controls)):
            file = Path(folder, f"{name}.sqlite")
            ends = [killed(work, file, moments.uniform(0, MOST)) for _ in track(range(kills), name)]
            results[name] = {
                "kills": kills,
                "deeds": ends[-1][1] if ends else 0,
                "lost": sum(said > known for said, known in ends),
                "more_than_acknowledged": sum(known > said for said, known in ends),
            }
    return results


def table(results: dict[str, Any]) -> str:
    """What was lost."""
    lines = ["| who | kills | deeds | kills that lost an acknowledged one |", "|---|--:|--:|--:|"]
    for name in ("store", "control"):
        row = results[name]
        lines.append(f"| {name} | {row['kills']:,} | {row['deeds']:,} | {row['lost']:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    from scripts.study import study  # heavy, and each process that is killed imports this file

    numbers = {"--kills": {"type": int, "default": 1000}, "--controls": {"type": int, "default": 20}}
    study(run, table, name="label_kills", target="kills", seeds=1, options=numbers)
