"""Does a promise hold as often as it says? `make promise DATA=folder with MNIST`.

A net learns from 5,000 of MNIST's digits, 100 of them labelled, and answers for the 10,000 test images, which are
the world here. Labelled ones are drawn from it 200 times over, and the largest share of it is sought for which the
promise holds: by `drmm.trust.decisions.promised_share`, and by the estimated error alone, the control. Counted is
how often more of what is sorted is wrong than was promised: 5 % of the draws is what the promise allows.
"""

from __future__ import annotations

from argparse import Namespace
from itertools import product

import numpy as np

from drmm import DRMMClassifier
from drmm.data import load, mask_labels, stratified_labels
from drmm.trust.decisions import promised_share
from scripts.study import Results, study

DRAWS = 200
LABELS = (200, 500, 1000, 2000)
PROMISES = (0.9, 0.95, 0.98)


def world(asked: Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Rank of each image by how sure the net is, from 0 to 1, and whether it is wrong."""
    few, all_of_them = load("mnist-5k"), load("mnist", data_dir=asked.data_dir)
    labels = mask_labels(few.y_train, stratified_labels(few.y_train, 10, seed=0))
    net = DRMMClassifier(epochs=asked.epochs, training={"min_steps": 0}, random_state=0).fit(few.x_train, labels)
    logits = net.decision_function(all_of_them.x_test).astype(float)
    best = np.sort(logits, 1)
    rank = np.argsort(np.argsort(best[:, -1] - np.logaddexp.reduce(best[:, :-1], 1))) / len(best)
    return rank, logits.argmax(1) != all_of_them.y_test


def estimated_share(rank: np.ndarray, wrong: np.ndarray, promise: float) -> float:
    """The largest share whose estimated error is small enough."""
    shares = [
        s for s in np.arange(1, 21) / 20 if wrong[rank >= 1 - s].sum() <= (1 - promise) * (rank >= 1 - s).sum()
    ]
    return float(max(shares, default=0.0))


def run(asked: Namespace) -> Results:
    """Draw, promise, count."""
    rank, wrong = world(asked)
    rng = np.random.default_rng(0)
    rows = []
    for labels, promise in product(LABELS, PROMISES):
        draws = rng.integers(len(rank), size=(DRAWS, labels))
        row: Results = {"labels": labels, "promise": promise}
        for name, rule in (("tested", promised_share), ("estimated", estimated_share)):
            shares = np.array([rule(rank[draw], wrong[draw], promise) for draw in draws])
            risks = np.array([wrong[rank >= 1 - s].mean() if s else 0.0 for s in shares])
            row[name] = {
                "broken": round(100 * float((risks > 1 - promise).mean()), 1),
                "share": round(100 * float(shares.mean()), 1),
                "promises": round(100 * float((shares > 0).mean()), 1),
            }
        rows.append(row)
    return {"dataset": "mnist", "error": round(100 * float(wrong.mean()), 2), "draws": DRAWS, "rows": rows}


def table(results: Results) -> str:
    """Broken promises in percent of the draws, and the share sorted in the mean."""
    lines = [
        "| labels | promise | broken | sorted | broken by the estimate alone | sorted |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        cells = [f"{row[name][what]:.1f} %" for name in ("tested", "estimated") for what in ("broken", "share")]
        lines.append(f"| {row['labels']:,} | {100 * row['promise']:g} % | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    options = {"--epochs": {"type": int, "default": 6, "help": "of the net"}}
    study(run, table, name="promise", target="promise", options=options)
