"""T21. Depth is receptive field: fields of a trained net by level, and what depth is worth beyond them.

Small nets on rendered scenes, all with about as many parameters: by depth where the receptive field is the same,
and by receptive field where the depth is the same. Writes results/predictions/t21.json and
docs/receptive_fields.png.
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import nn

from drmm.data.images import pixels
from drmm.explain.plots import save_figure
from drmm.progress import track
from drmm.studies.predictions import LEAST
from drmm.studies.predictions.curves import Panel, curves
from drmm.studies.predictions.fields import DepthStudy, Fields, receptive_fields
from drmm.studies.scenes import CLASSES
from scripts.predictions.scene_net import CACHE, accuracy, scene_task, train_net
from scripts.study import Results, kept, study

PARAMETERS = 15_000
CELL = 4  # pixels; the first thing that all nets do is to gather two by two pixels of a picture of half the size
Plan = dict[int, Sequence[tuple[int, int]]]  # (kernel, dilation) of each layer, pixels first
BY_DEPTH: Plan = {  # the field is 13 cells
    3: [(3, 1), (3, 2), (3, 3)],
    4: [(3, 1), (3, 1), (3, 2), (3, 2)],
    6: [(3, 1)] * 6,
}
LARGE_KERNELS: Plan = {  # by depth likewise, with kernels as large as the field demands
    1: [(13, 1)],
    3: [(5, 1)] * 3,
    6: [(3, 1)] * 6,
}
BY_FIELD: Plan = {  # by field in cells, three layers each
    7: [(3, 1), (3, 1), (3, 1)],
    13: [(3, 1), (3, 2), (3, 3)],
    19: [(3, 2), (3, 3), (3, 4)],
}

PLANS = {"depth": BY_DEPTH, "field": BY_FIELD, "large kernels": LARGE_KERNELS}
IMAGES = 50  # that the fields of the trained net are measured on


def small_net(kernels: Sequence[tuple[int, int]], width: int) -> nn.Sequential:
    """Convolutions with batch norm on 16 x 16 cells, and a mean."""
    layers: list[nn.Module] = [nn.AvgPool2d(2), nn.PixelUnshuffle(2)]
    inputs = 12
    for kernel, dilation in kernels:
        padding = (kernel - 1) * dilation // 2
        layers += [nn.Conv2d(inputs, width, kernel, padding=padding, dilation=dilation, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.AvgPool2d(16), nn.Flatten(), nn.Linear(width, len(CLASSES)))


def size(net: nn.Module) -> int:
    """How many parameters."""
    return sum(parameter.numel() for parameter in net.parameters())


def of_equal_size(kernels: Sequence[tuple[int, int]]) -> nn.Sequential:
    """The width that comes closest to the parameters that all have."""
    return min((small_net(kernels, width) for width in range(2, 64)), key=lambda net: abs(size(net) - PARAMETERS))


def trained(cache: Path, kernels: Sequence[tuple[int, int]], seed: int) -> dict[str, Any]:
    """Accuracy of one net, from the cache where it has it."""
    file = cache / f"depth-{'-'.join(f'{k}x{d}' for k, d in kernels)}-{seed}.json"

    def learn() -> Results:
        _, train, test = scene_task(cache, seed=0)
        torch.manual_seed(seed)
        net = of_equal_size(kernels)
        train_net(net, train)
        return {"accuracy": accuracy(net, test), "train": accuracy(net, train), "parameters": size(net)}

    return kept(file, learn)


def depths(cache: Path, seeds: int) -> tuple[DepthStudy, dict[int, list[float]], dict[str, Any]]:
    """Accuracies of all nets, those with large kernels apart, and what else is known of all."""
    plans = {(kind, number): kernels for kind, plan in PLANS.items() for number, kernels in plan.items()}
    runs = [(name, kernels, seed) for seed in range(seeds) for name, kernels in plans.items()]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {name: [] for name in plans}
    for name, kernels, seed in track(runs, "Nets"):
        found[name].append(trained(cache, kernels, seed))
    accuracies = {name: [run["accuracy"] for run in nets] for name, nets in found.items()}
    by_depth = {depth: accuracies["depth", depth] for depth in BY_DEPTH}
    by_field = {CELL * cells: accuracies["field", cells] for cells in BY_FIELD}
    rows = {
        f"{kind} {number}": {
            "layers": [list(layer) for layer in plans[kind, number]],
            "parameters": nets[0]["parameters"],
            "accuracy": accuracies[kind, number],
            "training_accuracy": [run["train"] for run in nets],
        }
        for (kind, number), nets in found.items()
    }
    large = {depth: accuracies["large kernels", depth] for depth in LARGE_KERNELS}
    fitted = min(float(np.mean(row["training_accuracy"])) for row in rows.values())
    return DepthStudy(by_depth, by_field, fitted), large, rows


def measured(net: nn.Module, images: torch.Tensor) -> tuple[list[str], Fields]:
    """Fields of a net's convolutions, pools and mean; "c2" is the second convolution, "p" are the pools."""
    counts: Counter[str] = Counter()
    labels, places = ["pixels"], []
    fields = receptive_fields(net, images)
    for place, name in enumerate(fields.levels):
        module = net.get_submodule(name)
        for kind, letter in ((nn.Conv2d, "c"), (nn.MaxPool2d, "p"), (nn.AvgPool2d, "mean")):
            if isinstance(module, kind):
                counts[letter] += 1
                labels.append(letter if letter == "mean" else f"{letter}{counts[letter]}")
                places.append(place)
    ones = np.ones((len(images), 1))
    some = Fields(
        tuple(labels),
        np.concatenate([[1], fields.support[places]]),
        np.concatenate([ones.astype(int), fields.active[:, places]], 1),
        np.concatenate([ones, fields.effective[:, places]], 1),
    )
    return labels, some


