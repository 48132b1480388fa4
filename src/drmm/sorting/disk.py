"""Files from one place to another: never over another one, and never gone from both."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

__all__ = ["copy", "file_digest", "holds", "move", "remove_source"]


def file_digest(path: Path) -> str:
    """Of a file's bytes, 32 hexadecimal digits.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def holds(path: Path, digest: str, n_bytes: int) -> bool:
    """Whether a file, or what a link leads to, has this content.

    Raises:
        OSError: if it is there and cannot be read.
    """
    return path.is_file() and path.stat().st_size == n_bytes and file_digest(path) == digest


def copy(source: Path, target: Path, part: Path, digest: str, *, keep: bool = False) -> bool:
    """Copy a file with its times and permissions; it is whole before it has its name.

    Args:
        source: the file, or a link to it.
        target: where there is nothing.
        part: a place on the same disk, for what is not whole yet.
        digest: of the content that is meant.
        keep: make sure that it is on the disk, and not in the system's memory alone.

    Returns:
        Whether the content was the one that is meant; if not, nothing has been made.

    Raises:
        OSError: if something is at the target, or it cannot be written.
    """
    try:
        shutil.copy2(source, part)
        if file_digest(part) != digest:
            return False
        if keep:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        _rename(part, target)
    finally:
        part.unlink(missing_ok=True)
    return True


def move(source: Path, target: Path, part: Path, digest: str) -> bool:
    """Move a file, from one disk to another too; arguments, result and errors as of `copy`."""
    try:
        _rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        if not copy(source, target, part, digest, keep=True):
            return False
        remove_source(source, target)
    return True


def _rename(source: Path, target: Path) -> None:
    """Rename a file; unlike the system's own way, never over another one."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a disk without hard links, or another one
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        source.rename(target)
    else:
        remove_source(source, target)


def remove_source(source: Path, target: Path) -> None:
    """Remove what the target has too; if that is not allowed, remove the target.

    Raises:
        OSError: if it is not allowed.
    """
    try:
        source.unlink(missing_ok=True)
    except OSError:
        target.unlink()
        raise
