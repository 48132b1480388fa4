"""Backprop, EG and EM side by side on MNIST, and clusters without labels: `make learning`.

Law T10, and the table of docs/learning.md. Every figure is of images that were not trained on: a validation part
of the training set for the race (so that the test set is read once, for the clusters), five seeds, the schedule
fixed in advance. Runs are written one by one into results/learning/ and not repeated; the summary is
results/learning.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from torch import Tensor

from drmm.data import holdout, load, stratified_labels
from drmm.data.images import pixels
from drmm.estimators.mixture import RenderingMixture
from drmm.files import read_json, write_json
from drmm.learning.allocator import tune_allocator
from drmm.learning.em import DeepLearner, MStep, e_step, m_step, relax
from drmm.learning.em.deep import centre
from drmm.learning.initialisation import initialise
from drmm.learning.metrics import cluster_accuracy, error_percent, name_clusters, predict_logits
from drmm.learning.objective import Objective
from drmm.learning.train import Training, train
from drmm.model.deep import DRMM
from drmm.model.presets import conv_small
from drmm.runs.run import versions

IMAGES, HELD_OUT = 10_000, 3_000  # of MNIST's training set
CLUSTERED = 5_000  # images that clusters are looked for in
EPOCHS, ITERATIONS = 8, 2
TARGETS = (5.0, 2.0, 1.5)  # error in percent
RULES = ("sgd", "eg", "em")
CLUSTERERS = (
    "k-means 10",
    "gaussian 10",
    "rendering 10",
    "deep em 10",
    "deep sgd 10",
    "k-means 100",
    "gaussian 100",
    "rendering 100",
)
Parts = tuple[Tensor, Tensor, Tensor, Tensor]


def main() -> None:
    """Run what has not been run, and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST's files")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results"))
    asked = parser.parse_args()
    kinds = {"race": RULES, "clusters": CLUSTERERS}
    runs = [(kind, name, seed) for kind in kinds for seed in range(asked.seeds) for name in kinds[kind]]
    todo = [run for run in runs if not _path(asked.out, *run).is_file()]
    with Progress() as bar, ProcessPoolExecutor(asked.processes, max_tasks_per_child=1) as pool:
        task = bar.add_task("runs", total=len(runs), completed=len(runs) - len(todo))
        for done in as_completed([pool.submit(_run, asked.out, asked.data_dir, *run) for run in todo]):
            done.result()
            bar.advance(task)
    summary: dict[str, Any] = {"command": "make learning", "versions": versions(), "seeds": asked.seeds}
    summary |= {"images": IMAGES, "clustered": CLUSTERED, "held_out": HELD_OUT}
    summary |= {"epochs": EPOCHS, "iterations": ITERATIONS}
    summary["runs"] = [read_json(_path(asked.out, *run)) for run in runs]
    summary["throughput"] = throughput()
    summary["accepted"] = accepted(asked.data_dir)
    summary["memory"] = {str(n): memory(n) for n in (5_000, 60_000)}
    write_json(asked.out / "learning.json", summary)


def race(rule: str, seed: int, data_dir: Path | None) -> dict[str, Any]:
    """Held-out error of one learning rule as it learns from labelled images: [epoch, seconds, percent]."""
    x, y, *held_out = parts(seed, data_dir)
    points = list(_em_points(x, y, seed) if rule == "em" else _gradient_points(rule, x, y, seed, held_out))
    if rule == "em":
        points = [(epoch, seconds, error_percent(model, *held_out)) for epoch, seconds, model in points]
    reached = {str(target): next((p[:2] for p in points if p[2] <= target), None) for target in TARGETS}
    return {"points": points, "reached": reached}


