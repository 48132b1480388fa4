"""The slides' testable predictions, as tools for your own nets and images; verdicts are computed from data."""

from drmm.predictions.verdict import Interval, Outcome, Verdict, interval, judge

__all__ = ["Interval", "Outcome", "Verdict", "interval", "judge"]
