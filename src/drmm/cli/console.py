"""What the command line prints: text of users is text, never markup, and no terminal is too old for it."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from drmm.display.text import one_line, printable
from drmm.errors import RunError

__all__ = ["abandon_output", "command_line", "complain", "path", "say", "show_what_can_be_shown"]


def path(text: str) -> Path:
    """A path as it is typed: no shell makes a home of the ~ in --out=~/a, and an empty one is no path.

    Raises:
        RunError: if it is empty.
    """
    from drmm.files import expanded

    if not str(text):
        raise RunError("the name of a file or folder is empty: write it out, or leave its option out")
    return expanded(text)


def show_what_can_be_shown() -> None:
    """Let a terminal that knows no "±" show something in its place rather than end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def abandon_output() -> None:
    """Let what could not be printed go, or the interpreter would complain of it once more as it leaves."""
    if sys.stdout is not None:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["drmm", *sys.argv[1:]])


def say(text: str) -> None:
    """A line on standard output, as it is."""
    _console(stderr=False).print(printable(text), **_AS_IT_IS)


def complain(kind: str, text: str, style: str = "bold red") -> None:
    """One line on standard error, after what kind of line it is."""
    from rich.text import Text

    line = one_line(text, longest=len(text))
    _console(stderr=True).print(Text.assemble((f"{kind}: ", style), line), soft_wrap=True)


_AS_IT_IS: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False, "soft_wrap": True}


def _console(*, stderr: bool) -> Any:
    from rich.console import Console

    return Console(stderr=stderr)
