"""Files that outlive the process: written whole or not at all, read without unpickling."""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import dropwhile
from mimetypes import MimeTypes
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from safetensors import SafetensorError

from drmm.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

if sys.platform != "win32":
    import fcntl

__all__ = [
    "JOURNAL",
    "NOT_SORTED",
    "RUN",
    "TEMPORARY",
    "add_rows",
    "check_absent",
    "check_new",
    "encoding_of",
    "expanded",
    "locked",
    "new_folder",
    "open_csv",
    "read_bytes",
    "read_csv",
    "read_json",
    "read_tensors",
    "replacing",
    "tensor_bytes",
    "unicode",
    "write_bytes",
    "write_csv",
    "write_json",
]

TEMPORARY = ".drmm-"  # how names of what is being written begin
JOURNAL = ".drmm"
"""Folder by which one of sorted pictures is known (`drmm.sorting.journal`)."""
RUN = "_run"
"""Folder of the model that was trained for sorting, within that of the sorted pictures."""
NOT_SORTED = {"unsure": "_unsure", "unfamiliar": "_unfamiliar"}
"""Folders of pictures that no class was found for, there, by what was decided; no class's begins so."""
_BROKEN = "backslashreplace"  # names of files that are no Unicode; JSON reads them back as they were
# What a spreadsheet computes, and what has been guarded against that.
_FORMULA = re.compile(r"'*(\s*[=+\-@＝＋－＠]|[\t\r\n])")


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Named tensors as safetensors, which need no unpickling and do not break between versions."""
    from safetensors.torch import save  # noqa: PLC0415  (torch: what only moves files does without)

    alone, seen = {}, set[int]()
    for name, tensor in tensors.items():
        alone[name] = tensor.detach().contiguous().cpu()
        if (memory := alone[name].untyped_storage().data_ptr()) in seen:  # of a layer that is used twice
            alone[name] = alone[name].clone()
        seen.add(memory)
    return save(alone, metadata)


def read_tensors(path: Path, remedy: str = "copy it again or train again") -> dict[str, Tensor]:
    """Read what `tensor_bytes` made.

    Args:
        path: the file.
        remedy: what to do if it is damaged.

    Raises:
        RunError: if the file is missing or damaged.
    """
    from safetensors.torch import load  # noqa: PLC0415

    try:
        return load(read_bytes(path))
    except SafetensorError as error:
        raise RunError(f"{path} is damaged ({error}): {remedy}") from error


def expanded(path: str | Path) -> Path:
    """A path with a home in place of its ~; that of nobody stays as it is, as a shell leaves it."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  (whose own way raises for nobody's)


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        RunError: if it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error


def read_json(path: Path, remedy: str = "copy it again or train again") -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        remedy: what to do if it is damaged.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        content = json.loads(read_bytes(path).decode())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): {remedy}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged (no JSON object): {remedy}")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all; null stands for a number that is not finite.

    Raises:
        RunError: if it cannot be written.
    """
    finite = json.loads(json.dumps(content), parse_constant=lambda _: None)
    write_bytes(path, (json.dumps(finite, indent=2, ensure_ascii=False) + "\n").encode(errors=_BROKEN))


def read_csv(
    path: Path, remedy: str = "copy it again or train again", *, delimiter: str = ","
) -> list[dict[str, str]]:
    """Read what `write_csv` made: rows by the names of their columns.

    Args:
        path: the file.
        remedy: what to do if it is damaged.
        delimiter: between columns, where another program wrote it.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        with path.open(encoding=encoding_of(path), newline="") as file:
            table = csv.DictReader(dropwhile(str.isspace, file), delimiter=delimiter)
            names, rows = Counter(table.fieldnames), list(table)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeError, csv.Error) as error:
        raise RunError(f"{path} is damaged ({error}): {remedy}") from error
    if twice := [name for name, n in names.items() if name and n > 1]:
        raise RunError(f"{path} has several columns called {twice[0]}: keep one")
    return [{_unguarded(name): _unguarded(cell) for name, cell in row.items()} for row in rows]


def encoding_of(path: Path) -> str:
    """How a text is encoded, by the mark that spreadsheets begin with: UTF-16, or else UTF-8."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE} else "utf-8-sig"


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table, whole or not at all; text that a spreadsheet would compute has a ' before it.

    Raises:
        RunError: if it cannot be written.
    """
    with replacing(path) as temporary, open_csv(temporary) as file:
        add_rows(file, [header, *rows])


def unicode(text: str) -> str:
    """Text as files have it: of names that are no Unicode, with the bytes written out."""
    return text.encode(errors=_BROKEN).decode()


