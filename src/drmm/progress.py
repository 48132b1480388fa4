"""Progress bars on standard error, for what takes longer than a moment; silent where nobody watches."""

__all__ = ["DownloadBar", "track"]

import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from typing import TypeVar

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

T = TypeVar("T")

_PATIENCE = 2.0  # seconds before a bar appears


def _progress(*columns: DownloadColumn | TransferSpeedColumn) -> Progress:
    console = Console(stderr=True)
    shown = (*Progress.get_default_columns(), *columns)
    return Progress(*shown, console=console, transient=True, disable=not console.is_terminal)


def track(items: Collection[T], what: str) -> Iterator[T]:
    """Iterate, with a bar once it has taken two seconds.

    Args:
        items: What to iterate over.
        what: Caption of the bar.

    Yields:
        Each item.
    """
    start = time.monotonic()
    bar: Progress | None = None
    with ExitStack() as stack:
        for done, item in enumerate(items):
            if bar is None and time.monotonic() - start > _PATIENCE:
                bar = stack.enter_context(_progress())
                bar.add_task(what, total=len(items))
            if bar is not None:
                bar.update(bar.task_ids[0], completed=done)
            yield item


class DownloadBar:
    """The object that pooch wants for a progress bar: `total` is set by pooch, in bytes.

    Args:
        what: Caption of the bar.
    """

    def __init__(self, what: str) -> None:
        self.total = 0
        self._bar = _progress(DownloadColumn(), TransferSpeedColumn())
        self._task = self._bar.add_task(what, total=None)
        self._bar.start()

    def update(self, n_bytes: int) -> None:
        """Count bytes that have arrived."""
        self._bar.update(self._task, advance=n_bytes, total=self.total or None)

    def reset(self) -> None:
        """Start counting anew, as pooch does before it fills the bar."""
        self._bar.reset(self._task, total=self.total or None)

    def close(self) -> None:
        """Take the bar off the screen; harmless if it is gone already."""
        self._bar.stop()
