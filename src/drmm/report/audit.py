"""A page of thumbnails: sorted pictures beside the class that they were sorted into, for people to judge."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from drmm.data.decoding import UnreadableError, decode_picture
from drmm.errors import InputError
from drmm.report.templating import page_template

__all__ = ["audit_page"]

_SIDE = 160  # pixels of a thumbnail


def audit_page(into: Path, groups: Mapping[str, Sequence[tuple[int, str]]]) -> str:
    """One HTML file that needs nothing else; a thumbnail leads to its picture.

    Args:
        into: folder of the sorted pictures.
        groups: the number and the path below the folder of each picture, by class.
    """
    shown = {
        label: [_shown(into, number, name) for number, name in pictures] for label, pictures in groups.items()
    }
    return page_template("audit.html").render(name=into.resolve().name, groups=shown)


def _shown(into: Path, number: int, name: str) -> dict[str, Any]:
    return {
        "number": number,
        "name": name,
        "link": quote(name, errors="surrogateescape"),
        "uri": _uri(into / name),
    }


def _uri(path: Path) -> str:
    """A thumbnail as a data URI; "" if the picture cannot be read."""
    try:
        levels = decode_picture(path, path.name, channels=3).levels
    except (InputError, UnreadableError):
        return ""
    picture, file = Image.fromarray(np.moveaxis(levels, 0, 2)), BytesIO()
    picture.thumbnail((_SIDE, _SIDE))
    picture.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
