"""Text from elsewhere (names of classes, files and folders) as it may be shown to people."""

from __future__ import annotations

__all__ = ["literal", "one_line", "printable"]

_LONGEST = 60  # characters of a line that are shown


def one_line(text: str, longest: int = _LONGEST) -> str:
    """Text on one line, without control characters, not too long.

    Args:
        text: any text.
        longest: characters that are kept, of which the last is an ellipsis where some are cut off.
    """
    encodable = text.encode("utf-8", "replace").decode("utf-8")
    line = " ".join("".join(c if c.isprintable() else " " for c in encodable).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def printable(text: str) -> str:
    """Text in which a terminal finds no orders: control characters and broken Unicode as �, lines as they are."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def literal(text: str) -> str:
    """Text as matplotlib shows it letter by letter in titles, ticks, legends and annotations: never mathtext.

    An escaped dollar sign starts no formula, and is drawn without its backslash.

    Args:
        text: any text; each of its lines as by `one_line`.
    """
    return "\n".join(one_line(line) for line in text.split("\n")).replace("$", r"\$")
