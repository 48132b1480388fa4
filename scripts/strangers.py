"""Labels that name only some of the classes: what happens, and is it seen? `make strangers`.

Some of scikit-learn's ten digits, or two of four kinds of photographs (CIFAR-10 as JPEG), have no label at all;
which ones the seed decides. Of test images of these classes: the mean confidence, and the share that is sorted, as
if it were of a labelled class, at a promise of 90 and 98 %. Beside it what the run itself says: that at least so
many of the unlabelled pictures are not like the labelled ones (`drmm.trust.strangers`), which where all classes
have labels is a false alarm. Resumable: each cell is kept in the folder of the results.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np
import torch

from drmm import DRMMClassifier
from drmm.data import Dataset, load, mask_labels, stratified_labels
from drmm.progress import track
from scripts.study import Results, kept, mean_and_sd, study
from scripts.trust import PROMISES, photos

# Set, labels of each class that has any, classes without.
SETTINGS = {
    "digits-0": ("digits", 10, 0),
    "digits-3": ("digits", 10, 3),
    "digits-2": ("digits", 10, 2),
    "photos-2": ("photos", 25, 2),
    "photos-0": ("photos", 25, 0),
}


def cell(data: Dataset, per_class: int, unlabelled: int, seed: int, epochs: int | None) -> Results:
    """One draw of the classes and the labels."""
    order = np.random.default_rng(seed).permutation(len(data.classes))
    strange = np.isin(data.y_train, order[:unlabelled])
    known = np.where(strange, -1, data.y_train)
    labels = mask_labels(known, stratified_labels(known, per_class, seed=seed))
    settings: dict[str, Any] = {} if epochs is None else {"epochs": epochs, "training": {"min_steps": 0}}
    net = DRMMClassifier(random_state=seed, calibrate=True, **settings).fit(data.x_train, labels)
    assessment = net.assessment_
    if assessment is None:
        raise SystemExit("nothing was assessed")
    answers = assessment.of_pictures(net.model_, torch.from_numpy(data.x_test))
    figures: Results = {
        "without_labels": sorted(data.classes[code] for code in order[:unlabelled]),
        "labels": int((labels >= 0).sum()),
        "strangers": round(float(strange[labels < 0].mean()), 4),
        "strangers_at_least": round(assessment.strangers, 4),
        "cross_fitted": assessment.error(),
        "promised": {f"{promise:g}": assessment.surest(promise).promised for promise in PROMISES},
    }
    strange_test = np.isin(data.y_test, order[:unlabelled])
    for name, part in (("known", ~strange_test), ("strange", strange_test)):
        if part.any():
            figures[name] = {
                "confidence": round(float(answers.probability[part].max(1).mean()), 4),
                "unfamiliar": round(float((answers.familiarity[part] < 0.01).mean()), 4),
                **{f"sorted_at_{p:g}": round(float(sorted_at(net, data.x_test[part], p)), 4) for p in PROMISES},
            }
    return figures


def sorted_at(net: DRMMClassifier, images: np.ndarray, promise: float) -> float:
    """Share of images."""
    return float((net.decide(images, promise) == "sorted").mean())


def run(asked: Namespace) -> Results:
    """Every setting, every draw."""
    sets = {
        name: photos(asked) if name == "photos" else load(name)
        for name in {SETTINGS[setting][0] for setting in asked.settings}
    }
    cells: dict[str, list[Results]] = {setting: [] for setting in asked.settings}
    for seed in track(range(asked.seeds), "draws"):
        for setting in asked.settings:
            name, per_class, unlabelled = SETTINGS[setting]
            file = asked.out / "strangers" / f"{setting}-{seed}.json"
            found = kept(file, lambda: cell(sets[name], per_class, unlabelled, seed, asked.epochs))  # noqa: B023
            cells[setting].append(found)
    return {"settings": cells}


def table(results: Results) -> str:
    """Means and standard deviations over the draws."""
    titles = (
        "images, classes without labels",
        "confidence in known",
        "in strangers",
        "of them unfamiliar",
        "sorted at 98 %",
        "at 90 %",
        "really strange",
        "said: at least",
        "said in",
    )
    lines = [f"| {' | '.join(titles)} |", f"|---|{'--:|' * 8}"]
    for setting, cells in results["settings"].items():
        strange = [[100 * c["strange"][key] for c in cells if "strange" in c] for key in KEYS]
        columns = [[100 * c["known"]["confidence"] for c in cells], *strange]
        columns += [[100 * c[key] for c in cells] for key in ("strangers", "strangers_at_least")]
        shown = [f"{mean_and_sd(column)['mean']:.1f} %" if column else "–" for column in columns]
        said = sum(c["strangers_at_least"] > 0 for c in cells)
        name, _, unlabelled = SETTINGS[setting]
        lines.append(f"| {name}, {unlabelled} | {' | '.join(shown)} | {said} of {len(cells)} |")
    return "\n".join(lines)


KEYS = ("confidence", "unfamiliar", "sorted_at_0.98", "sorted_at_0.9")

if __name__ == "__main__":
    study(
        run,
        table,
        name="strangers",
        target="strangers",
        seeds=20,
        options={
            "--settings": {"nargs": "+", "choices": list(SETTINGS), "default": list(SETTINGS), "help": "images"},
            "--epochs": {"type": int, "help": "of each net; the recipe's by default"},
            "--photo-size": {"type": int, "default": 16, "help": "side of a photograph in pixels, 16 or 32"},
        },
    )