def percent(accuracies: Mapping[int, Sequence[float]], names: Sequence[int]) -> npt.NDArray[np.float64]:
    """As a line of a panel, (1, S, L); NaN where there is none."""
    seeds = len(next(iter(accuracies.values())))
    return 100 * np.array([accuracies.get(name, [np.nan] * seeds) for name in names]).T[None]


def picture(
    labels: Sequence[str], fields: Fields, found: DepthStudy, large: Mapping[int, Sequence[float]]
) -> Figure:
    """Fields by level, and accuracies by field and by depth."""
    shape = (1, *fields.active.shape)
    lines = {
        "theoretical": np.broadcast_to(fields.support.astype(float), shape),
        "of active paths": fields.active[None].astype(float),
        "effective": fields.effective[None],
    }
    panels = [Panel("Receptive field of a trained net", "side in pixels", lines, labels)]
    for title, along, accuracies, more in (
        ("Three convolutions", "receptive field in pixels", found.by_field, {}),
        (f"Receptive field of {13 * CELL} pixels", "convolutions", found.by_depth, large),
    ):
        names = sorted({*accuracies, *more})
        lines = {"3 × 3, dilated": percent(accuracies, names)}
        if more:
            lines["undilated, large"] = percent(more, names)
        panels.append(Panel(title, "accuracy, %", lines, list(map(str, names)), along=along))
    return curves(panels)


def other_kernels(large: Mapping[int, Sequence[float]]) -> str:
    """What dilation has to do with it, as a sentence."""
    sides = {
        depth: plan[0][0]
        for depth, plan in LARGE_KERNELS.items()
        if depth not in BY_DEPTH or plan != BY_DEPTH[depth]
    }
    kernels = " and ".join(
        f"{depth} of {side} × {side} {100 * np.mean(large[depth]):.0f} %" for depth, side in sides.items()
    )
    return (
        " Neither gain is the field's or the depth's alone: kernels are 3 × 3, more dilated in larger fields and "
        f"less in deeper nets; undilated ones reach less: {kernels}."
    )


def run(asked: Namespace) -> Results:
    """Measure, judge, draw."""
    net, _, test = scene_task(asked.cache, seed=0)
    labels, fields = measured(net, pixels(torch.from_numpy(test.images[:IMAGES])))
    accuracies, large, rows = depths(asked.cache, asked.seeds)
    save_figure(picture(labels, fields, accuracies, large), asked.pictures / "receptive_fields.png")
    row = asdict(accuracies.verdict("make predictions"))
    row["says"] += other_kernels(large)
    return {
        **row,
        "gains": {name: asdict(gain) for name, gain in accuracies.gains().items()},
        "nets": rows,
        "fields": {
            "levels": labels,
            "theoretical": fields.support.tolist(),
            "of_active_paths": fields.active.mean(0).round(1).tolist(),
            "effective": np.nanmean(fields.effective, 0).round(1).tolist(),
        },
        "images": IMAGES,
    }


if __name__ == "__main__":
    study(run, name="predictions/t21", target="predictions", seeds=LEAST, options=CACHE)
