"""Sections on how far a model can be trusted: confusions, hard and uncertain images, calibration, certificates."""

from __future__ import annotations

import numpy as np

from drmm.report.blocks import Cell, Chart, Charts, Gallery, Matrix, Note, Section
from drmm.report.charts import heat, histogram, reliability
from drmm.report.context import Material, decimal, percent
from drmm.report.evaluation import Indices, calibration, clusters_named, confusion

__all__ = ["calibrated", "certificates", "confused", "hard"]

_TABLE = 20  # classes that a table can show
_CELLS = 12  # confusions that are listed


def confused(material: Material) -> Section | None:
    """The confusion matrix, whose cells show their images."""
    seen, source = material.seen, material.source
    if seen is None:
        return None
    title = "Clusters and classes" if source.clusters else "What is taken for what"
    if not seen.known.any():
        return Section("confusion", title, f"No {seen.part} image has a label to compare with.", ())
    rows, columns = material.true_names, material.found_names
    counts = confusion(seen, len(rows))
    wrong = _mistakes(counts, diagonal=not source.clusters)
    shown = wrong[: 0 if source.clusters else _CELLS]
    mistakes = tuple(Cell(i, j, rows[i], columns[j], int(counts[i, j])) for i, j in shown)
    lead = "Rows are true classes, columns what the model found."
    if source.clusters:
        named = clusters_named(seen)
        told = ", ".join(f"{columns[k]} → {rows[c]}" for k, c in list(named.items())[:_TABLE])
        lead = f"Rows are true classes, columns clusters. By most of its images: {told}."
    elif len(wrong):
        i, j = wrong[0]
        lead += f" Most often taken for something else: {rows[i]}, for {columns[j]} ({counts[i, j]:,} times)."
    else:
        lead += f" Nothing is taken for something else among {int(counts.sum()):,} images."
    drawing = None
    if max(counts.shape) <= _TABLE:
        lead += " Choose a cell to see its images."
    else:
        told = "true classes down, what was found across; right ones on the diagonal"
        drawing = Chart(heat(counts, rows, columns), told)
    table = tuple(tuple(int(n) for n in row) for row in counts)
    matrix = Matrix(rows, columns, table, not source.clusters, mistakes, drawing)
    return Section("confusion", title, lead, (matrix,))


def hard(material: Material) -> Section | None:
    """The images that the model finds hardest, and those that it is least certain of."""
    seen = material.seen
    if seen is None:
        return None
    blocks: list[Gallery] = []
    if len(material.hardest):
        pictures = tuple(
            material.image(row, f"{material.told(row)}: {percent(float(np.exp(-seen.loss[row])))} for the truth")
            for row in material.hardest.tolist()
        )
        blocks.append(Gallery(pictures, "Hardest: the true class seemed least probable", large=True))
    pictures = tuple(
        material.image(row, f"{material.told(row)}: sure by {percent(float(seen.confidence[row]), 0)}")
        for row in material.least_certain.tolist()
    )
    blocks.append(Gallery(pictures, "Least certain: two classes nearly as probable as each other", large=True))
    lead = "Open an image to see what the model drew, and which pixels spoke for what."
    return Section("hard", "Hard and uncertain images", lead, tuple(blocks))


def calibrated(material: Material) -> Section | None:
    """Whether the model is as often right as it says."""
    seen = material.seen
    if seen is None:
        return None
    title = "Is it as often right as it says?"
    if material.source.clusters or not seen.known.any():
        told = "Clusters have no true class" if material.source.clusters else "No image has a label"
        return Section("calibration", title, f"{told}: calibration is not defined here.", ())
    found = calibration(seen)
    right = float((seen.found == seen.truth)[seen.known].mean())
    confidence = float(seen.confidence[seen.known].mean())
    bias = "surer than it is right" if confidence > right else "less sure than it is right"
    lead = (
        f"Mean confidence {percent(confidence)}, right {percent(right)}: {bias}. Expected calibration error "
        f"{percent(found.error)} in {len(found.counts)} bins; −log p of the truth {found.nll:.3f} nats on average."
    )
    charts = (
        Chart(
            reliability(found.confidence, found.share, found.counts),
            "bars: share that is right; dashed: a perfect model; red: from there to what the model said",
        ),
        Chart(histogram(seen.confidence[seen.known], "confidence", span=(0, 1)), "how sure the model is"),
    )
    return Section("calibration", title, lead, (Charts(charts),))


def certificates(material: Material) -> Section | None:
    """How far each inference can be from the joint maximum."""
    seen = material.seen
    if seen is None:
        return None
    title = "Certificates"
    share = float(seen.certified.mean())
    finite = np.isfinite(seen.gap)
    lead = (
        "The gap is how much a bound over all classes and switches lies above the score that was found. "
        f"At 0 the inference is provably the joint maximum: here for {percent(share)} of the images. "
    )
    if share == 1:
        return Section("certificates", title, lead + "There is nothing left to doubt.", ())
    if not finite.any():
        return Section("certificates", title, lead + "This model has no bound.", ())
    if material.source.recipe.constraint != "hard":
        lead += (
            "This model has templates of both signs above the pixels: its inference is a heuristic, and the "
            "bound, though it holds, is loose."
        )
    relative = np.log10((seen.gap[finite] / (1 + np.abs(seen.score[finite]))).clip(1e-9))
    chart = histogram(relative, "log₁₀ of gap / (1 + |score|)")
    told = f"median gap {decimal(float(np.median(seen.gap[finite])))}; below −5 counts as certified"
    return Section("certificates", title, lead, (Charts((Chart(chart, told),)), *_least_sure(material, finite)))


def _least_sure(material: Material, finite: np.ndarray) -> tuple[Note, ...]:
    """Whether mistakes have larger gaps."""
    seen = material.seen
    if seen is None or material.source.clusters:
        return ()
    wrong, right = (finite & seen.known & side for side in (seen.found != seen.truth, seen.found == seen.truth))
    if min(wrong.sum(), right.sum()) < 10:
        return ()
    relative = seen.gap / (1 + np.abs(seen.score))
    one, other = (decimal(float(np.median(relative[side]))) for side in (wrong, right))
    return (Note(f"Median relative gap of the images that are wrong: {one}; of those that are right: {other}."),)


def _mistakes(counts: Indices, *, diagonal: bool) -> list[tuple[int, int]]:
    """Cells off the diagonal that hold images, most first."""
    off = counts.copy()
    if diagonal:
        np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")
    places = np.stack(np.unravel_index(order, off.shape), 1)
    return [(int(i), int(j)) for i, j in places[: np.count_nonzero(off)]]
