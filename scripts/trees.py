"""Evolutionary trees and forests beside scikit-learn's: accuracy, size and time on digits and MNIST.

Sizes and epochs were looked for with `--validate`, which learns from five sixths of the training images and scores
on the rest, and kept to what ten minutes allow; without it the test set is read, once for each seed. Times are of
one core: fits one after the other, predictions interleaved, the median of several rounds over the whole test set.
"""

from __future__ import annotations

import copy
import pickle
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from drmm import EvolutionaryClassifier
from drmm.data import Dataset, holdout, load
from drmm.progress import track
from scripts.study import Results, mean_and_sd, study

SETS = ("digits", "mnist-5k", "mnist")
ROUNDS = 7  # of predictions, of which the median is taken

Array = np.ndarray[Any, Any]
Figures = dict[str, float]


@dataclass(frozen=True)
class Size:
    """How large evolutionary trees are, and how long they learn."""

    leaves: int
    epochs: int
    em_iterations: int
    trees: int
    forest_leaves: int
    forest_epochs: int


SIZES = {
    "digits": Size(leaves=100, epochs=20, em_iterations=20, trees=10, forest_leaves=60, forest_epochs=20),
    "mnist-5k": Size(leaves=150, epochs=20, em_iterations=20, trees=10, forest_leaves=60, forest_epochs=10),
    "mnist": Size(leaves=300, epochs=5, em_iterations=4, trees=5, forest_leaves=150, forest_epochs=3),
}


@dataclass(frozen=True)
class Fitted:
    """One classifier after `fit`, or one way to infer with it."""

    name: str
    model: Any
    x_test: Array
    seconds: float

    def predict(self) -> Array:
        """Labels of the test images."""
        return np.asarray(self.model.predict(self.x_test))

    def sizes(self) -> Figures:
        """Leaves and nodes of all trees together, and bytes of the pickle."""
        model = self.model
        if isinstance(model, EvolutionaryClassifier):
            leaves, nodes = model.n_leaves_, model.n_nodes_
        else:
            trees = [tree.tree_ for tree in getattr(model, "estimators_", [model])]
            leaves, nodes = sum(tree.n_leaves for tree in trees), sum(tree.node_count for tree in trees)
        return {"leaves": leaves, "nodes": nodes, "bytes": len(pickle.dumps(model))}


def classifiers(size: Size, seed: int) -> Iterator[tuple[str, Any]]:
    """Everything that is compared, unfitted."""
    yield "decision tree", DecisionTreeClassifier(random_state=seed)
    yield "decision tree, as many leaves", DecisionTreeClassifier(max_leaf_nodes=size.leaves, random_state=seed)
    yield "random forest, 100 trees", RandomForestClassifier(100, random_state=seed)
    yield "evolutionary tree, em", EvolutionaryClassifier(size.leaves, learning="em", random_state=seed)
    ours = EvolutionaryClassifier(size.leaves, max_iter=size.em_iterations, epochs=size.epochs, random_state=seed)
    yield "evolutionary tree", ours
    forest = clone(ours).set_params(n_trees=size.trees, max_leaves=size.forest_leaves, epochs=size.forest_epochs)
    yield f"evolutionary forest, {size.trees} trees", forest


def fitted(data: Dataset, size: Size, seed: int) -> Iterator[Fitted]:
    """Fit everything, on the same images: pictures for us, vectors for scikit-learn."""
    for name, model in classifiers(size, seed):
        ours = isinstance(model, EvolutionaryClassifier)
        x_train, x_test = (x if ours else x.reshape(len(x), -1) for x in (data.x_train, data.x_test))
        start = time.perf_counter()
        model.fit(x_train, data.y_train)
        seconds = time.perf_counter() - start
        if not ours:
            yield Fitted(name, model, x_test, seconds)
            continue
        for inference in ("exact", "greedy"):
            way = copy.copy(model).set_params(inference=inference)
            yield Fitted(f"{name}, {inference}", way, x_test, seconds)


def measure(data: Dataset, size: Size, seed: int) -> dict[str, Figures]:
    """Figures of everything for one seed."""
    models = list(fitted(data, size, seed))
    times = {one.name: list[float]() for one in models}
    figures: dict[str, Figures] = {}
    for _ in range(ROUNDS):
        for one in models:
            start = time.perf_counter()
            labels = one.predict()
            times[one.name].append(time.perf_counter() - start)
            figures[one.name] = {"accuracy": 100 * float((labels == data.y_test).mean())}
    for one in models:
        microseconds = 1e6 * float(np.median(times[one.name])) / len(one.x_test)
        figures[one.name] |= {**one.sizes(), "fit_seconds": one.seconds, "microseconds": microseconds}
        if isinstance(one.model, EvolutionaryClassifier):
            figures[one.name]["agreement"] = 100 * one.model.agreement(one.x_test)
    return figures


def validation(data: Dataset) -> Dataset:
    """A sixth of the training images in place of the test set."""
    held = holdout(data.y_train, len(data.y_train) // 6, seed=0)
    rest = np.setdiff1d(np.arange(len(data.y_train)), held)
    x, y = data.x_train, data.y_train
    return Dataset(data.name, x[rest], y[rest], x[held], y[held], data.classes)


def summary(runs: list[Figures]) -> Results:
    """Mean and standard deviation of the shares in percent over seeds; medians of sizes and times."""
    rows: Results = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        middle = float(np.median(values))
        whole = name in {"leaves", "nodes", "bytes"}
        shares = name in {"accuracy", "agreement"}
        rows[name] = mean_and_sd(values) if shares else int(middle) if whole else round(middle, 2)
    return rows


def run(asked: Namespace) -> Results:
    """Fit and measure on every data set."""
    change: Callable[[Dataset], Dataset] = validation if asked.validate else lambda data: data
    tables = {}
    for name in asked.sets:
        data = change(load(name, data_dir=asked.data_dir))
        runs = [measure(data, SIZES[name], seed) for seed in track(range(asked.seeds), name)]
        methods = {method: summary([run[method] for run in runs]) for method in runs[0]}
        images = {"train": len(data.x_train), "test": len(data.x_test)}
        tables[name] = {"images": images, "methods": methods}
    return {"threads": 1, "sklearn": sklearn.__version__, "sets": tables}


def table(results: Results) -> str:
    """Trees and forests on each data set, as Markdown."""
    rows = [
        "| data | method | accuracy (%) | leaves | pickled (kB) | µs per prediction | seconds to fit |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for data, part in results["sets"].items():
        for name, row in part["methods"].items():
            accuracy = f"{row['accuracy']['mean']:.2f} ± {row['accuracy']['sd']:.2f}"
            rows.append(
                f"| {data} | {name} | {accuracy} | {row['leaves']:,} | {row['bytes'] / 1000:,.0f} | "
                f"{row['microseconds']:.1f} | {row['fit_seconds']:.1f} |"
            )
    return "\n".join(rows)


OPTIONS = {
    "--sets": {"nargs": "+", "choices": SETS, "default": SETS},
    "--validate": {"action": "store_true", "help": "score on a sixth of the training images instead"},
}

if __name__ == "__main__":
    study(run, table, name="trees", target="trees", options=OPTIONS)