def _gradient_points(
    rule: str, x: Tensor, y: Tensor, seed: int, held_out: list[Tensor]
) -> Iterator[tuple[float, float, float]]:
    """The errors that training logs after each epoch; epochs take equally long."""
    config = Training(learning=rule, epochs=EPOCHS, seed=seed)  # type: ignore[arg-type]
    objective = Objective.of(learning=rule) if rule == "eg" else Objective(1, 0, 0, 0, 0)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        train(
            _fresh(seed),
            x,
            y,
            objective=objective,
            config=config,
            validation=(held_out[0], held_out[1]),
            folder=Path(folder),
            progress=False,
        )
        seconds = (time.perf_counter() - start) / EPOCHS
        table = np.genfromtxt(Path(folder) / "logs" / "metrics.csv", delimiter=",", names=True)
    errors = table["valerror"][np.isfinite(table["valerror"])]
    for epoch, error in enumerate(errors, 1):
        yield float(epoch), round(epoch * seconds, 2), round(float(error), 4)


def _em_points(x: Tensor, y: Tensor, seed: int) -> Iterator[tuple[float, float, DRMM]]:
    """After the start from data, and after each M-step: the model with its relaxed class templates."""
    start = time.perf_counter()
    model = initialise(_fresh(seed), "data", x=x, y=y, seed=seed).eval()
    with tempfile.TemporaryDirectory() as folder:
        learner = DeepLearner(model, x, y, how=MStep(), soft=False, folder=Path(folder), seed=seed)
        pause = 0.0
        for iteration in range(ITERATIONS + 1):
            if iteration:
                learner.e_step()
                learner.m_step()
            relaxed = relax(copy.deepcopy(model), x, y)
            now = time.perf_counter()
            yield float(iteration), round(now - start - pause, 2), relaxed
            pause += time.perf_counter() - now


def clusters(name: str, seed: int, data_dir: Path | None) -> dict[str, Any]:
    """Test accuracy of clusters that saw no label, named by most of their training images; and one to one."""
    x, y, *_ = parts(seed, data_dir, CLUSTERED)
    test = load("mnist", data_dir=data_dir)
    start = time.perf_counter()
    predict = _clusterer(name, x, seed)
    seconds = time.perf_counter() - start
    found, found_test = predict(x), predict(torch.from_numpy(test.x_test))
    result: dict[str, Any] = {"seconds": round(seconds, 2)}
    for key, one_to_one in (("accuracy", False), ("one_to_one", True)):
        names = name_clusters(found, y.numpy(), one_to_one=one_to_one)
        result[key] = cluster_accuracy(found_test, test.y_test, names)
    return result


def _clusterer(name: str, x: Tensor, seed: int) -> Callable[[Tensor], np.ndarray]:
    method, _, number = name.rpartition(" ")
    k, flat = int(number), x.flatten(1).numpy() / 255
    if method == "k-means":
        means = KMeans(k, n_init=3, random_state=seed).fit(flat)
        return lambda images: means.predict(images.flatten(1).numpy() / 255)
    if method == "gaussian":
        mixture = GaussianMixture(k, covariance_type="diag", reg_covar=1e-2, random_state=seed).fit(flat)
        return lambda images: mixture.predict(images.flatten(1).numpy() / 255)
    if method == "rendering":
        rendering = RenderingMixture(k, random_state=seed).fit(x.numpy())
        return lambda images: rendering.predict(images.numpy())
    rule = method.removeprefix("deep ")
    model = conv_small(k)
    config = Training(learning=rule, epochs=EPOCHS if rule == "sgd" else 2, seed=seed)  # type: ignore[arg-type]
    train(model, x, torch.full((len(x),), -1), config=config, progress=False)
    return lambda images: predict_logits(model, images).argmax(1).numpy()


