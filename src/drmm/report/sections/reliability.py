"""Sections on how reliable a model is: confusion matrix, hardest images, calibration, certificates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from drmm.report.blocks import Cell, Chart, Charts, Gallery, Matrix, Note, Section, Table
from drmm.report.charts import heat, histogram, reliability_diagram
from drmm.report.context import FEATURED, Context, decimal, percent
from drmm.report.evaluation import Indices, calibration, clusters_named, confusion_matrix
from drmm.trust.calibration import Reliability

__all__ = ["calibration_error", "certificates", "confusions", "hardest"]

_TABLE = 20  # classes that a table can show
_CELLS = 12  # confusions that are listed


def confusions(context: Context) -> Section | None:
    """The confusion matrix, whose cells show their images, and precision and recall of each class."""
    evaluation, clusters = context.evaluation, context.source.clusters
    if evaluation is None:
        return None
    title = "Clusters and classes" if clusters else "Confusion matrix"
    if not evaluation.known.any():
        return Section("confusion", title, f"No {evaluation.part} image has a label to compare with.", ())
    of = f"Of {int(evaluation.known.sum()):,} {evaluation.judged}. "
    rows, columns = context.class_names, context.predicted_names
    counts = confusion_matrix(evaluation, len(rows))
    wrong = _misclassified(counts, diagonal=not clusters)
    listed = wrong[: 0 if clusters else _CELLS]
    most_frequent = tuple(Cell(i, j, rows[i], columns[j], int(counts[i, j])) for i, j in listed)
    lead = _cluster_lead(context) if clusters else of + _confusion_lead(counts, wrong, rows, columns)
    drawing = None
    if max(counts.shape) <= _TABLE:
        lead += " Choose a cell to see its images."
    else:
        caption = "true classes down, predicted classes across; correct ones on the diagonal"
        drawing = Chart(heat(counts, rows, columns), caption)
    table = tuple(tuple(int(n) for n in row) for row in counts)
    matrix = Matrix(rows, columns, table, not clusters, most_frequent, drawing)
    per_class = () if clusters else (_per_class(counts, rows),)
    return Section("confusion", title, lead, (matrix, *per_class))


def hardest(context: Context) -> Section | None:
    """Mistakes, and of a run that has sorted nothing the pictures that the model is unsure of or does not know."""
    evaluation = context.evaluation
    if evaluation is None:
        return None
    sure = [f"confidence {percent(float(value), 0)}" for value in evaluation.confidence]
    strange = [f"as strange: {percent(float(value))} of what it learned from" for value in evaluation.familiarity]
    lead = f"The surest first, of {evaluation.judged}."
    kinds = [(f"Mistakes: {evaluation.wrong.sum():,}", lead, context.hardest, sure)]
    if context.sorting is None:
        lead = "The two best classes are nearly equally probable."
        kinds.append(("Least confident", lead, context.least_confident, sure))
        lead, n = "Unlike what the model learned from: do they belong here?", len(context.unfamiliar)
        kinds.append((f"Unfamiliar: {n:,}", lead, context.unfamiliar[:FEATURED], strange))
    blocks = []
    for title, lead, rows, remarks in kinds:
        pictures = tuple(context.image(row, f"{context.caption(row)}; {remarks[row]}") for row in rows.tolist())
        if pictures:
            blocks.append(Gallery(pictures, title, lead, large=True))
    if not blocks:
        return None
    lead = (
        f"Of each kind {FEATURED} at the most. Open an image to see its reconstruction, and which pixels are "
        "evidence for which class."
    )
    return Section("hardest", "Mistakes and doubts", lead, tuple(blocks))


def calibration_error(context: Context) -> Section | None:
    """Reliability diagram, expected calibration error and likelihood."""
    evaluation = context.evaluation
    if evaluation is None:
        return None
    title = "Calibration"
    if context.source.clusters or not evaluation.known.any():
        reason = "Clusters have no true class" if context.source.clusters else "No image has a label"
        return Section("calibration", title, f"{reason}: calibration is not defined here.", ())
    bins = calibration(evaluation)
    own = replace(evaluation, probability=evaluation.own, predicted=evaluation.own.argmax(1))
    accuracy = float((evaluation.predicted == evaluation.truth)[evaluation.known].mean())
    confidence = float(evaluation.confidence[evaluation.known].mean())
    bias = "overconfident" if confidence > accuracy else "underconfident"
    lead = (
        f"Of {evaluation.judged}: mean confidence {percent(confidence)}, accuracy {percent(accuracy)}, {bias} on "
        f"average. Expected calibration error {percent(bins.error)} in {len(bins.counts)} bins; negative "
        f"log-likelihood {float(evaluation.loss[evaluation.known].mean()):.3f} nats per image. "
        f"{_calibrated(context)}"
    )
    what = "bars are accuracy, the dashed line is perfect calibration, red is the gap of accuracy to confidence"
    charts = [_diagram(bins, f"reliability diagram: {what}")]
    if not np.array_equal(evaluation.probability, evaluation.own):
        charts.append(_diagram(calibration(own), "the same before calibration: the net's own confidence"))
    confidences = histogram(evaluation.confidence[evaluation.known], "confidence", span=(0, 1))
    charts.append(Chart(confidences, "images by confidence"))
    return Section("calibration", title, lead, (Charts(tuple(charts)),))


def _diagram(bins: Reliability, what: str) -> Chart:
    diagram = reliability_diagram(bins.confidence, bins.accuracy, bins.counts)
    return Chart(diagram, f"{what}; calibration error {percent(bins.error)}")


def _calibrated(context: Context) -> str:
    """By what confidence is calibrated, and what may be sorted."""
    assessment = context.source.assessment
    if assessment is None or not len(assessment.held_out.label):
        return "Confidence is the net's own."
    temperature = decimal(assessment.calibration.temperature)
    surest, n = assessment.surest(context.promise), f"{len(assessment.held_out.label):,}"
    shown = f"as the {n} labels show at 95 % confidence" if surest.promised else f"which {n} labels do not show"
    beware = f" Beware: {assessment.warning}." if assessment.strangers else ""
    return (
        f"Confidence is calibrated (temperature {temperature}) by {n} labels that were held out in turn. Of the "
        f"surest {percent(surest.share, 0)} of pictures {100 * context.promise:g}\u00a0% should be right, "
        f"{shown}.{beware}"
    )


def certificates(context: Context) -> Section | None:
    """How far each inference can be from the joint maximum."""
    evaluation = context.evaluation
    if evaluation is None:
        return None
    title = "Certificates of exact inference"
    share = float(evaluation.certified.mean())
    finite = np.isfinite(evaluation.gap)
    lead = (
        "The gap is how far an upper bound over all classes and switches lies above the score of the inference. "
        f"At 0 the inference is provably the joint maximum, which need not be the right class: here for "
        f"{percent(share)} of the images."
    )
    if share == 1:
        return Section("certificates", title, lead, ())
    if not finite.any():
        return Section("certificates", title, f"{lead} This model has no bound.", ())
    if context.source.recipe.constraint != "hard":
        lead += (
            " This model has templates of both signs above the pixels: its inference is a heuristic, and the "
            "bound, though it holds, is loose."
        )
    relative = np.log10((evaluation.gap[finite] / (1 + np.abs(evaluation.score[finite]))).clip(1e-9))
    chart = histogram(relative, "log₁₀ of gap / (1 + |score|)")
    caption = f"median gap {decimal(float(np.median(evaluation.gap[finite])))}; below −5 counts as certified"
    return Section("certificates", title, lead, (Charts((Chart(chart, caption),)), *_gaps(context, finite)))


def _confusion_lead(
    counts: Indices, wrong: list[tuple[int, int]], rows: tuple[str, ...], columns: tuple[str, ...]
) -> str:
    if not wrong:
        return f"All {int(counts.sum()):,} images are classified correctly."
    i, j = wrong[0]
    return (
        "Rows are true classes, columns predicted ones. Most frequent confusion: "
        f"{rows[i]}, predicted {columns[j]} ({counts[i, j]:,} images)."
    )


def _cluster_lead(context: Context) -> str:
    if context.evaluation is None:
        return ""
    majority = list(clusters_named(context.evaluation).items())[:_TABLE]
    named = ", ".join(f"{context.predicted_names[k]} → {context.class_names[c]}" for k, c in majority)
    return f"Rows are true classes, columns clusters. The majority class of each cluster: {named}."


def _per_class(counts: Indices, names: tuple[str, ...]) -> Table:
    """Recall, precision and F1 of each class, lowest recall first; of many classes those of the lowest recall."""
    correct, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    recall, precision, f1 = (
        correct / true.clip(1),
        correct / predicted.clip(1),
        2 * correct / (true + predicted).clip(1),
    )
    order = [i for i in np.argsort(recall, kind="stable").tolist() if true[i]][:_TABLE]
    rows = tuple(
        (
            names[i],
            f"{true[i]:,}",
            percent(float(recall[i])),
            percent(float(precision[i])) if predicted[i] else "–",
            percent(float(f1[i])),
        )
        for i in order
    )
    head = ("class", "images", "recall", "precision", "F1")
    lowest = f": the {len(rows)} classes of lowest recall" if len(rows) < len(names) else ""
    return Table(head, rows, f"Recall and precision by class{lowest}", heading=True)


def _gaps(context: Context, finite: np.ndarray) -> tuple[Note, ...]:
    """Whether misclassified images have larger gaps."""
    evaluation = context.evaluation
    if evaluation is None or context.source.clusters:
        return ()
    misclassified = evaluation.predicted != evaluation.truth
    wrong, correct = (finite & evaluation.known & side for side in (misclassified, ~misclassified))
    if min(wrong.sum(), correct.sum()) < 10:
        return ()
    relative = evaluation.gap / (1 + np.abs(evaluation.score))
    one, other = (decimal(float(np.median(relative[side]))) for side in (wrong, correct))
    return (Note(f"Median relative gap of misclassified images: {one}; of correctly classified ones: {other}."),)


def _misclassified(counts: Indices, *, diagonal: bool) -> list[tuple[int, int]]:
    """Cells off the diagonal that hold images, most first."""
    off = counts.copy()
    if diagonal:
        np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")
    cells = np.stack(np.unravel_index(order, off.shape), 1)
    return [(int(i), int(j)) for i, j in cells[: np.count_nonzero(off)]]
