"""What the command line prints: text of users is text, never markup, and no terminal is too old for it."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Any

from drmm.display.text import one_line, printable

__all__ = ["complain", "say", "show_what_can_be_shown"]


def show_what_can_be_shown() -> None:
    """Let a terminal that knows no "±" show something in its place rather than end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


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
