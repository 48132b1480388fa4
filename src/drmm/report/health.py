"""`drmm check`: one HTML file about a folder of pictures, for people who are to repair it."""

from __future__ import annotations

import numpy as np
import torch

from drmm import __version__
from drmm.data.base import summary
from drmm.data.survey import Survey, thumbnails
from drmm.display.text import one_line
from drmm.report.blocks import Block, Fact, Facts, Gallery, Note, Picture, Section, Table
from drmm.report.context import percent
from drmm.report.page import render_page
from drmm.report.sprites import Sprites
from drmm.trust.health import Finding

__all__ = ["health_page"]

_SHOWN = 40  # pictures of a finding; the CSV has all
_UNREADABLE = 20  # files


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
    if survey.skipped:
        lost = [one for one in survey.skipped if one.is_loss][:_UNREADABLE]
        blocks.append(Note(summary(survey.skipped)))
        if lost:
            lines = tuple((one_line(one.file), one_line(one.reason)) for one in lost)
            blocks.append(Table(("file", "reason"), lines, "Files that cannot be read", names=2, heading=True))
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
    shown = finding.found[:_SHOWN]
    files = [survey.files[one.index] for one in shown]
    sheet = sprites.pictures(torch.from_numpy(thumbnails(survey.root, files)))
    pictures = tuple(
        Picture(sheet, row, one_line(file), _caption(one_line(file), one.note, one.group))
        for row, (file, one) in enumerate(zip(files, shown, strict=True))
    )
    more = f" The first {_SHOWN} of {len(finding.found):,} are shown." if len(finding.found) > _SHOWN else ""
    lead = f"{finding.remedy[0].upper()}{finding.remedy[1:]}.{more}"
    title = f"{finding.title[0].upper()}{finding.title[1:]}"
    return Section(finding.kind.replace(" ", "-"), title, lead, (Gallery(pictures, large=True),))


def _caption(file: str, note: str, group: int | None) -> str:
    numbered = "" if group is None else f"{group}: "
    return numbered + file + (f" ({one_line(note)})" if note else "")
