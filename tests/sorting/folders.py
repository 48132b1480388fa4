"""Folders of small files to sort, and what is in them."""

import os
from pathlib import Path

from drmm.sorting.disk import file_digest
from drmm.sorting.plan import Choice

DECISIONS = ("sorted", "sorted", "unsure", "unfamiliar", "labelled")


def fill(folder: Path, n: int = 7) -> Path:
    """Files of two folders, some called the same, with old times and odd permissions."""
    for i in range(n):
        file = folder / "ab"[i % 2] / f"{i // 2}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"picture {i}".encode() * (i + 1))
        file.chmod(0o640)
        os.utime(file, (1e9 + i, 1e9 + i))
    return folder


def chosen(folder: Path) -> list[Choice]:
    """A choice for each file and link, by its place in the order of names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".drmm"))
    return [
        Choice(file, file_digest(file), f"class {i % 3}", DECISIONS[i % 5], {"confidence": f"0.{i}"})
        for i, file in enumerate(files)
    ]


def tree(folder: Path) -> dict[str, object]:
    """Every file with its content, time and permissions, every link with where it leads, every folder."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_dir():
            found[name] = "folder"
        else:
            stat = path.stat()
            # What drmm writes itself has the time of writing.
            when = stat.st_mtime_ns if path.suffix == ".png" else 0
            found[name] = (path.read_bytes(), when, stat.st_mode)
    return found


def pictures(folder: Path) -> dict[str, object]:
    """As `tree`, of the pictures alone."""
    return {name: what for name, what in tree(folder).items() if name.endswith(".png")}
