"""Digits that shift: rendering mixtures against Gaussian mixtures and k-means, in nats and in clusters.

MNIST's digits, each moved by up to 4 pixels either way, with the noise of a camera: without noise a pixel that is
always black has no density, and a variance of its own would make the likelihood as large as one pleases. All
models see the same 8-bit pictures, 4,000 to learn from and 1,000 held out; nats are densities of pixels in [0, 1].
Each Gaussian mixture is tried with several settings, and its best held-out figures are kept, which favours it: the
rendering mixture has one setting. Full and tied covariances are those of a Gaussian mixture in a basis of
principal directions, with one variance for all others.
"""

from __future__ import annotations

import itertools
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from drmm.data import load
from drmm.estimators.mixture import RenderingMixture
from drmm.learning.metrics import cluster_accuracy, name_clusters
from drmm.progress import track
from scripts.study import Results, mean_and_sd, study

REACH = 4
NOISE = 0.1  # standard deviation, of pixels in [0, 1]
COMPONENTS = (10, 30)
BASES, REGULARISER = (100, 200), 0.01

Array = np.ndarray[Any, Any]
Scores = dict[str, float]


@dataclass(frozen=True)
class Task:
    """Shifted digits, uint8 (N, 28, 28), and how many components to find in them."""

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    components: int
    seed: int

    def scores(self, train: Array, test: Array, nats: float | None, seconds: float) -> Scores:
        """Figures of clusters that were found: accuracies in percent on the held-out pictures."""
        majority = name_clusters(train, self.y_train)
        one_to_one = name_clusters(test, self.y_test, one_to_one=True)
        figures = {
            "majority": cluster_accuracy(test, self.y_test, majority),
            "one_to_one": cluster_accuracy(test, self.y_test, one_to_one),
            "seconds": seconds,
        }
        return figures if nats is None else {"nats": nats, **figures}


def make_task(components: int, seed: int) -> Task:
    """Draw shifts and noise."""
    data, rng = load("mnist-5k"), np.random.default_rng(seed)

    def moved(x: Array) -> Array:
        canvas = np.zeros((len(x), 28, 28))
        for i, (down, right) in enumerate(rng.integers(0, 2 * REACH + 1, (len(x), 2))):
            canvas[i] = np.pad(x[i, 0] / 255, REACH)[down : down + 28, right : right + 28]
        noisy = canvas + NOISE * rng.standard_normal(canvas.shape)
        return (255 * noisy.clip(0, 1)).round().astype(np.uint8)

    return Task(moved(data.x_train), data.y_train, moved(data.x_test), data.y_test, components, seed)


def rendering(task: Task, elements: int) -> Scores:
    """Fit a rendering mixture."""
    model = RenderingMixture(
        task.components, reach=REACH, elements=elements, max_iter=40, tol=1e-3, random_state=task.seed
    )
    start = time.perf_counter()
    train = model.fit_predict(task.x_train)
    seconds = time.perf_counter() - start
    nats = model.score(task.x_test) + task.x_test[0].size * np.log(255)  # of pixels in [0, 1], as the others' are
    return task.scores(train, model.predict(task.x_test), nats, seconds)


def k_means(task: Task) -> Scores:
    """Fit k-means, five times."""
    flat_train, flat_test = flat(task)
    model, start = KMeans(task.components, n_init=5, random_state=task.seed), time.perf_counter()
    train = model.fit_predict(flat_train)
    return task.scores(train, model.predict(flat_test), None, time.perf_counter() - start)


def gaussian(task: Task, kind: str) -> Scores:
    """The best held-out figures over all settings; the seconds of one fit."""
    tries = [fit_gaussian(task, kind, *setting) for setting in settings_of(kind)]
    best = {name: max(scores[name] for scores in tries) for name in ("nats", "majority", "one_to_one")}
    return {**best, "seconds": float(np.median([scores["seconds"] for scores in tries]))}


def settings_of(kind: str) -> Iterator[tuple[float, int | None]]:
    """Regularisers of the covariances and sizes of the basis."""
    if kind in {"spherical", "diag"}:
        yield from ((regulariser, None) for regulariser in (1e-6, 1e-3))
    else:
        yield from ((REGULARISER, basis) for basis in BASES)


def fit_gaussian(task: Task, kind: str, regulariser: float, basis: int | None) -> Scores:
    """One Gaussian mixture, in pixels or in principal directions."""
    train, test = flat(task)
    rest, start = 0.0, time.perf_counter()
    if basis is not None:
        directions = PCA(basis, random_state=task.seed).fit(train)
        left = [((x - directions.inverse_transform(directions.transform(x))) ** 2).sum(1) for x in (train, test)]
        free = train.shape[1] - basis
        variance = left[0].mean() / free
        rest = -0.5 * (left[1].mean() / variance + free * np.log(2 * np.pi * variance))
        train, test = directions.transform(train), directions.transform(test)
    model = GaussianMixture(
        task.components, covariance_type=kind, reg_covar=regulariser, max_iter=50, random_state=task.seed
    )
    clusters = model.fit_predict(train)
    seconds = time.perf_counter() - start
    return task.scores(clusters, model.predict(test), float(model.score(test) + rest), seconds)


def flat(task: Task) -> tuple[Array, Array]:
    """Pictures as vectors in [0, 1]."""
    return task.x_train.reshape(len(task.x_train), -1) / 255, task.x_test.reshape(len(task.x_test), -1) / 255


MODELS: dict[str, Callable[[Task], Scores]] = {
    "rendering": lambda task: rendering(task, 1),
    "rendering, 2 elements": lambda task: rendering(task, 2),
    "gaussian, spherical": lambda task: gaussian(task, "spherical"),
    "gaussian, diag": lambda task: gaussian(task, "diag"),
    "gaussian, tied": lambda task: gaussian(task, "tied"),
    "gaussian, full": lambda task: gaussian(task, "full"),
    "k-means": k_means,
}


def run(asked: Namespace) -> Results:
    """Fit everything; means and standard deviations over seeds."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    jobs = list(itertools.product(COMPONENTS, MODELS, range(asked.seeds)))
    runs: dict[tuple[int, str], list[Scores]] = {}
    for components, name, seed in track(jobs, "mixtures"):
        runs.setdefault((components, name), []).append(MODELS[name](make_task(components, seed)))
    tables: Results = {}
    for (components, name), scores in runs.items():
        row = {key: mean_and_sd([each[key] for each in scores]) for key in scores[0]}
        tables.setdefault(str(components), {})[name] = row
    return {"reach": REACH, "noise": NOISE, "components": tables}


def table(results: Results) -> str:
    """Mixtures of digits that shift, as Markdown."""
    keys = ("majority", "one_to_one", "nats", "seconds")
    rows = [
        "| method | clusters | by majority | one to one | nats per image | seconds |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for number, methods in results["components"].items():
        for name, row in methods.items():
            cells = [f"{row[key]['mean']:.1f} ± {row[key]['sd']:.1f}" if key in row else "–" for key in keys]
            rows.append(f"| {name} | {number} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    study(run, table, name="shifted_digits", target="shifted", seeds=5)
