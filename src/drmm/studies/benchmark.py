"""How fast a DRMM is against the same convnet written in plain PyTorch, on this machine.

Rivals take turns, round after round, so that whatever else the machine does slows all of them alike. A ratio is
the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm import __version__
from drmm.errors import RunError
from drmm.explain import active_paths, guided_backprop
from drmm.learning.allocator import tune_allocator
from drmm.learning.objective import Objective
from drmm.lifting.assembly import lift
from drmm.model.deep import DRMM
from drmm.model.presets import conv_small
from drmm.rendering import Flatten, Level
from drmm.rendering.convolution import as_channels_last
from drmm.studies.timing import ratio, take_turns

__all__ = ["RIVALS", "peak_memory", "plain_twin", "run_benchmark", "table", "train_on_request"]

RIVALS = ("plain", "plain_channels_last", "drmm", "drmm_hard")
_IMAGE = (1, 28, 28)
_CLASSES = 10
_BARE = Objective(reconstruction=0, nonnegativity=0)  # a step without the way down
_PATIENCE = 12.0  # seconds for each measurement: on a busy machine there are fewer rounds, but at least 3
_TRAIN = "from drmm.studies.benchmark import train_on_request; train_on_request"
_NAMES = {
    "plain": "plain convnet",
    "plain_channels_last": "plain convnet, channels-last",
    "drmm": "DRMM",
    "drmm_hard": "DRMM, hard constraint",
}


def plain_twin(model: DRMM) -> nn.Sequential:
    """The convnet of a model of `Level`s, averages and one `Flatten`, with the same weights and no switches."""
    layers: list[nn.Module] = []
    for rendering in model.levels.renderings:
        if isinstance(rendering, Level):
            conv, norm, pool = rendering.dictionary, rendering.norm, rendering.pool
            size, padding = cast("tuple[int, int]", conv.kernel_size), cast("tuple[int, int]", conv.padding)
            plain = nn.Conv2d(
                conv.in_channels, conv.out_channels, size, padding=padding, bias=conv.bias is not None
            )
            layers += [plain, *([] if norm is None else [nn.BatchNorm2d(norm.num_features)]), nn.ReLU()]
            layers += [] if pool is None else [nn.MaxPool2d(pool.kernel_size, pool.stride)]
        else:
            layers.append(nn.Flatten() if isinstance(rendering, Flatten) else nn.AdaptiveAvgPool2d(1))
    twin = nn.Sequential(*layers, nn.Linear(model.templates.weight.shape[1], model.templates.out_features))
    ours = [*model.levels.state_dict().values(), *model.templates.state_dict().values()]
    twin.load_state_dict(dict(zip(twin.state_dict(), ours, strict=True)))
    return twin


class _Rival:
    """A network with its optimiser and a batch."""

    def __init__(
        self, name: str, batch_size: int, width: int, seed: int = 0, objective: Objective | None = None
    ) -> None:
        torch.manual_seed(seed)
        constraint: Literal["hard", "soft"] = "hard" if name == "drmm_hard" else "soft"
        model = conv_small(_CLASSES, _IMAGE, constraint=constraint, width=width)
        self.x, self.y = torch.rand(batch_size, *_IMAGE), torch.randint(_CLASSES, (batch_size,))
        self.objective = Objective() if objective is None else objective
        self.network: nn.Module = model if name.startswith("drmm") else plain_twin(model)
        if name == "plain_channels_last":
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.x = as_channels_last(self.x)
        self.optimizer = torch.optim.Adam(self.network.parameters())

    def train(self) -> None:
        """One step: the terms of the objective for a DRMM, cross-entropy for a convnet."""
        self.network.train()
        self.optimizer.zero_grad()
        if isinstance(self.network, DRMM):
            loss = self.objective(self.network, self.x, self.y)["loss"]
        else:
            loss = F.cross_entropy(self.network(self.x), self.y)
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def predict(self) -> Tensor:
        """Logits in evaluation mode."""
        self.network.eval()
        return self.network(self.x)  # type: ignore[no-any-return]


def run_benchmark(
    *,
    threads: Sequence[int] = (1, 2),
    batch_sizes: Sequence[int] = (64, 128),
    repeats: int = 15,
    width: int = 32,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Time `conv_small` and its plain twins; about a minute on two cores.

    Args:
        threads: how many threads torch may use.
        batch_sizes: images a step.
        repeats: rounds of each measurement, after two to warm up; fewer where they take too long.
        width: of `conv_small`.
        seed: of weights and images.
        progress: told what is measured next.

    Returns:
        Times in seconds, throughputs in images a second, memory in bytes.
    """
    say = progress or (lambda _: None)
    before = torch.get_num_threads()
    tune_allocator()
    runs = []
    try:
        for count in threads:
            torch.set_num_threads(count)
            for size in batch_sizes:
                say(f"{count} thread{'s' * (count > 1)}, {size} images a batch")
                runs.append({"threads": count, "batch_size": size, **_measure(size, repeats, width, seed)})
        say("share of convolutions")
        torch.set_num_threads(threads[0])
        shares = {name: _convolution_share(_Rival(name, max(batch_sizes), width, seed)) for name in RIVALS}
        shares["drmm_bare"] = _convolution_share(_Rival("drmm", max(batch_sizes), width, seed, _BARE))
        say("explanations")
        explanations = _explanations(max(batch_sizes), repeats, width, seed)
    finally:
        torch.set_num_threads(before)
    say("processes")
    processes = _processes(max(batch_sizes), repeats, width, seed)
    say("memory")
    return {
        "format": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "settings": {"preset": "conv_small", "width": width, "image_shape": list(_IMAGE), "repeats": repeats},
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "platform": platform.platform()},
        "versions": {"drmm": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "runs": runs,
        "explanations": explanations,
        "convolution_share": {"threads": threads[0], "batch_size": max(batch_sizes), **shares},
        "processes": processes,
        "memory": _memory(max(batch_sizes), width),
    }


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table, one row for each rival and setting."""
    lines = [
        "| threads | batch | network | training step (ms) | ÷ plain | ÷ channels-last | predictions/s | × plain |",
        "|--:|--:|:--|--:|--:|--:|--:|--:|",
    ]
    for run in result["runs"]:
        for name in RIVALS:
            step, ratio = run["train_seconds"][name], run["ratio"][name]
            lines.append(
                f"| {run['threads']} | {run['batch_size']} | {_NAMES[name]} | {step * 1e3:.1f} "
                f"| {ratio['train_to_plain']:.2f} | {ratio['train_to_plain_channels_last']:.2f} "
                f"| {run['predict_images_per_second'][name]:,.0f} | {ratio['predict_to_plain']:.2f} |"
            )
    share, memory, explanations = result["convolution_share"], result["memory"], result.get("explanations")
    without = f", {share['drmm_bare']:.0%} without rendering" if "drmm_bare" in share else ""
    lines += ["", f"Share of a DRMM's training step inside convolutions: {share['drmm']:.0%}{without}."]
    if (processes := result.get("processes")) is not None:
        lines.append(
            f"Two processes with a thread each train {processes['two_to_one']:.2f} times as many images a second "
            "as one process with two threads."
        )
    if memory["drmm"] is not None:
        lines.append(
            f"Peak memory of a training step, {memory['batch_size']} images: {memory['drmm'] / 2**20:.0f} MiB, "
            f"{memory['drmm'] / memory['plain']:.2f} times the plain convnet's."
        )
    if explanations is not None:
        took = (
            f"{name} {explanations[name]['drmm_to_captum']:.2f}" for name in ("active paths", "guided backprop")
        )
        lines.append(f"Explanations of the plain convnet, time relative to Captum's: {', '.join(took)}.")
    return "\n".join(lines) + "\n"


def peak_memory(name: str, batch_size: int, width: int = 32) -> int | None:
    """Bytes by which training steps raise this process's peak memory; call it in a fresh process.

    What a step with two images takes (libraries, generated code, weights, the optimiser's state) does not count.
    None where there is no /proc (macOS, Windows).
    """
    tune_allocator()
    torch.set_num_threads(1)
    _Rival(name, 2, width).train()
    before = _status("VmRSS")
    rival = _Rival(name, batch_size, width)
    for _ in range(3):
        rival.train()
    after = _status("VmHWM")
    return None if before is None or after is None else after - before


def train_on_request(threads: int, batch_size: int, width: int, seed: int) -> None:
    """Train a DRMM, so many steps for each number on standard input, and say when they are done."""
    tune_allocator()
    torch.set_num_threads(threads)
    rival = _Rival("drmm", batch_size, width, seed)
    for line in sys.stdin:
        for _ in range(int(line)):
            rival.train()
        sys.stdout.write("done\n")
        sys.stdout.flush()


class _Trainers:
    """Processes that train side by side, each with so many threads."""

    def __init__(self, stack: ExitStack, threads: Sequence[int], batch_size: int, width: int, seed: int) -> None:
        self.processes = [
            stack.enter_context(
                subprocess.Popen(  # noqa: S603  (our own code in our own interpreter)
                    [sys.executable, "-c", f"{_TRAIN}({count}, {batch_size}, {width}, {seed})"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    bufsize=0,
                )
            )
            for count in threads
        ]

    def train(self, steps: int) -> None:
        """So many steps in each, and wait for the last."""
        for process in self.processes:
            with suppress(BrokenPipeError):  # of one that has ended: it will not answer
                cast("IO[bytes]", process.stdin).write(b"%d\n" % steps)
        answers = {cast("IO[bytes]", process.stdout).readline() for process in self.processes}
        if answers != {b"done\n"}:
            raise RunError("a process that trains for the benchmark has ended: see what it says above")


def _processes(batch_size: int, repeats: int, width: int, seed: int) -> dict[str, Any]:
    """The throughput of one process with two threads, and of two with a thread each, which share nothing."""
    steps = 2
    with ExitStack() as stack:
        one, two = (_Trainers(stack, threads, batch_size, width, seed) for threads in ((2,), (1, 1)))
        times = take_turns(
            {"one": partial(one.train, 2 * steps), "two": partial(two.train, steps)}, repeats, _PATIENCE
        )
    images = 2 * steps * batch_size
    return {
        "batch_size": batch_size,
        "images_per_second": {name: images / statistics.median(each) for name, each in times.items()},
        "two_to_one": ratio(times["one"], times["two"]),
    }


def _measure(batch_size: int, repeats: int, width: int, seed: int) -> dict[str, Any]:
    """Training steps, then predictions, of all rivals."""
    rivals = {name: _Rival(name, batch_size, width, seed) for name in RIVALS}
    train = take_turns({name: rival.train for name, rival in rivals.items()}, repeats, _PATIENCE)
    predict = take_turns({name: rival.predict for name, rival in rivals.items()}, repeats, _PATIENCE)
    return {
        "train_seconds": {name: statistics.median(times) for name, times in train.items()},
        "predict_images_per_second": {
            name: batch_size / statistics.median(times) for name, times in predict.items()
        },
        "ratio": {
            name: {
                "train_to_plain": ratio(train[name], train["plain"]),
                "train_to_plain_channels_last": ratio(train[name], train["plain_channels_last"]),
                "predict_to_plain": ratio(predict["plain"], predict[name]),
                "predict_to_plain_channels_last": ratio(predict["plain_channels_last"], predict[name]),
            }
            for name in RIVALS
        },
    }


def _explanations(batch_size: int, repeats: int, width: int, seed: int) -> dict[str, Any] | None:
    """How long maps take against Captum's of the same net, where definitions coincide; None without Captum."""
    try:
        from captum.attr import GuidedBackprop, InputXGradient  # noqa: PLC0415  (a peer for developers)
    except ImportError:
        return None
    rival = _Rival("plain", batch_size, width, seed)
    net, x = rival.network.eval(), rival.x
    lifted = lift(net)
    figures: dict[str, Any] = {"batch_size": batch_size}
    for name, ours, peer in (
        ("active paths", active_paths, InputXGradient(net)),
        ("guided backprop", guided_backprop, GuidedBackprop(net)),
    ):
        asked = x.clone().requires_grad_()

        def attribute(peer: Any = peer, asked: Tensor = asked) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # it says that it sets hooks
                peer.attribute(asked, target=0)

        times = take_turns({"drmm": partial(ours, lifted, x, 0), "captum": attribute}, repeats, _PATIENCE)
        figures[name] = {
            "seconds": {who: statistics.median(each) for who, each in times.items()},
            "drmm_to_captum": ratio(times["drmm"], times["captum"]),
        }
    return figures


def _convolution_share(rival: _Rival, steps: int = 4) -> float:
    """Share of a training step's operator time in convolutions, their gradients and transposes.

    Matrix products count too: the picture is drawn by one, and the class templates' are too small to matter.
    """
    rival.train()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it tells its developers when it starts and stops
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(steps):
            rival.train()
    times = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    inside = sum(t for key, t in times.items() if "conv" in key.lower() or key == "aten::mm")
    return float(inside / sum(times.values()))


def _memory(batch_size: int, width: int) -> dict[str, Any]:
    """Peak memory of a training step of each rival, each in a process of its own."""

    def ask(name: str) -> int | None:
        code = (
            f"from drmm.studies.benchmark import peak_memory; print(peak_memory({name!r}, {batch_size}, {width}))"
        )
        answer = subprocess.run(  # noqa: S603  (our own code in our own interpreter)
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()[-1]
        return None if answer == "None" else int(answer)

    return {"batch_size": batch_size, **{name: ask(name) for name in RIVALS}}


def _status(field: str) -> int | None:
    """A size from /proc/self/status, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
