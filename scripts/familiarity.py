"""Does the model know what it does not know? `make familiarity DATA=folder with CIFAR-10`.

A net learns seven digits of MNIST's 5,000, a hundred of them labelled, or two of four kinds of photographs
(CIFAR-10 as JPEG, at 16 x 16 pixels), 25 of each labelled; which ones the seed decides. Its detectors are asked to
tell test images of these classes from others: of the other classes, of other data, noise, pixels in another order,
the same images turned, mirrored or inverted, and blanks. Given is the area under the ROC curve. Beside what
`drmm predict` says (familiarity, confidence, and the pair of both: the sum of the logarithms of their ranks among
training images) stand detectors of the literature on the same net.

What familiarity looks at, and that it sums, was chosen on one net of digits, of seed 100, and reported are others.
Resumable: each net is kept in the folder of the results.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import zoom
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_digits, load_sample_images
from sklearn.metrics import roc_auc_score

from drmm import DRMMClassifier
from drmm.cli.demo import DEMO_EPOCHS
from drmm.data import Dataset, load, mask_labels, stratified_labels
from drmm.learning.metrics import predict_logits
from drmm.progress import track
from drmm.trust.assessment import Answers, Assessment, assess
from drmm.trust.crossfit import pool_of
from scripts.study import Results, kept, study
from scripts.trust import photos

Array = np.ndarray[Any, Any]
MOST = 500  # images of a kind
NEIGHBOURS = 10
PHOTO_SIZE, PHOTO_EPOCHS = 16, 10


@dataclass(frozen=True)
class Setting:
    """So many of the classes are known, by so many labels in all."""

    known: int
    labels: int


SETTINGS = {"digits": Setting(7, 100), "photographs": Setting(2, 50)}


@dataclass(frozen=True)
class Seen:
    """What a net makes of N images: features (N, D), logits (N, C), and what is said of them."""

    features: Array
    logits: Array
    answers: Answers


Detector = Callable[[Seen], Array]


def strange_images(name: str, test: Array, unseen: Array, rng: np.random.Generator) -> dict[str, Array]:
    """What is to be told from test images, uint8 (N, C, H, W) each."""
    few, shape = test[:MOST], test[:MOST].shape
    strange = {
        "other classes": rng.permutation(unseen)[:MOST],
        "noise": rng.integers(0, 256, shape).astype(np.uint8),
        "shuffled": rng.permuted(few.reshape(len(few), -1), axis=1).reshape(shape),
        "rotated": np.rot90(few, axes=(2, 3)).copy(),
        "inverted": 255 - few,
        "blank": np.linspace(0, 255, 64).astype(np.uint8).repeat(test[0].size).reshape(64, *shape[1:]),
    }
    side = shape[-1]
    if name == "photographs":  # which mirrored are photographs still
        return {**strange, "digits": scanned(side).repeat(3, 1)}
    gray = [photo.mean(2) for photo in load_sample_images().images]
    corners = [(rng.integers(len(gray)), *rng.integers(0, 390, 2)) for _ in range(MOST)]
    pieces = np.stack([gray[which][None, i : i + side, j : j + side] for which, i, j in corners])
    return {
        **strange,
        "mirrored": few[..., ::-1].copy(),
        "photographs": np.rint(pieces).astype(np.uint8),
        "digits of 8 x 8": scanned(side),
    }


def scanned(side: int) -> Array:
    """Scikit-learn's digits, of 8 x 8 pixels, enlarged: uint8 (MOST, 1, side, side)."""
    small = load_digits().images[:MOST] / 16
    return np.rint(255 * zoom(small, (1, side / 8, side / 8), order=1).clip(0, 1))[:, None].astype(np.uint8)


def literature(net: DRMMClassifier, train: Seen) -> dict[str, Detector]:
    """Detectors of the literature: how strange images are, by the net and its training images.

    MSP (Hendrycks and Gimpel, 2017), energy (Liu et al., 2020), Mahalanobis (Lee et al., 2018), nearest neighbours
    (Sun et al., 2022), and virtual logits (ViM; Wang et al., 2022). Labels are the net's own: most images have
    none.
    """
    features, logits = train.features, train.logits
    label = logits.argmax(1)
    means = np.stack([features[label == c].mean(0) for c in np.unique(label)])
    within = features - means[np.searchsorted(np.unique(label), label)]
    precision = np.linalg.pinv(np.cov(within.T))
    weight = net.model_.templates.weight.detach().double().numpy()
    origin = -np.linalg.pinv(weight) @ net.model_.templates.bias.detach().double().numpy()
    centred = features - origin
    vectors = np.linalg.eigh(centred.T @ centred)[1][:, : centred.shape[1] - len(means)]  # the smallest ones
    scale = logits.max(1).mean() / np.linalg.norm(centred @ vectors, axis=1).mean()

    def mahalanobis(seen: Seen) -> Array:
        away = seen.features[:, None] - means
        return np.einsum("ncd,de,nce->nc", away, precision, away).min(1)

    def neighbours(seen: Seen) -> Array:
        distance = np.linalg.norm(unit(seen.features)[:, None] - unit(features[:1000]), axis=2)
        return np.sort(distance, 1)[:, NEIGHBOURS - 1]

    def virtual(seen: Seen) -> Array:
        lost = np.linalg.norm((seen.features - origin) @ vectors, axis=1)
        return scale * lost - logsumexp(seen.logits, 1)

    return {
        "MSP": lambda seen: -softmax(seen.logits, 1).max(1),
        "energy": lambda seen: -logsumexp(seen.logits, 1),
        "Mahalanobis": mahalanobis,
        "neighbours": neighbours,
        "ViM": virtual,
    }


