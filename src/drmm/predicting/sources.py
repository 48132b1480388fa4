"""Pictures from where many are kept, in an order that stays: what a source holds can be cut anywhere.

A source is a folder of pictures, a list of their paths, tar files (as of WebDataset), or data sets in Parquet or
Arrow (as Hugging Face has them). Only a folder's names are held in memory. A tar is cut by its bytes: a picture
belongs to where its header begins, so that no other tar has to be read to count them.
"""

from __future__ import annotations

import glob
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import count, islice
from pathlib import Path, PurePosixPath
from typing import Any

from drmm.data.base import Skipped, digest_of, summary
from drmm.data.decoding import UnreadableError
from drmm.data.formats import HOLDERS, is_picture
from drmm.data.listing import is_hidden, listed
from drmm.data.tables import PARQUET, parquet_for
from drmm.errors import InputError, RunError

__all__ = ["Source"]

Named = tuple[str, object]
"""What a picture is called, and the picture, as `drmm.predicting.rows.Rows.decoded` takes them."""

_UNCUT = {".bz2", ".gz", ".npy", ".npz", ".tgz", ".xz", ".zip", ".zst"}
_LISTS = {"", ".lst", ".list", ".txt"}
_CACHE = "cache-"  # how names of what Hugging Face keeps beside a data set begin
_AT_ONCE = 100  # rows of a data set
_IMAGE = "image"
_ARROW_FILE = b"ARROW1"  # how a file begins; Hugging Face writes streams
_KINDS = "a folder of pictures, a list of their paths (.txt), .tar files, or data sets in Parquet or Arrow"


@dataclass(frozen=True)
class _Piece:
    """A part of a source.

    Attributes:
        length: places where it can be cut.
        says: digest of what is called by which name.
        read: pictures between two places.
        files: paths of what is read between two places.
        is_counted: whether places are pictures.
    """

    length: int
    says: str
    read: Callable[[int, int], Iterator[Named]]
    files: Callable[[int, int], Iterable[Path]]
    is_counted: bool = True