def open_csv(path: Path) -> TextIO:
    """A new file for `add_rows`."""
    return path.open("w", encoding="utf-8", errors=_BROKEN, newline="")


def add_rows(file: TextIO, rows: Iterable[Sequence[object]]) -> None:
    """Write rows of a table; text that a spreadsheet would compute has a ' before it."""
    plain = csv.writer(file, lineterminator="\n")
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        cells = [_guarded(cell) if isinstance(cell, str) else cell for cell in row]
        # Python before 3.13 leaves a carriage return bare, which ends a row.
        (quoted if any("\r" in str(cell) for cell in cells) else plain).writerow(cells)


def _guarded(cell: str) -> str:
    """Text that is no formula; a number stays one."""
    try:
        float(cell)
    except ValueError:
        return f"'{cell}" if _FORMULA.match(cell) else cell
    return cell


def _unguarded(cell: Any) -> Any:
    """The text that `_guarded` was given; rows that are too short or too long have other cells."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell) else cell


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, and make the folders above it.

    Raises:
        RunError: if it cannot be written; a file that was there before stays as it was.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it if the block succeeds and removed if it fails.

    A new file has the mode that the umask says; one that is replaced keeps its own, and a link still leads to it.

    Raises:
        RunError: if the file cannot be written.
    """
    temporary: Path | None = None
    try:
        _check_file(path)
        path = Path(os.path.realpath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        temporary.touch(exist_ok=False)  # with the mode that the umask allows, which `tempfile` does not ask
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        _like(path, temporary)
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for it out of a folder. The lock ends with the process, however that ends.

    Raises:
        RunError: if another process has it.
    """
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise RunError(f"another process is writing to {folder}: wait until it ends") from error
    except OSError:
        pass  # not every file system has locks
    try:
        yield
    finally:
        os.close(handle)


def _like(path: Path, temporary: Path) -> None:
    """Keep the mode of what is replaced."""
    if path.exists():
        temporary.chmod(stat.S_IMODE(path.stat().st_mode))


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(f"cannot write {path}: {error.strerror or error}; free space or choose another place")


def check_absent(path: Path, suffix: str, *, force: bool = False, option: str = "--out") -> None:
    """Refuse, before any work, to write a file that is there, unless that is wanted, or one that cannot be.

    Args:
        path: of the file.
        suffix: of files with such content; a name that promises another one is refused too.
        force: whether it may be replaced.
        option: by which another place is chosen.

    Raises:
        RunError: if it is there and not to be replaced, is no file, or cannot be written there.
    """
    _check_place(path)
    _check_file(path)
    if path.exists() and not force:
        raise RunError(f"{path} exists: choose another {option}, or replace it with --force")
    types = MimeTypes()  # those that Python knows, whatever this machine adds
    promised, kind = types.guess_type(path.name), types.guess_type(f"x{suffix}")
    is_text = promised[0] == "text/plain" and kind[0] != "image/png"
    if promised not in {(None, None), kind} and not is_text:
        raise RunError(f"{path} does not get what its name promises: let it end in {suffix}")


def check_new(folder: Path, remedy: str = "choose another --out", *, but: str = "") -> None:
    """Refuse, before any work, a folder that holds something already, or cannot be written.

    Args:
        folder: which.
        remedy: what to do if it does.
        but: what it may hold.

    Raises:
        RunError: if it does, is a file, or cannot be written there; with what to do.
    """
    _check_place(folder)
    if folder.exists() and (not folder.is_dir() or any(one.name != but for one in folder.iterdir())):
        raise RunError(f"{folder} exists: {remedy}")


def _check_file(path: Path) -> None:
    """Refuse what a file would take the place of: a folder, a device, a pipe."""
    if path.is_dir():
        raise RunError(f"{path} is a folder: give the name of a file")
    if path.exists() and not path.is_file():
        raise RunError(f"{path} is no ordinary file: give the name of one")


def _check_place(path: Path) -> None:
    """Refuse a place where nothing can be made."""
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
    except OSError as error:
        raise _unwritable(path, error) from error
    above = next((folder for folder in path.absolute().parents if folder.exists()), path)
    if not above.is_dir():
        raise RunError(f"cannot write {path}: {above} is no folder; choose another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise RunError(f"cannot write {path}: no permission in {above}; choose another place")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place if the block succeeds and is removed if it fails.

    Raises:
        RunError: if `folder` holds something already, or cannot be written.
    """
    check_new(folder)
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        temporary.mkdir()
        yield temporary
        _like(folder, temporary)
        if folder.exists():  # an empty one
            folder.rmdir()
        temporary.replace(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
