"""`drmm predict --shard`: one part of many pictures, into a file of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from drmm.cli.console import complain, say
from drmm.cli.predictions import notes_of
from drmm.data.base import summary
from drmm.data.tables import parquet_for, table_in_parts
from drmm.errors import InputError, RunError
from drmm.files import check_absent
from drmm.learning.allocator import tune_allocator
from drmm.learning.metrics import CERTIFIED_AT_ONCE
from drmm.predicting.rows import REASON, Rows
from drmm.predicting.sources import Source
from drmm.progress import Meter
from drmm.runs.run import Run
from drmm.trust.promise import check_promise

__all__ = ["predict_shard"]

_MADE = {
    "run": "by another run",
    "settings": "with other settings",
    "source": "of another source",
    "pictures": "before its pictures changed",
}
_KEY = "drmm"  # of what a file says of itself


def predict_shard(
    run: Path, sources: Sequence[Path], out: Path, shard: str, *, promise: float, all_classes: bool
) -> None:
    """Label one part of many pictures, unless that was done: a Parquet file with a row for each, in order.

    Args:
        run: folder of a trained model.
        sources: of `drmm.predicting.sources.Source`.
        out: folder of the files, of which those of all parts together have the rows of one.
        shard: which part, "number/n", from 1.
        promise: share of the sorted pictures that is to be right.
        all_classes: a column for the probability of each class.

    Raises:
        InputError: if there is no such part, no pictures, or pyarrow is missing.
        RunError: if something cannot be read or written, the source changed meanwhile, or `out` has files that are
            made otherwise.
    """
    number, n = _numbers(shard)
    file = out / f"part-{number:0{len(str(n))}}-of-{n}.parquet"
    parquet_for("--shard")
    check_promise(promise)
    check_absent(file, ".parquet", force=True)
    opened, source = Run.open(run), Source.of(sources, but=out)
    settings = f"promise {promise}, all classes {all_classes}"
    made = {"run": opened.digest, "settings": settings, **_state(source, number, n)}
    if _is_there(file, made):
        say(f"{file} is there already: nothing to do")
        return
    tune_allocator()
    rows, shard_of = Rows(opened, promise=promise, all_classes=all_classes), source.shard(number, n)
    types, done, lost, example = {"image": str, **rows.types, REASON: str}, 0, 0, ""
    with closing(Meter("predicting")) as meter, table_in_parts(file, types, {_KEY: json.dumps(made)}) as add:
        decoded = rows.decoded(shard_of.read())
        while batch := list(islice(decoded, CERTIFIED_AT_ONCE)):
            names, levels = zip(*batch, strict=True)
            add([(name, *row) for name, row in zip(names, rows.of_decoded(levels), strict=True)])
            broken = [f"{name} ({reason})" for name, reason in batch if isinstance(reason, str)]
            done, lost, example = done + len(batch), lost + len(broken), example or "".join(broken[:1])
            meter.update(done, shard_of.n)
        if _state(Source.of(sources, but=out), number, n).items() - made.items():
            raise RunError(f"{', '.join(map(str, sources))} changed while it was read: start again")
    for note in notes_of(opened.assessment, promise):
        say(note)
    if source.skipped:
        say(summary(source.skipped))
    if lost:
        complain("warning", f"{lost} of {done} pictures cannot be read, such as {example}", "bold yellow")
    say(f"{done} predictions written to {file}")


def _numbers(shard: str) -> tuple[int, int]:
    """Of a shard, and of all of them."""
    asked = re.fullmatch("([0-9]+)/([0-9]+)", shard.strip())
    number, n = map(int, asked.groups()) if asked else (0, 0)
    if not 1 <= number <= n:
        raise InputError(f"no --shard {shard!r}: of four there are 1/4, 2/4, 3/4 and 4/4")
    return number, n


def _state(source: Source, number: int, n: int) -> dict[str, str]:
    """What a shard is made of."""
    return {"source": source.digest, "pictures": source.shard(number, n).digest}


def _is_there(file: Path, made: Mapping[str, str]) -> bool:
    """Whether a shard is made; those of its folder have to be made like it."""
    for there in sorted(file.parent.glob("part-*.parquet")):
        said = _said(there)
        if there.name.rpartition("-of-")[2] != file.name.rpartition("-of-")[2]:
            raise RunError(f"{there} is one of another number of shards: choose another --out")
        for key, how in _MADE.items():
            if said.get(key) != made[key] and (key != "pictures" or there == file):
                raise RunError(f"{there} was made {how}: choose another --out")
    return file.exists()


def _said(file: Path) -> dict[str, str]:
    """What a shard says that it was made of."""
    try:
        said = json.loads(parquet_for("--shard").read_schema(file).metadata[_KEY.encode()])
    except (OSError, ValueError, KeyError, TypeError):  # of pyarrow, or of a table that is no shard
        raise RunError(f"{file} is no shard of drmm predict: choose another --out") from None
    return dict(said)
