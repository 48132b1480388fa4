"""Several processes that train one model: what DDP does to the steps, and how mistakes come out of a process."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

import drmm
from drmm.errors import InputError, RunError
from drmm.files import read_json, write_json
from drmm.learning.batches import Batches
from drmm.learning.callbacks import Steps
from drmm.learning.config import Machine, Training
from drmm.learning.objective import Objective
from drmm.learning.processes import is_leader, local_rank
from drmm.learning.rates import warm_cosine
from drmm.learning.train import train
from drmm.learning.trainer import run_loop
from drmm.rendering import Flatten, Linear, ReLU, Sequential
from drmm.studies.reproduce.dry import drawn_images
from drmm.studies.reproduce.processes import launch

DEVICES = 2
MACHINE = Machine("cpu", DEVICES)
CONFIG = Training(
    epochs=1, min_steps=0, batch_size=16, labelled_per_batch=4, learning_rate=0.01, weight_average=0.0
)


def task() -> tuple[drmm.DRMM, Tensor, Tensor]:
    """A small net in double precision, in which the order of a sum does not matter to nine digits, and images."""
    torch.manual_seed(3)
    model = drmm.presets.conv_small(10, (1, 12, 12), width=2).double()
    x, y = drawn_images(72, (1, 12, 12), labelled=20, seed=0)
    return model, x.double() / 255, y


def learn(folder: Path) -> str:
    """Train in one of the processes, keep what it ends with, and tell which it was."""
    model, x, y = task()
    train(model, x, y, config=CONFIG, machine=MACHINE, progress=False)
    torch.save(model.state_dict(), folder / f"{os.environ['LOCAL_RANK']}.pt")
    return os.environ["LOCAL_RANK"]


def by_hand(shares: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """The same steps in one process: the mean of the gradients of several models, each on its batches.

    Args:
        shares: for each model the numbers of the processes whose batches it takes together.
    """
    model, x, y = task()
    order = {"batch_size": 16, "labelled": 4, "seed": CONFIG.seed, "epoch": 0}
    batches = [list(Batches(x, y, **order, rank=rank, world_size=DEVICES)) for rank in range(DEVICES)]
    optimizer = torch.optim.Adam(model.train().parameters(), lr=CONFIG.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_cosine(len(batches[0])))
    for step in range(len(batches[0])):
        replicas = [deepcopy(model) for _ in shares]
        parts = [
            [torch.cat(part) for part in zip(*(batches[r][step] for r in ranks), strict=True)] for ranks in shares
        ]
        known = torch.tensor([int((labels >= 0).sum()) for _, labels in parts])
        for replica, (images, labels), more in zip(
            replicas, parts, known / known.double().mean() - 1, strict=True
        ):
            terms = Objective()(replica, images, labels)
            (terms["loss"] + more * terms["cross_entropy"]).backward()
        for p, *theirs in zip(model.parameters(), *(replica.parameters() for replica in replicas), strict=True):
            p.grad = torch.stack([q.grad for q in theirs]).mean(0)
        clip_grad_norm_(model.parameters(), CONFIG.gradient_clip)
        optimizer.step()
        schedule.step()
    return {name: p.detach() for name, p in model.named_parameters()}


def distance(weights: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """Largest difference of any weight."""
    return max(float((weights[name] - others[name]).abs().max()) for name in others)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("replicas")
    assert launch(learn, DEVICES, folder) == "0", "the first process answers"
    assert is_leader(), "and this one is no part of it"
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(DEVICES)]


def test_replicas_end_identical(replicas):
    """Weights, and what is measured with them: to the bit. What each would have learned alone differs."""
    assert all(torch.equal(value, replicas[1][name]) for name, value in replicas[0].items())
    assert distance(by_hand([[0]]), by_hand([[1]])) > 0.01, "control"


def test_a_step_of_ddp_is_the_mean_of_its_processes_gradients(replicas):
    assert distance(replicas[0], by_hand([[0], [1]])) < 1e-9
    assert distance(replicas[0], by_hand([[0], [0]])) > 0.01, "control: one process alone"


def test_a_step_of_ddp_is_not_one_of_the_whole_batch(replicas):
    """Each process normalises with the statistics of its own share, and balances its own share's classes."""
    assert distance(replicas[0], by_hand([[0, 1]])) > 1e-3


PLAIN = Objective(reconstruction=1, kl=0.5, balance=0, nonnegativity=0.5)  # means over pictures alone


class Drawn(Steps):
    """Keeps what each step draws last, too."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, *rest, **more):
        super().on_train_batch_end(trainer, pl_module, *rest, **more)
        self.drawn.append(pl_module._seeds.bit_generator.state["state"]["state"])


def curve(machine: Machine, folder: Path) -> None:
    """Losses of 50 steps without batch norm; shares have unequal numbers of images and of labels."""
    torch.manual_seed(3)
    levels = Sequential(Flatten(), Linear(144, 8), ReLU())
    model = drmm.DRMM(levels, Linear(8, 10), image_shape=(1, 12, 12)).double()
    x, y = drawn_images(125, (1, 12, 12), labelled=23, seed=0)
    x = x.double() / 255
    watch = Drawn()
    run_loop(model.train(), x, y, PLAIN, replace(CONFIG, epochs=5), machine, watching=[watch])
    told = {"losses": watch.losses, "drawn": watch.drawn}
    write_json(folder / f"{local_rank()} of {machine.devices}", told)


def test_the_loss_curve_of_one_process(tmp_path):
    """Of the mean over the processes, each of which draws by itself."""
    curve(Machine("cpu"), tmp_path)
    launch(curve, DEVICES, MACHINE, tmp_path)
    told = [read_json(tmp_path / name) for name in ("0 of 1", "0 of 2", "1 of 2")]
    alone, first, second = (torch.tensor(one["losses"]) for one in told)
    assert len(alone) == len(first) == 50
    assert ((first + second) / 2 - alone).abs().max() < 1e-4
    assert (first - alone).abs().max() > 1e-2, "control: the share of one process"
    assert alone[-10:].mean() < alone[:10].mean() - 0.05, "control: something is learned"
    assert not set(told[1]["drawn"]) & set(told[2]["drawn"])
    assert told[0]["drawn"] == told[1]["drawn"], "control"


def test_a_process_has_the_threads_it_is_given():
    assert launch(torch.get_num_threads, 1, threads=3) == 3


def fail_second(how: str) -> None:
    """The first process waits for the second one, as for a gradient."""
    if is_leader():
        time.sleep(600)
    if how == "input":
        raise InputError("these images are upside down")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("input", InputError, "^these images are upside down$"),
        ("killed", RunError, r"ended from outside \(exit code -9\)"),
    ],
)
def test_an_error_in_one_process_ends_all(how, error, says):
    with pytest.raises(error, match=says):
        launch(fail_second, 2, how)


COMMAND = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from drmm.studies.reproduce.processes import end_with_parent

def work():
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    start = end_with_parent if sys.argv[1] == "ends" else None
    ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=start).submit(work).result()
"""


def lives(process: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("how", ["ends", "control: goes on"])
def test_a_worker_ends_with_its_command(how, tmp_path):
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    command = subprocess.Popen(
        [sys.executable, str(script), how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    worker = int(command.stdout.readline())
    try:
        command.kill()
        command.wait()
        command.stdout.close()
        end = time.monotonic() + (30 if how == "ends" else 2)
        while lives(worker) and time.monotonic() < end:
            time.sleep(0.1)
        assert lives(worker) == (how != "ends")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
