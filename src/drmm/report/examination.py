"""What may be wrong with the pictures that a run learned from, in the light of what it learned."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from drmm.data import Dataset
from drmm.data.survey import Survey, surveyed
from drmm.report.evaluation import Figures, held_out_images
from drmm.runs.parts import Parts, parts_of
from drmm.runs.run import Run
from drmm.trust.health import Finding, Pictures, examine, look_features

__all__ = ["examined_pictures", "learned_parts"]

_MOST = 20_000  # pictures: of more, drmm check is asked


def learned_parts(source: Run, data: Dataset) -> Parts | None:
    """What a run learned from; None where nothing was held out in turn.

    Args:
        source: the run.
        data: its images.
    """
    if source.experiment is None or source.assessment is None or not len(source.assessment.held_out.label):
        return None
    with warnings.catch_warnings(action="ignore"):  # said when it learned
        return parts_of(source.experiment, data)


def examined_pictures(source: Run, data: Dataset, parts: Parts | None) -> tuple[Finding, ...]:
    """What may be wrong with the pictures; labels are judged by cross-fitting where the run has that.

    Args:
        source: the run.
        data: its images; arrays are not examined, nor is a folder of very many.
        parts: of `learned_parts`.
    """
    if source.experiment is None or not 0 < len(data.files) + len(data.test_files) <= _MOST:
        return ()
    found = surveyed(Path(source.experiment.data.source), data)
    facts = (found.looks, found.labels, found.classes, found.is_test, found.digests, found.sizes)
    return examine(Pictures(*facts, look_features(found.looks), _posterior(source, parts, found)))


def _posterior(source: Run, parts: Parts | None, found: Survey) -> Figures | None:
    """What nets said of pictures whose label they had not learned, (N, C), NaN of others; None if of nothing."""
    if parts is None or source.assessment is None:
        return None
    posterior = np.full((len(found.files), len(found.classes)), np.nan)
    posterior[held_out_images(source.assessment, parts)] = np.exp(source.assessment.held_out.log_probability)
    return posterior
