"""Logits of many pictures: a DRMM beside the same net in plain PyTorch and in ONNX Runtime: `make serving`.

Two nets with random weights: `conv_small` for digits of 28 x 28 pixels, and EfficientNet-Lite0 for photographs of
160 x 160, whose plain net is its published implementation. All begin with levels, uint8, and take turns, round
after round; a figure is the median over rounds of the ratio within a round. "DRMM, folded" is what `drmm predict`
and the features of photographs are computed by, a few pictures at a time, and what `drmm export` writes into the
file that ONNX Runtime runs.
"""

from __future__ import annotations

import copy
import statistics
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from drmm.data.images import pixels
from drmm.export import Answering
from drmm.export.formats import onnx_answer, onnx_bytes
from drmm.export.integers import with_integers
from drmm.learning.metrics import predict_logits
from drmm.model.deep import DRMM
from drmm.model.efficientnet import efficientnet_lite
from drmm.model.folding import folded
from drmm.model.presets import Shape, conv_small
from drmm.progress import track
from drmm.rendering.convolution import as_channels_last
from drmm.studies.benchmark import plain_twin
from drmm.studies.timing import ratio, take_turns
from scripts.study import Results, study

THREADS, BATCHES = (1, 2), (1, 32, 256)
PATIENCE = 20.0  # seconds for a setting: slow ones have fewer rounds
RANGES = 64  # pictures that the ranges of 8-bit integers are measured on
BASE = "plain"
RIVALS = {
    "plain": "PyTorch",
    "channels_last": "PyTorch, channels-last",
    "drmm": "DRMM",
    "folded": "DRMM, folded",
    "onnx": "ONNX Runtime",
    "integers": "ONNX Runtime, int8",
}


class Net(NamedTuple):
    """A DRMM, the same net in plain PyTorch, and the form of a picture."""

    model: DRMM
    plain: nn.Module
    shape: Shape


def digits() -> Net:
    """`conv_small`."""
    model = conv_small(10, (1, 28, 28)).eval()
    return Net(model, plain_twin(model).eval(), (1, 28, 28))


def photographs() -> Net:
    """EfficientNet-Lite0."""
    shape = (3, 160, 160)
    model = efficientnet_lite("efficientnet_lite0", 1000, shape).eval()
    return Net(model, EfficientNet.from_name("efficientnet-lite0").eval(), shape)


NETS: dict[str, Callable[[], Net]] = {"conv_small, 28 x 28": digits, "EfficientNet-Lite0, 160 x 160": photographs}


def rivals(net: Net, threads: int) -> dict[str, Callable[[Tensor], object]]:
    """What answers pictures, uint8 (N, C, H, W), by name."""
    spread = copy.deepcopy(net.plain).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    quick = folded(net.model)
    file = onnx_bytes(
        Answering(net.model, None, quick=True).eval(), net.shape, {}
    )  # whose softmax is next to nothing
    return {
        "plain": lambda x: net.plain(pixels(x)),
        "channels_last": lambda x: spread(as_channels_last(pixels(x))),
        "drmm": lambda x: net.model(pixels(x)),
        "folded": lambda x: predict_logits(quick, x),
        "onnx": onnx_answer(file, threads),
        "integers": onnx_answer(
            with_integers(file, torch.randint(256, (RANGES, *net.shape), dtype=torch.uint8)), threads
        ),
    }


@torch.no_grad()
def measure(name: str, threads: int, batch: int, rounds: int) -> Results:
    """One net in one setting: pictures a second of PyTorch, and how many times as many the others answer."""
    torch.set_num_threads(threads)
    net = NETS[name]()
    x = torch.randint(256, (batch, *net.shape), dtype=torch.uint8)
    times = take_turns({who: partial(answer, x) for who, answer in rivals(net, threads).items()}, rounds, PATIENCE)
    torch.set_num_threads(1)
    return {
        "net": name,
        "threads": threads,
        "batch": batch,
        "rounds": len(times[BASE]),
        "pictures_per_second": {who: round(batch / statistics.median(each), 1) for who, each in times.items()},
        "to_plain": {who: round(ratio(times[BASE], each), 4) for who, each in times.items()},
    }


def run(asked: Namespace) -> Results:
    """Every net in every setting."""
    torch.manual_seed(0)
    settings = list(product(NETS, THREADS, BATCHES))
    return {"rows": [measure(*setting, asked.rounds) for setting in track(settings, "settings")]}


def table(results: Results) -> str:
    """Pictures a second of PyTorch, and the others' as multiples of that, as Markdown."""
    others = [who for who in RIVALS if who != BASE and who in results["rows"][0]["to_plain"]]
    lines = [f"| net | threads | batch | PyTorch, pictures/s | {' | '.join(RIVALS[who] for who in others)} |"]
    lines.append(f"|---|{'--:|' * (3 + len(others))}")
    for row in results["rows"]:
        cells = [f"× {row['to_plain'][who]:.2f}" for who in others]
        per_second = f"{row['pictures_per_second'][BASE]:,.0f}"
        lines.append(f"| {row['net']} | {row['threads']} | {row['batch']} | {per_second} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    study(
        run, table, name="serving", target="serving", seeds=1, options={"--rounds": {"type": int, "default": 15}}
    )
