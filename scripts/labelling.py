"""From a folder without a label to a sorted one; a folder of 100,000: `make labelling DATA=folder with CIFAR-10`.

`drmm label` runs as a process, and a person is simulated who sends what the page sends: one label in so many
seconds, by the picture's true class. Then the command that the page shows is run, `drmm sort`. Sets are MNIST's
5,000 that come by pip and 5,000 photographs of CIFAR-10, both as JPEG. The page fetches pictures ahead; here
nothing is, so that the seconds from a label to the next picture are the most that a person could wait. Of 100,000
small pictures only the page is measured. Resumable.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from drmm.data import load
from drmm.progress import track
from scripts.study import Results, kept, study

PATIENCE = 600  # seconds for what is learned at the end
PHOTOGRAPHS, LARGE = "photographs", "noise"
DRMM = (sys.executable, "-c", "from drmm.cli.app import main; main()")


class Person:
    """Who has opened the page of a server.

    Args:
        address: that it printed.
    """

    def __init__(self, address: str) -> None:
        where = urlsplit(address)
        self._link = HTTPConnection(str(where.hostname), where.port, timeout=PATIENCE)
        self._link.request("GET", f"/?{where.query}")
        answer = self._link.getresponse()
        answer.read()
        cookie = str(answer.headers["Set-Cookie"]).partition(";")[0]
        self._classes: dict[str, int] = {}
        self._headers = {"Cookie": cookie, "Origin": f"http://{where.netloc}", "Sec-Fetch-Site": "same-origin"}

    def get(self, path: str) -> bytes:
        """What is at an address."""
        self._link.request("GET", path, headers=self._headers)
        return self._link.getresponse().read()

    def next(self, but: list[int]) -> dict[str, Any] | None:
        """The next picture, once it is here."""
        told = json.loads(self.get(f"/pictures?mode=next&n=1&but={','.join(map(str, but))}"))["pictures"]
        if not told:
            return None
        self.get(f"/picture/{told[0]['number']}")
        return dict(told[0])

    def state(self) -> dict[str, Any]:
        """What the page shows beside the picture."""
        return dict(json.loads(self.get("/state")))

    def label(self, picture: dict[str, Any], name: str) -> None:
        """Press the key of its class, or type its name; it is on the disk then."""
        number = self._classes.get(name)
        deed = {"kind": "class", "name": name} if number is None else {"kind": "label", "class": number}
        sent = {**deed, "once": str(time.time_ns()), "pictures": [picture["digest"]], "drawn": picture["drawn"]}
        body = json.dumps({"deeds": [sent]})
        self._link.request("POST", "/deeds", body, self._headers | {"Content-Type": "application/json"})
        told = json.loads(self._link.getresponse().read())
        if not told["done"]:
            raise RuntimeError(told)
        self._classes = {one["name"]: one["id"] for one in told["state"]["classes"]}


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Person]]:
    """`drmm label` of a folder, and who has opened its page."""
    command = [*DRMM, "label", str(folder), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  (ours)
        try:
            yield process, Person(process.stdout.readline().split()[1] if process.stdout else "")
        finally:
            process.kill()


def labelled(folder: Path, truth: dict[str, str], n: int, pause: float) -> Results:
    """Label so many pictures, as a person does, and end it with Ctrl-C."""
    start, waits, met = time.perf_counter(), list[float](), list[str]()
    with served(folder) as (process, person):
        picture = person.next([])
        first = time.perf_counter() - start
        memory = [megabytes(process.pid)]
        while picture is not None and len(waits) < n:
            time.sleep(pause)
            name = truth[Path(picture["file"]).name]
            met += [] if name in met else [name]
            pressed = time.perf_counter()
            person.label(picture, name)
            picture = person.next([])
            waits.append(time.perf_counter() - pressed)
        memory.append(megabytes(process.pid))
        last = time.perf_counter()
        state = until_learned(person)
        learned = time.perf_counter() - last
        told = time.perf_counter()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
        end = time.perf_counter()
    return {
        "labels": len(waits), "classes": len(met), "first_picture_seconds": round(first, 2),
        "next_picture_p95_ms": round(1000 * float(np.percentile(waits, 95))),
        "next_picture_median_ms": round(1000 * float(np.median(waits))),
        "learned_seconds": round(learned, 1), "ctrl_c_seconds": round(end - told, 2),
        "machine_seconds": round(end - start - pause * len(waits), 1), "person_seconds": round(pause * len(waits)),
        "server_mb": memory, "quality": state["quality"], "command": out.strip().splitlines()[-1].strip(),
    }  # fmt: skip


def until_learned(person: Person) -> dict[str, Any]:
    """What the page shows once it has learned from all labels, or patience is at an end."""
    end = time.monotonic() + PATIENCE
    while (state := person.state())["answers"].split()[0] != str(state["version"]) and time.monotonic() < end:
        time.sleep(0.05)
    return state


def megabytes(process: int) -> int:
    """The memory that a process holds (Linux)."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if "VmRSS" in line)
    return int(line.split()[1]) // 1024


