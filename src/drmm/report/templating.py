"""The templates of pages: all text that goes into one is escaped, and what is missing is an error."""

from __future__ import annotations

from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

__all__ = ["page_template"]


def page_template(name: str, **filters: Callable[[object], str]) -> Template:
    """A template of this package.

    Args:
        name: of its file.
        filters: that it has besides.
    """
    environment = Environment(
        loader=PackageLoader("drmm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)
