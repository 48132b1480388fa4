"""What is said of the decisions about pictures: whether the promise is kept, and what would keep it."""

from __future__ import annotations

from collections.abc import Sequence

from drmm.trust.assessment import Assessment

__all__ = ["notes_of"]

_LOWER, _MORE = (0.95, 0.9, 0.8), 0.05  # promises that are named where they sort so much more of the pictures


def notes_of(assessment: Assessment | None, promise: float) -> Sequence[str]:
    """Whether the pictures are like the labelled ones, if not; what may be sorted, and if the promise is kept."""
    if assessment is None:
        return ("the run does not say how far to trust it: confidence is not calibrated, nothing is decided",)
    if not assessment.strangers:
        return (_kept_promise(assessment, promise),)
    return (assessment.warning, _kept_promise(assessment, promise))


def _kept_promise(assessment: Assessment, promise: float) -> str:
    surest, labels = assessment.surest(promise), len(assessment.held_out.label)
    right, share = f"{100 * promise:g} %", f"the surest {100 * surest.share:.0f} % of pictures may be sorted"
    if surest.promised:
        return f"{share}: {right} or more of them are right, at 95 % confidence"
    confidence = "the calibrated confidence" if labels else "the net's own confidence (not calibrated)"
    guess = f"{share}: {right} of them should be right, by {confidence}"
    if not surest.share:
        guess = f"no picture may be sorted: {confidence} is nowhere high enough for {right} right answers"
    if assessment.strangers:
        return f"{guess}; of pictures that are not like the labelled ones nothing can be promised"
    if surest.labels is None:
        return f"{guess}; no number of labels can show so much"
    needed = f"{labels} labels cannot prove it, {max(surest.labels, labels + 1)} or more might"
    return f"{guess}{_with_less(assessment, promise)}; {needed}"


def _with_less(assessment: Assessment, promise: float) -> str:
    """How much may be sorted at lower promises, where it is more."""
    before, said = assessment.surest(promise).share, []
    for lower in _LOWER:
        share = assessment.surest(lower).share
        if lower < promise and share >= before + _MORE:
            said.append(f"{100 * share:.0f} % with --promise {lower:g}")
            before = share
    return f" ({', '.join(said)})" if said else ""
