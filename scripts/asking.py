"""How many labels does it take, by what is asked for? `make asking DATA=folder with CIFAR-10`.

Labelling is simulated, ten labels at a time, on handwritten digits (8 x 8), on MNIST's 5,000 that come by pip, and
on photographs (5,000 of CIFAR-10 as JPEG, by features of ImageNet's EfficientNet-Lite0). All rules see the same
points and the same classifier, those of `drmm label`; the error is of pictures that nobody asks for. Beside what
`drmm label` asks, every tenth at random, there are random labels and published rules, which begin with ten random
ones: the smallest margin (Scheffer et al., 2001), the largest entropy, the core-set (k-centre greedy; Sener and
Savarese, 2018) and BADGE (Ash et al., 2020). What decides nothing here was chosen on other draws. Resumable.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from drmm.data import load
from drmm.labelling.answering import learned
from drmm.labelling.asking import EVERY, chance, geometry, most_worth, weights_of
from drmm.labelling.features import untaught
from drmm.learning.features import features_of
from drmm.progress import track
from scripts.photographs import Task, draw, enlarged, pretrained
from scripts.study import Results, difference, kept, study

Array = np.ndarray[Any, Any]
Rule = Callable[
    ["Pool", Array, int, int], list[int]
]  # what is known, labels (N,), how many, seed: whom to ask for

AT_ONCE, MOST = 10, 100
PHOTOGRAPHS, SIDE, PICTURES = "photographs", 112, 5000
SETS = ("digits", "mnist-5k", PHOTOGRAPHS)
FIRST = 500  # pictures that points are made by, drawn at random


class Pool(NamedTuple):
    """Pictures to label, N, then those to test with: points (N + M, D) and classes (N + M,)."""

    points: Array
    y: Array
    n: int


def pool_of(name: str, data_dir: Path | None) -> Pool:
    """A set, as `drmm label` sees it."""
    if name == PHOTOGRAPHS:
        drawn = draw(load("cifar10", data_dir=data_dir), Task((), PICTURES, PICTURES), 0)  # all with their labels
        x, y = enlarged(np.concatenate([drawn.x, drawn.x_test]), SIDE), np.concatenate([drawn.y, drawn.y_test])
        n, levels = len(drawn.x), pretrained(SIDE, 2, 0).levels
    else:
        data = load(name)
        x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
        n = len(data.x_train)
        levels = untaught(torch.from_numpy(x[first_of(n)]))
    features = features_of(levels, torch.from_numpy(x)).numpy()
    return Pool(geometry(features[first_of(n)]).transform(features), y, n)


def first_of(n: int) -> Array:
    """The first pictures that `drmm label` looks at."""
    return np.random.default_rng(0).permutation(n)[:FIRST]


def posterior(pool: Pool, known: Array) -> tuple[Array, Array]:
    """Calibrated probability of the classes that have a label, (N + M, C), and these."""
    classes, y = np.unique(pool.y[known], return_inverse=True)
    told = np.full(len(pool.y), -1)
    told[known] = y
    return learned(pool.points, told).probability, classes


def error(pool: Pool, known: Array) -> float:
    """In percent, of the pictures to test with."""
    probability, classes = posterior(pool, known)
    return 100 * float((classes[probability.argmax(1)] != pool.y)[pool.n :].mean())


# --- whom to ask for -------------------------------------------------------------------------------------


def ours(pool: Pool, known: Array, n: int, seed: int) -> list[int]:
    """As `drmm label` asks, with its random tenth, which the model does not learn until all labels are there."""
    draws = np.array([chance(str(i), seed) for i in range(pool.n)])
    reserved = draws < 1 / EVERY
    learnt = known[~reserved[known]]
    may = ~reserved
    may[known] = False
    weight = np.ones(pool.n)
    if len(np.unique(pool.y[learnt])) > 1:
        probability, classes = posterior(pool, learnt)
        weight = weights_of(probability[: pool.n], (pool.y[learnt][:, None] == classes).sum(0))
    waiting = np.setdiff1d(np.flatnonzero(reserved), known)
    by_chance = waiting[draws[waiting].argsort()][: n // EVERY].tolist()
    chosen = most_worth(pool.points[: pool.n], weight, learnt, may, n - len(by_chance), seed=seed + len(known))
    return chosen + by_chance


def at_random(pool: Pool, known: Array, n: int, seed: int) -> list[int]:
    """Drawn at random."""
    order = np.random.default_rng(seed).permutation(pool.n)
    return order[~np.isin(order, known)][:n].tolist()


def by_score(score: Callable[[Array], Array], pool: Pool, known: Array, n: int, seed: int) -> list[int]:
    """The largest of a score of the posterior."""
    del seed
    found = score(posterior(pool, known)[0][: pool.n])
    found[known] = -np.inf
    return np.argsort(-found, kind="stable")[:n].tolist()


def margin(p: Array) -> Array:
    """How little the best class leads, (N,)."""
    ordered = np.sort(p, 1)
    return np.asarray(ordered[:, -2] - ordered[:, -1])


def entropy(p: Array) -> Array:
    """In nats, (N,)."""
    return np.asarray(-(p * np.log(p.clip(1e-12))).sum(1))


def core_set(pool: Pool, known: Array, n: int, seed: int) -> list[int]:
    """Each time the picture that is farthest from all that have a label."""
    del seed
    x, chosen = pool.points[: pool.n], list[int]()
    far = (2 - 2 * x @ x[known].T).min(1)
    for _ in range(n):
        chosen.append(int(far.argmax()))
        far = np.minimum(far, 2 - 2 * x @ x[chosen[-1]])
    return chosen


def badge(pool: Pool, known: Array, n: int, seed: int) -> list[int]:
    """By k-means++ among the gradients of the last layer, as the model's own answers would make them."""
    p, _ = posterior(pool, known)
    generator, p = np.random.default_rng(seed), p[: pool.n]
    slope = p - np.eye(p.shape[1])[p.argmax(1)]
    x = (slope[:, :, None] * pool.points[: pool.n, None, :]).reshape(pool.n, -1).astype(np.float32)
    square = np.square(x).sum(1)
    square[known] = 0
    chosen = [int(square.argmax())]
    far = np.full(pool.n, np.inf)
    while len(chosen) < n:
        far = np.minimum(far, np.square(x - x[chosen[-1]]).sum(1))
        far[known] = 0
        far[chosen] = 0
        chosen.append(int(generator.choice(pool.n, p=far / far.sum())))
    return chosen


