"""The evolutionary model in scikit-learn's conventions: oblique decision trees, and forests of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import VotingClassifier
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from drmm.data.labels import check_labels
from drmm.errors import InputError
from drmm.estimators.base import ImageEstimator, seed_of
from drmm.estimators.few_labels import FewLabelsMixin
from drmm.estimators.options import NOT_NEGATIVE, POSITIVE, SHARE, StrOptions, check_options, whole
from drmm.files import expanded, write_bytes
from drmm.learning.em.loop import Trace, run_em
from drmm.progress import track
from drmm.trees.discriminative import Relaxation, relaxed
from drmm.trees.em import TreeLearner
from drmm.trees.export_sklearn import Units, as_pipeline, as_vote
from drmm.trees.export_text import as_dot, as_text, shown_nodes, write_pictures
from drmm.trees.forest import Forest, Inference
from drmm.trees.growth import Examples, Shape, grow
from drmm.trees.tree import EvolutionaryTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EvolutionaryClassifier"]

Array = npt.NDArray[Any]

# Of pixels, whose neighbours tell the same; a vector's numbers may each be the only one of its kind.
_MISSING = 0.25

TreeLearning = Literal["em", "discriminative"]


class EvolutionaryClassifier(FewLabelsMixin, ImageEstimator):
    """Decision trees and forests whose nodes are pictures: inference in the evolutionary DRMM.

    Every node has a template, the sum of the increments from the root down; a leaf has class probabilities. Two
    inferences share these parameters. "exact" is max-sum: messages go from the leaves up, and the traceback leads
    down to the best of all leaves. It is exact for the score ⟨μ_leaf, I⟩ + bias, which after learning by EM is the
    Gaussian log-joint log p(I, leaf) as well. "greedy" is its relaxation, the decision tree of the slides: at each
    node the child whose own template fits best. It takes few filters for an image, and can be exported.

    Trees are grown by splits, refined as a whole by hard EM, pruned by the prior, and then, if learning is
    "discriminative", trained on log p(y | I) of both inferences. Increments belong to one node each: to share
    those of a level would make greedy inference exact, but not for the Gaussian, in which increments interact.
    Source: slide "Inference in the Evolutionary DRMM yields Decision Trees".

    X is (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or float, or 2-D with `image_shape`. Two-dimensional X
    without `image_shape` is taken as vectors of any scale, and standardised.

    Args:
        max_leaves: leaves of a tree at the most.
        max_depth: steps from the root at the most; None is as many as it takes.
        branching: children of an inner node.
        n_trees: more than one make a forest, each learnt from a bootstrap sample of the images.
        inference: "exact" or "greedy". It can be changed after `fit`.
        learning: "discriminative" (the most accurate) or "em" (templates are mean images, and unlabelled images
            count for as much as labelled ones).
        label_weight: how often a label counts in growing and EM, where each of D pixels counts once; 1 is the
            likelihood; None is D / 50, and 1 at the least.
        smoothing: images that each leaf is taken to have seen beforehand, of all classes.
        min_prior: leaves that hold less than this share of the images after EM are pruned; their
            parent becomes a leaf if it has no other children.
        max_iter: EM iterations at the most.
        tol: EM stops when its objective gains less than this share of its absolute value.
        epochs: passes over the labelled images in discriminative learning.
        min_steps: steps in it at the least, however few the images.
        batch_size: images of a step.
        learning_rate: of the increments.
        missing: share of pixels that are missing at random in a step, as in dropout; None is a quarter for
            pictures, and none for vectors.
        image_shape: (H, W), (C, H, W) or (H, W, C) of one image, to unflatten 2-D X with.
        pixel_range: values of black and white in X; uint8 is always 0 to 255.
        random_state: seed.
        verbose: 1 shows progress bars.

    Attributes:
        classes_: labels of the classes, (C,).
        model_: the fitted `Forest`; `model_.trees` are its `EvolutionaryTree`s.
        n_leaves_: leaves of all trees together.
        n_nodes_: nodes of all trees together.
        depth_: steps from the root to the deepest leaf of any tree.
        traces_: what EM did, for each tree: the objective in nats per image after each iteration.
        n_images_: images that it was learnt from.
        learning_: how: what the templates are.
        n_iter_: EM iterations of the tree that took the most.
        image_shape_: (C, H, W) that the model works on.
        n_features_in_: numbers in one image.
    """

    model_: Forest
    _parameter_constraints: ClassVar[dict[str, list[object]]] = {
        "max_leaves": [whole(1)],
        "max_depth": [whole(0), None],
        "branching": [whole(2)],
        "n_trees": [whole(1)],
        "inference": [StrOptions(set(get_args(Inference)))],
        "learning": [StrOptions(set(get_args(TreeLearning)))],
        "label_weight": [NOT_NEGATIVE, None],
        "smoothing": [POSITIVE],
        "min_prior": [SHARE],
        "max_iter": [whole(1)],
        "tol": [NOT_NEGATIVE],
        "epochs": [whole(0)],
        "min_steps": [whole(1)],
        "batch_size": [whole(1)],
        "learning_rate": [POSITIVE],
        "missing": [SHARE, None],
        "image_shape": ["array-like", None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        max_leaves: int = 100,
        *,
        max_depth: int | None = None,
        branching: int = 2,
        n_trees: int = 1,
        inference: Inference = "exact",
        learning: TreeLearning = "discriminative",
        label_weight: float | None = None,
        smoothing: float = 1.0,
        min_prior: float = 0.0,
        max_iter: int = 20,
        tol: float = 1e-3,
        epochs: int = 10,
        min_steps: int = 1000,
        batch_size: int = 128,
        learning_rate: float = 3e-3,
        missing: float | None = None,
        image_shape: tuple[int, ...] | None = None,
        pixel_range: tuple[float, float] = (0.0, 1.0),
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.max_leaves = max_leaves
        self.max_depth = max_depth
        self.branching = branching
        self.n_trees = n_trees
        self.inference = inference
        self.learning = learning
        self.label_weight = label_weight
        self.smoothing = smoothing
        self.min_prior = min_prior
        self.max_iter = max_iter
        self.tol = tol
        self.epochs = epochs
        self.min_steps = min_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.missing = missing
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: object, y: object) -> Self:
        """Learn from images.

        Args:
            X: images.
            y: labels (N,); -1 means unlabelled.

        Raises:
            InputError: images, labels or options that cannot be used; the message says what to do.
        """
        check_options(self._parameter_constraints, self.get_params(deep=False), type(self).__name__)
        x = self._images(X, fitting=True).flatten(1).numpy()
        self.classes_, codes = check_labels(y, len(x))
        weight = max(1.0, x.shape[1] / 50) if self.label_weight is None else float(self.label_weight)
        data = Examples(x, codes, len(self.classes_), weight, float(self.smoothing))
        seeds = np.random.default_rng(seed_of(self.random_state)).integers(2**31, size=int(self.n_trees)).tolist()
        shown = track(seeds, "trees") if self.verbose > 0 and self.n_trees > 1 else seeds
        fitted = [self._tree(data, np.random.default_rng(seed)) for seed in shown]
        self.model_ = Forest(tuple(tree for tree, _ in fitted))
        self.traces_ = tuple(trace for _, trace in fitted)
        self.n_iter_ = max(len(trace.objective) for trace in self.traces_)
        trees = self.model_.trees
        self.n_leaves_ = sum(len(tree.leaves) for tree in trees)
        self.n_nodes_ = sum(len(tree.parent) for tree in trees)
        self.depth_ = max(tree.depth for tree in trees)
        self.n_images_, self.learning_ = len(x), self.learning
        return self

    def predict(self, X: object) -> Array:
        """Labels (N,) of images: always one of `classes_`, never -1."""
        probabilities = self.predict_proba(X)
        return np.asarray(self.classes_[probabilities.argmax(1)])

    def predict_proba(self, X: object) -> Array:
        """p(c | leaf) of the leaf that inference finds, the mean over trees, (N, C)."""
        leaves = self.apply(X)
        return self.model_.posterior(leaves)

    def predict_log_proba(self, X: object) -> Array:
        """Log p(c | leaf), (N, C): the logarithm of `predict_proba`, which smoothing keeps above 0."""
        return np.asarray(np.log(self.predict_proba(X)))

    def apply(self, X: object) -> Array:
        """The leaf that each tree finds for each image, (N, T): numbers of nodes."""
        check_is_fitted(self)
        check_options(self._parameter_constraints, {"inference": self.inference}, type(self).__name__)
        return self.model_.leaves(self._images(X).flatten(1).numpy(), self.inference)

    def agreement(self, X: object) -> float:
        """Share of images, over all trees, for which greedy inference finds the best leaf."""
        check_is_fitted(self)
        x = self._images(X).flatten(1).numpy()
        return float((self.model_.leaves(x, "exact") == self.model_.leaves(x, "greedy")).mean())

    def templates(self, tree: int | None = None) -> Array:
        """Templates of a tree's nodes, (M, ...), in the layout of X.

        After EM they are mean pictures, which come in the type of X. After discriminative learning they are
        filters: numbers in the units of X, which may lie beyond black and white.

        Args:
            tree: which, of a forest.

        Raises:
            InputError: if there is no such tree, or there are several and none is chosen.
        """
        templates = torch.from_numpy(self._pictures(self._chosen(tree), None))
        return self._layout(templates) if self.learning_ == "em" else self._in_units(templates)

    def to_sklearn(self, tree: int | None = None) -> Pipeline | VotingClassifier:
        """Scikit-learn's own classes: for a tree a pipeline of a linear map and a `DecisionTreeClassifier`.

        It finds the greedy tree's leaves, with the same class probabilities; it can differ only where two siblings
        are within rounding of each other. It takes X as `fit` did, or flattened, and numbers that mean the same as
        in `fit`: 0 to 255 if that saw uint8. It can be pickled, and used where drmm is not installed. A forest is
        a `VotingClassifier` of such pipelines.

        Args:
            tree: which, of a forest; None is all of it.

        Raises:
            InputError: if there is no such tree.
        """
        check_is_fitted(self)
        mean, scale = self._units()
        units = Units(mean, scale, np.argsort(self._order))
        trees = self.model_.trees if tree is None else (self._chosen(tree),)
        pipelines = [as_pipeline(one, self.classes_, units, self.n_images_) for one in trees]
        return pipelines[0] if len(pipelines) == 1 else as_vote(pipelines, self.classes_)

    def export_text(self, tree: int | None = None, *, max_depth: int | None = None) -> str:
        """A line for each node: its number, its share of the images, its likeliest classes.

        Args:
            tree: which, of a forest.
            max_depth: levels below the root to show; None is all.

        Raises:
            InputError: if there is no such tree or level, or there are several trees and none is chosen.
        """
        return as_text(self._chosen(tree), self._names(), max_depth)

    def export_graphviz(
        self,
        folder: str | Path | None = None,
        tree: int | None = None,
        *,
        max_depth: int | None = None,
        images: object = None,
    ) -> str:
        """The tree in Graphviz's language, with each node's template as its picture.

        Args:
            folder: where `tree.dot` and the pictures go; run `dot -Tsvg tree.dot` there. None writes nothing, and
                leaves the pictures out.
            tree: which, of a forest.
            max_depth: levels below the root to show; None is all.
            images: show each node the mean of those images that reach it, in place of its template.

        Returns:
            DOT text.

        Raises:
            InputError: if there is no such tree or level, several and none is chosen, or templates are vectors
                and `folder` is given.
            RunError: if a file cannot be written.
        """
        chosen = self._chosen(tree)
        if folder is None:
            return as_dot(chosen, self._names(), max_depth)
        if self.mean_ is not None:
            raise InputError("templates of vectors are no pictures: pass folder=None, or image_shape to fit")
        directory, shown = expanded(folder), shown_nodes(chosen, max_depth)
        files = write_pictures(self._pictures(chosen, images), shown, directory)
        text = as_dot(chosen, self._names(), max_depth, files)
        write_bytes(directory / "tree.dot", text.encode())
        return text

    def plot_tree(self, tree: int | None = None, *, max_depth: int | None = 4, images: object = None) -> Figure:
        """The upper levels of a tree as a picture, templates in its nodes.

        Args:
            tree: which, of a forest.
            max_depth: levels below the root to show; None is all.
            images: show each node the mean of those images that reach it, in place of its template. After
                discriminative learning templates are filters, red where they are positive and blue where negative.

        Returns:
            A matplotlib figure: `figure.savefig("tree.png")` writes it.

        Raises:
            InputError: if there is no such tree or level, or there are several trees and none is chosen.
        """
        # Matplotlib takes a third of a second to import, and only pictures need it.
        from drmm.trees.plot import draw_tree  # noqa: PLC0415

        chosen = self._chosen(tree)
        return draw_tree(chosen, self._pictures(chosen, images), self._names(), max_depth)

    def _tree(self, data: Examples, rng: np.random.Generator) -> tuple[EvolutionaryTree, Trace]:
        """Grow a tree, refine it by hard EM, prune it, and relax it."""
        if self.n_trees > 1:
            data = data.part(_bootstrap(data.y, rng))
        progress = self.verbose > 0 and self.n_trees == 1
        parent, leaf = grow(data, Shape(self.max_leaves, self.max_depth, self.branching), rng)
        learner = TreeLearner(data, parent, leaf)
        trace = run_em(learner, max_iter=self.max_iter, tolerance=self.tol, progress=progress)
        learner.prune(self.min_prior)
        if self.learning == "em":
            return learner.tree, trace
        missing = (_MISSING if self.mean_ is None else 0.0) if self.missing is None else self.missing
        how = Relaxation(self.epochs, self.min_steps, self.batch_size, self.learning_rate, missing)
        return relaxed(learner.tree, data, how, rng, progress=progress), trace

    def _chosen(self, tree: int | None) -> EvolutionaryTree:
        check_is_fitted(self)
        trees = self.model_.trees
        if tree is None and len(trees) > 1:
            raise InputError(f"a forest has no single tree: say which, tree=0 to {len(trees) - 1}")
        if tree is not None and tree not in range(len(trees)):
            raise InputError(f"there is no tree {tree}: there are {len(trees)}, the first is 0")
        return trees[tree or 0]

    def _names(self) -> list[str]:
        return [str(name) for name in self.classes_]

    def _pictures(self, tree: EvolutionaryTree, images: object) -> Array:
        """Templates of the nodes, or mean images, as the model sees them: (M, C, H, W)."""
        pictures = tree.templates
        if images is not None:
            x = self._images(images).flatten(1).numpy()
            pictures = tree.means(x, Forest((tree,)).leaves(x, self.inference)[:, 0])
        return pictures.reshape(-1, *self.image_shape_)

    def _rebuilt(self, weights: dict[str, Tensor]) -> Forest:
        return Forest.of_state(weights)


def _bootstrap(y: Array, rng: np.random.Generator) -> Array:
    """As many images as there are, drawn with replacement; labelled and unlabelled ones keep their numbers."""
    parts = [np.flatnonzero(known) for known in (y >= 0, y < 0)]
    return np.concatenate([rng.choice(part, len(part)) for part in parts if len(part)])
