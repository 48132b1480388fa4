"""`drmm predict --shard` and `--engine`: many pictures in parts, each with a file of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
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

__all__ = ["Made", "Shards", "predict_shard"]

_MADE = {
    "run": "by another run",
    "settings": "with other settings",
    "source": "of another source",
    "pictures": "before its pictures changed",
}
_KEY = "drmm"  # of what a file says of itself


@dataclass(frozen=True)
class Made:
    """What there is to tell of a shard.

    Attributes:
        pictures: how many it has.
        lost: how many of them cannot be read.
        example: one of these, and why; "" where all can be read.
    """

    pictures: int
    lost: int
    example: str


class Shards:
    """Parts of many pictures, each a Parquet file of a row for each; together they have the rows of one, in order.

    Args:
        run: folder of a trained model.
        sources: of `drmm.predicting.sources.Source`.
        out: folder of the files.
        promise: share of the sorted pictures that is to be right.
        all_classes: a column for the probability of each class.

    Attributes:
        about: digests of the run and the source, and settings: what all shards are made of.

    Raises:
        InputError: if there are no pictures, or pyarrow is missing.
        RunError: if something cannot be read, or no file written there.
    """

    def __init__(
        self, run: Path, sources: Sequence[Path], out: Path, *, promise: float, all_classes: bool
    ) -> None:
        parquet_for("--shard")
        check_promise(promise)
        self._sources, self._out, self._promise, self._all_classes = sources, out, promise, all_classes
        if out.suffix.lower() in {".csv", ".parquet"} and not out.is_dir():
            raise InputError(f"--out {out} is to be a folder, of a file for each shard: leave {out.suffix} out")
        check_absent(self.file(1, 1), ".parquet", force=True)
        self._run, self._source = Run.open(run), Source.of(sources, but=out)
        settings = f"promise {promise}, all classes {all_classes}"
        self.about = {"run": self._run.digest, "settings": settings, "source": self._source.digest}

    def file(self, number: int, n: int) -> Path:
        """Of one of n shards, which are counted from 1."""
        return self._out / f"part-{number:0{len(str(n))}}-of-{n}.parquet"

    @property
    def n(self) -> int | None:
        """How many shards there are, by the name of one that is made."""
        names = (re.search("-of-([1-9][0-9]*)$", there.stem) for there in self._there())
        return next((int(name[1]) for name in names if name), None)

    def missing(self, numbers: Iterable[int], n: int) -> list[int]:
        """Which of n shards are not made yet, of these; all in the folder have to be made alike.

        Raises:
            RunError: if they are not.
        """
        missing = {self.file(number, n): number for number in numbers}
        for there in self._there():
            said, number = _said(there), missing.pop(there, None)
            if there.name.rpartition("-of-")[2] != self.file(1, n).name.rpartition("-of-")[2]:
                raise RunError(f"{there} is one of another number of shards: choose another --out")
            made = self.about if number is None else self._made(self._source, number, n)
            for key, value in made.items():
                if said.get(key) != value:
                    raise RunError(f"{there} was made {_MADE[key]}: choose another --out")
        return list(missing.values())

    def make(self, number: int, n: int) -> Made:
        """Write one of n shards, whole or not at all.

        Raises:
            RunError: if something cannot be read or written, or the source changed meanwhile.
        """
        tune_allocator()
        rows = Rows(self._run, promise=self._promise, all_classes=self._all_classes)
        made, shard = self._made(self._source, number, n), self._source.shard(number, n)
        types, about = {"image": str, **rows.types, REASON: str}, {_KEY: json.dumps(made)}
        done, lost, example, file = 0, 0, "", self.file(number, n)
        with closing(Meter("predicting")) as meter, table_in_parts(file, types, about) as add:
            decoded = rows.decoded(shard.read())
            while batch := list(islice(decoded, CERTIFIED_AT_ONCE)):
                names, levels = zip(*batch, strict=True)
                add([(name, *row) for name, row in zip(names, rows.of_decoded(levels), strict=True)])
                broken = [f"{name} ({reason})" for name, reason in batch if isinstance(reason, str)]
                done, lost, example = done + len(batch), lost + len(broken), example or "".join(broken[:1])
                meter.update(done, shard.n)
            if self._made(Source.of(self._sources, but=self._out), number, n) != made:
                raise self.changed()
        return Made(done, lost, example)

    def tell(self, made: Sequence[Made], where: Path) -> None:
        """What can be trusted, what was skipped or lost, and where the rows of these shards are."""
        for note in notes_of(self._run.assessment, self._promise):
            say(note)
        if self._source.skipped:
            say(summary(self._source.skipped))
        done, lost = sum(one.pictures for one in made), sum(one.lost for one in made)
        if lost:
            example = next(one.example for one in made if one.lost)
            complain("warning", f"{lost} of {done} pictures cannot be read, such as {example}", "bold yellow")
        say(f"{done} predictions written to {where}")

    def changed(self) -> RunError:
        """What is raised where the pictures are others than before."""
        return RunError(f"{', '.join(map(str, self._sources))} changed while it was read: start again")

    def _there(self) -> list[Path]:
        return sorted(self._out.glob("part-*.parquet"))

    def _made(self, source: Source, number: int, n: int) -> dict[str, str]:
        """What one of n shards is made of."""
        return self.about | {"source": source.digest, "pictures": source.shard(number, n).digest}


def predict_shard(
    run: Path, sources: Sequence[Path], out: Path, shard: str, *, promise: float, all_classes: bool
) -> None:
    """Make one of the `Shards`, unless that was done.

    Args:
        run: folder of a trained model.
        sources: of `drmm.predicting.sources.Source`.
        out: folder of the files.
        shard: which part, "number/n", from 1.
        promise: share of the sorted pictures that is to be right.
        all_classes: a column for the probability of each class.

    Raises:
        InputError: if there is no such part, no pictures, or pyarrow is missing.
        RunError: if something cannot be read or written, the source changed meanwhile, or `out` has files that are
            made otherwise.
    """
    number, n = _numbers(shard)
    shards = Shards(run, sources, out, promise=promise, all_classes=all_classes)
    if shards.missing([number], n):
        shards.tell([shards.make(number, n)], shards.file(number, n))
    else:
        say(f"{shards.file(number, n)} is there already: nothing to do")


def _numbers(shard: str) -> tuple[int, int]:
    """Of a shard, and of all of them."""
    asked = re.fullmatch("([0-9]+)/([0-9]+)", shard.strip())
    number, n = map(int, asked.groups()) if asked else (0, 0)
    if not 1 <= number <= n:
        raise InputError(f"no --shard {shard!r}: the shards of four, say, are 1/4, 2/4, 3/4 and 4/4")
    return number, n


def _said(file: Path) -> dict[str, str]:
    """What a shard says that it was made of."""
    try:
        said = json.loads(parquet_for("--shard").read_schema(file).metadata[_KEY.encode()])
    except (OSError, ValueError, KeyError, TypeError):  # of pyarrow, or of a table that is no shard
        raise RunError(f"{file} is no shard of drmm predict: choose another --out") from None
    return dict(said)