OURS, RANDOM = "`drmm label`", "random"
RULES: dict[str, Rule] = {
    OURS: ours,
    RANDOM: at_random,
    "margin": partial(by_score, margin),
    "entropy": partial(by_score, entropy),
    "core-set": core_set,
    "BADGE": badge,
}


def curve(pool: Pool, rule: str, seed: int) -> Results:
    """Error by the number of labels."""
    known, errors = np.zeros(0, np.int64), list[float]()
    while len(known) < MOST:
        first = RULES[rule] if rule == OURS or len(known) else at_random
        known = np.append(known, first(pool, known, AT_ONCE, seed)).astype(np.int64)
        errors.append(round(error(pool, known), 2))
    return {"errors": errors}


def run(asked: Namespace) -> Results:
    """Every set, every draw, every rule that is not there yet."""
    cells: Results = {name: {rule: [] for rule in RULES} for name in asked.sets}
    pools: dict[str, Pool] = {}
    for name, seed, rule in track(list(product(asked.sets, range(asked.seeds), RULES)), "curves"):
        file = asked.out / "asking" / f"{name}-{seed}-{rule.strip('`').replace(' ', '_')}.json"

        def make(name: str = name, rule: str = rule, seed: int = seed) -> Results:
            if name not in pools:
                pools[name] = pool_of(name, asked.data_dir)
            return curve(pools[name], rule, seed)

        cells[name][rule].append(kept(file, make)["errors"])
    return {"labels": list(range(AT_ONCE, MOST + 1, AT_ONCE)), "sets": cells}


def needed(labels: list[int], errors: Array, target: float) -> float | None:
    """How many labels the mean curve takes down to an error, between two numbers in proportion."""
    below = np.flatnonzero(np.round(errors, 6) <= round(target, 6))
    if not len(below):
        return None
    i = int(below[0])
    if i == 0:
        return labels[0]
    share = (errors[i - 1] - target) / (errors[i - 1] - errors[i])
    return float(labels[i - 1] + share * (labels[i] - labels[i - 1]))


def table(results: Results) -> str:
    """Labels for the error of 100 random ones; errors with 50 and 100; the latter less that of random ones."""
    labels = results["labels"]
    lines = ["| set | rule | labels needed | 50 labels | 100 labels | less random |", "|---|---|--:|--:|--:|--:|"]
    for name, rules in results["sets"].items():
        target = float(np.mean(rules[RANDOM], 0)[-1])
        by_draw = {rule: dict(enumerate(errors[-1] for errors in curves)) for rule, curves in rules.items()}
        for rule, curves in rules.items():
            means = np.mean(curves, 0)
            n = needed(labels, means, target)
            shown = f"more than {labels[-1]}" if n is None else f"{n:.0f}"
            less = difference(by_draw[rule], by_draw[RANDOM])
            at = f"{means[labels.index(50)]:.1f} | {means[-1]:.1f}"
            lines.append(f"| {name} | {rule} | {shown} | {at} | {less} |")
    return "\n".join(lines)


def figure(results: Results) -> Figure:
    """Mean curves, a panel a set."""
    sets = results["sets"]
    shown = Figure(figsize=(3.6 * len(sets), 3.2), layout="constrained")
    for panel, (name, rules) in zip(shown.subplots(1, len(sets), squeeze=False)[0], sets.items(), strict=True):
        for rule, curves in rules.items():
            width = 2.5 if rule == OURS else 1.2
            panel.plot(results["labels"], np.mean(curves, 0), label=rule.strip("`"), linewidth=width)
        panel.set(title=name, xlabel="labels", ylabel="test error in %", yscale="log")
        low, high = panel.get_ylim()  # of its own errors, whatever the ticks
        panel.set(yticks=(5, 10, 20, 50, 70), ylim=(low, high))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("")
    shown.axes[0].legend(fontsize=7)
    return shown


if __name__ == "__main__":
    options = {"--sets": {"nargs": "+", "choices": SETS, "default": list(SETS), "help": "what to label"}}
    study(run, table, figure, name="asking", target="asking", seeds=5, options=options)
