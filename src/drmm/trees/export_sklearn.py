"""The greedy tree in scikit-learn's own classes: an oblique tree is a linear map and a tree of thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import VotingClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, LabelEncoder, PolynomialFeatures
from sklearn.tree import DecisionTreeClassifier
from sklearn.tree._tree import Tree

from drmm.trees.tree import EvolutionaryTree

__all__ = ["Units", "as_pipeline", "as_vote"]

Array = npt.NDArray[Any]

_LEAF, _UNDEFINED = -1, -2  # scikit-learn's marks of a leaf's children, and of its feature


@dataclass(frozen=True, eq=False)
class Units:
    """How numbers of an image in X become those that the tree sees: (X - mean) / scale, in another order.

    Attributes:
        mean: (D,), in the tree's order.
        scale: likewise.
        order: for each number of an image in X, its index in the tree's order, (D,).
    """

    mean: Array
    scale: Array
    order: Array


def as_pipeline(tree: EvolutionaryTree, classes: Array, units: Units, n_images: int) -> Pipeline:
    """A pipeline of scikit-learn's classes that finds the same leaf as `greedy_leaf`.

    A test asks which of two siblings has more evidence: the sign of ⟨α_b - α_a, I⟩ + b_b - b_a. The linear map
    computes all of these differences, a column each, and the tree compares them with 0. A node of more than two
    children is a knock-out among them, whose tests meet again: scikit-learn's arrays can express that.

    Args:
        tree: what to export.
        classes: labels, (C,).
        units: what X is measured in.
        n_images: that the tree was learnt from, for its counts.
    """
    tests = _tests(tree)
    filters = tree.increments[tests.challenger].astype(float) - tree.increments[tests.champion]
    offsets = tree.bias[tests.challenger].astype(float) - tree.bias[tests.champion]
    filters = filters / units.scale
    offsets = offsets - filters @ units.mean
    linear = np.concatenate([offsets[:, None], filters[:, units.order]], 1).T
    return Pipeline(
        [
            ("array", FunctionTransformer(np.asarray)),  # of a data frame, a list or a tensor
            ("flatten", FunctionTransformer(methodcaller("reshape", -1, len(units.order)))),
            ("constant", PolynomialFeatures(degree=1).fit(np.zeros((1, len(units.order))))),
            ("evidence", FunctionTransformer(np.dot, kw_args={"b": np.ascontiguousarray(linear)})),
            ("tree", _classifier(tree, tests, classes, n_images)),
        ]
    )


def as_vote(pipelines: Sequence[Pipeline], classes: Array) -> VotingClassifier:
    """The mean of the pipelines' class probabilities, as scikit-learn's own class has it.

    Args:
        pipelines: one for each tree.
        classes: labels, (C,).
    """
    vote = VotingClassifier([(f"tree{i}", pipeline) for i, pipeline in enumerate(pipelines)], voting="soft")
    vote.estimators_, vote.classes_, vote.le_ = list(pipelines), classes, LabelEncoder().fit(classes)
    return vote


@dataclass(frozen=True, eq=False)
class _Tests:
    """Nodes as scikit-learn numbers them, and the tests of those that are no leaf.

    Attributes:
        node: of the evolutionary tree that each node belongs to, (S,).
        left: next node where the champion stays, (S,); -1 at a leaf.
        right: next node where the challenger wins, likewise.
        feature: number of the test, (S,); -2 at a leaf.
        champion: sibling that has won so far, of each test, (T,).
        challenger: the next sibling, likewise.
    """

    node: Array
    left: Array
    right: Array
    feature: Array
    champion: Array
    challenger: Array


def _tests(tree: EvolutionaryTree) -> _Tests:
    """Knock-outs among siblings: the one that comes first wins among equals, as in `greedy_leaf`."""
    sizes = [k * (k - 1) // 2 if k else 1 for k in tree.n_children.tolist()]
    entry = np.cumsum(sizes) - sizes
    for above in np.flatnonzero(tree.n_children == 1)[::-1]:
        entry[above] = entry[tree.first_child[above]]  # nothing to test
    node = np.repeat(np.arange(len(sizes)), sizes)
    left, right = np.full(len(node), _LEAF), np.full(len(node), _LEAF)
    feature = np.full(len(node), _UNDEFINED)
    champions: list[int] = []
    challengers: list[int] = []
    for above in np.flatnonzero(tree.n_children):
        children = tree.children(int(above))
        pairs = [(a, b) for b in range(1, len(children)) for a in range(b)]
        number = {pair: int(entry[above]) + i for i, pair in enumerate(pairs)}
        for (a, b), test in number.items():
            feature[test] = len(champions)
            champions.append(children[a])
            challengers.append(children[b])
            left[test] = number.get((a, b + 1), entry[children[a]])
            right[test] = number.get((b, b + 1), entry[children[b]])
    if not champions:  # a single leaf: scikit-learn wants one feature at least
        champions, challengers = [0], [0]
    return _Tests(node, left, right, feature, np.array(champions), np.array(challengers))


def _classifier(tree: EvolutionaryTree, tests: _Tests, classes: Array, n_images: int) -> DecisionTreeClassifier:
    """A fitted scikit-learn tree of these tests, each with the threshold 0."""
    n_features, counts = len(tests.champion), tree.prior[tests.node]
    size = np.array([len(classes)], dtype=np.intp)
    inside = Tree(n_features, size, 1)
    nodes = np.zeros(len(tests.node), dtype=inside.__getstate__()["nodes"].dtype)
    values = tree.classes[tests.node]
    columns = {
        "left_child": tests.left,
        "right_child": tests.right,
        "feature": tests.feature,
        "threshold": np.where(tests.feature == _UNDEFINED, _UNDEFINED, 0.0),
        "impurity": 1 - (values**2).sum(1),
        "n_node_samples": np.rint(counts * n_images),
        "weighted_n_node_samples": counts * n_images,
    }
    for name, column in columns.items():
        nodes[name] = column
    inside.__setstate__(
        {
            "max_depth": _depth(tests),
            "node_count": len(nodes),
            "nodes": nodes,
            "values": np.ascontiguousarray(values[:, None, :], dtype=float),
        }
    )
    classifier = DecisionTreeClassifier()
    classifier.tree_, classifier.classes_, classifier.n_classes_ = inside, classes, len(classes)
    classifier.n_features_in_, classifier.n_outputs_, classifier.max_features_ = n_features, 1, n_features
    return classifier


def _depth(tests: _Tests) -> int:
    """Tests on the longest way down."""
    depth = np.zeros(len(tests.node), np.int64)
    for test in np.flatnonzero(tests.feature >= 0):
        for below in (tests.left[test], tests.right[test]):
            depth[below] = max(depth[below], depth[test] + 1)
    return int(depth.max())
