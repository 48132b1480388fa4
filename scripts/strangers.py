"""Labels that name only some of the classes: what happens, and is it seen? `make strangers`.

Some classes have no label at all, which ones the seed decides: of scikit-learn's ten digits, of 5,000 of MNIST's,
and of four kinds of photographs (CIFAR-10 as JPEG, so no figure compares with published ones). Whether a run says
that unlabelled pictures are not like the labelled ones (`drmm.trust.strangers`) takes no net, and is counted over
many draws; where all classes have labels it is a false alarm. What happens to test images of these classes is seen
on nets of some of the draws: the mean confidence, and the share that is sorted, as if it were of a labelled class,
at a promise of 90 and 98 %. Resumable: each net is kept in the folder of the results.
"""

from __future__ import annotations

import warnings
from argparse import Namespace
from typing import Any

import numpy as np
import torch

from drmm import DRMMClassifier
from drmm.data import Dataset, load, mask_labels, stratified_labels
from drmm.data.splits import label_folds
from drmm.progress import track
from drmm.trust.crossfit import evenly_spread
from drmm.trust.decisions import UNFAMILIAR
from drmm.trust.strangers import strangers_share
from scripts.study import Results, kept, study
from scripts.trust import PROMISES, photos

# Set, labels of each class that has any, classes without.
SETTINGS = {
    **{f"{name}-{n}": (name, 10, n) for name in ("digits", "mnist-5k") for n in (0, 2, 3)},
    **{f"photos-{n}": ("photos", 25, n) for n in (0, 2)},
}
WITH_NETS = ("digits-3", "photos-2")
FOLDS = 5


def drawn(data: Dataset, per_class: int, unlabelled: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The classes without labels, and the labels (N,)."""
    strange = np.random.default_rng(seed).permutation(len(data.classes))[:unlabelled]
    known = np.where(np.isin(data.y_train, strange), -1, data.y_train)
    return strange, mask_labels(known, stratified_labels(known, per_class, seed=seed))


def said(data: Dataset, per_class: int, unlabelled: int, seed: int) -> dict[str, float]:
    """Which share of the unlabelled pictures is strange, and how much of it a run would say."""
    strange, labels = drawn(data, per_class, unlabelled, seed)
    labelled, pool = np.flatnonzero(labels >= 0), evenly_spread(np.flatnonzero(labels < 0))
    folds = [np.searchsorted(labelled, fold) for fold in label_folds(labels, FOLDS, seed=seed)]
    pixels = data.x_train.reshape(len(labels), -1)
    share = strangers_share(pixels[labelled], labels[labelled], pixels[pool], folds)
    really = float(np.isin(data.y_train[labels < 0], strange).mean())
    return {"strangers": round(really, 4), "at_least": round(share, 4)}


def cell(data: Dataset, per_class: int, unlabelled: int, seed: int, epochs: int | None) -> Results:
    """One net."""
    strange, labels = drawn(data, per_class, unlabelled, seed)
    settings: dict[str, Any] = {} if epochs is None else {"epochs": epochs, "training": {"min_steps": 0}}
    with warnings.catch_warnings(action="ignore"):  # of strangers, which are the subject
        net = DRMMClassifier(random_state=seed, calibrate=True, **settings).fit(data.x_train, labels)
    assessment = net.assessment_
    if assessment is None:
        raise SystemExit("nothing was assessed")
    answers = assessment.of_pictures(net.model_, torch.from_numpy(data.x_test))
    figures: Results = {"cross_fitted": assessment.error(), "strangers_at_least": assessment.strangers}
    is_strange = np.isin(data.y_test, strange)
    for name, part in (("known", ~is_strange), ("strange", is_strange)):
        figures[name] = {
            "confidence": round(float(answers.probability[part].max(1).mean()), 4),
            "unfamiliar": round(float((answers.familiarity[part] < UNFAMILIAR).mean()), 4),
            **{f"sorted_at_{p:g}": round(sorted_at(net, data.x_test[part], p), 4) for p in PROMISES},
        }
    return figures


def sorted_at(net: DRMMClassifier, images: np.ndarray, promise: float) -> float:
    """Share of images."""
    return float((net.decide(images, promise) == "sorted").mean())


def run(asked: Namespace) -> Results:
    """Every setting, every draw, and the nets."""
    names = {SETTINGS[setting][0] for setting in asked.settings}
    sets = {name: photos(asked) if name == "photos" else load(name) for name in names}
    seeds, nets = range(asked.seeds), dict[str, list[Results]]()
    draws = {
        setting: [said(sets[name], per_class, without, seed) for seed in seeds]
        for setting, (name, per_class, without) in SETTINGS.items()
        if setting in asked.settings
    }
    for setting in track([one for one in WITH_NETS if one in asked.settings], "nets"):
        name, per_class, without = SETTINGS[setting]
        nets[setting] = [
            kept(
                asked.out / "strangers" / f"{setting}-{seed}.json",
                lambda: cell(sets[name], per_class, without, seed, asked.epochs),  # noqa: B023
            )
            for seed in range(asked.nets)
        ]
    return {"draws": draws, "nets": nets}


def table(results: Results) -> str:
    """What is said, and what happens; means over the draws."""
    lines = ["| images, classes without labels | labels of each other | strange | said: at least | said in |"]
    lines.append(f"|---|{'--:|' * 4}")
    for setting, draws in results["draws"].items():
        name, per_class, without = SETTINGS[setting]
        really, least = (100 * float(np.mean([d[key] for d in draws])) for key in ("strangers", "at_least"))
        times = sum(d["at_least"] > 0 for d in draws)
        lines.append(
            f"| {name}, {without} | {per_class} | {really:.0f} % | {least:.0f} % | {times} of {len(draws)} |"
        )
    head = "| images, classes without labels | pictures | confidence | unfamiliar | sorted at 98 % | at 90 % |"
    lines += ["", head, f"|---|---|{'--:|' * 4}"]
    for setting, nets in results["nets"].items():
        name, _, without = SETTINGS[setting]
        for kind in ("known", "strange"):
            means = [100 * float(np.mean([net[kind][key] for net in nets])) for key in KEYS]
            shown = " | ".join(f"{value:.0f} %" for value in means)
            lines.append(f"| {name}, {without} ({len(nets)} nets) | {kind} | {shown} |")
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
            "--nets": {"type": int, "default": 5, "help": "draws of which nets are learned"},
            "--epochs": {"type": int, "help": "of each net; the recipe's by default"},
            "--photo-size": {"type": int, "default": 16, "help": "side of a photograph in pixels, 16 or 32"},
        },
    )
