"""A hierarchy of templates: increments from the root down, and the two ways to find an image's leaf.

Slide "Inference in the Evolutionary DRMM yields Decision Trees".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drmm.errors import InputError

__all__ = ["EvolutionaryTree", "breadth_first", "from_leaves", "gathered", "pruned", "telescoped"]

Array = npt.NDArray[Any]

_ARRAYS = ("parent", "increments", "bias", "prior", "classes")
_CHUNK = 4096  # images whose messages are held at a time


@dataclass(frozen=True, eq=False)
class EvolutionaryTree:
    """Templates in a tree: a node's is the sum of the increments from the root down to it.

    μ_n = α_root + … + α_n. An image is drawn by choosing a leaf (with its prior π), then a class p(c | leaf), then
    I ~ N(μ_leaf, σ² 1). Nodes are numbered breadth first, so that siblings follow each other.

    What `best_leaf` maximises is the sum, down the path, of ⟨α_n, I⟩ + b_n. Without biases it is the slides'
    objective ⟨μ_leaf, I⟩. With the biases of `telescoped` it is σ² log p(I, leaf) but for a term that all leaves
    share: max-sum is then exact for the Gaussian likelihood and the prior too, since a node's bias is what it adds
    to σ² log π - ½‖μ‖².

    Attributes:
        parent: of each node, (M,); -1 for the root, which is node 0.
        increments: α, (M, D).
        bias: b, (M,), in the units of ⟨α, I⟩.
        prior: π, (M,); an inner node has the sum of its leaves.
        classes: p(c | node), (M, C); an inner node has the mean of its leaves.
        noise: σ², what scores are divided by to become nats.
    """

    parent: Array
    increments: Array
    bias: Array
    prior: Array
    classes: Array
    noise: float

    def __post_init__(self) -> None:
        parent, nodes = self.parent, np.arange(len(self.parent))
        sizes = {len(self.increments), len(self.bias), len(self.prior), len(self.classes)}
        if sizes != {len(parent)}:
            raise InputError(f"{len(parent)} parents but arrays of {sorted(sizes)} nodes: give each node one row")
        if parent[0] != -1 or (parent[1:] < 0).any() or (parent >= nodes).any() or (np.diff(parent) < 0).any():
            raise InputError("parents are not those of one tree: put the root first, then level by level")

    @cached_property
    def n_children(self) -> Array:
        """Children of each node, (M,)."""
        return np.bincount(self.parent[1:], minlength=len(self.parent))

    @cached_property
    def first_child(self) -> Array:
        """First child of each node, (M,): the others follow it. Means nothing at a leaf."""
        return 1 + np.cumsum(self.n_children) - self.n_children

    @cached_property
    def leaves(self) -> Array:
        """The nodes without children, (L,)."""
        return np.flatnonzero(self.n_children == 0)

    @cached_property
    def level(self) -> Array:
        """Steps from the root to each node, (M,)."""
        return self._down(np.ones(len(self.parent), np.int64)) - 1

    @cached_property
    def templates(self) -> Array:
        """μ of each node, (M, D)."""
        return self._down(self.increments)

    @property
    def depth(self) -> int:
        """Steps from the root to the deepest leaf."""
        return int(self.level[-1])

    def path(self, node: int) -> list[int]:
        """Nodes from the root down to this one."""
        nodes = [node]
        while self.parent[nodes[-1]] >= 0:
            nodes.append(int(self.parent[nodes[-1]]))
        return nodes[::-1]

    def children(self, node: int) -> range:
        """The children of a node."""
        first = int(self.first_child[node])
        return range(first, first + int(self.n_children[node]))

    def evidence(self, x: Array) -> Array:
        """What each node adds to an image's score, ⟨α_n, I⟩ + b_n: (M, N) of images (N, D)."""
        return np.asarray(self.increments @ x.T + self.bias[:, None])

    def best_leaf(self, x: Array) -> tuple[Array, Array]:
        """Exact max-sum inference: messages from the leaves up, then the traceback from the root down.

        U(n) = ⟨α_n, I⟩ + b_n + max over children of U. Among equals the first child wins.

        Args:
            x: images (N, D).

        Returns:
            The best leaf of each image, (N,), and its score, (N,): the largest of all leaves'.
        """
        traced = [self._traced(self._messages(self.evidence(part))) for part in _parts(x)]
        return np.concatenate([leaf for leaf, _ in traced]), np.concatenate([score for _, score in traced])

    def greedy_leaf(self, x: Array) -> Array:
        """The decision tree: ChooseChild at every node by the children's own templates, without looking further.

        The relaxation of `best_leaf`: it takes as many filters as the path is long. It finds the best leaf if the
        increments and biases of a level are shared by all parents, and need not otherwise.

        Args:
            x: images (N, D).

        Returns:
            A leaf for each image, (N,).
        """
        leaf = np.zeros(len(x), np.int64)
        waiting = [(0, np.arange(len(x)))]
        while waiting:
            node, members = waiting.pop()
            children = self.children(node)
            if not children or not len(members):
                leaf[members] = node
                continue
            rows = slice(children.start, children.stop)
            choice = (x[members] @ self.increments[rows].T + self.bias[rows]).argmax(1)
            waiting += [(child, members[choice == i]) for i, child in enumerate(children)]
        return leaf

    def leaf_scores(self, x: Array) -> Array:
        """The score of every leaf, in the order of `leaves`, (N, L): what enumeration compares."""
        return np.asarray(x @ self.templates[self.leaves].T + self.total_bias[self.leaves])

    @cached_property
    def total_bias(self) -> Array:
        """Sum of the biases from the root down to each node, (M,)."""
        return self._down(self.bias)

    def log_joint(self, x: Array, leaf: Array) -> Array:
        """Log p(I, leaf) of images (N, D) and leaves (N,), in nats, (N,)."""
        squares = ((x - self.templates[leaf]) ** 2).sum(1)
        spread = 0.5 * x.shape[1] * np.log(2 * np.pi * self.noise)
        return np.asarray(np.log(self.prior[leaf]) - 0.5 * squares / self.noise - spread)

    def means(self, x: Array, leaf: Array) -> Array:
        """Mean of the images (N, D) at or below each node, (M, D), of leaves (N,); 0 where there is none."""
        sums, counts = np.zeros_like(self.increments), np.bincount(leaf, minlength=len(self.parent))
        np.add.at(sums, leaf, x)
        sums, counts = gathered(self.parent, sums), gathered(self.parent, counts)
        return np.asarray(sums / np.maximum(counts, 1)[:, None].astype(sums.dtype))

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors by name: what `of_state` takes."""
        arrays = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in _ARRAYS}
        return {**arrays, "noise": torch.tensor(self.noise, dtype=torch.double)}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The tree that `state` describes.

        Raises:
            InputError: if the arrays do not fit each other.
        """
        arrays = {name: state[name].numpy() for name in _ARRAYS}
        return cls(**arrays, noise=float(state["noise"]))

    def _messages(self, message: Array) -> Array:
        """U of every node, (M, N), in place of the evidence: the recursion variable is the level."""
        for level in range(self.depth - 1, -1, -1):
            inner = np.flatnonzero((self.level == level) & (self.n_children > 0))
            first = self.first_child[inner]
            stop = first[-1] + self.n_children[inner[-1]]
            message[inner] += np.maximum.reduceat(message[first[0] : stop], first - first[0], axis=0)
        return message

    def _traced(self, message: Array) -> tuple[Array, Array]:
        """The leaf that each image's largest message came from, and that message."""
        images = np.arange(message.shape[1])
        node = np.zeros(len(images), np.int64)
        for _ in range(self.depth):
            first, last = self.first_child[node], len(self.parent) - 1
            best = np.minimum(first, last)  # a leaf has none
            for i in range(1, int(self.n_children.max())):
                other = np.minimum(first + i, last)
                better = (i < self.n_children[node]) & (message[other, images] > message[best, images])
                best = np.where(better, other, best)
            node = np.where(self.n_children[node] > 0, best, node)
        return node, message[0]

    def _down(self, values: Array) -> Array:
        """Sums from the root down."""
        total = values.copy()
        for node in range(1, len(total)):
            total[node] += total[self.parent[node]]
        return total


