"""The templates of pages: all text that goes into one is escaped, and what is missing is an error."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

__all__ = ["page_template"]


def page_template(name: str) -> Template:
    """A template of this package.

    Args:
        name: of its file.
    """
    environment = Environment(
        loader=PackageLoader("drmm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