def sorted_so(command: str, truth: dict[str, str]) -> Results:
    """Run the command that the page has shown, and compare."""
    arguments = shlex.split(command)
    start = time.perf_counter()
    nothing = subprocess.DEVNULL
    subprocess.run([*DRMM, *arguments[1:]], check=True, stdout=nothing, stderr=nothing)  # noqa: S603  (ours)
    seconds = time.perf_counter() - start
    classes = set(truth.values())
    into = Path(arguments[arguments.index("--into") + 1])
    there = [(file.parent.name, file.name) for file in into.glob("*/*") if file.parent.name in classes]
    right = sum(truth[name] == label for label, name in there)
    return {"seconds": round(seconds, 1), "pictures": len(there), "wrong": len(there) - right}


# --- folders ---------------------------------------------------------------------------------------------


def write_set(folder: Path, name: str, n: int, data_dir: Path | None) -> dict[str, str]:
    """Pictures of a set as JPEG, and the class of each by its file's name."""
    folder.mkdir()
    if name == LARGE:
        generator = np.random.default_rng(0)
        for i in track(range(n), "pictures"):
            levels = generator.integers(100, size=(16, 16), dtype=np.uint8) + np.uint8(50 * (i % 3))
            Image.fromarray(levels).save(folder / f"{i:06}.png", compress_level=1)
        return {f"{i:06}.png": f"shade {i % 3}" for i in range(n)}
    data = load("cifar10", data_dir=data_dir) if name == PHOTOGRAPHS else load(name)
    rows = np.random.default_rng(0).permutation(len(data.x_train))[:n]
    truth = {}
    for i, row in enumerate(rows.tolist()):
        file, levels = f"{i:05}.jpg", data.x_train[row]
        Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)).save(
            folder / file, quality=95
        )
        truth[file] = data.classes[data.y_train[row]]
    return truth


def measured(name: str, n: int, asked: Namespace) -> Results:
    """Label so many pictures of a set, and sort them unless it is the large one."""
    with TemporaryDirectory() as above:
        os.environ["XDG_CACHE_HOME"] = above
        truth = write_set(Path(above, name), name, n, asked.data_dir)
        spent = processor_seconds()
        told = {"pictures": n, "label": labelled(Path(above, name), truth, asked.labels, asked.pause)}
        command = told["label"].pop("command")
        told["label"]["processor_seconds"] = round(processor_seconds() - spent, 1)
        if name != LARGE:
            spent = processor_seconds()
            told["sort"] = sorted_so(command, truth)
            told["sort"]["processor_seconds"] = round(processor_seconds() - spent, 1)
        return told


def processor_seconds() -> float:
    """Of all processes that have been waited for."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(asked: Namespace) -> Results:
    """Every set that is not there yet."""
    sizes = {name: asked.large if name == LARGE else asked.n for name in asked.sets}
    files = {name: asked.out / "labelling" / f"{name}-{n}.json" for name, n in sizes.items()}
    return {"sets": {name: kept(files[name], partial(measured, name, n, asked)) for name, n in sizes.items()}}


def table(results: Results) -> str:
    """What a person waits for; and minutes, the error and what was sorted."""
    heads = ("set", "pictures", "labels", "first picture", "next picture (95 %)", "median")
    lines = [row(*heads, "learned after the last label", "Ctrl-C", "server"), "|---|" + "--:|" * 8]
    for name, told in results["sets"].items():
        one = told["label"]
        waits = [f"{one[key]:.1f} s" for key in ("first_picture_seconds", "learned_seconds", "ctrl_c_seconds")]
        nexts = [f"{one[key]} ms" for key in ("next_picture_p95_ms", "next_picture_median_ms")]
        memory = f"{one['server_mb'][0]} to {one['server_mb'][-1]} MB"
        lines.append(row(name, f"{told['pictures']:,}", one["labels"], waits[0], *nexts, *waits[1:], memory))
    ends = {name: told for name, told in results["sets"].items() if "sort" in told}
    if ends:
        heads = ("set", "a person's minutes", "label's", "sort's", "the processor's, of both")
        lines += ["", row(*heads, "sorted", "of them wrong"), "|---|" + "--:|" * 6]
    for name, told in ends.items():
        label, there = told["label"], told["sort"]
        processor = label["processor_seconds"] + there["processor_seconds"]
        minutes = (label["person_seconds"], label["machine_seconds"], there["seconds"], processor)
        shares = there["pictures"] / told["pictures"], there["wrong"] / max(there["pictures"], 1)
        lines.append(row(name, *(f"{one / 60:.1f}" for one in minutes), *(f"{100 * one:.1f} %" for one in shares)))
    return "\n".join(lines)


def row(*cells: object) -> str:
    """Of a table in Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sets = ("mnist-5k", PHOTOGRAPHS, LARGE)
    study(
        run,
        table,
        name="labelling",
        target="labelling",
        seeds=1,
        options={
            "--sets": {"nargs": "+", "choices": sets, "default": list(sets), "help": "what to label"},
            "--n": {"type": int, "default": 5000, "help": "pictures of the first two"},
            "--large": {"type": int, "default": 100_000, "help": "pictures of the last"},
            "--labels": {"type": int, "default": 70},
            "--pause": {"type": float, "default": 2.5, "help": "seconds that a person takes for a label"},
        },
    )
