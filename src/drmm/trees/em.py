"""Hard EM: the best leaf of every image, then templates, priors and classes in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drmm.errors import RunError
from drmm.learning.em.loop import Learner
from drmm.trees.growth import Examples
from drmm.trees.tree import EvolutionaryTree, from_leaves, gathered, pruned

__all__ = ["TreeLearner"]

Array = npt.NDArray[Any]

_CHUNK = 4096  # images whose leaves' scores are held at a time
_FLOOR = 1e-4  # σ² is at least this share of the pixels' variance


class TreeLearner(Learner):
    """A tree, its images, and the leaf of each.

    The objective is the complete-data log-joint per image in nats, with the label's weight λ:
    log π_leaf + λ log p(y | leaf) + log N(I; μ_leaf, σ² 1), without the middle term where an image has no label;
    and the log-prior that smoothing is, which keeps π and p(c | leaf) from 0. Neither step lowers it.

    The E-step compares all leaves' scores, which is what max-sum finds (law T14): where no two nodes share their
    increments, the leaves' own templates are fewer dot products.

    Args:
        data: images and labels.
        parent: of each node, (M,), level by level.
        leaf: node of each image, (N,), to begin with.

    Attributes:
        tree: as the last M-step left it.
        leaf: of each image, from the last E-step.
    """

    def __init__(self, data: Examples, parent: Array, leaf: Array) -> None:
        self._data, self._shares = data, data.shares
        self._least = max(_FLOOR * float(data.x.var(0).mean()), 1e-12)
        leaves = np.setdiff1d(np.arange(len(parent)), parent)
        templates = np.zeros((len(leaves), data.x.shape[1]), data.x.dtype)
        classes = np.broadcast_to(self._shares, (len(leaves), data.n_classes))
        self.tree = from_leaves(parent, np.ones(len(leaves)), templates, classes, self._least)
        self.leaf = leaf.copy()
        self.m_step()

    def e_step(self) -> float:
        """Max-sum over the leaves, given the label where there is one."""
        data, tree, leaves = self._data, self.tree, self.tree.leaves
        log_classes = np.log(tree.classes[leaves])
        total = 0.0
        for start in range(0, len(data.x), _CHUNK):
            x, y = data.x[start : start + _CHUNK], data.y[start : start + _CHUNK]
            scores = tree.leaf_scores(x).astype(float) / tree.noise
            scores[y >= 0] += data.label_weight * log_classes.T[y[y >= 0]]
            best = scores.argmax(1)
            self.leaf[start : start + _CHUNK] = leaves[best]
            total += float(scores[np.arange(len(x)), best].sum())
            total -= 0.5 * float((x.astype(float) ** 2).sum()) / tree.noise
        seen = data.label_weight * data.smoothing * float((log_classes @ self._shares).sum())
        seen += float(np.log(tree.prior[leaves]).sum())
        return float((total + seen) / len(data.x) - 0.5 * data.x.shape[1] * np.log(2 * np.pi * tree.noise))

    def m_step(self) -> None:
        """Means, shares and the noise; a leaf that nothing chose keeps its template."""
        data, tree, leaves = self._data, self.tree, self.tree.leaves
        number = np.searchsorted(leaves, self.leaf)
        counts, means = data.group_means(number, len(leaves))
        templates = np.where(counts[:, None] > 0, means, tree.templates[leaves])
        squares = sum(
            float(((data.x[i : i + _CHUNK] - templates[number[i : i + _CHUNK]]) ** 2).sum(dtype=float))
            for i in range(0, len(data.x), _CHUNK)
        )
        noise = max(squares / data.x.size, self._least)
        classes = data.class_shares(number, len(leaves))
        self.tree = from_leaves(tree.parent, counts + 1.0, templates, classes, noise)

    def prune(self, min_prior: float) -> None:
        """Drop the leaves that nothing chose, or fewer than this share of the images; fit the others anew."""
        share = np.bincount(self.leaf, minlength=len(self.tree.parent)) / len(self.leaf)
        share = gathered(self.tree.parent, share)
        self.tree = pruned(replace(self.tree, prior=share), max(min_prior, 0.5 / len(self._data.x)))
        self.e_step()
        self.m_step()
        self.tree = replace(self.tree, classes=self._inherited())

    def _inherited(self) -> Array:
        """p(c | node) of all nodes, (M, C), where what smoothing adds has the classes of the node's parent.

        A leaf that no labelled image chose is then like its nearest relatives.
        """
        tree = self.tree
        counts = gathered(tree.parent, self._data.class_counts(self.leaf, len(tree.parent)))
        classes = np.empty_like(counts)
        for node, above in enumerate(tree.parent):
            seen = counts[node] + self._data.smoothing * (self._shares if above < 0 else classes[above])
            classes[node] = seen / seen.sum()
        return classes

    def state(self) -> dict[str, Tensor]:
        """The tree, and the leaf of each image: the next M-step fits to them."""
        return {**self.tree.state(), "leaf": torch.from_numpy(self.leaf.copy())}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a tree and the leaves of its images."""
        tree, leaf = EvolutionaryTree.of_state(state), state.get("leaf")
        fits = tree.increments.shape[1:] == self._data.x.shape[1:]
        if leaf is None or not fits or leaf.shape != self.leaf.shape:
            raise RunError("the state is of another tree or other images: remove it and train again")
        self.tree, self.leaf = tree, leaf.numpy().copy()
