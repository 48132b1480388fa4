"""A row's settings, for images of one's own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from drmm.errors import InputError
from drmm.studies.reproduce.protocol import METHODS, PROTOCOLS

__all__ = ["OWN", "settings"]

_MNIST = PROTOCOLS["mnist"].training
_IMAGES = 60_000  # that the row learns from

OWN = tuple(name for name, row in METHODS.items() if row.teacher is None and not row.labels_only)
"""Rows that are a matter of settings alone: without a teacher, and with the images that have no label."""


def settings(method: str) -> dict[str, Any]:
    """How a row of the MNIST table learns, as arguments of `DRMMClassifier`.

    `DRMMClassifier(**settings("best"))` makes as many steps as the row did where there are fewer images than MNIST
    has, and as many epochs where there are more.

    Args:
        method: one of `OWN`.

    Raises:
        InputError: if there is no such row, or settings alone do not make it.
    """
    if method not in OWN:
        raise InputError(f"no method {method!r} to learn by: choose from {', '.join(OWN)}")
    row = METHODS[method]
    objective = asdict(row.objective)
    del objective["cross_entropy"]  # it has the weight 1 everywhere
    unlabelled = _MNIST.batch_size - _MNIST.labelled_per_batch
    epochs = _MNIST.epochs * row.longer
    return objective | {
        "constraint": row.constraint,
        "epochs": epochs,
        "min_steps": round(epochs * _IMAGES / unlabelled),
        "batch_size": _MNIST.batch_size,
        "labelled_per_batch": _MNIST.labelled_per_batch,
        "learning_rate": _MNIST.learning_rate,
        "weight_average": _MNIST.weight_average,
    }
