"""The slides' testable predictions, as tools for your own nets and images; verdicts are computed from data."""

from drmm.predictions.active import ActivePaths, active_paths_matter
from drmm.predictions.fields import DepthStudy, Fields, arithmetic, receptive_fields
from drmm.predictions.invariance import BackgroundLoss, Invariance, background_loss, feature_invariance
from drmm.predictions.verdict import Interval, Outcome, Verdict, interval, judge

__all__ = [
    "ActivePaths",
    "BackgroundLoss",
    "DepthStudy",
    "Fields",
    "Interval",
    "Invariance",
    "Outcome",
    "Verdict",
    "active_paths_matter",
    "arithmetic",
    "background_loss",
    "feature_invariance",
    "interval",
    "judge",
    "receptive_fields",
]
