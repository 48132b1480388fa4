"""`drmm check`: one HTML file about a folder of pictures, for people who are to repair it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from drmm import __version__
from drmm.data.base import Skipped, summary
from drmm.data.survey import Survey, thumbnails
from drmm.display.text import one_line, printable
from drmm.report.blocks import Block, Fact, Facts, Gallery, Note, Picture, Section, Table
from drmm.report.context import percent
from drmm.report.page import render_page
from drmm.report.sprites import Sprites
from drmm.trust.health import Finding

__all__ = ["finding_gallery", "health_page", "skipped_files"]

_SHOWN = 40  # pictures of a finding; the CSV has all
_UNREADABLE = 20  # files
_REASON = 200  # characters, as what to do stands at its end


def health_page(survey: Survey, findings: tuple[Finding, ...]) -> str:
    """The whole file: what was found, with the pictures, the most urgent first.

    Args:
        survey: of the folder, which is read again for the pictures that are shown.
        findings: of `drmm.trust.health.examine`.
    """
    sprites = Sprites()
    details = [_section(survey, finding, sprites) for finding in findings if finding.found]
    name = one_line(survey.root.resolve().name)
    return render_page(
        f"{name}: health of the data",
        [_summary(survey, findings), *details],
        sprites.all,
        {"images": []},
        __version__,
    )


def _summary(survey: Survey, findings: tuple[Finding, ...]) -> Section:
    blocks: list[Block] = [
        Facts(
            (
                Fact(f"{len(survey.files):,}", "pictures", f"{int(survey.is_test.sum()):,} of them to test with"),
                Fact(f"{int((survey.labels >= 0).sum()):,}", "labels", f"of {len(survey.classes):,} classes"),
                Fact(f"{sum(one.is_loss for one in survey.skipped):,}", "cannot be read"),
            )
        )
    ]
    rows = tuple(
        (finding.title, "unknown", finding.unknown)
        if finding.unknown
        else (finding.title, f"{len(finding.found):,}", percent(len(finding.found) / len(survey.files)))
        for finding in findings
    )
    blocks.append(Table(("what", "pictures", "share"), rows, "What was looked for"))
    if survey.classes:
        blocks.append(_classes(survey))
    blocks += skipped_files(survey.skipped)
    lead = "Nothing in the folder was changed. The CSV beside this page lists every picture below."
    return Section("summary", "Summary", lead, tuple(blocks))


def _classes(survey: Survey) -> Table:
    """The classes, the rarest first."""
    n = len(survey.classes)
    train, test = (
        np.bincount(survey.labels[(survey.labels >= 0) & part], minlength=n)
        for part in (~survey.is_test, survey.is_test)
    )
    rows = tuple(
        (one_line(survey.classes[c]), f"{train[c]:,}", f"{test[c]:,}", percent(train[c] / max(train.sum(), 1)))
        for c in np.argsort(train, kind="stable").tolist()
    )
    return Table(("class", "labels", "to test with", "share"), rows, "Classes, the rarest first", heading=True)


def _section(survey: Survey, finding: Finding, sprites: Sprites) -> Section:
    files = [survey.files[one.index] for one in finding.found[:_SHOWN]]
    gallery = finding_gallery(finding, files, thumbnails(survey.root, files), sprites, "the CSV")
    plain = Gallery(gallery.pictures, large=True)
    return Section(finding.kind.replace(" ", "-"), _sentence(finding.title), gallery.lead, (plain,))


def finding_gallery(
    finding: Finding, files: Sequence[str], levels: npt.NDArray[np.uint8], sprites: Sprites, rest: str
) -> Gallery:
    """The first pictures of a finding, by name.

    Args:
        finding: in which something was found.
        files: names of as many pictures as are shown, (N,).
        levels: of the same, (N, C, H, W).
        sprites: where they go.
        rest: where all are listed.
    """
    sheet = sprites.photographs(levels)
    pictures = tuple(
        Picture(sheet, row, one_line(file), _caption(one.note, one.group), printable(file))
        for row, (file, one) in enumerate(zip(files, finding.found, strict=False))
    )
    n = len(finding.found)
    more = f" And {n - len(files):,} more: in {rest}." if n > len(files) else ""
    return Gallery(
        pictures, f"{_sentence(finding.title)}: {n:,}", f"{_sentence(finding.remedy)}.{more}", large=True
    )


def skipped_files(skipped: Sequence[Skipped]) -> tuple[Block, ...]:
    """How many files were skipped and why, and the names of those that cannot be read."""
    lost = tuple((printable(one.file), one_line(one.reason, _REASON)) for one in skipped if one.is_loss)
    more = "" if len(lost) <= _UNREADABLE else f" (the first {_UNREADABLE} of {len(lost):,})"
    table = Table(
        ("file", "reason"), lost[:_UNREADABLE], f"Files that cannot be read{more}", names=2, heading=True
    )
    return (*([Note(f"{summary(skipped)}.")] if skipped else []), *([table] if lost else []))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _caption(note: str, group: int | None) -> str:
    return ": ".join(filter(None, ("" if group is None else f"group {group}", one_line(note))))
