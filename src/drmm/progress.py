"""Progress on standard error, for what takes more than two seconds: a bar on a terminal, else lines."""

from __future__ import annotations

__all__ = ["DownloadBar", "Meter", "track"]

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from typing import TypeVar, final

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from drmm.display.text import one_line, printable

T = TypeVar("T")

_PATIENCE = 2.0  # seconds before a bar appears
_REFRESH = 1.0  # seconds from look to look: what is shown beside a bar may have to wait for a device
_INTERVAL = 30.0  # seconds from line to line, where a bar would fill a log


@final
class Meter:
    """Rich's bar, which waits for two seconds, or lines where there is no terminal.

    Args:
        what: caption, shown as it is.
        in_bytes: whether bytes are counted.
    """

    def __init__(self, what: str, *, in_bytes: bool = False) -> None:
        self._console = Console(stderr=True)
        columns = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else ()
        self._bar = Progress(*Progress.get_default_columns(), *columns, console=self._console, transient=True)
        self._what, self._shown = one_line(what), decimal if in_bytes else str
        self._task = self._bar.add_task("", total=None)
        self._due = time.monotonic() + (_PATIENCE if self._console.is_interactive else _INTERVAL)

    def update(self, done: int, total: int | None = None, note: Callable[[], str] = str) -> None:
        """So much is done, of so much in all; the note is asked for when it is shown."""
        now = time.monotonic()
        if now <= self._due:
            return
        what = ", ".join(filter(None, (self._what, one_line(note()))))
        if self._console.is_interactive:
            self._due = now + _REFRESH
            self._bar.update(self._task, completed=done, total=total, description=escape(what))
            self._bar.start()
        else:
            self._due = now + _INTERVAL
            of = "" if total is None else f" of {self._shown(total)}"
            self.say(f"{what}: {self._shown(done)}{of}")

    def say(self, line: str) -> None:
        """A line of its own, as it is, above the bar."""
        self._console.print(printable(line), markup=False, highlight=False, emoji=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar off the screen; harmless if it is gone already."""
        if self._bar.live.is_started:
            self._bar.stop()


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate, and show how far it is once it has taken two seconds.

    Args:
        items: What to iterate over.
        what: Caption.
        total: How many there are; needed where `items` has no length.

    Yields:
        Each item.
    """
    n = len(items) if total is None and isinstance(items, Collection) else total
    with closing(Meter(what)) as meter:
        for done, item in enumerate(items):
            meter.update(done, n)
            yield item


@final
class DownloadBar:
    """The object that pooch wants for a progress bar: `total` is set by pooch, in bytes.

    Args:
        what: Caption of the bar.
    """

    def __init__(self, what: str) -> None:
        self.total = 0
        self._done = 0
        self._meter = Meter(what, in_bytes=True)

    def update(self, n_bytes: int) -> None:
        """Count bytes that have arrived."""
        self._done += n_bytes
        self._meter.update(self._done, self.total or None)

    def reset(self) -> None:
        """Start counting anew, as pooch does before it fills the bar."""
        self._done = 0

    def close(self) -> None:
        """Take the bar off the screen; harmless if it is gone already."""
        self._meter.close()
