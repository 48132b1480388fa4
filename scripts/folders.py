"""What do many pictures cost? `make folders`.

Seconds to bring the index of an unchanged folder up to date, and the most memory that fit, predict and sort held,
by how many pictures there were. Each figure is of a process of its own. The pictures are drawn from a seed; of
many, each has several names. An epoch is cut short after its first steps, but every pixel is read.
"""

import os
import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from drmm.cli import sort as sorting
from drmm.cli.apply import predict
from drmm.data.index import indexed
from drmm.data.listing import listed
from drmm.learning import batches
from drmm.runs.experiment import Experiment
from drmm.runs.fit import fit_run
from drmm.runs.run import Run
from drmm.sorting.journal import Journal
from drmm.trust.promise import PROMISE
from scripts.study import Results, kept, study

DISTINCT, STEPS = 1000, 20
LONG_AGO = 1_600_000_000  # seconds since 1970: what changed just now is looked at again


def draw_pictures(folder: Path, n: int, size: int) -> Path:
    """Blurred noise with a tint for each of two classes, half of it without a label."""
    rng = np.random.default_rng(0)
    for part in ("red", "blue", "unlabelled"):
        (folder / part).mkdir(parents=True)
    for i in range(n):
        part = ("red", "blue", "unlabelled", "unlabelled")[i % 4]
        file = folder / part / f"{i}.png"
        if i >= DISTINCT:
            os.link(folder / part / f"{i % DISTINCT}.png", file)
            continue
        coarse = rng.integers(0, 120, (size // 4, size // 4, 3), dtype=np.uint8)
        coarse[..., rng.integers(2) * 2 if part == "unlabelled" else 2 * (part == "blue")] += 100
        Image.fromarray(coarse).resize((size, size)).save(file)
        os.utime(file, (LONG_AGO, LONG_AGO))
    return folder


def in_a_process(work: Callable[[], Results]) -> Results:
    """What some work says, and the most memory that it held."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, work).result()


def _measured(work: Callable[[], Results]) -> Results:
    start = time.perf_counter()
    said = work()
    seconds, used = round(time.perf_counter() - start, 1), getrusage(RUSAGE_SELF)
    costs = {"processor_seconds": round(used.ru_utime + used.ru_stime, 1), "peak_mb": round(used.ru_maxrss / 1024)}
    return {**said, "seconds": seconds, **costs}


def index(folder: Path) -> Results:
    """Look at a folder, and then again."""
    seconds = []
    for _ in range(3):
        start, cpu = time.perf_counter(), time.process_time()
        with listed(folder) as found:
            n = len(indexed(found))
        seconds.append((round(time.perf_counter() - start, 2), round(time.process_time() - cpu, 2)))
    first, *again = seconds
    best, processor = min(again)
    return {"pictures": n, "first_seconds": first[0], "again_seconds": best, "again_processor_seconds": processor}


def fit(folder: Path, run: Path) -> Results:
    """Learn for the first steps of an epoch, and read every pixel."""
    plan = batches._plan  # noqa: SLF001  # the one place that knows all batches
    batches._plan = lambda *given: plan(*given)[:STEPS]  # noqa: SLF001
    experiment = Experiment.read().changed("data", source=str(folder))
    fit_run(experiment.changed("training", epochs=1, min_steps=0), run, progress=False)
    images = Run.open(run).data().x_train
    return {"pictures": len(images), "pixel_mb": round(images.nbytes / 2**20), "sum": int(images[:, 0].sum())}


def label(run: Path, folder: Path, out: Path) -> Results:
    """Predict every picture of a folder."""
    return {"pictures": predict(run, [folder], out, force=True)}


def sort_all(run: Path, folder: Path, into: Path) -> Results:
    """Link every picture of a folder into one of sorted ones, without the report, which shows only some."""
    sorting.write_report = lambda _, out: out.write_text("")  # type: ignore[assignment]
    sorting.sort(
        folder,
        into,
        run=run,
        labels=None,
        recipe=None,
        asked={},
        assignments=(),
        promise=PROMISE,
        how="link",
        dry_run=False,
        command="",
    )
    return {"pictures": sum(len(plan.steps) for plan in Journal(into).plans)}


def table(results: Results) -> str:
    """Seconds and memory by the number of pictures, as Markdown."""
    rows = ["| | pictures | seconds | most memory (MB) |", "|---|--:|--:|--:|"]
    for name, figures in results["measured"].items():
        what = name.rpartition(" ")[0]
        seconds = figures.get("again_seconds", figures["seconds"])
        rows.append(f"| {what} | {figures['pictures']:,} | {seconds:,.1f} | {figures['peak_mb']:,} |")
    return "\n".join(rows)


def run(asked: Namespace) -> Results:
    """Draw pictures, and measure."""
    measured: dict[str, Any] = {}

    def measure(what: str, n: int, size: int, work: Callable[[Path, Path], Results]) -> None:
        def make() -> Results:
            with TemporaryDirectory() as above:
                folder = draw_pictures(Path(above) / "pictures", n, size)
                os.environ["XDG_CACHE_HOME"] = above
                return work(folder, Path(above))

        measured[f"{what} {n}"] = kept(asked.out / "folders" / f"{what.replace(' ', '_')}_{n}.json", make)

    def fit_and_label(folder: Path, above: Path) -> Results:
        few = draw_pictures(above / "few", 200, 64)
        in_a_process(partial(fit, few, above / "run"))
        return in_a_process(partial(label, above / "run", folder, above / "out.csv"))

    def fit_and_sort(folder: Path, above: Path) -> Results:
        few = draw_pictures(above / "few", 200, 8)
        in_a_process(partial(fit, few, above / "run"))
        return in_a_process(partial(sort_all, above / "run", folder, above / "sorted"))

    for n in asked.index:
        measure("index again", n, 8, lambda folder, _: in_a_process(partial(index, folder)))
    for n in asked.fit:
        measure("fit at 32", n, 32, lambda folder, above: in_a_process(partial(fit, folder, above / "run")))
    for n in asked.predict:
        measure("predict at 64", n, 64, fit_and_label)
    for n in asked.sort:
        measure("sort at 8", n, 8, fit_and_sort)
    return {"settings": {"distinct": DISTINCT, "steps": STEPS}, "measured": measured}


NUMBERS = {"type": int, "nargs": "+"}

if __name__ == "__main__":
    study(
        run,
        table,
        name="folders",
        target="folders",
        options={
            "--index": {**NUMBERS, "default": [100_000]},
            "--fit": {**NUMBERS, "default": [1000, 10_000, 100_000]},
            "--predict": {**NUMBERS, "default": [1000, 10_000]},
            "--sort": {**NUMBERS, "default": [1000, 11_000]},
        },
    )
