"""Settings as frozen records: parsed by their types, changed by their names, described by their docstrings."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from drmm.errors import InputError

__all__ = ["DERIVED", "Record", "Setting", "from_table", "in_table", "nearest", "parse", "settings_of"]

DERIVED: Any = {"derived": True}
"""Metadata of a field that nobody sets: a run fills it in from its data."""

_NONE = {"none", "null", ""}


@dataclass(frozen=True)
class Record:
    """Base of the records that say what a run is.

    `get_params` and `set_params` are scikit-learn's, so that a grid search reaches every setting
    (`objective__kl`). A record is frozen: `set_params` returns the changed one.
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002  (scikit-learn's signature)
        """Every setting by name."""
        del deep
        return {name: getattr(self, name) for name in _names(type(self))}

    def set_params(self, **params: Any) -> Self:
        """The same record with other settings.

        Raises:
            InputError: if there is no such setting, or a value is not of its type.
        """
        changed = {name: parse(type(self), name, value) for name, value in params.items()}
        return dataclasses.replace(self, **changed)

    def __sklearn_clone__(self) -> Self:
        """Itself, as nothing changes it; what is derived stays too."""
        return self


@dataclass(frozen=True)
class Setting:
    """One setting, as a user is told of it.

    Attributes:
        name: of the field.
        value: its default, or what a recipe says.
        choices: what it can be, in words.
        meaning: from the docstring of its record.
    """

    name: str
    value: Any
    choices: str
    meaning: str


def parse(record: type[Record], name: str, value: Any) -> Any:
    """A value as the type of a record's field has it; text is read as a command line gives it.

    Args:
        record: the class.
        name: of the field.
        value: of the right type, or text: "0.3", "none", "28,28".

    Raises:
        InputError: if there is no such field, or the value cannot be read so.
    """
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415  # only who changes a setting waits for it

    if name not in _names(record):
        raise InputError(f"no setting {name!r}{nearest(name, _names(record))}")
    kind = get_type_hints(record)[name]
    if isinstance(value, str):
        value = _from_text(kind, value)
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise InputError(f"{name} cannot be {value!r}: it is {_in_words(kind)}") from error


def from_table(record: type[_Record], table: Mapping[str, Any], base: _Record | None = None) -> _Record:
    """A record from a table of TOML or JSON; what the table does not say is as in `base`, or the default.

    Raises:
        InputError: if a name is unknown, or a value is not of its type.
    """
    if not isinstance(table, Mapping):
        raise InputError(f"a table of settings belongs here, not {table!r}")
    known = {f.name: f for f in dataclasses.fields(record)}
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name in known and known[name].metadata.get("derived"):
            values[name] = tuple(value) if isinstance(value, list) else value
        else:
            values[name] = parse(record, name, value)
    return record(**values) if base is None else dataclasses.replace(base, **values)


@contextmanager
def in_table(name: str) -> Iterator[None]:
    """Within it, an error about a setting says in which table that is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def settings_of(record: Record) -> list[Setting]:
    """Every setting of a record, with its value there and its meaning."""
    hints, meanings = get_type_hints(type(record)), _meanings(type(record))
    return [
        Setting(name, getattr(record, name), _in_words(hints[name]), meanings.get(name, ""))
        for name in _names(type(record))
    ]


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """What to say after a name that is unknown: the nearest one, or all of them if none is near.

    Args:
        name: that is unknown.
        known: the names that there are.
        prefix: comes before each where it is said, and makes none nearer.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f": did you mean {prefix + near[0]!r}?"
    return f": choose from {', '.join(prefix + known_name for known_name in names)}"


def _names(record: type[Record]) -> tuple[str, ...]:
    """The fields that can be set."""
    return tuple(f.name for f in dataclasses.fields(record) if not f.metadata.get("derived"))


def _from_text(kind: Any, text: str) -> Any:
    """Words that stand for what is no text: nothing, and several values."""
    options = get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,)
    if type(None) in options and text.strip().lower() in _NONE:
        return None
    if several := next((get_args(option) for option in options if get_origin(option) is tuple), ()):
        words = [word.strip() for word in text.split(",") if word.strip()]
        return [] if several[0] is not str and [word.lower() for word in words] == ["none"] else words
    return text.strip() if str not in options else text


def _in_words(kind: Any) -> str:
    """What a type takes, for people."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in {Union, types.UnionType}:
        return " or ".join(_in_words(option) for option in inner)
    if kind is type(None):
        return "none"
    if origin is tuple:
        several = {int: "whole numbers", float: "numbers", str: "names"}
        return f"{several.get(inner[0]) or f'some of {_in_words(inner[0])}'}, with commas between them"
    if inner:  # a Literal
        return ", ".join(map(str, inner))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(kind, str(kind))


def _meanings(record: type[Record]) -> dict[str, str]:
    """What the docstring says of each attribute."""
    _, _, section = inspect.cleandoc(record.__doc__ or "").partition("Attributes:\n")
    meanings: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if not line.strip():
            break
        if not line.startswith(" " * 8):
            name, _, text = line.strip().partition(": ")
            meanings[name] = text
        else:
            meanings[name] += f" {line.strip()}"
    return meanings


_Record = TypeVar("_Record", bound=Record)