def telescoped(parent: Array, templates: Array, prior: Array, classes: Array, noise: float) -> EvolutionaryTree:
    """The tree of these templates whose scores are σ² log p(I, leaf), but for a term that all leaves share.

    Args:
        parent: of each node, (M,), level by level.
        templates: μ of each node, (M, D). Those of inner nodes have no part in the best leaf, and are what the
            greedy tree goes by.
        prior: π of each node, (M,), not 0.
        classes: p(c | node), (M, C).
        noise: σ², not 0.

    Raises:
        InputError: if the arrays do not fit each other.
    """
    worth = noise * np.log(prior) - 0.5 * (templates**2).sum(1)
    above = np.maximum(parent, 0)
    rooted = np.arange(len(parent)) == 0
    return EvolutionaryTree(
        parent,
        np.where(rooted[:, None], templates, templates - templates[above]),
        np.where(rooted, worth, worth - worth[above]).astype(templates.dtype),
        prior,
        classes,
        noise,
    )


def from_leaves(parent: Array, mass: Array, templates: Array, classes: Array, noise: float) -> EvolutionaryTree:
    """The tree of these leaves: an inner node's template is the mean of its leaves', by their mass.

    That choice makes the increments as short as they can be: Σ mass · ‖α‖² is least.

    Args:
        parent: of each node, (M,), level by level.
        mass: of each leaf, positive, (L,); the prior is its share.
        templates: μ of each leaf, (L, D).
        classes: p(c | leaf), (L, C).
        noise: σ².
    """
    nodes = len(parent)
    leaves = np.setdiff1d(np.arange(nodes), parent)
    share = np.zeros(nodes)
    share[leaves] = mass / mass.sum()
    sums: list[Array] = [np.zeros((nodes, part.shape[1]), part.dtype) for part in (templates, classes)]
    for total, part in zip(sums, (templates, classes), strict=True):
        total[leaves] = part * share[leaves, None].astype(part.dtype)
    share = gathered(parent, share)
    means = [gathered(parent, total) / share[:, None].astype(total.dtype) for total in sums]
    for mean, part in zip(means, (templates, classes), strict=True):
        mean[leaves] = part
    return telescoped(parent, means[0], share, means[1], noise)


