"""Which images keep their labels: draws that depend on nothing but the labels and a seed.

Each draw ranks the images by the raw 64-bit stream of PCG64, the one sequence NumPy promises never to
change, so that a split is the same on every platform and version.
"""

__all__ = ["holdout", "label_folds", "mask_labels", "stratified_labels"]

import numpy as np
import numpy.typing as npt

from drmm.data.labels import UNLABELLED
from drmm.errors import InputError

Indices = npt.NDArray[np.int64]

_LABEL_DRAW, _HOLDOUT_DRAW, _FOLD_DRAW = 1, 2, 3  # separate streams: one seed may serve for all kinds of draw
_ENOUGH = 1000  # held-out images, of which no more need to be learned without


def stratified_labels(y: npt.ArrayLike, per_class: int, *, seed: int) -> Indices:
    """Draw the images that keep their labels, equally many of each class.

    Draws are nested: with the same seed, a smaller `per_class` gives a subset of a larger one.

    Args:
        y: Integer labels (N,); −1 means unlabelled and is never drawn.
        per_class: Labels of each class, at least 1.
        seed: Seed of the draw, at least 0.

    Returns:
        Sorted indices (per_class · K,).

    Raises:
        InputError: `per_class` or `seed` out of range, or a class with fewer images.
    """
    if per_class < 1:
        raise InputError(f"per_class must be at least 1: got {per_class}")
    ranked = _ranked_by_class(y, seed, _LABEL_DRAW)
    for label, members in ranked.items():
        if len(members) < per_class:
            raise InputError(f"class {label} has {len(members)} images, fewer than per_class={per_class}")
    return np.sort(np.concatenate([members[:per_class] for members in ranked.values()]))


def mask_labels(y: npt.ArrayLike, indices: Indices) -> Indices:
    """Hide all labels but those at `indices`.

    Args:
        y: Integer labels (N,).
        indices: Which to keep.

    Returns:
        A copy of y (N,) with −1 everywhere else.
    """
    labels = np.asarray(y, dtype=np.int64)
    masked = np.full_like(labels, UNLABELLED)
    masked[indices] = labels[indices]
    return masked


def holdout(y: npt.ArrayLike, size: float, *, seed: int) -> Indices:
    """Draw a validation set in which classes are as frequent as in `y`.

    Args:
        y: Integer labels (N,); −1 means unlabelled and is never drawn.
        size: A float is a fraction of the labelled images, an int says how many.
        seed: Seed of the draw, at least 0.

    Returns:
        Sorted indices; every class keeps at least one image outside them.

    Raises:
        InputError: `size` or `seed` out of range, or larger than the classes allow.
    """
    ranked = _ranked_by_class(y, seed, _HOLDOUT_DRAW)
    counts = np.array([len(members) for members in ranked.values()], np.int64)
    total = int(counts.sum())
    wanted = round(size * total) if isinstance(size, float) else int(size)
    if not 1 <= wanted <= total - len(counts):
        choice = f"choose 1 to {total - len(counts)} of" if total > len(counts) else "label more than"
        raise InputError(
            f"a holdout of {wanted} images is impossible: {choice} "
            f"the {total} labelled images, so that each of {len(counts)} classes keeps one"
        )
    shares = _shares(counts, wanted)
    drawn = [members[:share] for members, share in zip(ranked.values(), shares, strict=True)]
    return np.sort(np.concatenate(drawn))


def label_folds(y: npt.ArrayLike, folds: int, *, seed: int, groups: Indices | None = None) -> list[Indices]:
    """Draw parts of the labelled images to be held out in turn, classes spread evenly.

    Images of a group are drawn as one, so that no part has a copy of what is learned from. A class with a single
    label, or group of them, is in no part. Where one part has a thousand images, it is enough.

    Args:
        y: Integer labels (N,); −1 means unlabelled and is never drawn.
        folds: How many at the most; fewer where no class has as many labels.
        seed: Seed of the draw, at least 0.
        groups: The group of each image, (N,), of which those with a label count; by default each is its own.

    Returns:
        Sorted indices of each; none if no class has two labels.

    Raises:
        InputError: `seed` out of range, or no labels.
    """
    labelled = np.flatnonzero(np.asarray(y) != UNLABELLED)
    group = labelled if groups is None else groups[labelled]
    first = labelled[np.unique(group, return_index=True)[1]]  # one image stands for its group
    ranked = _ranked_by_class(mask_labels(y, first), seed, _FOLD_DRAW).values()
    # In turn: a class never lies in one part alone.
    dealt = np.concatenate([np.zeros(0, np.int64), *(members for members in ranked if len(members) > 1)])
    of_first = group[np.searchsorted(labelled, dealt)]
    parts = [labelled[np.isin(group, of_first[start::folds])] for start in range(min(folds, len(dealt)))]
    return parts[:1] if parts and len(parts[0]) >= _ENOUGH else parts


def _shares(counts: Indices, wanted: int) -> Indices:
    """Split `wanted` in proportion to `counts` by largest remainder, never taking all of a class."""
    # Integers throughout: a float remainder could break ties differently elsewhere.
    total = int(counts.sum())
    shares = np.minimum(counts * wanted // total, counts - 1)
    while (short := wanted - int(shares.sum())) > 0:
        spare = np.flatnonzero(shares < counts - 1)
        remainders = counts[spare] * wanted - shares[spare] * total
        shares[spare[np.argsort(-remainders, kind="stable")[:short]]] += 1
    return shares


def _ranked_by_class(y: npt.ArrayLike, seed: int, stream: int) -> dict[int, Indices]:
    """Each class's image indices (int64), in the random order of the draw."""
    if seed < 0:
        raise InputError(f"seed must be at least 0: got {seed}")
    labels = np.asarray(y, dtype=np.int64)
    classes = np.unique(labels[labels != UNLABELLED])
    if not len(classes):
        raise InputError("there are no labels to draw from: all images are unlabelled")
    keys = np.random.PCG64([seed, stream]).random_raw(len(labels))
    order = np.argsort(keys, kind="stable").astype(np.int64)
    return {int(label): order[labels[order] == label] for label in classes}
