"""Does feedback help? Labels before and after iterated top-down inference on damaged and attacked pictures.

A plain residual net, trained by cross-entropy on MNIST and on CIFAR-10, lifted; and the same net fine-tuned with
the reconstruction term, so that it can draw. Two kinds of feedback, k iterations each:

- traceback: the slides' top-down E-step. The classes that score best bottom-up each trace their signs down and
  infer again, and the best score wins ("compete"); or the bottom-up class alone does so, and the label is the best
  logit at its switches ("own class").
- pull: x <- (1 - beta) x + beta alpha mu, towards the net's own reconstruction, and infer again. Its control pulls
  towards the blurred picture instead. Each beta is chosen on images of the training set that the nets never saw.

Attacks are made against the bottom-up net and know nothing of the feedback: what it wins here against them, an
attack that does know might take back. Writes results/feedback.json and docs/feedback.png: `make feedback`.
"""

from __future__ import annotations

import copy
import itertools
import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import drmm
from drmm.data import Dataset, holdout, load
from drmm.data.images import pixels
from drmm.learning.allocator import tune_allocator
from drmm.learning.config import Machine, Training
from drmm.learning.train import train
from drmm.model.deep import fit_amplitude, per_image
from drmm.progress import track
from drmm.studies.corruptions import blur, fgsm, gaussian_noise, occlude, pgd
from scripts.plain_net import ResNet, train_plainly
from scripts.study import Results, study

IMAGES, HELD_OUT, TESTED = 8_000, 250, 1_000
SWEEPS = (0, 1, 2, 4)
TOP = 3  # classes that compete
BETAS = (0.1, 0.25, 0.5)
WIDTH, BATCH, CHUNK = 16, 64, 250
CONTROL_BLUR = 1.0  # pixels
KINDS = ("as trained", "fine-tuned")

Found = dict[str, dict[int, Tensor]]  # labels (N,) by kind of feedback and number of iterations
Figures = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """How a data set is learned, and how hard its pictures are hit.

    Attributes:
        epochs: by cross-entropy alone.
        tuning: epochs with the reconstruction term after that.
        noise: standard deviations, in units of the whole range.
        blur: standard deviations, in pixels.
        squares: sides of the occlusion, in pixels.
        fill: its value.
        eps: largest changes by an attack, in 255ths of the whole range.
    """

    epochs: int
    tuning: int
    noise: tuple[float, ...]
    blur: tuple[float, ...]
    squares: tuple[int, ...]
    fill: float
    eps: tuple[int, ...]


SETTINGS = {
    "mnist": Setting(
        epochs=4,
        tuning=5,
        noise=(0.1, 0.25, 0.5),
        blur=(1.0, 1.5, 2.0),
        squares=(8, 12, 16),
        fill=0.0,
        eps=(6, 13, 26),
    ),
    "cifar10": Setting(
        epochs=10,
        tuning=6,
        noise=(0.05, 0.1, 0.2),
        blur=(0.5, 1.0, 1.5),
        squares=(6, 12, 18),
        fill=0.5,
        eps=(1, 2, 4),
    ),
}


def damaged(model: drmm.DRMM, x: Tensor, y: Tensor, how: Setting, seed: int) -> Iterator[tuple[str, Tensor]]:
    """The images as they are, damaged, and attacked, each a little, more, and badly."""

    def fresh() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    yield "clean", x
    for sd in how.noise:
        yield f"noise {sd}", gaussian_noise(x, sd, fresh())
    for sd in how.blur:
        yield f"blur {sd}", blur(x, sd)
    for side in how.squares:
        yield f"occlusion {side}", occlude(x, side, fresh(), value=how.fill)
    for eps in how.eps:
        yield f"fgsm {eps}/255", fgsm(model, x, y, eps / 255)
        yield f"pgd {eps}/255", pgd(model, x, y, eps / 255, fresh())


