"""Tables in CSV or Parquet: read whole, written part by part as rows come."""

__all__ = ["PARQUET", "cell", "parquet_for", "read_table", "table_in_parts"]

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import dropwhile
from pathlib import Path
from secrets import token_hex
from tempfile import gettempdir
from types import ModuleType
from typing import Any

from drmm.errors import InputError, RunError
from drmm.files import add_rows, encoding_of, open_csv, read_csv, replacing, unicode

Rows = Sequence[Sequence[object]]

PARQUET = {".parquet", ".pq"}
_GROUP = 10_000  # rows that are written at once: of fewer, what reads them has to open many parts
_OTHERWISE = ", or name a CSV file"


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows by the names of their columns: of Parquet, or of CSV with commas, semicolons or tabs.

    Raises:
        InputError: if pyarrow is needed and missing.
        RunError: if the file cannot be read.
    """
    parquet = parquet_for(str(path), _OTHERWISE) if path.suffix.lower() in PARQUET else None
    try:
        if parquet is not None:
            return list(parquet.read_table(path).to_pylist())
        with path.open(encoding=encoding_of(path), errors="replace") as file:
            delimiter = max(",;\t", key=next(dropwhile(str.isspace, file), "").count)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or 'it is no Parquet file'}") from error
    except ValueError as error:  # of which pyarrow's are
        raise RunError(f"cannot read {path}: it is no Parquet file") from error
    return list(read_csv(path, "save it as CSV in UTF-8", delimiter=delimiter))


@contextmanager
def table_in_parts(
    path: Path, types: Mapping[str, type], about: Mapping[str, str] | None = None
) -> Iterator[Callable[[Rows], None]]:
    """Write a table as its rows come, whole or not at all; by its suffix as Parquet, else as CSV.

    In CSV, numbers have the nine digits that tell any two of single precision apart.

    Args:
        path: of the file.
        types: of the columns, by name: str, float, int or bool; any cell may be None.
        about: the table, which Parquet keeps with it.

    Yields:
        A function that adds rows.

    Raises:
        InputError: if pyarrow is needed and missing.
        RunError: if it cannot be written.
    """
    if is_parquet := path.suffix.lower() in PARQUET:
        parquet_for(str(path), _OTHERWISE)
    with replacing(path) as temporary:
        try:
            with _parquet_parts(temporary, types, about) if is_parquet else _csv_parts(temporary, types) as add:
                yield add
        except OSError as error:
            told = f"cannot write {path}: {error.strerror or error}; free space or choose another place"
            raise RunError(told + _rescued(temporary, path.suffix)) from error


def _rescued(part: Path, suffix: str) -> str:
    """Where the rows so far are now: what took an hour is not lost with a disk that is full by then."""
    elsewhere = Path(gettempdir(), f"drmm-{token_hex(4)}{suffix}")
    with suppress(OSError):
        if part.stat().st_size:
            shutil.copyfile(part, elsewhere)
            return f"; the rows so far are in {elsewhere}"
    elsewhere.unlink(missing_ok=True)
    return ""


@contextmanager
def _csv_parts(path: Path, header: Iterable[str]) -> Iterator[Callable[[Rows], None]]:
    with open_csv(path) as file:
        add_rows(file, [list(header)])

        def add(rows: Rows) -> None:
            add_rows(file, ([cell(value) for value in row] for row in rows))
            file.flush()

        yield add


def cell(value: object) -> object:
    """A value as it stands in CSV: a float with nine digits, yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.9g}" if isinstance(value, float) else value


@contextmanager
def _parquet_parts(
    path: Path, types: Mapping[str, type], about: Mapping[str, str] | None
) -> Iterator[Callable[[Rows], None]]:
    import pyarrow as pa  # noqa: PLC0415  # an optional package

    kinds = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}
    schema = pa.schema([(unicode(name), kinds[kind]) for name, kind in types.items()], metadata=about)
    waiting: list[Sequence[object]] = []

    def write() -> None:
        cells = ([unicode(value) if isinstance(value, str) else value for value in row] for row in waiting)
        columns = zip(zip(*cells, strict=True), schema.types, strict=True)
        if waiting:
            writer.write_table(pa.table([pa.array(values, kind) for values, kind in columns], schema=schema))
            waiting.clear()

    def add(rows: Rows) -> None:
        waiting.extend(rows)
        if len(waiting) >= _GROUP:
            write()

    with parquet_for(str(path)).ParquetWriter(path, schema) as writer:
        try:
            yield add
        finally:
            write()


def parquet_for(what: str, otherwise: str = "") -> ModuleType:
    """What reads and writes Parquet.

    Args:
        what: needs it.
        otherwise: what to do instead.

    Raises:
        InputError: if pyarrow is missing.
    """
    try:
        from pyarrow import parquet  # noqa: PLC0415  # an optional package
    except ImportError:
        raise InputError(f"{what} needs pyarrow: pip install 'drmm[parquet]'{otherwise}") from None
    return parquet  # type: ignore[no-any-return]