def unit(features: Array) -> Array:
    """Of length 1."""
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-9)


def own(known: Assessment) -> dict[str, Detector]:
    """What `drmm predict` says: how strange images are."""

    def familiarity(seen: Seen) -> Array:
        return -np.log(seen.answers.familiarity)

    def confidence(seen: Seen) -> Array:
        return -np.log(seen.answers.rank.clip(1 / len(known.pool)))

    return {
        "familiarity": familiarity,
        "confidence": confidence,
        "the pair": lambda seen: familiarity(seen) + confidence(seen),
    }


def areas(detectors: Mapping[str, Detector], test: Seen, strange: Mapping[str, Seen]) -> Results:
    """Area under the ROC curve, by kind of image and detector."""
    found: Results = {kind: {} for kind in strange}
    for name, detector in detectors.items():
        ordinary = detector(test)
        for kind, seen in strange.items():
            values = np.concatenate([ordinary, detector(seen)])
            truth = np.arange(len(values)) >= len(ordinary)
            found[kind][name] = round(float(roc_auc_score(truth, values)), 4)
    return found


def cell(name: str, data: Dataset, seed: int, epochs: int) -> Results:
    """One net: learn some classes, and tell them from what is strange."""
    setting, rng = SETTINGS[name], np.random.default_rng(seed)
    classes = np.sort(rng.permutation(len(data.classes))[: setting.known])
    train, test = (np.isin(y, classes) for y in (data.y_train, data.y_test))
    x, y = data.x_train[train], data.y_train[train]
    labels = mask_labels(y, stratified_labels(y, setting.labels // setting.known, seed=seed))
    net = DRMMClassifier(epochs=epochs, training={"min_steps": 0}, random_state=seed).fit(x, labels)
    known = assess(net.model_, torch.from_numpy(x), torch.from_numpy(labels), ())

    def seen(images: Array) -> Seen:
        x = torch.from_numpy(np.ascontiguousarray(images))
        logits = predict_logits(net.model_, x).double().numpy()
        return Seen(net.transform(images).astype(float), logits, known.of_pictures(net.model_, x))

    # Test images that are turned into strange ones are not the ordinary ones.
    parts = np.array_split(data.x_test[test][rng.permutation(test.sum())], 2)
    ordinary = seen(parts[0][:MOST])
    strange = {kind: seen(v) for kind, v in strange_images(name, parts[1], data.x_train[~train], rng).items()}
    some = seen(pool_of(torch.from_numpy(x), torch.from_numpy(labels)).numpy())
    p = ordinary.answers.familiarity
    return {
        "classes": [data.classes[code] for code in classes],
        "test_p_below": {f"{level:g}": round(float((p < level).mean()), 4) for level in (0.01, 0.05, 0.2)},
        "found_at_0.01": {
            kind: round(float((images.answers.familiarity < 0.01).mean()), 4) for kind, images in strange.items()
        },
        "auroc": areas(literature(net, some) | own(known), ordinary, strange),
    }


def run(asked: Namespace) -> Results:
    """Every setting, every seed."""
    sets = {}
    for name in asked.settings:
        small = name == "photographs"
        data = photos(Namespace(data_dir=asked.data_dir, photo_size=PHOTO_SIZE)) if small else load("mnist-5k")
        sets[name] = replace(data, name=name), PHOTO_EPOCHS if small else asked.epochs
    nets: dict[str, list[Results]] = {name: [] for name in sets}
    for seed in track(range(asked.first, asked.first + asked.seeds), "nets"):
        for name, (data, epochs) in sets.items():
            file = asked.out / "familiarity" / f"{name}-{seed}.json"
            nets[name].append(kept(file, lambda: cell(name, data, seed, epochs)))  # noqa: B023
    return {"nets": nets}


def table(results: Results) -> str:
    """Means over the nets; the last row is that of the rows."""
    return "\n\n".join(_table(name, nets) for name, nets in results["nets"].items() if nets)


def _table(setting: str, nets: list[Results]) -> str:
    tables = [net["auroc"] for net in nets]
    names = list(tables[0]["noise"])
    means = {kind: [float(np.mean([t[kind][n] for t in tables])) for n in names] for kind in tables[0]}
    means["mean"] = [float(np.mean(column)) for column in zip(*means.values(), strict=True)]
    title = f"{setting}, {len(nets)} nets" if len(nets) > 1 else f"{setting}, one net"
    lines = [f"| {title} | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
    for kind, values in means.items():
        lines.append(f"| {kind} | {' | '.join(f'{v:.3f}' for v in values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    options = {
        "--epochs": {"type": int, "default": DEMO_EPOCHS, "help": "of each net of digits"},
        "--settings": {"nargs": "+", "choices": list(SETTINGS), "default": list(SETTINGS), "help": "images"},
        "--first": {"type": int, "default": 0, "help": "seed of the first net"},
    }
    study(run, table, name="familiarity", target="familiarity", seeds=5, options=options)
