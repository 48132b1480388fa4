"""`drmm report`: all that can be said about a trained model, as one HTML file for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from drmm._version import __version__
from drmm.errors import InputError
from drmm.files import write_bytes
from drmm.report.blocks import Section, shorten
from drmm.report.context import Material, decimal
from drmm.report.evaluation import evaluate
from drmm.report.page import render_page
from drmm.report.sections.explanations import Explained, drawn, explain, levels, paths, samples, templates
from drmm.report.sections.reliability import calibrated, certificates, confused, hard
from drmm.report.sections.training import comparison, curves, headline, labels, provenance
from drmm.runs.folder import read_source

__all__ = ["write_report"]


def write_report(run: Path, out: Path, *, data_dir: Path | None = None, images: int = 1000, seed: int = 0) -> int:
    """Write what can be said about a run into one HTML file, whole or not at all.

    Args:
        run: folder of `drmm fit`, `drmm prune` or `drmm demo`.
        out: the file.
        data_dir: where the data sets' files are; without the images the report says less.
        images: so many test images are looked at, at most.
        seed: of their draw and of the samples.

    Returns:
        Its size in bytes.

    Raises:
        InputError: if no image is to be looked at.
        RunError: if there is no model, a file is damaged, or the report cannot be written.
    """
    if images < 1:
        raise InputError(f"a report needs images to look at: pass 1 or more, got {images}")
    source = read_source(run, data_dir)
    seen = None if source.data is None else evaluate(source.model, source.data, images, seed)
    material = Material(source, seen, seed)
    explained = explain(material)
    sections = [section for section in _sections(material, explained) if section is not None]
    name = shorten(run.resolve().name) + (f" / {shorten(source.name)}" if source.name else "")
    text = render_page(name, sections, material.sheets.all, _details(material, explained), __version__)
    content = text.encode("utf-8", "replace")
    write_bytes(out, content)
    return len(content)


def _sections(material: Material, explained: Explained | None) -> list[Section | None]:
    """In the order of the page."""
    return [
        headline(material),
        comparison(material),
        drawn(material, explained),
        confused(material),
        hard(material),
        templates(material),
        samples(material),
        levels(material),
        paths(material),
        calibrated(material),
        certificates(material),
        curves(material),
        labels(material),
        provenance(material),
    ]


def _details(material: Material, explained: Explained | None) -> dict[str, Any]:
    """What the script shows when an image or a cell of the confusion matrix is opened."""
    seen, sheet = material.seen, material.image_sheet
    if seen is None or sheet is None:
        return {"images": []}
    places = {} if explained is None else {row: i for i, row in enumerate(explained.rows.tolist())}
    order = seen.probability.argsort(1)[:, ::-1][:, :3]
    return {
        "part": seen.part,
        "clusters": material.source.clusters,
        "true": material.true_names,
        "found": material.found_names,
        "sheets": {
            name: {"name": one.name, "grid": one.grid, "shown": one.shown}
            for name, one in _detail_sheets(material, explained).items()
        },
        "images": [
            {
                "index": int(seen.index[row]),
                "truth": int(seen.truth[row]),
                "found": int(seen.found[row]),
                "best": [[int(c), round(float(seen.probability[row, c]), 4)] for c in order[row]],
                "gap": decimal(float(seen.gap[row])) if np.isfinite(seen.gap[row]) else None,
                "certified": bool(seen.certified[row]),
                "explained": round(float(seen.explained[row]), 3),
                "place": places.get(row),
                "rival": int(explained.rival[places[row]]) if explained is not None and row in places else None,
            }
            for row in material.opened.tolist()
        ],
    }


def _detail_sheets(material: Material, explained: Explained | None) -> dict[str, Any]:
    found = {"image": material.image_sheet}
    if explained is not None:
        found |= {"drawn": explained.drawn, "evidence": explained.evidence, "rather": explained.rather}
    return {name: sheet for name, sheet in found.items() if sheet is not None}
