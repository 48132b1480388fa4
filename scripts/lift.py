"""What lifting costs: seconds to lift, inference and reconstruction against a forward pass, bytes of switches.

Networks are pytorchcv's with random weights, images 224 × 224, in evaluation and without gradients. Every round
times each call once, so that a busy machine slows all of them alike; ratios are medians over rounds.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Callable

import torch
from pytorchcv.model_provider import get_model
from torch import Tensor, nn

import drmm
from drmm.progress import track
from drmm.studies.timing import ratio, take_turns
from scripts.study import Results, study

NETS = ("resnet18", "resnet50", "bn_vgg11", "densenet121", "mobilenetv2_w1", "resnext50_32x4d")
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


def run(asked: Namespace) -> Results:
    """Measure every net."""
    torch.manual_seed(0)
    rows = [measure(name, asked.batch, asked.rounds) for name in track(NETS, "nets")]
    return {"batch": asked.batch, "rounds": asked.rounds, "threads": torch.get_num_threads(), "rows": rows}


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
    return "\n".join(rows)


if __name__ == "__main__":
    options = {"--batch": {"type": int, "default": 1}, "--rounds": {"type": int, "default": 15}}
    study(run, table, name="lift", target="lift", seeds=1, options=options)
