"""What do a million, a hundred million and a billion pictures cost? `make costs`.

Processor time for each picture: to read it from a tar, to decode and shrink it, to say of it all that `drmm
predict --shard` writes, and to copy and journal it as `drmm sort` does. Pictures are JPEGs of 640 x 480 pixels,
drawn from a seed; the net is the default one at 32 x 32. Waiting for a disk or a network is not in it.
"""

import tarfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from drmm.predicting.rows import Rows
from drmm.predicting.sources import Source
from drmm.runs.experiment import Experiment
from drmm.runs.fit import fit_run
from drmm.runs.run import Run
from drmm.sorting.apply import sort_files
from drmm.sorting.disk import file_digest
from drmm.sorting.plan import Choice
from scripts.study import Results, study

SIZE, LEARNED_AT = (640, 480), (32, 32)
TIMES = 3
STEPS = {
    "reading": "read from a tar",
    "decoding": "decode",
    "predicting": "predict",
    "sorting": "sort, by copying",
}
PICTURES = (10**6, 10**8, 10**9)
PRICE = 0.05  # dollars for an hour of a core: an assumption, which the page says


def draw_pictures(folder: Path, n: int) -> list[Path]:
    """Blurred noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    files = [folder / f"{i:04}.jpg" for i in range(n)]
    for file in files:
        coarse = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(file, quality=90)
    return files


def run_on(folder: Path) -> Run:
    """A net of the default width, which has hardly learned: that changes no time."""
    for name in ("blue", "red", "unlabelled"):
        draw_pictures(folder / "photos" / name, 12)
    experiment = Experiment().changed("data", source=str(folder / "photos"), size=LEARNED_AT)
    experiment = experiment.changed("training", epochs=1, min_steps=0)
    fit_run(experiment.changed("trust", folds=2), folder / "run", progress=False)
    return Run.open(folder / "run")


def processor_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Of all threads together, the least of some times; and what the work gives."""
    found = []
    for _ in range(TIMES):
        start = time.process_time()
        given = work()
        found.append(time.process_time() - start)
    return min(found), given


def chosen(files: list[Path]) -> list[Choice]:
    """Pictures that all go into one folder."""
    return [Choice(file, file_digest(file), "red", "sorted") for file in files]


def run(asked: Namespace) -> dict[str, Any]:
    """Each step by itself, on the same pictures."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = draw_pictures(folder / "many", asked.n)
        with tarfile.open(folder / "many.tar", "w") as archive:
            archive.add(folder / "many", "many")
        rows = Rows(run_on(folder))
        tar = Source.of([folder / "many.tar"]).shard(1, 1)
        seconds: dict[str, float] = {}
        seconds["reading"], named = processor_seconds(lambda: list(tar.read()))
        seconds["decoding"], decoded = processor_seconds(lambda: list(rows.decoded(named)))
        seconds["predicting"], _ = processor_seconds(lambda: rows.of_decoded([levels for _, levels in decoded]))
        places = (folder / f"sorted {i}" for i in range(TIMES))
        seconds["sorting"], _ = processor_seconds(lambda: sort_files(chosen(files), next(places), "copy"))
        size = sum(file.stat().st_size for file in files) / len(files)
    return {
        "pictures": asked.n,
        "bytes_of_a_picture": round(size),
        "milliseconds": {step: round(1000 * found / asked.n, 3) for step, found in seconds.items()},
    }


def table(results: Results) -> str:
    """Milliseconds, and hours of a core and dollars by the number of pictures."""
    each = results["milliseconds"]
    lines = ["| | ms of a core a picture |" + "".join(f" {n:,} |" for n in PICTURES), "|---|--:|--:|--:|--:|"]
    for step, said in [*STEPS.items(), ("all", "all")]:
        taken = sum(each.values()) if step == "all" else each[step]
        hours = [taken * n / 3.6e6 for n in PICTURES]
        lines.append(f"| {said} | {taken:.2f} |" + "".join(f" {h:,.1f} h |" for h in hours))
    dollars = [PRICE * sum(each.values()) * n / 3.6e6 for n in PICTURES]
    lines.append(f"| dollars, at {PRICE} an hour | |" + "".join(f" {d:,.2f} |" for d in dollars))
    return "\n".join(lines)


if __name__ == "__main__":
    study(run, table, name="costs", target="costs", seeds=1, options={"--n": {"type": int, "default": 200}})
