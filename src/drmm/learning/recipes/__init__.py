"""Recipes: settings of a run as TOML, shipped here by name, or a file of one's own.

A recipe has the tables of an `Experiment` ([model], [objective], [training], [machine], [teacher]), a title, and
may extend another one: what it does not say is as there, and at last as those tables have it by default.
`few-labels` is the recipe of the command line and of `DRMMClassifier`. Most others are rows of the published
tables, with their schedule on MNIST: `min_steps` makes as many steps of it where images are fewer.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from drmm.errors import InputError
from drmm.files import expanded
from drmm.records import nearest

__all__ = ["DEFAULT", "ON_NETS", "RecipeFile", "is_recipe", "names", "read_recipe"]

DEFAULT = "few-labels"
ON_NETS = "photos-quick"
"""The default on a net of one's own."""
_TABLES = ("data", "model", "objective", "training", "machine", "teacher", "select", "trust")


@dataclass(frozen=True)
class RecipeFile:
    """What a recipe says, and all that it extends.

    Attributes:
        title: in a few words.
        tables: settings by table and name.
    """

    title: str
    tables: dict[str, dict[str, Any]]


@cache
def names() -> tuple[str, ...]:
    """The recipes that are shipped, the default first."""
    shipped = sorted(path.name.removesuffix(".toml") for path in files(__name__).iterdir() if _is_toml(path.name))
    return (DEFAULT, *(name for name in shipped if name != DEFAULT))


def read_recipe(name: str | Path, *, _extending: tuple[str, ...] = ()) -> RecipeFile:
    """A recipe by name or path.

    Args:
        name: of a shipped recipe, or the path of a TOML file.

    Raises:
        InputError: if there is none such, it cannot be read, has a table that is unknown, or extends itself.
    """
    text, path = _text(name)
    source = str(name) if path is None else str(path.resolve())
    if source in _extending:
        raise InputError(f"recipe {name} extends itself: remove its line extends")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"recipe {name} is not TOML: {error}") from error
    title, base = str(content.pop("title", "")), content.pop("extends", None)
    _check_tables(name, content)
    if base is None:
        return RecipeFile(title, content)
    if _is_toml(str(base)) and path is not None:
        base = path.parent / expanded(str(base))
    tables = read_recipe(str(base), _extending=(*_extending, source)).tables
    merged = {key: {**tables.get(key, {}), **content.get(key, {})} for key in {**tables, **content}}
    return RecipeFile(title, merged)


def _check_tables(name: str | Path, content: dict[str, Any]) -> None:
    for key, table in content.items():
        if key not in _TABLES:
            raise InputError(f"recipe {name}: no table [{key}]{nearest(key, _TABLES)}")
        if not isinstance(table, dict):
            raise InputError(f"recipe {name}: {key} is a table: write [{key}], and its settings below")


def _text(name: str | Path) -> tuple[str, Path | None]:
    """A recipe's text, and its path if it is a user's."""
    if str(name) in names():
        return files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8"), None
    path = expanded(name)
    if not _is_toml(path.name):
        known = nearest(str(name), names())
        choice = " Or" if known.endswith("?") else ", or"
        raise InputError(f"no recipe {str(name)!r}{known}{choice} give the path of a .toml file")
    try:
        return path.read_text(encoding="utf-8"), path
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read recipe {path}: {getattr(error, 'strerror', None) or error}") from error


def is_recipe(name: str | Path) -> bool:
    """Whether this names a recipe, one that is shipped or a TOML file, rather than a folder."""
    return str(name) in names() or _is_toml(str(name))


def _is_toml(name: str) -> bool:
    return name.endswith(".toml")