def throughput(rounds: int = 5, n: int = 1_000) -> dict[str, Any]:
    """Images a second of an E-step, an M-step and an epoch of G-steps, interleaved, one thread."""
    x, y = torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8), torch.arange(n) % 10
    model = initialise(_fresh(0), "data", x=x, y=y).eval()
    rates: dict[str, list[float]] = {"e_step": [], "m_step": [], "g_step": []}
    with tempfile.TemporaryDirectory() as folder:
        learner = DeepLearner(model, x, y, how=MStep(), soft=False, folder=Path(folder))
        steps = {"e_step": learner.e_step, "m_step": learner.m_step, "g_step": lambda: _gradient_epoch(x, y)}
        for round_ in range(rounds + 1):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                if round_:  # the first is for warming up
                    rates[name].append(n / (time.perf_counter() - start))
    return {
        name: {"images_per_second": round(float(np.median(rate)), 1), "all": [round(each, 1) for each in rate]}
        for name, rate in rates.items()
    }


def accepted(data_dir: Path | None, iterations: int = 4, n: int = 500) -> list[float]:
    """Share of images whose freshly inferred switches explain them better than the former ones, each iteration."""
    x, y, *_ = parts(0, data_dir, n)
    x = pixels(x)
    model = initialise(_fresh(0), "data", x=x, y=y).eval()
    beliefs, shares = e_step(model, x, y), []
    for _ in range(iterations):
        m_step(model, lambda believed=beliefs: iter([believed.configurations(x)]))
        centre(model, iter(x.split(100)))
        fresh, best = e_step(model, x, y), e_step(model, x, y, previous=beliefs)
        shares.append(round(float((fresh.objective >= best.objective).double().mean()), 4))
        beliefs = best
    return shares


def _gradient_epoch(x: Tensor, y: Tensor) -> None:
    """One epoch on the complete-data objective, as "eg" trains."""
    model, objective = _fresh(0).train(), Objective.of(learning="eg")
    optimizer = torch.optim.Adam(model.parameters())
    for images, labels in zip(x.split(128), y.split(128), strict=True):
        optimizer.zero_grad()
        objective(model, pixels(images), labels)["loss"].backward()
        optimizer.step()


def memory(n: int) -> dict[str, float]:
    """Peak memory of one E-step and one M-step on n images, in MiB, in a process of its own."""
    command = [sys.executable, __file__, "--memory", str(n)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    found: dict[str, float] = json.loads(answer.stdout)
    return found


def _measure_memory(n: int) -> None:
    x, y = torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8), torch.arange(n) % 10
    model = conv_small(width=8).eval()
    before = _peak()
    with tempfile.TemporaryDirectory() as folder:
        learner = DeepLearner(model, x, y, how=MStep(), soft=False, folder=Path(folder))
        learner.e_step()
        learner.m_step()
    found = {"before": before, "peak": _peak(), "added": _peak() - before}
    sys.stdout.write(json.dumps({name: round(value, 1) for name, value in found.items()}))


def _peak() -> float:
    """Peak resident memory of this process, in MiB; `getrusage` would count its parent's too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def parts(seed: int, data_dir: Path | None, images: int = IMAGES) -> Parts:
    """Training images and labels, held-out images and labels, all from MNIST's training set."""
    data = load("mnist", data_dir=data_dir)
    held = holdout(data.y_train, HELD_OUT, seed=0)
    rest = np.setdiff1d(np.arange(len(data.y_train)), held)
    chosen = rest[stratified_labels(data.y_train[rest], images // 10, seed=seed)]
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    return x[chosen], y[chosen], x[held], y[held]


def _fresh(seed: int) -> DRMM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return conv_small()


def _run(out: Path, data_dir: Path | None, kind: str, name: str, seed: int) -> None:
    """One run in a process of its own, on one thread."""
    tune_allocator()
    torch.set_num_threads(1)
    result = race(name, seed, data_dir) if kind == "race" else clusters(name, seed, data_dir)
    head = {"dataset": "mnist", "kind": kind, "method": name, "seed": seed, "versions": versions()}
    write_json(_path(out, kind, name, seed), {**head, **result})


def _path(out: Path, kind: str, name: str, seed: int) -> Path:
    return out / "learning" / f"{kind}-{name.replace(' ', '-')}-{seed}.json"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        _measure_memory(int(sys.argv[-1]))
    else:
        main()
