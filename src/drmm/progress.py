"""Progress on standard error, for what takes more than two seconds: a bar on a terminal, else lines."""

from __future__ import annotations

__all__ = ["DownloadBar", "Meter", "Outlook", "track"]

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
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
_SHOWN_BY = 3  # steps, or seconds, that show how long a job takes


@dataclass
class Outlook:
    """Training in several stages: what it takes is told once, after the first steps.

    Attributes:
        stages: what each is for, how many steps it has, and how long they are beside other steps, in order.
        tell: is told.
        stage: the present one, counted from 0; those before it are done.
        is_told: whether it has been.
    """

    stages: Sequence[tuple[str, int, float]]
    tell: Callable[[str], object]
    stage: int = 0
    is_told: bool = False

    def at(self, purpose: str, number: int = 0) -> Outlook:
        """The same, now at the stage of that number, from 0, among those of a purpose, or at their last."""
        self.stage = [i for i, (what, *_) in enumerate(self.stages) if what == purpose][: number + 1][-1]
        return self

    @property
    def later(self) -> float:
        """The stages that are to come, in steps as long as those of the present one."""
        return (
            sum(steps * length for _, steps, length in self.stages[self.stage + 1 :]) / self.stages[self.stage][2]
        )

    def say(self, seconds: float, left: int) -> None:
        """Tell how long all will take, of which so many steps are of the present stage."""
        self.is_told = True
        later = [(what, steps) for what, steps, _ in self.stages[self.stage + 1 :]]
        stages = groupby([(self.stages[self.stage][0], left), *later])
        counted = [(what, steps, len(list(alike))) for (what, steps), alike in stages]
        said = [f"{f'{n} x ' if n > 1 else ''}{steps:,} steps {what}" for what, steps, n in counted]
        self.tell(f"training takes about {_spoken(seconds)}: {', then '.join(said)}")


@final
class Meter:
    """Rich's bar, which waits for two seconds, or lines where there is no terminal.

    Args:
        what: caption, shown as it is.
        in_bytes: whether bytes are counted.
        outlook: of the job whose present stage this is; a flag, as of those who only show progress, is none.
    """

    def __init__(self, what: str, *, in_bytes: bool = False, outlook: Outlook | bool = False) -> None:
        self._console = Console(stderr=True)
        columns = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else ()
        self._bar = Progress(*Progress.get_default_columns(), *columns, console=self._console, transient=True)
        self._what, self._shown = one_line(what), decimal if in_bytes else str
        self._task = self._bar.add_task("", total=None)
        self._outlook = outlook if isinstance(outlook, Outlook) else None
        self._first: tuple[float, int] | None = None  # when something was done first, and how much
        self._due = time.monotonic() + (_PATIENCE if self._console.is_interactive else _INTERVAL)

    def update(self, done: int, total: int | None = None, note: Callable[[], str] = str) -> None:
        """So much is done, of so much in all; the note is asked for when it is shown."""
        now = time.monotonic()
        left = self._left(now, done, total)
        if now <= self._due:
            return
        what = ", ".join(filter(None, (self._what, one_line(note()))))
        count = self._shown(done) + ("" if total is None else f" of {self._shown(total)}")
        rest = f", about {_spoken(left)} left" if left else ""
        if self._console.is_interactive:  # a bar counts, and tells its own rest
            self._due = now + _REFRESH
            told = f"{what}: {count}" if total is None else f"{what}{rest}" if self._outlook else what
            self._bar.update(self._task, completed=done, total=total, description=escape(told))
            self._bar.start()
        else:
            self._due = now + _INTERVAL
            self.say(f"{what}: {count}{rest}")

    def _left(self, now: float, done: int, total: int | None) -> float | None:
        """Seconds that the job takes yet, by the pace since something was done first; None where it is unknown."""
        start, before = self._first = self._first or (now, done)  # the very first step takes longer
        if total is None or done <= before:
            return None
        later = 0 if self._outlook is None else self._outlook.later
        seconds = (now - start) / (done - before) * (total - done + later)
        if (
            self._outlook is not None
            and not self._outlook.is_told
            and max(now - start, done - before) >= _SHOWN_BY
        ):
            self._outlook.say(seconds, total - done)
        return seconds

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


def _spoken(seconds: float) -> str:
    """A length of time as people say it."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


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
