"""Clusters and classes: which class a cluster stands for, and how well that fits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import contingency_matrix

from drmm.errors import InputError

__all__ = ["cluster_accuracy", "name_clusters"]

Labels = npt.NDArray[np.int64]


def name_clusters(clusters: Labels, y: Labels, *, one_to_one: bool = False) -> dict[int, int]:
    """The class of each cluster.

    Args:
        clusters: of each image, (N,).
        y: classes (N,), -1 where unknown.
        one_to_one: every class names one cluster at most (the assignment that fits most images); otherwise a
            cluster is what most of its images are.

    Raises:
        InputError: if no class is known.
    """
    known = y >= 0
    if not known.any():
        raise InputError("no image has a label to name the clusters by: label a few")
    table = contingency_matrix(clusters[known], y[known])
    rows, columns = np.unique(clusters[known]), np.unique(y[known])
    best = linear_sum_assignment(-table) if one_to_one else (np.arange(len(rows)), table.argmax(1))
    return {int(rows[i]): int(columns[j]) for i, j in zip(*best, strict=True)}


def cluster_accuracy(clusters: Labels, y: Labels, names: dict[int, int]) -> float:
    """Share of images whose cluster is named like their class, in percent; a cluster without a name is wrong."""
    named = np.array([names.get(int(cluster), -1) for cluster in clusters])
    return round(100 * float((named == y)[y >= 0].mean()), 4)
