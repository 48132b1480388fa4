"""The slides' testable predictions, as tools for your own nets and images; verdicts are computed from data."""

from drmm.studies.predictions.active import ActivePaths, active_paths_matter
from drmm.studies.predictions.failure_conditions import Difficulty, difficulty, foretells, signs, wrong
from drmm.studies.predictions.fields import DepthStudy, Fields, arithmetic, receptive_fields
from drmm.studies.predictions.invariance import BackgroundLoss, Invariance, background_loss, feature_invariance
from drmm.studies.predictions.localisation import Localisation, Reading, best_reading, localise
from drmm.studies.predictions.nuisances import Codes, Targets, decode, encode, scene_targets
from drmm.studies.predictions.verdict import LEAST, MARGINS, Interval, Outcome, Verdict, interval, judge, together

__all__ = [
    "LEAST",
    "MARGINS",
    "ActivePaths",
    "BackgroundLoss",
    "Codes",
    "DepthStudy",
    "Difficulty",
    "Fields",
    "Interval",
    "Invariance",
    "Localisation",
    "Outcome",
    "Reading",
    "Targets",
    "Verdict",
    "active_paths_matter",
    "arithmetic",
    "background_loss",
    "best_reading",
    "decode",
    "difficulty",
    "encode",
    "feature_invariance",
    "foretells",
    "interval",
    "judge",
    "localise",
    "receptive_fields",
    "scene_targets",
    "signs",
    "together",
    "wrong",
]
