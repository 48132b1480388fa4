"""Backprop, EG and EM side by side on MNIST, and clusters without labels: `make learning`.

Law T10, and the table of docs/learning.md. Every figure is of images that were not trained on: a validation part
of the training set for the race (so that the test set is read once, for the clusters), five seeds, the schedule
fixed in advance. Runs are written one by one into results/learning/ and not repeated; the summary is
results/learning.json.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from torch import Tensor

from drmm.data import holdout, load, stratified_labels
from drmm.data.images import pixels
from drmm.estimators.mixture import RenderingMixture
from drmm.files import read_json
from drmm.learning.allocator import tune_allocator
from drmm.learning.config import Training
from drmm.learning.em import DeepLearner, MStep, e_step, m_step, relax
from drmm.learning.em.deep import centre
from drmm.learning.initialisation import initialise
from drmm.learning.metrics import cluster_accuracy, error_percent, name_clusters, predict_logits
from drmm.learning.objective import Objective
from drmm.learning.train import train
from drmm.model.deep import DRMM
from drmm.model.presets import conv_small
from drmm.progress import track
from drmm.runs.run import versions
from drmm.studies.reproduce import spread
from scripts.study import Results, kept, study

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


def run(asked: Namespace) -> Results:
    """Run what has not been run, and sum up."""
    kinds = {"race": RULES, "clusters": CLUSTERERS}
    runs = [(kind, name, seed) for kind in kinds for seed in range(asked.seeds) for name in kinds[kind]]
    with ProcessPoolExecutor(asked.processes, max_tasks_per_child=1) as pool:
        futures = [pool.submit(_run, asked.out, asked.data_dir, *one) for one in runs]
        for future in track(futures, "runs"):
            future.result()
    return {
        "images": IMAGES,
        "clustered": CLUSTERED,
        "held_out": HELD_OUT,
        "epochs": EPOCHS,
        "iterations": ITERATIONS,
        "runs": [read_json(_path(asked.out, *one)) for one in runs],
        "throughput": throughput(),
        "accepted": accepted(asked.data_dir),
        "memory": {str(n): memory(n) for n in (5_000, 60_000)},
    }


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
    objective = Objective() if rule == "eg" else Objective(1, 0, 0, 0, 0)
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
    posterior, shares = e_step(model, x, y), []
    for _ in range(iterations):
        m_step(model, lambda posterior=posterior: iter([posterior.configurations(x)]))
        centre(model, iter(x.split(100)))
        fresh, best = e_step(model, x, y), e_step(model, x, y, previous=posterior)
        shares.append(round(float((fresh.objective >= best.objective).double().mean()), 4))
        posterior = best
    return shares


def _gradient_epoch(x: Tensor, y: Tensor) -> None:
    """One epoch on the complete-data objective, as "eg" trains."""
    model, objective = _fresh(0).train(), Objective().resolved(learning="eg")
    optimizer = torch.optim.Adam(model.parameters())
    for images, labels in zip(x.split(128), y.split(128), strict=True):
        optimizer.zero_grad()
        objective(model, pixels(images), labels)["loss"].backward()
        optimizer.step()


def memory(n: int) -> dict[str, float]:
    """Peak memory of one E-step and one M-step on n images, in MiB, in a process of its own."""
    command = [sys.executable, "-m", "scripts.learning", "--memory", str(n)]
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
    """One run in a process of its own, on one thread, unless its figures are there."""
    tune_allocator()
    torch.set_num_threads(1)
    measure = race if kind == "race" else clusters
    head = {"dataset": "mnist", "kind": kind, "method": name, "seed": seed, "versions": versions()}
    kept(_path(out, kind, name, seed), lambda: {**head, **measure(name, seed, data_dir)})


def _path(out: Path, kind: str, name: str, seed: int) -> Path:
    return out / "learning" / f"{kind}-{name.replace(' ', '-')}-{seed}.json"


def table(results: Results) -> str:
    """The race of the learning rules, clusters, throughput and memory, as Markdown."""
    return "\n\n".join([_race(results), _clusters(results), _throughput(results)])


def _race(results: Results) -> str:
    caption = (
        f"{results['images']:,} labelled images of MNIST's training set, error in % on {results['held_out']:,} "
        f"others (mean ± s.d., {results['seeds']} draws); in how many epochs and seconds (one of two busy cores, "
        "median) how many of the draws came down to 5, 2 and 1.5 %:"
    )
    rows = [
        caption,
        "",
        "| learning | first error | best error | to 5 % | to 2 % | to 1.5 % |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    names = {"sgd": "SGD, 𝓛_H alone", "eg": "EG, 𝓛_H + 𝓛_RC", "em": "EM, no derivatives"}
    for rule, name in names.items():
        runs = [run for run in results["runs"] if run["kind"] == "race" and run["method"] == rule]
        first = spread([run["points"][0][2] for run in runs])
        best = spread([min(point[2] for point in run["points"]) for run in runs])
        cells = [_reached([run["reached"][target] for run in runs]) for target in ("5.0", "2.0", "1.5")]
        rows.append(f"| {name} | {first} | {best} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _reached(points: list[list[float] | None]) -> str:
    there = [point for point in points if point is not None]
    if not there:
        return "never"
    epochs, seconds = (sorted(values)[len(there) // 2] for values in zip(*there, strict=True))
    return f"{epochs:.0f} ep., {seconds:.0f} s ({len(there)}/{len(points)})"


def _clusters(results: Results) -> str:
    caption = (
        f"Clusters of {results['clustered']:,} images without labels, accuracy in % on MNIST's test set (a "
        "cluster is named by most of its training images, or there is one cluster to a digit):"
    )
    rows = [
        caption,
        "",
        "| method | clusters | by majority | one to one | seconds |",
        "|---|--:|--:|--:|--:|",
    ]
    names = {
        "k-means": "k-means on pixels",
        "gaussian": "GaussianMixture, diagonal",
        "rendering": "RenderingMixture",
        "deep em": "DRMM, EM",
        "deep sgd": "DRMM, SGD",
    }
    runs = [run for run in results["runs"] if run["kind"] == "clusters"]
    for method in dict.fromkeys(run["method"] for run in runs):
        mine = [run for run in runs if run["method"] == method]
        name, _, number = method.rpartition(" ")
        seconds = sorted(run["seconds"] for run in mine)[len(mine) // 2]
        one = spread([run["one_to_one"] for run in mine]) if int(number) == 10 else "–"
        majority = spread([run["accuracy"] for run in mine])
        rows.append(f"| {names[name]} | {number} | {majority} | {one} | {seconds:.0f} |")
    return "\n".join(rows)


def _throughput(results: Results) -> str:
    rate = {name: row["images_per_second"] for name, row in results["throughput"].items()}
    small, large = (results["memory"][n]["added"] for n in ("5000", "60000"))
    return (
        f"Images a second on one core, the net of the MNIST rows, interleaved: E-step {rate['e_step']:.0f}, "
        f"M-step {rate['m_step']:.0f}, an epoch of G-steps {rate['g_step']:.0f}. An M-step takes as long as "
        f"{rate['g_step'] / rate['m_step']:.1f} epochs of G-steps.\n\n"
        f"Memory that an E-step and an M-step add to the process: {small:.0f} MiB for 5,000 images, "
        f"{large:.0f} MiB for 60,000.\n\n"
        "Images whose freshly proposed switches were taken, in iteration "
        f"{', '.join(f'{i}: {100 * share:.0f} %' for i, share in enumerate(results['accepted'], 1))}."
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        _measure_memory(int(sys.argv[-1]))
    else:
        options = {"--processes": {"type": int, "default": 2, "help": "runs at the same time"}}
        study(run, table, name="learning", target="learning", seeds=5, options=options)
