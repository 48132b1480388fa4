"""Sections to one HTML file that needs nothing else: no script, style, font or picture from elsewhere.

All text is escaped. A content security policy lets the page's own script run, known by its hash, and no other; the
browser fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from drmm.display.pages import asset
from drmm.report.blocks import Section
from drmm.report.sprites import SpriteSheet
from drmm.report.templating import page_template

__all__ = ["render_page"]


def render_page(
    title: str,
    sections: Sequence[Section],
    sheets: Sequence[SpriteSheet],
    details: Mapping[str, Any],
    version: str,
) -> str:
    """The whole file.

    Args:
        title: of the page.
        sections: in order.
        sheets: all that pictures are on.
        details: what the script needs to know about the images that can be opened.
        version: of drmm.
    """
    script, style = (asset(f"report/templates/report.{kind}") for kind in ("js", "css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page_template("report.html").render(
        title=title,
        sections=sections,
        sheets=sheets,
        details=details,
        version=version,
        script=Markup(script),  # noqa: S704 - our own file
        style=Markup(style),  # noqa: S704 - our own file
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
    )
