"""`drmm report`: one HTML file about a trained model, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from drmm import __version__
from drmm.data import Dataset
from drmm.display.text import one_line, printable
from drmm.errors import InputError, RunError
from drmm.files import write_bytes
from drmm.report.answers import Sorting
from drmm.report.blocks import Section
from drmm.report.context import Context, decimal
from drmm.report.evaluation import Evaluation, evaluate
from drmm.report.examination import examined_pictures, learned_parts
from drmm.report.page import render_page
from drmm.report.sections.explanations import (
    Explanations,
    explain,
    explanations,
    levels,
    paths,
    samples,
    templates,
)
from drmm.report.sections.pictures import findings, next_steps, skipped, sorted_pictures
from drmm.report.sections.reliability import calibration_error, certificates, confusions, hardest
from drmm.report.sections.training import comparison, curves, labels, model, provenance, summary
from drmm.runs.run import Run
from drmm.trust.health import Finding

__all__ = ["write_report"]


def write_report(
    run: Path,
    out: Path,
    *,
    data_dir: Path | None = None,
    images: int = 1000,
    seed: int = 0,
    sorting: Sorting | None = None,
) -> int:
    """Write what can be said about a run into one HTML file, whole or not at all.

    Args:
        run: folder of `drmm fit`, `drmm prune` or `drmm demo`.
        out: the file.
        data_dir: where the data sets' files are; without the images the report says less.
        images: so many test images are looked at, at most.
        seed: of their draw and of the samples.
        sorting: what the run has sorted, if the report is of that.

    Returns:
        Its size in bytes.

    Raises:
        InputError: if no image is to be looked at.
        RunError: if there is no model, a file is damaged, or nothing can be written; or the images have changed
            since, where the report is of the run alone.
    """
    if images < 1:
        raise InputError(f"a report needs images to look at: pass 1 or more, got {images}")
    source = Run.open(run)
    data, why_no_data = _data(source, data_dir, same=sorting is None)
    evaluation: Evaluation | None = None
    examined: tuple[Finding, ...] = ()
    if data is not None:
        parts = learned_parts(source, data)
        evaluation = evaluate(source.model, data, images, seed, source.assessment, parts)
        examined = examined_pictures(source, data, parts)
    context = Context(source, data, why_no_data, evaluation, seed, examined, sorting)
    explained = explain(context)
    sections = [section for section in _sections(context, explained) if section is not None]
    folder = run if sorting is None else sorting.into
    name = one_line(folder.resolve().name) + (f" / {one_line(source.name)}" if source.name else "")
    text = render_page(name, sections, context.sprites.all, _details(context, explained), __version__)
    content = text.encode("utf-8", "replace")
    write_bytes(out, content)
    return len(content)


def _data(source: Run, data_dir: Path | None, *, same: bool) -> tuple[Dataset | None, str]:
    """The images, or why there are none; others than were learned from are refused, or count as none."""
    try:
        data = source.find_data(data_dir, download=False)
    except (InputError, RunError) as error:
        return None, f"The images are not here ({error})."
    try:
        source.check_data(data)
    except RunError as error:
        if same:
            raise
        return None, f"{error}."
    return data, ""


def _sections(context: Context, explained: Explanations | None) -> list[Section | None]:
    """In the order of the page."""
    return [
        summary(context),
        next_steps(context),
        comparison(context),
        sorted_pictures(context),
        hardest(context),
        findings(context),
        skipped(context),
        confusions(context),
        calibration_error(context),
        labels(context),
        explanations(context, explained),
        templates(context),
        samples(context),
        levels(context),
        paths(context),
        certificates(context),
        model(context),
        curves(context),
        provenance(context),
    ]


def _details(context: Context, explained: Explanations | None) -> dict[str, Any]:
    """What the script shows when an image or a cell of the confusion matrix is opened."""
    evaluation, sheet = context.evaluation, context.image_sheet
    if evaluation is None or sheet is None:
        return {"images": []}
    explained_at = {} if explained is None else {row: i for i, row in enumerate(explained.rows.tolist())}
    order = evaluation.probability.argsort(1)[:, ::-1][:, :3]
    return {
        "files": bool(context.data and context.data.files),
        "clusters": context.source.clusters,
        "true": context.class_names,
        "predicted": context.predicted_names,
        "sheets": {
            name: {"name": one.name, "grid": one.grid, "shown": one.shown}
            for name, one in _detail_sheets(context, explained).items()
        },
        "images": [
            {
                "name": printable(evaluation.names[row]),
                "truth": int(evaluation.truth[row]),
                "predicted": int(evaluation.predicted[row]),
                "best": [[int(c), round(float(evaluation.probability[row, c]), 4)] for c in order[row]],
                "gap": decimal(float(evaluation.gap[row])) if np.isfinite(evaluation.gap[row]) else None,
                "certified": bool(evaluation.certified[row]),
                "explained": round(float(evaluation.explained[row]), 3),
                "sprite": explained_at.get(row),
                "own": None
                if explained is None or row not in explained_at
                else int(explained.label[explained_at[row]]),
                "rival": None
                if explained is None or row not in explained_at
                else int(explained.rival[explained_at[row]]),
            }
            for row in context.opened.tolist()
        ],
    }


def _detail_sheets(context: Context, explained: Explanations | None) -> dict[str, Any]:
    sheets = {"image": context.image_sheet}
    if explained is not None:
        sheets |= {
            "reconstruction": explained.reconstructions,
            "evidence": explained.evidence,
            "contrast": explained.contrast,
        }
    return {name: sheet for name, sheet in sheets.items() if sheet is not None}