@torch.no_grad()
def trace(model: drmm.DRMM, x: Tensor) -> tuple[Found, dict[int, Tensor]]:
    """Labels by the sign traceback after so many sweeps, and the score of the bottom-up class (N,)."""
    bottom_up, logits, first = model.max_sum(x, None)
    found: Found = {"traceback, compete": {}, "traceback, own class": {}}
    by_sweep: dict[int, list[Tensor]] = {k: [] for k in SWEEPS}
    ranks = logits.topk(TOP).indices
    for rank in range(TOP):
        label, switches, seen = ranks[:, rank], first, logits
        for k in range(SWEEPS[-1] + 1):
            if k:
                features, switches = model.levels.reinfer(x, switches, model.templates.weight[label])
                seen = model.templates(features)
            if k in SWEEPS:
                by_sweep[k].append(seen.gather(1, label[:, None]).squeeze(1))
                if rank == 0:
                    found["traceback, own class"][k] = seen.argmax(1)
    for k, scores in by_sweep.items():
        best = torch.stack(scores, 1).argmax(1, keepdim=True)
        found["traceback, compete"][k] = ranks.gather(1, best).squeeze(1)
    if not torch.equal(found["traceback, compete"][0], bottom_up):
        raise RuntimeError("labels without a sweep differ from the bottom-up pass")
    return found, {k: scores[0] for k, scores in by_sweep.items()}


@torch.no_grad()
def pull(
    model: drmm.DRMM, x: Tensor, target: Callable[[Tensor, Tensor], Tensor], beta: float
) -> dict[int, Tensor]:
    """Labels after so many pulls of the image towards a target that is made of it and its rendering."""
    found = {}
    for k in range(SWEEPS[-1] + 1):
        label, _, switches = model.max_sum(x, None)
        if k in SWEEPS:
            found[k] = label
        if k < SWEEPS[-1]:
            rendering = model.levels.render(model.templates.weight[label], switches)
            x = torch.lerp(x, target(x, rendering), beta)
    return found


TARGETS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pull": lambda x, rendering: per_image(fit_amplitude(x, rendering)) * rendering,
    "control: blur": lambda x, _: blur(x.clamp(0, 1), CONTROL_BLUR),
}


def choose_betas(model: drmm.DRMM, x: Tensor, y: Tensor, how: Setting, seed: int) -> dict[str, float]:
    """Of each kind of pull, the beta with the best mean accuracy over all damages and iterations."""
    pictures = [damage for _, damage in damaged(model, x, y, how, seed + 1000)]

    def accuracy(target: Callable[[Tensor, Tensor], Tensor], beta: float) -> float:
        runs = [pull(model, damage, target, beta) for damage in pictures]
        return float(torch.stack([(run[k] == y).double() for run in runs for k in SWEEPS[1:]]).mean())

    return {name: max(BETAS, key=lambda beta: accuracy(target, beta)) for name, target in TARGETS.items()}


def feed_back(model: drmm.DRMM, x: Tensor, betas: dict[str, float]) -> tuple[Found, dict[int, Tensor]]:
    """Labels by every kind of feedback, and the scores of the traceback, chunk by chunk."""
    labels: dict[str, dict[int, list[Tensor]]] = {}
    scores: dict[int, list[Tensor]] = {k: [] for k in SWEEPS}
    for part in x.split(CHUNK):
        found, by_sweep = trace(model, part)
        found |= {name: pull(model, part, target, betas[name]) for name, target in TARGETS.items()}
        for name, k in itertools.product(found, SWEEPS):
            labels.setdefault(name, {}).setdefault(k, []).append(found[name][k])
        for k in SWEEPS:
            scores[k].append(by_sweep[k])
    return (
        {name: {k: torch.cat(parts) for k, parts in by_k.items()} for name, by_k in labels.items()},
        {k: torch.cat(parts) for k, parts in scores.items()},
    )