def gathered(parent: Array, values: Array) -> Array:
    """Sums from the leaves up: what each node has and all below it have together, (M, ...)."""
    total = values.copy()
    for node in range(len(total) - 1, 0, -1):
        total[parent[node]] += total[node]
    return total


def breadth_first(parent: Array) -> Array:
    """Nodes in the order that `EvolutionaryTree` numbers them in, (M,), of a tree in any order.

    Args:
        parent: of each node, (M,); -1 for the root.
    """
    children: list[list[int]] = [[] for _ in parent]
    for node, above in enumerate(parent):
        if above >= 0:
            children[above].append(node)
    order = [int(np.flatnonzero(parent < 0)[0])]
    for node in order:
        order += children[node]
    return np.array(order)


def pruned(tree: EvolutionaryTree, min_prior: float) -> EvolutionaryTree:
    """The tree without its rare leaves: pruning by the prior.

    From below: a rare leaf goes, and its siblings are left to explain its images. Where that would leave one leaf
    or none, the parent is a leaf in their place, with its own template, and may go in turn. An inner node that is
    left with one child gives way to it.

    Args:
        tree: an inner node's prior is the sum of its leaves'.
        min_prior: leaves below this share of images go, but for a root that is all there is.
    """
    alive = tree.prior >= min_prior
    leaf = tree.n_children == 0
    for node in np.flatnonzero(~leaf)[::-1].tolist():
        children = list(tree.children(node))
        if leaf[children].all() and alive[children].sum() < 2:
            leaf[node], alive[children] = True, False
        elif not leaf[children].all():
            alive[node] = True
    alive[0] = True
    branches = np.bincount(tree.parent[1:][alive[1:]], minlength=len(alive))
    return _kept(tree, np.flatnonzero(alive & (leaf | (branches > 1))))


def _kept(tree: EvolutionaryTree, nodes: Array) -> EvolutionaryTree:
    """The tree of some of the nodes, whose parents are the nearest above that are among them."""
    number = {node: i for i, node in enumerate(nodes.tolist())}
    above = np.full(len(nodes), -1)
    for node, i in number.items():
        over = [number[one] for one in tree.path(node)[:-1] if one in number]
        above[i] = over[-1] if over else -1
    order = breadth_first(above)
    position = np.empty(len(nodes), np.int64)
    position[order] = np.arange(len(nodes))
    parent = np.where(above[order] < 0, -1, position[above[order]])
    leaves = nodes[order][np.setdiff1d(np.arange(len(nodes)), parent)]
    return from_leaves(parent, tree.prior[leaves], tree.templates[leaves], tree.classes[leaves], tree.noise)


def _parts(x: Array) -> Iterator[Array]:
    """Chunks of images, one at least."""
    for start in range(0, max(1, len(x)), _CHUNK):
        yield x[start : start + _CHUNK]
