"""Files that outlive the process: written whole or not at all, read without unpickling."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from drmm.errors import RunError

__all__ = [
    "check_absent",
    "check_new",
    "new_folder",
    "read_bytes",
    "read_json",
    "read_tensors",
    "tensor_bytes",
    "write_bytes",
    "write_csv",
    "write_json",
]

_BROKEN = "backslashreplace"  # names of files that are no Unicode; JSON reads them back as they were


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Named tensors as safetensors, which need no unpickling and do not break between versions."""
    return save({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, metadata)


def read_tensors(path: Path, remedy: str = "copy it again or train again") -> dict[str, Tensor]:
    """Read what `tensor_bytes` made.

    Args:
        path: the file.
        remedy: what to do if it is damaged.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except SafetensorError as error:
        raise RunError(f"{path} is damaged ({error}): {remedy}") from error


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        RunError: if it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): copy it again or train again") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged (no JSON object): copy it again or train again")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all.

    Raises:
        RunError: if it cannot be written.
    """
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(errors=_BROKEN))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table, whole or not at all.

    Raises:
        RunError: if it cannot be written.
    """
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    write_bytes(path, file.getvalue().encode(errors=_BROKEN))


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

    A new file has the mode that the umask says; one that is replaced keeps its own.

    Raises:
        RunError: if the file cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.stem}-{secrets.token_hex(8)}{path.suffix}"
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


def _like(path: Path, temporary: Path) -> None:
    """Keep the mode of what is replaced."""
    if path.exists():
        temporary.chmod(stat.S_IMODE(path.stat().st_mode))


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(f"cannot write {path}: {error.strerror or error}; free space or choose another place")


def check_absent(path: Path, *, force: bool = False) -> None:
    """Refuse to write a file that is there, unless that is wanted.

    Raises:
        RunError: if it is there and not to be replaced, or is a folder.
    """
    if path.is_dir():
        raise RunError(f"{path} is a folder: give the name of a file")
    if path.exists() and not force:
        raise RunError(f"{path} exists: choose another --out, or replace it with --force")


def check_new(folder: Path, remedy: str = "choose another --out") -> None:
    """Refuse a folder that holds something already.

    Raises:
        RunError: if it does, or is a file; with what to do.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} exists: {remedy}")


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
        temporary = folder.parent / f".{folder.name}-{secrets.token_hex(8)}"
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
