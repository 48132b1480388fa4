"""See what a net sees: evidence by pixel, unit and level, paths, hypotheses against each other, and templates.

An explainer is `explainer(model, x, label=None) -> maps (N, H, W)`, for a `DRMM` or for any convnet.
`drmm.explain.figures` puts all that there is to one picture on a sheet.
"""

from drmm.explain.contrast import Contrast, contrast
from drmm.explain.guided import guide
from drmm.explain.maps import (
    EXPLAINERS,
    Explainer,
    LevelEvidence,
    UnitEvidence,
    active_paths,
    gradient,
    guided_backprop,
    level_relevance,
)
from drmm.explain.passes import as_drmm, draw, level_names
from drmm.explain.path_counts import PathCounts, count, count_paths
from drmm.explain.paths import Path, strongest_paths
from drmm.explain.templates import Excitation, Mixture, ascend, class_mixture, closed_form

__all__ = [
    "EXPLAINERS",
    "Contrast",
    "Excitation",
    "Explainer",
    "LevelEvidence",
    "Mixture",
    "Path",
    "PathCounts",
    "UnitEvidence",
    "active_paths",
    "as_drmm",
    "ascend",
    "class_mixture",
    "closed_form",
    "contrast",
    "count",
    "count_paths",
    "draw",
    "gradient",
    "guide",
    "guided_backprop",
    "level_names",
    "level_relevance",
    "strongest_paths",
]
