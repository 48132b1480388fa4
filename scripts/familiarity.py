"""Does the model know what it does not know? `make familiarity`.

A net learns seven digits of MNIST's 5,000, a hundred of them labelled; which ones the seed decides. Its
detectors are asked to tell test images of these digits from others: digits of the three other classes, pieces of
photographs, noise, pixels in another order, the same digits turned, mirrored or inverted, and blanks. Given is
the area under the ROC curve. Beside what `drmm predict` says (familiarity, confidence, and the pair of both: the
sum of the logarithms of their ranks among training images) stand detectors of the literature on the same net.

Which parts familiarity looks at was chosen on one net, of other digits and another seed than those below.
Resumable: each seed is kept in the folder of the results.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score

from drmm import DRMMClassifier
from drmm.cli.demo import DEMO_EPOCHS
from drmm.data import load, mask_labels, stratified_labels
from drmm.progress import track
from drmm.trust.assessment import Answers, Assessment, assess
from drmm.trust.crossfit import pool_of
from scripts.study import Results, kept, study

Array = np.ndarray[Any, Any]
Detector = Callable[[Array], Array]
KNOWN = 7  # digits
MOST = 500  # strange images of a kind
NEIGHBOURS = 10


def strange_images(test: Array, unseen: Array, rng: np.random.Generator) -> dict[str, Array]:
    """What is to be told from test images, uint8 (N, 1, 28, 28) each."""
    few, shape = test[:MOST], test[:MOST].shape
    gray = [photo.mean(2) for photo in load_sample_images().images]
    corners = [(rng.integers(len(gray)), *rng.integers(0, 390, 2)) for _ in range(MOST)]
    photos = np.stack([gray[which][None, i : i + 28, j : j + 28] for which, i, j in corners])
    return {
        "other digits": unseen[:MOST],
        "photographs": np.rint(photos).astype(np.uint8),
        "noise": rng.integers(0, 256, shape).astype(np.uint8),
        "shuffled": rng.permuted(few.reshape(len(few), -1), axis=1).reshape(shape),
        "rotated": np.rot90(few, axes=(2, 3)).copy(),
        "mirrored": few[..., ::-1].copy(),
        "inverted": 255 - few,
        "blank": np.linspace(0, 255, 64).astype(np.uint8).repeat(28 * 28).reshape(64, 1, 28, 28),
    }


def literature(net: DRMMClassifier, x: Array) -> dict[str, Detector]:
    """Detectors of the literature: how strange images are, by the net and its training images.

    MSP (Hendrycks and Gimpel, 2017), energy (Liu et al., 2020), Mahalanobis (Lee et al., 2018), nearest neighbours
    (Sun et al., 2022), and virtual logits (ViM; Wang et al., 2022). Labels are the net's own: most images have
    none.
    """
    features, logits = net.transform(x).astype(float), net.decision_function(x).astype(float)
    label = logits.argmax(1)
    means = np.stack([features[label == c].mean(0) for c in np.unique(label)])
    within = features - means[np.searchsorted(np.unique(label), label)]
    precision = np.linalg.pinv(np.cov(within.T))
    weight = net.model_.templates.weight.detach().double().numpy()
    origin = -np.linalg.pinv(weight) @ net.model_.templates.bias.detach().double().numpy()
    centred = features - origin
    vectors = np.linalg.eigh(centred.T @ centred)[1][:, : centred.shape[1] - len(means)]  # the smallest ones
    scale = logits.max(1).mean() / np.linalg.norm(centred @ vectors, axis=1).mean()

    def mahalanobis(images: Array) -> Array:
        away = net.transform(images)[:, None] - means
        return np.einsum("ncd,de,nce->nc", away, precision, away).min(1)

    def neighbours(images: Array) -> Array:
        distance = np.linalg.norm(unit(net.transform(images))[:, None] - unit(features[:1000]), axis=2)
        return np.sort(distance, 1)[:, NEIGHBOURS - 1]

    def virtual(images: Array) -> Array:
        lost = np.linalg.norm((net.transform(images) - origin) @ vectors, axis=1)
        return scale * lost - logsumexp(net.decision_function(images), 1)

    return {
        "MSP": lambda images: -softmax(net.decision_function(images).astype(float), 1).max(1),
        "energy": lambda images: -logsumexp(net.decision_function(images).astype(float), 1),
        "Mahalanobis": mahalanobis,
        "neighbours": neighbours,
        "ViM": virtual,
    }


def unit(features: Array) -> Array:
    """Of length 1."""
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-9)


def own(net: DRMMClassifier, known: Assessment) -> dict[str, Detector]:
    """What `drmm predict` says: how strange images are."""

    def answers(images: Array) -> Answers:
        return known.of_pictures(net.model_, torch.from_numpy(np.ascontiguousarray(images)))

    def familiarity(images: Array) -> Array:
        return -np.log(answers(images).familiarity)

    def confidence(images: Array) -> Array:
        return -np.log(answers(images).rank.clip(1 / len(known.pool)))

    return {
        "familiarity": familiarity,
        "confidence": confidence,
        "the pair": lambda images: familiarity(images) + confidence(images),
    }


def areas(detectors: Mapping[str, Detector], test: Array, strange: Mapping[str, Array]) -> Results:
    """Area under the ROC curve, by kind of image and detector."""
    found: Results = {kind: {} for kind in strange}
    for name, detector in detectors.items():
        ordinary = detector(test)
        for kind, images in strange.items():
            values = np.concatenate([ordinary, detector(images)])
            truth = np.arange(len(values)) >= len(ordinary)
            found[kind][name] = round(float(roc_auc_score(truth, values)), 4)
    return found


def cell(seed: int, asked: Namespace) -> Results:
    """One net: learn some digits, and tell them from what is strange."""
    data, rng = load("mnist-5k"), np.random.default_rng(seed)
    digits = np.sort(rng.permutation(10)[:KNOWN])
    train, test = (np.isin(y, digits) for y in (data.y_train, data.y_test))
    x, y = data.x_train[train], data.y_train[train]
    labels = mask_labels(y, stratified_labels(y, 100 // KNOWN, seed=seed))
    net = DRMMClassifier(epochs=asked.epochs, training={"min_steps": 0}, random_state=seed).fit(x, labels)
    known = assess(net.model_, torch.from_numpy(x), torch.from_numpy(labels), ())
    strange = strange_images(data.x_test[test], data.x_train[~train], rng)
    some = pool_of(torch.from_numpy(x), torch.from_numpy(labels)).numpy()
    detectors = literature(net, some) | own(net, known)
    p = known.of_pictures(net.model_, torch.from_numpy(data.x_test[test])).familiarity
    below = {f"{level:g}": round(float((p < level).mean()), 4) for level in (0.01, 0.05, 0.2)}
    return {
        "digits": digits.tolist(),
        "test_p_below": below,
        "auroc": areas(detectors, data.x_test[test], strange),
    }


def run(asked: Namespace) -> Results:
    """Every seed."""
    folder = asked.out / "familiarity"
    seeds = track(range(asked.seeds), "nets")
    return {"nets": [kept(folder / f"{seed}.json", lambda seed=seed: cell(seed, asked)) for seed in seeds]}


def table(results: Results) -> str:
    """Means over the nets; the last row is that of the rows."""
    nets = [net["auroc"] for net in results["nets"]]
    names = list(nets[0]["noise"])
    means = {kind: [float(np.mean([net[kind][n] for net in nets])) for n in names] for kind in nets[0]}
    means["mean"] = [float(np.mean(column)) for column in zip(*means.values(), strict=True)]
    lines = [f"| strange images | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
    for kind, values in means.items():
        lines.append(f"| {kind} | {' | '.join(f'{v:.3f}' for v in values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    options = {"--epochs": {"type": int, "default": DEMO_EPOCHS, "help": "of each net"}}
    study(run, table, name="familiarity", target="familiarity", seeds=5, options=options)
