"""A model's card: what those need to know who find it on a hub, from the run's own record alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from markupsafe import Markup
from scipy.stats import binomtest

from drmm.display.text import one_line
from drmm.files import unicode, write_bytes
from drmm.report.templating import page_template
from drmm.runs.run import Run, number
from drmm.trust.assessment import Assessment
from drmm.trust.decisions import UNFAMILIAR

__all__ = ["write_card"]

_SIGNS = re.compile(r"([\\`*_\[\]|~$])")  # what Markdown reads as more than itself, but for what HTML does
_KINDS = {1: "grey", 3: "colour"}
_PROMISES = (0.9, 0.95, 0.98)
_LONGEST = 1000  # characters of a line


def write_card(run: Path, out: Path) -> None:
    """Write a README.md with the head that hubs read; the licence and the purpose are left to its reader.

    Args:
        run: folder of `drmm fit`, `drmm prune` or `drmm demo`.
        out: the file.

    Raises:
        RunError: if there is no model, a file is damaged, or nothing can be written.
    """
    source = Run.open(run)
    channels, height, width = source.recipe.image_shape
    template = page_template("card.md", md=_markdown)
    text = template.render(
        name=run.resolve().name,
        index=_index(source, run.resolve().name),
        clusters=source.clusters,
        classes=source.recipe.classes,
        kind=_KINDS.get(channels, f"{channels} channels"),
        size=f"{height}x{width}",
        shape=source.asked.shape,
        data=list(_data(source)),
        figures=list(_figures(source)),
        recall=list(_recall(source)),
        trust=list(_trust(source.assessment)),
        limits=list(_limits(source)),
        made=list(_made(source)),
    )
    write_bytes(out, unicode(text).encode())


def _markdown(text: object) -> str:
    """Text as Markdown shows it, letter by letter, within a line; quotes stay quotes."""
    return Markup(_SIGNS.sub(r"\\\1", escape(one_line(str(text), _LONGEST), quote=False)))  # noqa: S704  (escaped)


def _row(source: Run) -> dict[str, Any]:
    """What came out of the model, in a demo among others."""
    return source.rows.get(source.name, source.results)


def _index(source: Run, name: str) -> list[dict[str, Any]]:
    """The figure that hubs compare."""
    error, data = number(_row(source), "test_error"), _name_of_data(source)
    if error is None:
        return []
    task = {"task": {"type": "image-classification"}, "dataset": {"name": data, "type": data}}
    metric = {"type": "accuracy", "value": round(1 - error / 100, 6), "name": "test accuracy"}
    return [{"name": unicode(name), "results": [{**task, "metrics": [metric]}]}]


def _name_of_data(source: Run) -> str:
    return unicode(str(source.results.get("dataset") or Path(source.asked.source).name or "unknown"))


def _data(source: Run) -> Iterator[tuple[str, object]]:
    yield "source", _name_of_data(source)
    for key, fact in (("images", "images to learn from"), ("labels", "of which with a label")):
        if (value := number(source.results, key)) is not None:
            yield fact, f"{value:,.0f}"
    if source.asked.digest:
        yield "digest", source.asked.digest


def _figures(source: Run) -> Iterator[tuple[str, ...]]:
    """What is known of the errors, with intervals."""
    row = _row(source)
    error, n = number(row, "test_error"), number(row, "test_images")
    if error is not None and n:
        low, high = binomtest(round(error * n / 100), round(n)).proportion_ci()
        yield "test error", f"{error:.2f} %", f"{100 * low:.1f} to {100 * high:.1f} %", f"{n:,.0f} pictures"
    elif error is not None:
        yield "test error", f"{error:.2f} %", "unknown", "an unknown number of pictures"
    for key, name in (("balanced_error", "balanced error"), ("cluster_accuracy", "cluster accuracy")):
        if (value := number(row, key)) is not None:
            yield name, f"{value:.2f} %", "", "the same"
    held_out = source.assessment.error() if source.assessment else None
    if held_out:
        low, high = held_out["interval"]
        of = f"{held_out['labels']:,} labels, held out in turn from nets that knew fewer"
        yield "cross-fitted error", f"{held_out['error']:.1f} %", f"{low:.1f} to {high:.1f} %", of


def _recall(source: Run) -> Iterator[tuple[str, int, str]]:
    """Labels of each class, and what share of it is found."""
    found = source.results.get("recall") or {}
    labels = Counter(label for _, label in source.labels or ())
    for name in source.recipe.classes if labels and not source.clusters else ():
        share = number(found, name)
        yield name, labels[name], "" if share is None else f"{share:.1f} %"


def _trust(assessment: Assessment | None) -> Iterator[str]:
    if assessment is None:
        yield "The run does not say: its confidence is the net's own, which is too high as a rule."
        return
    n = len(assessment.held_out.label)
    if n:
        yield f"Confidence is calibrated on {n:,} labels (temperature {assessment.calibration.temperature:.3g})."
    else:
        yield "Confidence is the net's own, and not calibrated."
    for promise in _PROMISES:
        surest = assessment.surest(promise)
        if not surest.share:
            yield f"It is nowhere sure enough for {100 * promise:g} % right answers."
            continue
        right, shown = f"{100 * promise:g} % are right", "an estimate, and no proof"
        if surest.promised:
            right, shown = f"{right} or more", "shown at 95 % confidence"
        yield f"Of the surest {100 * surest.share:.0f} % of pictures {right}: {shown}."


def _limits(source: Run) -> Iterator[str]:
    yield "It names one of its classes, whatever is in a picture."
    if source.assessment is not None:
        yield (
            f"A picture is called unfamiliar where fewer than {100 * UNFAMILIAR:g} % of the training pictures are "
            "as strange; others may be strange too."
        )
        if source.assessment.strangers:
            yield f"{source.assessment.warning}."
    yield "Figures are of pictures like those that it learned from: other cameras, places and times are not in."
    if source.recipe.net:
        yield f"Its net is code, {source.recipe.net}, and not in these files: who opens them has it, and runs it."
    if source.clusters:
        yield "Clusters are not classes: what each is has to be looked at."


def _made(source: Run) -> Iterator[tuple[str, object]]:
    """By what; not by which command, as paths in it are nobody's business."""
    yield "architecture", source.recipe.architecture
    for key in ("learning", "epochs", "seed"):
        if (value := source.results.get(key)) is not None:
            yield key, value
    yield from source.versions.items()