def measure(model: drmm.DRMM, x: Tensor, y: Tensor, how: Setting, betas: dict[str, float], seed: int) -> Figures:
    """Figures of one net, by damage: in percent of the images; scores as means."""
    figures: Figures = {}
    for name, picture in damaged(model, x, y, how, seed):
        found, scores = feed_back(model, picture, betas)
        before = found["pull"][0]
        figures[name] = {
            "bottom_up": percent(before == y),
            "score": {str(k): float(score.mean()) for k, score in scores.items()},
            "never_lower": bool(all((scores[b] >= scores[a] - 1e-3).all() for a, b in itertools.pairwise(SWEEPS))),
            **{
                kind: {str(k): changes(before, label, y) for k, label in by_k.items() if k}
                for kind, by_k in found.items()
            },
        }
    return figures


def changes(before: Tensor, after: Tensor, y: Tensor) -> dict[str, float]:
    """What feedback does to labels, in percent of the images."""
    return {
        "accuracy": percent(after == y),
        "changed": percent(after != before),
        "wrong_to_right": percent((before != y) & (after == y)),
        "right_to_wrong": percent((before == y) & (after != y)),
    }


def percent(mask: Tensor) -> float:
    """Share of True, in percent."""
    return 100 * float(mask.double().mean())


def draw_subset(data: Dataset, seed: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Images and classes to learn from, to choose with, and to test on."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(data.y_train))[: IMAGES + HELD_OUT]
    x, y = torch.from_numpy(data.x_train[chosen]), torch.from_numpy(data.y_train[chosen])
    tested = holdout(data.y_test, TESTED, seed=seed)
    x_test, y_test = torch.from_numpy(data.x_test[tested]), torch.from_numpy(data.y_test[tested])
    return (x[HELD_OUT:], y[HELD_OUT:]), (x[:HELD_OUT], y[:HELD_OUT]), (x_test, y_test)


def run_nets(dataset: str, seed: int, data_dir: Path | None) -> tuple[str, dict[str, Figures]]:
    """Train a net, and measure it as it is and fine-tuned: the files' name, and figures by kind."""
    torch.set_num_threads(1)
    tune_allocator()
    how, data = SETTINGS[dataset], load(dataset, data_dir=data_dir)
    (x, y), (x_held, y_held), (x_test, y_test) = draw_subset(data, seed)
    torch.manual_seed(seed)
    net = train_plainly(ResNet(x.shape[1], WIDTH), x, y, epochs=how.epochs, batch=BATCH, progress=False)
    found: dict[str, Figures] = {}
    for kind in KINDS:
        model = drmm.lift(copy.deepcopy(net), image_shape=tuple(x.shape[1:]))
        if kind == "fine-tuned":
            config = Training(epochs=how.tuning, seed=seed)
            train(model, x, y, config=config, machine=Machine("cpu"), progress=False)
        for parameter in model.parameters():
            parameter.requires_grad = False  # an attack asks for the images' gradient alone
        betas = choose_betas(model, pixels(x_held), y_held, how, seed)
        images = pixels(x_test)
        left = float((images - model.reconstruct(images)).square().mean() / images.square().mean())
        damages = measure(model, images, y_test, how, betas, seed)
        found[kind] = {"picture_not_drawn": left, "betas": betas, "damages": damages}
    return data.name, found


def mean_of(runs: list[Any]) -> Any:
    """The mean over seeds of every figure; a claim has to hold in all of them."""
    first = runs[0]
    if isinstance(first, dict):
        return {key: mean_of([run[key] for run in runs]) for key in first}
    if isinstance(first, bool):
        return all(runs)
    return round(float(np.mean(runs)), 4)


def gains(figures: Figures) -> Figures:
    """Percentage points that each kind of feedback wins, by number of iterations: each damage, and their mean."""
    table: Figures = {}
    kinds = ("traceback, compete", "traceback, own class", *TARGETS)
    for kind, k in itertools.product(kinds, SWEEPS[1:]):
        points = {
            name: round(found[kind][str(k)]["accuracy"] - found["bottom_up"], 2)
            for name, found in figures["damages"].items()
        }
        table.setdefault(kind, {})[str(k)] = {**points, "mean": round(float(np.mean(list(points.values()))), 2)}
    return table


def figure(results: Results) -> Figure:
    """Accuracy before and after, by damage: a row for each data set, a column for each net."""
    tables = results["figures"]
    drawn = Figure(figsize=(15, 8), layout="constrained")
    axes = drawn.subplots(len(tables), 2, sharey="row", squeeze=False)
    last = str(SWEEPS[-1])
    bars = {
        "bottom-up": (lambda found: found["bottom_up"], "0.25"),
        f"traceback, {TOP} classes compete": (lambda found: found["traceback, compete"][last]["accuracy"], "C0"),
        "traceback, own class": (lambda found: found["traceback, own class"][last]["accuracy"], "C9"),
        "pull towards its reconstruction": (lambda found: found["pull"][last]["accuracy"], "C1"),
        "control: pull towards its blur": (lambda found: found["control: blur"][last]["accuracy"], "0.75"),
    }
    for row, (dataset, nets) in zip(axes, tables.items(), strict=True):
        for axis, (net, figures) in zip(row, nets.items(), strict=True):
            damages = figures["damages"]
            for i, (label, (height, colour)) in enumerate(bars.items()):
                places = np.arange(len(damages)) + (i - 2) * 0.16
                axis.bar(places, [height(d) for d in damages.values()], 0.15, color=colour, label=label)
            axis.set_xticks(range(len(damages)), damages, rotation=40, ha="right")
            axis.set_title(f"{dataset}, {net} ({100 * figures['picture_not_drawn']:.0f}% of a picture not drawn)")
            axis.set_ylim(0, 100)
            axis.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(f"accuracy after {last} iterations, %")
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return drawn


def table(results: Results) -> str:
    """Accuracy before and after four iterations of feedback, as Markdown."""
    names = {
        "traceback, compete": "traceback, 3 classes compete",
        "traceback, own class": "traceback, own class",
        "pull": "pull to reconstruction",
        "control: blur": "control: pull to blur",
    }
    rows = [f"| net | pictures | bottom-up | {' | '.join(names.values())} |", "|---|---|--:|--:|--:|--:|--:|"]
    for data, kinds in results["figures"].items():
        for kind, figures in kinds.items():
            for damage, row in figures["damages"].items():
                cells = [f"{row[name]['4']['accuracy']:.1f}" for name in names]
                rows.append(f"| {data}, {kind} | {damage} | {row['bottom_up']:.1f} | {' | '.join(cells)} |")
    return "\n".join(rows)


def run(asked: Namespace) -> Results:
    """Train, damage, feed back; figures are means over seeds."""
    names: dict[str, str] = {}
    runs: dict[str, dict[str, list[Figures]]] = {dataset: {kind: [] for kind in KINDS} for dataset in SETTINGS}
    todo = list(itertools.product(SETTINGS, range(asked.seeds)))
    with ProcessPoolExecutor(asked.workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run_nets, dataset, seed, asked.data_dir) for dataset, seed in todo]
        for (dataset, _), future in track(list(zip(todo, futures, strict=True)), "nets"):
            names[dataset], found = future.result()
            for kind in KINDS:
                runs[dataset][kind].append(found[kind])
    tables = {dataset: {kind: mean_of(each) for kind, each in kinds.items()} for dataset, kinds in runs.items()}
    by_seed = {
        dataset: {
            kind: [{"betas": one["betas"], "gains": gains(one)} for one in each] for kind, each in kinds.items()
        }
        for dataset, kinds in runs.items()
    }
    return {
        "images": {"trained": IMAGES, "to_choose_beta": HELD_OUT, "tested": TESTED},
        "files": names,
        "settings": {name: vars(how) for name, how in SETTINGS.items()},
        "attacks": "against the bottom-up net, 10 steps of PGD; they know nothing of the feedback",
        "gains": {dataset: {kind: gains(one) for kind, one in kinds.items()} for dataset, kinds in tables.items()},
        "gains_by_seed": by_seed,
        "figures": tables,
    }


if __name__ == "__main__":
    options = {"--workers": {"type": int, "default": os.cpu_count(), "help": "nets at the same time"}}
    study(run, table, figure, name="feedback", target="feedback", seeds=2, options=options)
