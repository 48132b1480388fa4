"""Growing a tree top-down: the leaf whose split explains most is split next."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from drmm.trees.tree import breadth_first

__all__ = ["Examples", "Shape", "grow"]

Array = npt.NDArray[Any]

_SAMPLE = 4000  # images of a node that its split is fitted to
_ROUNDS = 10  # of k-means
_FLOOR = 1e-4  # share of the noise that a split leaves at the least
_LEAST = 1e-12  # noise


@dataclass(frozen=True, eq=False)
class Examples:
    """What a tree learns from.

    Attributes:
        x: images, (N, D).
        y: codes of their classes, (N,); -1 means unlabelled.
        n_classes: C.
        label_weight: λ, how often a label counts; 1 is the likelihood.
        smoothing: images that each leaf has seen beforehand, of all classes in the shares of the data.
    """

    x: Array
    y: Array
    n_classes: int
    label_weight: float
    smoothing: float

    @property
    def shares(self) -> Array:
        """Of the classes among labelled images, (C,), none of them 0."""
        counts = np.bincount(self.y[self.y >= 0], minlength=self.n_classes) + 1.0
        return np.asarray(counts / counts.sum())

    def part(self, index: Array) -> Examples:
        """Some of the examples; an index may come several times."""
        return Examples(self.x[index], self.y[index], self.n_classes, self.label_weight, self.smoothing)

    def class_counts(self, group: Array, n_groups: int) -> Array:
        """Labelled images of each class in each group, (G, C)."""
        known = self.y >= 0
        flat = np.bincount(group[known] * self.n_classes + self.y[known], minlength=n_groups * self.n_classes)
        return flat.reshape(n_groups, self.n_classes).astype(float)

    def class_shares(self, group: Array, n_groups: int) -> Array:
        """p(c | group), smoothed, (G, C)."""
        counts = self.class_counts(group, n_groups) + self.smoothing * self.shares
        return np.asarray(counts / counts.sum(1, keepdims=True))

    def group_means(self, group: Array, n_groups: int) -> tuple[Array, Array]:
        """Number of images in each group, (G,), and their mean, (G, D); that of an empty group is 0."""
        counts = np.bincount(group, minlength=n_groups)
        order = np.argsort(group, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts[counts > 0])[:-1]])
        means = np.zeros((n_groups, self.x.shape[1]), self.x.dtype)
        means[counts > 0] = np.add.reduceat(self.x[order], starts, axis=0)
        means /= np.maximum(counts, 1)[:, None].astype(self.x.dtype)
        return counts, means


@dataclass(frozen=True, slots=True)
class Shape:
    """How far a tree may grow.

    Attributes:
        max_leaves: L at the most.
        max_depth: steps from the root at the most; None is as many as it takes.
        branching: children of a node.
    """

    max_leaves: int
    max_depth: int | None
    branching: int


@dataclass(frozen=True, eq=False)
class _Split:
    """A leaf's best division among children, and what it gains.

    Attributes:
        members: images of the leaf, (n,).
        choice: child of each, (n,).
        squares: by how much ½ Σ ‖I - μ‖² falls.
        nats: by how much the log-probabilities of labels and leaves rise.
    """

    members: Array
    choice: Array
    squares: float
    nats: float

    def gain(self, squares: float, numbers: int) -> float:
        """By how much the objective of all images rises, in nats, with the noise that fits best before and after.

        Args:
            squares: Σ ‖I - μ‖² before.
            numbers: N D.
        """
        left = max(squares - 2 * self.squares, _FLOOR * squares)
        return 0.5 * numbers * math.log(squares / left) + self.nats


@dataclass(eq=False)
class _Growing:
    """A tree that grows: nodes in the order in which they came.

    Attributes:
        parent: of each node.
        level: of each node.
        leaf: node of each image, (N,).
        splits: of the leaves that can be split.
        squares: Σ ‖I - μ‖² of all images.
    """

    parent: list[int]
    level: list[int]
    leaf: Array
    squares: float
    splits: dict[int, _Split] = field(default_factory=dict)


def grow(data: Examples, shape: Shape, rng: np.random.Generator) -> tuple[Array, Array]:
    """Split the leaf whose split gains the objective most, until enough leaves are there or none can be split.

    A split is k-means of the leaf's images that the labels take part in: hard EM with equal priors and a noise of
    the node's own. What it gains may be negative, since the prior of two leaves costs more than that of one; that
    is no reason to stop, since classes may need it.

    Args:
        data: images and labels.
        shape: of the tree.
        rng: of the first templates of a split.

    Returns:
        Parents of the nodes, (M,), level by level, and the leaf of each image, (N,).
    """
    squares = float(((data.x - data.x.mean(0)) ** 2).sum(dtype=float))
    tree = _Growing([-1], [0], np.zeros(len(data.x), np.int64), squares)
    _consider(tree, 0, np.arange(len(data.x)), data, shape, rng)
    leaves = 1
    while tree.splits and leaves + shape.branching - 1 <= shape.max_leaves:
        gains = {node: split.gain(tree.squares, data.x.size) for node, split in tree.splits.items()}
        node = max(gains, key=gains.__getitem__)
        split = tree.splits.pop(node)
        tree.squares -= 2 * split.squares
        first = len(tree.parent)
        tree.parent += [node] * shape.branching
        tree.level += [tree.level[node] + 1] * shape.branching
        tree.leaf[split.members] = first + split.choice
        for child in range(shape.branching):
            _consider(tree, first + child, split.members[split.choice == child], data, shape, rng)
        leaves += shape.branching - 1
    parent = np.array(tree.parent)
    order = breadth_first(parent)
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    return np.where(parent[order] < 0, -1, number[parent[order]]), number[tree.leaf]


def _consider(
    tree: _Growing, node: int, members: Array, data: Examples, shape: Shape, rng: np.random.Generator
) -> None:
    """Find the node's split, if there is one."""
    if shape.max_depth is not None and tree.level[node] >= shape.max_depth:
        return
    part, k = data.part(members), shape.branching
    choice = _k_means(part, k, rng)
    if choice is None:
        return
    counts, means = part.group_means(choice, k)
    whole = part.x.mean(0)
    squares = 0.5 * float(counts @ ((means - whole) ** 2).sum(1))
    labels = _label_nats(part, choice, k) - _label_nats(part, np.zeros_like(choice), 1)
    prior = float(counts @ np.log(counts / len(members)))
    tree.splits[node] = _Split(members, choice, squares, data.label_weight * labels + prior)


