"""Labels in a table beside the pictures: which file has which, by whatever part of its name the table gives."""

__all__ = ["matched", "read_labels"]

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from drmm.data.base import Skipped
from drmm.data.labels import NO_CLASSES
from drmm.data.listing import nfc
from drmm.data.tables import read_table
from drmm.errors import InputError

_FILE, _LABEL = ("file", "filename", "path", "image", "id", "name"), ("label", "class", "category")


def read_labels(path: Path) -> list[tuple[str, str]]:
    """The files and labels that a table names, row by row; a label is empty where it is unknown.

    Args:
        path: CSV (with commas, semicolons or tabs) or Parquet, with a column `file` and a column `label`; some
            other usual names are understood.

    Raises:
        InputError: if it lacks a column, a label is a word for none, or pyarrow is needed and missing.
        RunError: if the file cannot be read.
    """
    rows = read_table(path)
    if not rows:
        raise InputError(
            f"{path} names no files: give each picture a row, below the names of columns file and label"
        )
    columns = {str(name).strip().lower(): name for name in rows[0] if name is not None}
    file, label = (next((columns[name] for name in known if name in columns), None) for known in (_FILE, _LABEL))
    if file is None or label is None:
        found = ", ".join(map(str, columns.values()))
        raise InputError(f"{path} has no columns file and label ({found}): name them so in its first row")
    pairs = [(_text(row[file]), _text(row[label])) for row in rows]
    for name, text in pairs:
        if text and text.lower() in NO_CLASSES:
            raise InputError(f"{path}: {name} has label {text!r}: leave it blank if unknown, or rename the class")
    named = [(name, text) for name, text in pairs if name]
    if not named:
        raise InputError(f"{path} names no files: give each picture a row")
    return named


def _text(value: object) -> str:
    """A cell as text: pandas makes floats of whole numbers where one is missing."""
    if value is None or value != value:  # noqa: PLR0124  # NaN
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def matched(
    rows: Sequence[tuple[str, str]], pictures: Iterable[PurePosixPath], root: Path, table: Path
) -> tuple[dict[PurePosixPath, str], list[Skipped]]:
    """The label of each picture that has one, and what could not be used.

    A picture is named by its path, whole or below `root`, or, where no other has the same, by its name alone; with
    or without the suffix.

    Args:
        rows: of `read_labels`.
        pictures: relative paths.
        root: what they are relative to.
        table: where the rows are from.

    Returns:
        Labels by relative path; and the rows that name no picture, or are at odds with another.

    Raises:
        InputError: if no row names a picture.

    Warns:
        UserWarning: if some rows cannot be used.
    """
    spellings = _spellings(pictures)
    said: dict[PurePosixPath, set[str]] = {}
    odd: dict[str, str] = {}
    for name, label in rows:
        found = spellings.get(nfc(name)) or spellings.get(_relative(name, root), [])
        if len(found) == 1:
            said.setdefault(found[0], set()).update({label} - {""})
        else:
            odd[name] = f"labelled, but {'there are several' if found else 'not there'} ({table.name})"
    if not said:
        raise InputError(f"{root} has no picture of {table}: give paths relative to it, not {next(iter(odd))}")
    for member, labels in said.items():
        if len(labels) > 1:
            odd[str(member)] = f"labelled as several classes: taken as unlabelled ({', '.join(sorted(labels))})"
    if odd:
        first = next(iter(odd))
        share = f"{len(odd)} of {len({name for name, _ in rows})} files in {table} cannot be used"
        warnings.warn(f"{share}, such as {first}, {odd[first]}", UserWarning, stacklevel=4)
    known = {member: labels.pop() for member, labels in said.items() if len(labels) == 1}
    return known, [Skipped(name, reason) for name, reason in odd.items()]


def _relative(name: str, root: Path) -> str:
    """A name as `_spellings` has it."""
    path = PurePosixPath(nfc(name).replace("\\", "/"))
    for above in (root, root.absolute(), root.resolve()):
        if path.is_relative_to(above.as_posix()):
            return str(path.relative_to(above.as_posix()))
    return str(path)


def _spellings(pictures: Iterable[PurePosixPath]) -> dict[str, list[PurePosixPath]]:
    """Pictures by every name that may be meant; a whole path means no other."""
    whole: dict[str, list[PurePosixPath]] = {}
    short: dict[str, list[PurePosixPath]] = {}
    for member in pictures:
        path = PurePosixPath(nfc(str(member)))
        whole[str(path)] = [member]
        for name in {path.name, str(path.with_suffix("")), path.stem}:
            short.setdefault(name, []).append(member)
    return short | whole
