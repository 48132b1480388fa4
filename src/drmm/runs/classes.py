"""How frequent classes are where a run learns: what it is told before it starts, and what it keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from drmm.display.text import one_line
from drmm.learning.class_prior import REFUTES, Prior, Shares
from drmm.runs.parts import Parts

__all__ = ["kept_shares", "told"]

Counts = npt.NDArray[np.int64]
Figures = npt.NDArray[np.float64]

_LEVEL = 0.95
_TIMES = 1.5  # more, or fewer, than the labels say, before anything is said
_SHOWN = 5  # classes
_FEWEST = 10  # images without a label that refute anything
_TOO_FEW = f"Unless the labels were drawn at random, label {REFUTES} of each class, or use --prior estimate"
_AT_RANDOM = "Unless the labels were drawn at random, use --prior auto, or --prior estimate"
_FOLLOWS: dict[Prior, str] = {
    "auto": "The nearest shares that this allows are learned by: use --prior labels if these were drawn at random",
    "labels": _AT_RANDOM,
    "uniform": _AT_RANDOM,
}


def kept_shares(shares: Shares | None, classes: Sequence[str]) -> dict[str, dict[str, float]] | None:
    """The figures by class, of the unlabelled images; for `results.json`."""
    if shares is None:
        return None
    columns = {"estimate": shares.em, "low": shares.low, "high": shares.high, "bbse": shares.bbse}
    return {
        name: {column: round(float(values[code]), 4) for column, values in columns.items()}
        for code, name in enumerate(classes)
    }


def told(shares: Shares | None, parts: Parts, classes: Sequence[str], prior: Prior) -> Iterator[str]:
    """What is to be known of the classes before a run starts, line by line.

    Args:
        shares: of the unlabelled images, if they could be estimated.
        parts: what the run learns from.
        classes: their names.
        prior: the setting.
    """
    if shares is None:
        return
    counts = np.bincount(parts.labels[parts.labels >= 0].numpy(), minlength=len(classes))
    of_labels = counts / counts.sum()
    ratio = np.log((shares.em + 1e-3) / (of_labels + 1e-3))
    low, high = _of_random_labels(counts)
    refuted = shares.refuted & ((high < shares.low) | (low > shares.high)) & (np.abs(ratio) > np.log(_TIMES))
    shown = np.argsort(-np.abs(ratio), kind="stable")[:_SHOWN]
    figures = ", ".join(
        f"{one_line(classes[c])}: {shares.em[c]:.0%} ({shares.low[c]:.0%} to {shares.high[c]:.0%}; "
        f"labels {of_labels[c]:.0%})"
        for c in shown.tolist()
    )
    more = f" and {len(classes) - _SHOWN} more classes" if len(classes) > _SHOWN else ""
    if prior == "estimate":
        yield f"estimated shares of the classes, with 95 % intervals: {figures}{more}"
    elif refuted.any() and len(parts.labels) - len(parts.known) >= _FEWEST:
        found = f"classes are not as frequent without a label as with one: {figures}{more}"
        yield f"{found}. {_TOO_FEW if prior == 'auto' and counts.min() < REFUTES else _FOLLOWS[prior]}"


def _of_random_labels(counts: Counts) -> tuple[Figures, Figures]:
    """Between what the shares of all classes lie at 95 % confidence, if these labels were drawn at random."""
    n, tail = counts.sum(), (1 - _LEVEL) / 2 / len(counts)
    low = np.where(counts > 0, beta.ppf(tail, counts, n - counts + 1), 0.0)
    high = np.where(counts < n, beta.ppf(1 - tail, counts + 1, n - counts), 1.0)
    return low, high
