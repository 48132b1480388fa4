"""Tables in the user's cache folder: they may be removed at any time, and are made again."""

__all__ = ["database"]

import sqlite3
from contextlib import suppress
from pathlib import Path

from drmm.data.download import cache_dir


def database(name: str, table: str) -> sqlite3.Connection:
    """A database with one table; in memory where it cannot be kept.

    Args:
        name: of its file below the cache folder, such as "folders/1.sqlite".
        table: its name and columns in SQL, such as "files (path BLOB PRIMARY KEY)".
    """
    file = cache_dir() / name
    with suppress(OSError, sqlite3.OperationalError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _opened(file, table)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            file.unlink()  # it is damaged
            return _opened(file, table)
    return _opened(":memory:", table)


def _opened(file: Path | str, table: str) -> sqlite3.Connection:
    connection = sqlite3.connect(file)
    try:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table}")
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("damaged")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