@dataclass(frozen=True)
class Source:
    """Pictures of one or several places, one after the other.

    Attributes:
        skipped: what is in folders besides.
    """

    _pieces: Sequence[_Piece]
    skipped: Sequence[Skipped]

    @classmethod
    def of(cls, paths: Iterable[Path], *, but: Path | None = None) -> Source:
        """What there is.

        Args:
            paths: of folders, lists, tars and data sets, or patterns of them.
            but: a folder that may lie in one of these, of tars and data sets that are not meant.

        Raises:
            InputError: if there are no pictures, it is of another kind, or pyarrow is needed and missing.
            RunError: if a path leads nowhere, or a file is damaged.
        """
        skipped: list[Skipped] = []
        pieces = [piece for path in paths for one in _matching(path) for piece in _pieces_of(one, but, skipped)]
        if not any(piece.length for piece in pieces):
            found = f" ({summary(skipped)})" if skipped else ""
            raise InputError(f"no images found{found}: name {_KINDS}")
        return cls(pieces, skipped)

    @property
    def digest(self) -> str:
        """Of the names of all, in their order; of a tar or data set, of its own name and length."""
        return digest_of(piece.says.encode() for piece in self._pieces)

    @property
    def is_counted(self) -> bool:
        """Whether it is known how many pictures there are before they are read."""
        return all(piece.is_counted for piece in self._pieces)

    def shard(self, number: int, n: int) -> Shard:
        """One of n parts of about equal size, which are all of it, in order; they are counted from 1."""
        total = sum(piece.length for piece in self._pieces)
        start, stop = (total * cut // n for cut in (number - 1, number))
        spans, before = [], 0
        for piece in self._pieces:
            ends = max(0, start - before), min(piece.length, stop - before)
            if ends[0] < ends[1]:
                spans.append((piece, *ends))
            before += piece.length
        return Shard(spans, stop - start if self.is_counted else None)


@dataclass(frozen=True)
class Shard:
    """A part of a source.

    Attributes:
        n: how many pictures; None where that is not known before.
    """

    _spans: Sequence[tuple[_Piece, int, int]]
    n: int | None

    @property
    def digest(self) -> str:
        """Of the length and time of change of the files that are read."""
        files = (file for piece, *ends in self._spans for file in piece.files(*ends))
        return digest_of(repr(_state(file)).encode() for file in files)

    def read(self) -> Iterator[Named]:
        """Each picture, in order.

        Raises:
            RunError: if a tar or data set is damaged.
        """
        for piece, *ends in self._spans:
            yield from piece.read(*ends)


def _state(file: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = file.stat()
        return found.st_size, found.st_mtime_ns
    return None


def _matching(path: Path) -> list[Path]:
    """The path, or those that it is a pattern of."""
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    if found := sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207  (of any root)
        return [Path(one) for one in found]
    raise RunError(f"no file or folder {path}: check the path")


def _pieces_of(path: Path, but: Path | None, skipped: list[Skipped]) -> Iterator[_Piece]:
    suffix = path.suffix.lower()
    if path.is_dir():
        yield from _folder(path, but, skipped)
    elif not path.is_file():
        raise RunError(f"no file or folder {path}: check the path")
    elif suffix in HOLDERS:
        yield _tar(path) if suffix == ".tar" else _parquet(path) if suffix in PARQUET else _arrow(path)
    elif suffix in _UNCUT:
        raise InputError(f"{path} cannot be read from any place: unpack it, or leave --shard out")
    elif is_picture(path, lambda: path.open("rb")):
        yield _of_paths(lambda: [str(path)], Path())
    elif suffix in _LISTS:
        yield _of_paths(lambda: _lines(path), path.parent)
    else:
        raise InputError(f"{path} is no source of pictures: name {_KINDS}")


def _folder(path: Path, but: Path | None, skipped: list[Skipped]) -> Iterator[_Piece]:
    """Pictures, or tars and data sets; those of both are refused, as it is not known which are meant."""
    with listed(path) as found:
        found.read_once()
        names = [str(path / member) for member in found.pictures]
    others = [path / one.file for one in found.skipped if one.reason.startswith("not a picture")]
    holders = [one for one in others if one.suffix.lower() in HOLDERS and not one.name.startswith((_CACHE, "_"))]
    meant = [one for one in holders if but is None or not one.resolve().is_relative_to(but.resolve())]
    if names and meant:
        raise InputError(f"{path} holds pictures and {meant[0]}: name what you mean, as in '{path}/*.png'")
    if names or not meant:
        skipped += found.skipped
        yield _of_paths(lambda: names, Path())
    for one in meant:
        yield from _pieces_of(one, but, skipped)


def _of_paths(names: Callable[[], Iterable[str]], root: Path) -> _Piece:
    """Files by name, relative to a folder."""

    def read(start: int, stop: int) -> Iterator[Named]:
        return ((name, root / name) for name in islice(names(), start, stop))

    places = count()  # of what is read only once: a list may be long
    says = digest_of(name.encode(errors="surrogateescape") for name, _ in zip(names(), places, strict=False))
    return _Piece(next(places), says, read, lambda *ends: (root / name for name, _ in read(*ends)))


def _lines(path: Path) -> Iterator[str]:
    """Of a list, without the blank ones."""
    with _readable(path), path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for line in file:
            if "\0" in line:
                raise RunError(f"{path} is no list of paths: write one on each line")
            if name := line.rstrip("\n"):
                yield name


def _tar(path: Path) -> _Piece:
    with _readable(path):
        length = path.stat().st_size
        tarfile.open(path, "r:").close()

    def read(start: int, stop: int) -> Iterator[Named]:
        with _readable(path), tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None and member.offset < stop:
                archive.members = []  # type: ignore[attr-defined]  # which would grow
                if start <= member.offset and (found := _picture(archive, member)) is not None:
                    yield f"{path}/{member.name}", found
            if member is None and not _ends(archive):
                raise RunError(f"{path} is damaged after {archive.offset:,} bytes: copy it again")

    return _held(path, length, read, is_counted=False)


def _picture(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | UnreadableError | None:
    """The content of a member that is a picture; None of all others."""
    name, content = PurePosixPath(member.name), b""
    if member.isdir() or any(map(is_hidden, name.parts)):
        return None
    if file := archive.extractfile(member) if member.isfile() else None:
        content = file.read()
    if not is_picture(name, lambda: BytesIO(content)):
        return None
    return content if file else UnreadableError(member.name, "it is a link: pack what that leads to")


def _ends(archive: tarfile.TarFile) -> bool:
    """Whether nothing but zeros, and at least some, follow the last member."""
    archive.fileobj.seek(archive.offset)
    return set(archive.fileobj.read(2**20)) == {0}


def _parquet(path: Path) -> _Piece:
    parquet = parquet_for(str(path))
    with _readable(path), parquet.ParquetFile(path) as file:
        length, schema = file.metadata.num_rows, file.schema_arrow
    column = _column_of(schema, path)

    def batches(start: int, stop: int) -> Iterator[tuple[int, Any]]:
        before = 0
        with parquet.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                first, before = before, before + file.metadata.row_group(group).num_rows
                if first < stop and start < before:
                    for batch in file.iter_batches(_AT_ONCE, [group], [column]):
                        yield first, batch.column(0)
                        first += len(batch)

    return _of_rows(path, length, batches)


def _arrow(path: Path) -> _Piece:
    with _readable(path):
        schema, parts = _ipc(path)
        length = sum(map(len, parts))
    column = _column_of(schema, path)

    def batches(_: int, stop: int) -> Iterator[tuple[int, Any]]:
        before = 0
        for part in _ipc(path)[1]:
            if before < stop:
                yield before, part.column(column)
            before += len(part)

    return _of_rows(path, length, batches)


def _ipc(path: Path) -> tuple[Any, Iterator[Any]]:
    """Schema and batches of a file or stream in Arrow's format, mapped into memory."""
    parquet_for(str(path))
    import pyarrow as pa  # noqa: PLC0415  # an optional package

    file = pa.memory_map(str(path))
    is_stream = file.read(len(_ARROW_FILE)) != _ARROW_FILE
    file.seek(0)
    if is_stream:
        stream = pa.ipc.open_stream(file)
        return stream.schema, stream
    reader = pa.ipc.open_file(file)
    return reader.schema, map(reader.get_batch, range(reader.num_record_batches))


def _column_of(schema: Any, path: Path) -> str:
    """The one with pictures: `image`, or the only one of bytes, or of bytes and a path as of Hugging Face."""
    found = [field.name for field in schema if _holds_bytes(field.type)]
    if _IMAGE not in found and len(found) != 1:
        there = f"several columns of bytes ({', '.join(found)})" if found else "no column of bytes"
        raise InputError(f"{path} has {there}: call that of the pictures {_IMAGE}")
    return _IMAGE if _IMAGE in found else found[0]


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types  # noqa: PLC0415  # an optional package

    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0) and _holds_bytes(kind.field("bytes").type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _of_rows(path: Path, length: int, batches: Callable[[int, int], Iterator[tuple[int, Any]]]) -> _Piece:
    """A data set, of the number of each batch's first row, and its pictures, where they are between two rows."""

    def read(start: int, stop: int) -> Iterator[Named]:
        with _readable(path):
            for first, pictures in batches(start, stop):
                for row in range(max(start, first), min(stop, first + len(pictures))):
                    yield f"{path}[{row}]", pictures[row - first].as_py()

    return _held(path, length, read)


def _held(
    path: Path, length: int, read: Callable[[int, int], Iterator[Named]], *, is_counted: bool = True
) -> _Piece:
    """All of one file."""
    says = digest_of([str(path).encode(errors="surrogateescape"), str(length).encode()])
    return _Piece(length, says, read, lambda *_: [path], is_counted)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Within it, what reads a file may fail."""
    try:
        yield
    except (OSError, ValueError, EOFError, NotImplementedError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise RunError(f"cannot read {path} ({reason}): copy it again") from error