def _k_means(data: Examples, k: int, rng: np.random.Generator) -> Array | None:
    """Children of a node's images, (n,), by hard EM on some of them; None if they cannot be told apart."""
    if len(data.x) < 2 * k:
        return None
    some = data.part(np.sort(rng.choice(len(data.x), min(len(data.x), _SAMPLE), replace=False)))
    chosen = _far_apart(some.x, k, rng)
    if chosen is None:
        return None
    templates = some.x[chosen]
    log_classes = np.log(some.part(chosen).class_shares(np.arange(k), k))
    mean = some.x.mean(0)
    spread = noise = max(float(((some.x - mean) ** 2).mean()), _LEAST)
    choice = _choose(some, templates, log_classes, noise)
    for _ in range(_ROUNDS):
        counts, templates = some.group_means(choice, k)
        if (counts == 0).any():
            return None
        between = float(counts @ ((templates - mean) ** 2).mean(1)) / len(choice)
        noise = max(spread - between, _FLOOR * spread)
        log_classes = np.log(some.class_shares(choice, k))
        before, choice = choice, _choose(some, templates, log_classes, noise)
        if np.array_equal(before, choice):
            break
    choice = _choose(data, templates, log_classes, noise)
    return choice if len(np.unique(choice)) == k else None


def _far_apart(x: Array, k: int, rng: np.random.Generator) -> Array | None:
    """Indices of k images, each the likelier the further it is from those before it (k-means++).

    `sklearn.cluster.kmeans_plusplus` takes four times as long for two templates, and its trees are no better.
    """
    chosen = [int(rng.integers(len(x)))]
    apart = ((x - x[chosen[0]]) ** 2).sum(1).astype(float)
    for _ in range(k - 1):
        if not apart.sum() > 0:
            return None
        chosen.append(int(rng.choice(len(x), p=apart / apart.sum())))
        apart = np.minimum(apart, ((x - x[chosen[-1]]) ** 2).sum(1))
    return np.asarray(chosen)


def _choose(data: Examples, templates: Array, log_classes: Array, noise: float) -> Array:
    """The child that explains image and label best."""
    scores = (data.x @ templates.T - 0.5 * (templates**2).sum(1)) / noise
    if data.label_weight > 0:
        known = data.y >= 0
        scores[known] += data.label_weight * log_classes.T[data.y[known]]
    return np.asarray(scores.argmax(1))


def _label_nats(data: Examples, group: Array, n_groups: int) -> float:
    """Log-probability of the labels in groups, at the shares that fit them best."""
    counts = data.class_counts(group, n_groups)
    totals = np.maximum(counts.sum(1, keepdims=True), 1)
    return float((counts * np.log(np.maximum(counts, 1) / totals)).sum())
