"""What lifting costs: seconds to lift, inference and reconstruction against a forward pass, bytes of switches.

Networks are pytorchcv's with random weights, images 224 × 224, in evaluation and without gradients. Every round
times each call once, so that a busy machine slows all of them alike; ratios are medians over rounds. Then the
net for photographs, as a preset and lifted, against its published implementation: several sizes, one thread and
two.
"""

from __future__ import annotations

import itertools
import statistics
from argparse import Namespace
from collections.abc import Callable
from functools import partial

import torch
from efficientnet_lite_pytorch import EfficientNet
from pytorchcv.model_provider import get_model
from torch import Tensor, nn

import drmm
from drmm.model.efficientnet import efficientnet_lite
from drmm.progress import track
from drmm.studies.timing import ratio, take_turns
from scripts.study import Results, study

NETS = ("resnet18", "resnet50", "bn_vgg11", "densenet121", "mobilenetv2_w1", "resnext50_32x4d")
PHOTOGRAPHS = ((1, 224), (8, 224), (32, 112))  # how many at once, and pixels a side
THREADS = (1, 2)
UNITS = (nn.ReLU, nn.ReLU6, nn.MaxPool2d)


def bytes_per_unit(net: nn.Module, model: drmm.DRMM, x: Tensor) -> float:
    """Bytes of the switches for each unit that a ReLU or a pool puts out."""
    units: list[int] = []
    handles = [
        module.register_forward_hook(lambda _, __, y: units.append(y.numel()))
        for module in net.modules()
        if isinstance(module, UNITS)
    ]
    net(x)
    for handle in handles:
        handle.remove()
    return model.max_sum(x, None)[2].nbytes() / sum(units)


@torch.no_grad()
def measure(name: str, batch: int, rounds: int) -> dict[str, float | str]:
    """One row of the table."""
    net = get_model(name, pretrained=False).eval()
    model = drmm.lift(net)
    x = torch.randn(batch, 3, 224, 224)
    calls: dict[str, Callable[[], object]] = {
        "forward": lambda: net(x),
        "lifted_forward": lambda: model(x),
        "inference": lambda: model.max_sum(x, None),
        "reconstruction": lambda: model.reconstruct(x),
        "lift": lambda: drmm.lift(net, check=False),
    }
    times = take_turns(calls, rounds)
    row: dict[str, float | str] = {"net": name, "lift_seconds": statistics.median(times.pop("lift"))}
    row["forward_ms"] = 1e3 * statistics.median(times["forward"])
    row |= {f"{call}_to_forward": ratio(taken, times["forward"]) for call, taken in times.items()}
    row["switch_bytes_per_unit"] = bytes_per_unit(net, model, x)
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


@torch.no_grad()
def photographs(rounds: int) -> list[dict[str, float | str]]:
    """Rows of the other table; `inference` is `infer`, of which neither certificate nor amplitude is read."""
    net = EfficientNet.from_name("efficientnet-lite0").eval()
    preset = efficientnet_lite("efficientnet_lite0", 1000, (3, 224, 224)).eval()
    models = {"preset": preset, "lifted": drmm.lift(net, image_shape=(3, 224, 224))}
    rows: list[dict[str, float | str]] = []
    for threads, (batch, side) in track([*itertools.product(THREADS, PHOTOGRAPHS)], "sizes"):
        torch.set_num_threads(threads)
        x = torch.randn(batch, 3, side, side)
        calls: dict[str, Callable[[], object]] = {"forward": partial(net, x)}
        for name, model in models.items():
            calls[f"{name} inference"] = partial(model.infer, x)
            calls[f"{name} reconstruction"] = partial(model.reconstruct, x)
        times = take_turns(calls, rounds)
        rows += [
            {
                "net": name,
                "batch": batch,
                "side": side,
                "threads": threads,
                "forward_ms": round(1e3 * statistics.median(times["forward"]), 4),
                "inference_to_forward": round(ratio(times[f"{name} inference"], times["forward"]), 4),
                "reconstruction_to_forward": round(ratio(times[f"{name} reconstruction"], times["forward"]), 4),
            }
            for name in models
        ]
    torch.set_num_threads(1)
    return rows


def run(asked: Namespace) -> Results:
    """Measure every net."""
    torch.manual_seed(0)
    rows = [measure(name, asked.batch, asked.rounds) for name in track(NETS, "nets")]
    return {
        "batch": asked.batch,
        "rounds": asked.rounds,
        "threads": torch.get_num_threads(),
        "rows": rows,
        "photographs": photographs(asked.rounds),
    }


def table(results: Results) -> str:
    """Seconds, ratios and bytes of lifted nets, as Markdown."""
    titles = {
        "net": "net",
        "lift_seconds": "seconds to lift",
        "forward_ms": "forward (ms)",
        "inference_to_forward": "inference ÷ forward",
        "reconstruction_to_forward": "reconstruction ÷ forward",
        "switch_bytes_per_unit": "bytes per unit",
    }
    rows = [f"| {' | '.join(titles.values())} |", f"|---|{'--:|' * (len(titles) - 1)}"]
    for row in results["rows"]:
        cells = [
            row[key] if key == "net" else f"{row[key]:.0f}" if key == "forward_ms" else f"{row[key]:.2f}"
            for key in titles
        ]
        rows.append(f"| {' | '.join(cells)} |")
    photographs = results.get("photographs", ())
    if photographs:
        rows += ["", "| EfficientNet-Lite0 | images | threads | inference ÷ forward | reconstruction ÷ forward |"]
        rows += ["|---|--:|--:|--:|--:|"]
    for row in photographs:
        images = f"{row['batch']} × {row['side']}²"
        inference, reconstruction = row["inference_to_forward"], row["reconstruction_to_forward"]
        rows.append(f"| {row['net']} | {images} | {row['threads']} | {inference:.2f} | {reconstruction:.2f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    options = {"--batch": {"type": int, "default": 1}, "--rounds": {"type": int, "default": 15}}
    study(run, table, name="lift", target="lift", seeds=1, options=options)
