"""`drmm check`: what is wrong with a folder of pictures, as a table, a page and a CSV."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drmm.cli.console import say
from drmm.data.base import summary
from drmm.data.images import load_image_files
from drmm.data.survey import Survey, survey
from drmm.display.text import one_line, printable
from drmm.errors import RunError
from drmm.files import check_absent, write_bytes, write_csv
from drmm.learning.allocator import tune_allocator
from drmm.learning.metrics import at_once
from drmm.progress import track
from drmm.report.health import health_page
from drmm.runs.run import Run
from drmm.trust.health import Finding, Pictures, examine, look_features

__all__ = ["check"]

_NAMED = 3  # classes of the fewest labels


def check(folder: Path, out: Path, *, run: Path | None, labels: Path | None, force: bool) -> int:
    """Examine a folder; a page and, beside it, a CSV of every picture that is named in it.

    Args:
        folder: of pictures, or a zip archive.
        out: the page.
        run: folder of a trained model, whose features tell pictures apart, and whose cross-fitted answers judge
            the labels of its training; None compares levels.
        labels: table of labels; None takes those of the folders.
        force: replace page and CSV if they are there.

    Returns:
        How many pictures are named.

    Raises:
        InputError: if the folder cannot be understood.
        RunError: if it cannot be read, or something cannot be written.
    """
    table = out.with_suffix(".csv")
    check_absent(out, ".html", force=force)
    check_absent(table, ".csv", force=force)
    tune_allocator()
    found = survey(folder, labels=labels)
    opened = None if run is None else Run.open(run)
    features = look_features(found.looks) if opened is None else _features(opened, found)
    posterior = None if opened is None else _cross_fitted(opened, found)
    facts = (found.looks, found.labels, found.classes, found.is_test, found.digests, found.sizes)
    findings = examine(Pictures(*facts, features, posterior))
    rows = [
        (finding.kind, found.files[one.index], "" if one.group is None else one.group, one.note)
        for finding in findings
        for one in finding.found
    ]
    rows += [("unreadable", one.file, "", one.reason) for one in found.skipped if one.is_loss]
    write_csv(table, ["kind", "file", "group", "note"], rows)
    write_bytes(out, health_page(found, findings).encode("utf-8", "replace"))
    _show(found, findings)
    return len({file for _, file, *_ in rows})


def _cross_fitted(run: Run, found: Survey) -> npt.NDArray[np.float64] | None:
    """What nets said of pictures whose label they did not know, (N, C); None if a run says it of too few."""
    told = run.cross_fitted_files
    codes = {name: code for code, name in enumerate(run.recipe.classes)}
    if found.root.resolve() != Path(run.asked.source).resolve() or not {*found.classes} <= codes.keys():
        return None
    nothing = np.full(len(codes), np.nan)
    each = [told.get(file, nothing) for file in found.files]
    posterior = np.array(each)[:, [codes[name] for name in found.classes]]
    told_of = ~np.isnan(posterior).any(1)
    return posterior if 2 * told_of.sum() >= (found.labels >= 0).sum() else None  # of many labels it judges some


def _features(opened: Run, found: Survey) -> npt.NDArray[np.float64]:
    """Of a model's top level, (N, D)."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # told already, of the same pictures
        images, names, _ = load_image_files(found.root, opened.recipe.image_shape)
    row = {name: i for i, name in enumerate(names)}
    root = found.root if found.root.is_dir() or found.root.suffix == ".zip" else found.root.parent
    try:
        order = [row[f"{root / file}"] for file in found.files]
    except KeyError as error:
        raise RunError(f"{found.root} changed while it was read: start again") from error
    parts = track(images[order].split(at_once(images)), "features")
    return np.concatenate([opened.model.levels(part).flatten(1).detach().double().numpy() for part in parts])


def _show(found: Survey, findings: tuple[Finding, ...]) -> None:
    table = Table("pictures", "what", "for example", box=None)
    for finding in findings:
        if finding.found:
            first = finding.found[0]
            note = f" ({first.note})" if first.note else ""
            example = one_line(f"{found.files[first.index]}{note}")
            table.add_row(f"{len(finding.found):,}", finding.title, Text(printable(example)))
    if table.row_count:
        Console().print(table)
    well = [finding.title for finding in findings if not finding.found and not finding.unknown]
    if well:
        say(f"none: {', '.join(well)}")
    for finding in findings:
        if finding.unknown:
            say(f"not known: {finding.title} ({finding.unknown})")
    if found.skipped:
        say(summary(found.skipped))
    if line := _imbalance(found):
        say(line)


def _imbalance(found: Survey) -> str:
    """The classes of the fewest labels beside that of the most."""
    known = found.labels[(found.labels >= 0) & ~found.is_test]
    counts = np.bincount(known, minlength=len(found.classes))
    if len(counts) < 2:
        return ""
    order = np.argsort(counts, kind="stable")
    fewest = ", ".join(f"{one_line(found.classes[c])} {counts[c]:,}" for c in order[:-1][:_NAMED].tolist())
    times = counts[order[-1]] / max(counts[order[0]], 1)
    most = f"{one_line(found.classes[order[-1]])} {counts[order[-1]]:,}"
    return f"labels: {fewest} at the least, {most} at the most ({times:.1f} times as many)"
