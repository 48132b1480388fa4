"""How many of the labels that look wrong are wrong? `make label-errors`.

Of the labels of scikit-learn's digits and of 5,000 of MNIST, 5 % are flipped to another class, on five draws.
Ranked by `drmm.trust.health.suspicion` on pixels, as `drmm check` does, and by cleanlab (pip install cleanlab),
with the posterior of such neighbours and with that of a logistic regression. Measured is the precision at k, the
share of flipped labels among as many as were flipped, and the precision and recall of those that are flagged.
"""

from argparse import Namespace
from itertools import product

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from drmm.data import load
from drmm.progress import track
from drmm.trust.health import look_features, suspicion
from scripts.study import Results, spread, study

try:
    from cleanlab.rank import get_label_quality_scores
except ImportError:
    get_label_quality_scores = None

DATA, FLIPPED = ("digits", "mnist-5k"), 0.05
PEERS = {
    "cleanlab, neighbours": KNeighborsClassifier(10, weights="distance"),
    "cleanlab, logistic regression": LogisticRegression(max_iter=1000),
}


def run(asked: Namespace) -> Results:
    """Flip and rank."""
    rows = [
        {"data": name, "seed": seed, **row}
        for name, seed in track(list(product(DATA, range(asked.seeds))), "draws")
        for row in measured(name, seed)
    ]
    return {"flipped": FLIPPED, "rows": rows}


def measured(name: str, seed: int) -> list[Results]:
    """One draw, by each way of ranking."""
    data = load(name)
    small = [Image.fromarray(x[0]).resize((32, 32), Image.Resampling.BILINEAR) for x in data.x_train]
    features = look_features(np.stack([np.asarray(one) for one in small])[:, None])
    generator = np.random.default_rng(seed)
    n, n_classes = len(features), len(data.classes)
    wrong = np.zeros(n, bool)
    wrong[generator.permutation(n)[: round(FLIPPED * n)]] = True
    labels = np.where(wrong, data.y_train + generator.integers(1, n_classes, n), data.y_train) % n_classes
    doubt, *_ = suspicion(features, labels, np.arange(n))
    flagged = doubt > 0
    precision, recall = float(wrong[flagged].mean()), float(flagged[wrong].mean())
    rows: list[Results] = [{"by": "drmm", "at_k": at_k(doubt, wrong), "precision": precision, "recall": recall}]
    if get_label_quality_scores is not None:
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        for peer, classifier in PEERS.items():
            posterior = cross_val_predict(classifier, features, labels, cv=folds, method="predict_proba")
            rows.append({"by": peer, "at_k": at_k(-get_label_quality_scores(labels, posterior), wrong)})
    return rows


def at_k(doubt: np.ndarray, wrong: np.ndarray) -> float:
    """Share of wrong labels among the most doubtful, as many as there are wrong ones."""
    return float(wrong[np.argsort(-doubt, kind="stable")[: wrong.sum()]].mean())


def table(results: Results) -> str:
    """Mean and standard deviation over the draws, in percent."""
    lines = ["| data | by | precision at k |", "|---|---|---|"]
    for name, by in dict.fromkeys((row["data"], row["by"]) for row in results["rows"]):
        figures = [100 * row["at_k"] for row in results["rows"] if (row["data"], row["by"]) == (name, by)]
        lines.append(f"| {name} | {by} | {spread(figures)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    study(run, table, name="label_errors", target="label-errors", seeds=5)
