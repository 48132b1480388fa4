"""Files of our own that pages are made of."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["asset"]


def asset(path: str) -> str:
    """The text of one of our files, by its path in drmm; before a style come the colours that all pages have."""
    sources = ["display/colours.css"] * path.endswith(".css") + [path]
    return "".join(files("drmm").joinpath(source).read_text(encoding="utf-8") for source in sources)
