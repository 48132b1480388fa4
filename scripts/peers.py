"""Few-label learning by others' rules, side by side: the same convnet, batches, schedule, averaging and time.

Every rule is written here, and learns in one loop: the net is `conv_small`, and its plain twin where a rule has to
reach inside. Images are MNIST's, a few with a label, without augmentation (noise is part of some rules). All learn
for the same time: what their steps cost is measured first, and a rule whose step costs twice as much makes half as
many. The seconds and the validation error are measured on the way, and the test set is read once, at the end. The
strengths of others' rules are chosen first, in one epoch each, on a validation part of the training images and a
label draw of its own; the model's own are those of `drmm reproduce`. scikit-learn's label spreading and
self-training work on pixels. Writes one JSON a run into results/peers/, and does not repeat those that are there;
their summary is in results/peers.json and docs/peers.png: `make peers`.

- supervised: the labels alone;
- entropy: minimal entropy of what has no label (Grandvalet and Bengio, 2005);
- pseudo-label: labels that the net is sure of are taken for true (Lee, 2013);
- mean teacher: agree with an average of earlier weights, under noise (Tarvainen and Valpola, 2017);
- vat: agree with oneself in the direction that changes most (Miyato et al., 2018), with minimal entropy;
- ladder: the Γ-model, which denoises the top level (Rasmus et al., 2015);
- kl: the model's objective without rendering; drmm: all of it; best: without rendering, with blended images.
"""

from __future__ import annotations

import copy
import math
import time
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, count, islice, product
from pathlib import Path
from statistics import mean, median
from typing import Any, cast, final

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, update_bn

from drmm import DRMM
from drmm.data import holdout, load, mask_labels, stratified_labels
from drmm.data.images import pixels
from drmm.errors import InputError
from drmm.explain.plots import readable_log
from drmm.files import read_json
from drmm.learning.batches import Batches, unlabelled
from drmm.learning.callbacks import moving_average
from drmm.learning.metrics import error_percent
from drmm.learning.objective import cross_entropy
from drmm.learning.rates import warm_cosine
from drmm.model.presets import conv_small
from drmm.progress import track
from drmm.runs.experiment import Experiment
from drmm.runs.run import versions
from drmm.studies.benchmark import plain_twin
from drmm.studies.reproduce import BENCHMARKS, spread
from drmm.studies.timing import ratio, take_turns
from scripts.study import Results, difference, kept, study

# Batches, rate, averaging and clipping are those of `drmm reproduce mnist`.
TRAINING = BENCHMARKS["mnist"].experiment("kl", 100, seed=0).training
VALIDATION, POINTS, CALIBRATION = 5000, 6, 40
TUNING_SEED = 100  # a label draw that no figure comes from
SIMPLE = 10_000  # images that scikit-learn's methods see: their time and memory grow with its square


class Rule(ABC):
    """What a batch costs a net; subclasses are final."""

    strengths: tuple[float, ...] = (0.0,)  # to choose from, the default first
    inside = False  # whether it reaches inside the net, which is then the plain twin

    def __init__(self, net: nn.Module, strength: float) -> None:
        self.net, self.strength = net, strength

    @abstractmethod
    def __call__(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """The loss of images (N, 1, H, W) with labels (N,), -1 where there is none; progress from 0 to 1."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that is learned."""
        return self.net.parameters()

    def stepped(self) -> None:  # noqa: B027  (most rules do nothing then)
        """Called after each step."""


@final
class Supervised(Rule):
    """The labels alone."""

    def __call__(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """Cross-entropy."""
        del progress
        return cross_entropy(self.net(x[y >= 0]), y[y >= 0])


@final
class Entropy(Rule):
    """Minimal entropy."""

    strengths = (0.5, 0.1, 1.0)

    def __call__(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """Cross-entropy, and the entropy of all posteriors, which comes in over the first tenth."""
        logits = self.net(x)
        return cross_entropy(logits, y) + self.strength * min(1.0, 10 * progress) * _entropy(logits)


@final
class PseudoLabel(Rule):
    """What the net is sure of is taken for true."""

    strengths = (1.0, 0.3, 3.0)
    sure = 0.95

    def __call__(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """Cross-entropy with true labels, and with the net's own where it is sure."""
        logits = self.net(x)
        confidence, label = logits.detach().softmax(1).max(1)
        own = torch.where((y < 0) & (confidence > self.sure), label, -1)
        return cross_entropy(logits, y) + self.strength * min(1.0, 10 * progress) * cross_entropy(logits, own)


@final
class MeanTeacher(Rule):
    """Agree with the average of earlier weights; both see noise of their own."""

    strengths = (10.0, 3.0, 30.0)
    noise, decay = 0.15, 0.99

    def __init__(self, net: nn.Module, strength: float) -> None:
        super().__init__(net, strength)
        self.teacher = copy.deepcopy(net).requires_grad_(requires_grad=False)

    def __call__(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """Cross-entropy, and the squared distance of the posteriors, which comes in over the first third."""
        logits = self.net(x + self.noise * torch.randn_like(x))
        with torch.no_grad():
            target = self.teacher(x + self.noise * torch.randn_like(x)).softmax(1)
        rise = math.exp(-5 * (1 - min(1.0, 3 * progress)) ** 2)
        agree = (logits.softmax(1) - target).square().sum(1).mean()
        return cross_entropy(logits, y) + self.strength * rise * agree

    @torch.no_grad()
    def stepped(self) -> None:
        """The teacher follows."""
        for mine, theirs in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
            mine.lerp_(theirs, 1 - self.decay)


@final
class Vat(Rule):
    """Virtual adversarial training, with minimal entropy."""

    strengths = (1.5, 3.0, 6.0)  # length of the step, in units of a picture's range
    finite = 1e-2

    def __call__(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """Cross-entropy, entropy, and the divergence from the posterior at the worst picture near by."""
        logits = self.net(x)
        target = logits.detach().log_softmax(1)
        direction = _unit(torch.randn_like(x)).requires_grad_()
        with _frozen_statistics(self.net):
            found = _divergence(target, self.net(x + self.finite * direction))
            (slope,) = torch.autograd.grad(found, direction)
            worst = _divergence(target, self.net(x + self.strength * _unit(slope.detach())))
        return cross_entropy(logits, y) + min(1.0, 10 * progress) * (worst + _entropy(logits))


@final
class Ladder(Rule):
    """The Γ-model: the noisy net's top level, denoised, is to be the clean one's."""

    strengths = (1.0, 0.3, 3.0)
    noise = 0.3
    inside = True

    def __init__(self, net: nn.Module, strength: float) -> None:
        super().__init__(net, strength)
        classes = net[-1].out_features  # type: ignore[index]
        self.combine = nn.Parameter(torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0] * 2)[:, None].repeat(1, classes))
        self.norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]

    def parameters(self) -> Iterator[nn.Parameter]:
        """The net's and the denoiser's."""
        yield from self.net.parameters()
        yield self.combine

    def __call__(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """Cross-entropy of the noisy net, and the squared distance of the denoised top from the clean one."""
        del progress
        with torch.no_grad():
            clean = _whitened(self.net(x))
        hooks = [norm.register_forward_hook(self._blur) for norm in self.norms]
        try:
            with _frozen_statistics(self.net):
                logits = self.net(x + self.noise * torch.randn_like(x))
        finally:
            for hook in hooks:
                hook.remove()
        # Each in units of its own batch. With the clean one's for both, as printed, the net learns above all to
        # make these small: 79 % error after 200 steps, where the labels alone have 15 %.
        seen = _whitened(logits)
        distance = (self._denoise(seen + self.noise * torch.randn_like(seen), seen) - clean).square().mean()
        return cross_entropy(logits, y) + self.strength * distance

    def _blur(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        del module, inputs
        return output + self.noise * torch.randn_like(output)

    def _denoise(self, z: Tensor, u: Tensor) -> Tensor:
        """g(z, u) = (z - μ(u)) v(u) + μ(u), with μ and v of the published form."""
        a = self.combine
        mean, gain = (a[i] * torch.sigmoid(a[i + 1] * u + a[i + 2]) + a[i + 3] * u + a[i + 4] for i in (0, 5))
        return (z - mean) * gain + mean


class Own(Rule):
    """A row of `drmm reproduce`, with its weights; subclasses are final and say which."""

    row: str

    def __init__(self, net: nn.Module, strength: float) -> None:
        super().__init__(net, strength)
        self.objective = Experiment.read(self.row).objective.resolved()

    def __call__(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """The row's objective."""
        loss: Tensor = self.objective(cast("DRMM", self.net), x, y, progress)["loss"]
        return loss


@final
class ConfidentKL(Own):
    """Confident posteriors and balanced classes, without rendering."""

    row = "kl"


@final
class Drawing(Own):
    """Every term of the slides."""

    row = "rc+kl+nn"


@final
class Blending(Own):
    """The best recipe."""

    row = "best"


RULES: dict[str, type[Rule]] = {
    "supervised": Supervised,
    "entropy": Entropy,
    "pseudo-label": PseudoLabel,
    "mean teacher": MeanTeacher,
    "vat": Vat,
    "ladder": Ladder,
    "kl": ConfidentKL,
    "drmm": Drawing,
    "best": Blending,
}
SKLEARN = ("label spreading", "self-training")
OWN = ("kl", "drmm", "best")


def _entropy(logits: Tensor) -> Tensor:
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()


def _divergence(target: Tensor, logits: Tensor) -> Tensor:
    return F.kl_div(logits.log_softmax(1), target, reduction="batchmean", log_target=True)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.flatten(1)).reshape(x.shape)


def _whitened(logits: Tensor) -> Tensor:
    return (logits - logits.mean(0)) / (logits.std(0) + 1e-3)


class _frozen_statistics:  # noqa: N801  (a context manager, used as a function)
    """Norms use the batch's statistics, and do not remember them."""

    def __init__(self, net: nn.Module) -> None:
        self.norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]

    def __enter__(self) -> None:
        self.before = [norm.momentum for norm in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        for norm, momentum in zip(self.norms, self.before, strict=True):
            norm.momentum = momentum


class Task:
    """Images to learn from with a few labels, to validate and to test on."""

    def __init__(self, data_dir: Path | None, labels: int, seed: int, images: int | None) -> None:
        data = load("mnist", data_dir=data_dir)
        out = holdout(data.y_train, VALIDATION, seed=1000)  # the same for all seeds
        kept = np.setdiff1d(np.arange(len(data.y_train)), out)
        if images is not None:
            kept = np.sort(np.random.default_rng(seed).permutation(kept)[:images])
        y = data.y_train[kept]
        few = mask_labels(y, stratified_labels(y, labels // 10, seed=seed))
        self.x, self.y = torch.from_numpy(data.x_train[kept]), torch.from_numpy(few)
        self.validation = torch.from_numpy(data.x_train[out]), torch.from_numpy(data.y_train[out])
        self.test = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)


def averaged(average: AveragedModel, task: Task, seed: int) -> nn.Module:
    """The averaged weights with statistics of their own."""
    net = copy.deepcopy(average.module)
    update_bn(unlabelled(task.x, batch_size=TRAINING.batch_size, seed=seed, epoch=0, most=CALIBRATION), net)
    return net.eval()


def make_rule(name: str, strength: float, width: int = 32) -> Rule:
    """A rule and a fresh net for it."""
    model = conv_small(width=width)
    net: nn.Module = plain_twin(model) if RULES[name].inside else model
    return RULES[name](net.train(), strength)


class Learner:
    """A rule on its way: the step that all of them make."""

    def __init__(self, name: str, strength: float, steps: int) -> None:
        self.rule, self.steps, self.done = make_rule(name, strength), steps, 0
        self.optimizer = torch.optim.Adam(self.rule.parameters(), TRAINING.learning_rate)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, warm_cosine(steps))
        self.average = AveragedModel(self.rule.net, multi_avg_fn=moving_average(TRAINING.weight_average))

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step of learning on a batch."""
        loss = self.rule(x, y, self.done / self.steps)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(list(self.rule.parameters()), TRAINING.gradient_clip)
        self.optimizer.step()
        self.schedule.step()
        self.rule.stepped()
        self.average.update_parameters(self.rule.net)
        self.done += 1


def epoch(task: Task, seed: int, number: int) -> Batches:
    """The batches of an epoch, the same for every rule."""
    labelled = TRAINING.labelled_per_batch
    return Batches(task.x, task.y, batch_size=TRAINING.batch_size, labelled=labelled, seed=seed, epoch=number)


def run_rule(name: str, strength: float, task: Task, epochs: float, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """Learn by a rule; validation error and seconds of learning on the way."""
    torch.manual_seed(seed)
    steps = round(epochs * len(epoch(task, seed, 0)))
    learner = Learner(name, strength, steps)
    looks = {round(steps * (i + 1) / POINTS) for i in range(POINTS)}
    batches = chain.from_iterable(epoch(task, seed, number) for number in count())
    seconds, curve = 0.0, []
    for x, y in islice(batches, steps):
        start = time.perf_counter()
        learner.step(x, y)
        seconds += time.perf_counter() - start
        if learner.done in looks:
            net = averaged(learner.average, task, seed)
            curve.append([round(seconds, 1), error_percent(net, *task.validation)])
    figures = {"curve": curve, "seconds": round(seconds, 1), "steps": steps, "epochs": round(epochs, 3)}
    return averaged(learner.average, task, seed), figures


def costs(task: Task) -> dict[str, float]:
    """Seconds of every rule's step, where that of minimal entropy has 1: measured in turns."""
    x, y = next(iter(epoch(task, 0, 0)))
    learners = {name: Learner(name, rule.strengths[0], 10) for name, rule in RULES.items()}
    times = take_turns({name: partial(learner.step, x, y) for name, learner in learners.items()})
    return {name: round(ratio(took, times["entropy"]), 3) for name, took in times.items()}


def run_sklearn(name: str, task: Task, seed: int) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """Label spreading, or self-training of boosted trees, on the pixels of some images."""
    chosen = torch.cat([torch.nonzero(task.y >= 0).squeeze(1), torch.nonzero(task.y < 0).squeeze(1)])[:SIMPLE]
    start = time.perf_counter()
    if name == "label spreading":
        learner: Any = LabelSpreading(kernel="knn", n_neighbors=10, alpha=0.5)
    else:
        learner = SelfTrainingClassifier(
            HistGradientBoostingClassifier(max_iter=50, random_state=seed), threshold=0.9
        )
    learner.fit(_flat(task.x[chosen]), task.y[chosen].numpy())
    seconds = round(time.perf_counter() - start, 1)
    return lambda x: torch.from_numpy(learner.predict(_flat(x))), {
        "curve": [],
        "seconds": seconds,
        "images": SIMPLE,
    }


def _flat(x: Tensor) -> np.ndarray:
    return pixels(x).flatten(1).numpy()


@dataclass(frozen=True)
class Plan:
    """What a run is of; in tuning the test set is not read."""

    labels: int
    budget: float
    tuning: bool


def learn(name: str, strength: float, task: Task, plan: Plan, seed: int, epochs: float) -> Results:
    """One run and its figures."""
    about: Results = {"method": name, "strength": strength, "labels": plan.labels, "seed": seed}
    about |= {"images": len(task.x), "command": "make peers", "versions": versions()}
    if not plan.tuning:
        about["budget"] = plan.budget
    parts = {"validation": task.validation} | ({} if plan.tuning else {"test": task.test})
    if name in SKLEARN:
        predict, figures = run_sklearn(name, task, seed)
        errors = {part: round(100 * float((predict(x) != y).double().mean()), 4) for part, (x, y) in parts.items()}
    else:
        net, figures = run_rule(name, strength, task, epochs, seed)
        errors = {part: error_percent(net, *images) for part, images in parts.items()}
    return about | figures | {f"{part}_error": value for part, value in errors.items()}


def summary(runs: list[Results]) -> Results:
    """By method, the least error first: what each draw has, and the mean curve."""
    found = {}
    for name in dict.fromkeys(one["method"] for one in runs):
        mine = [one for one in runs if one["method"] == name]
        curves = [one["curve"] or [[one["seconds"], one["validation_error"]]] for one in mine]
        found[name] = {
            "strength": mine[0]["strength"],
            "seeds": [one["seed"] for one in mine],
            "test_error": [one["test_error"] for one in mine],
            "seconds": [one["seconds"] for one in mine],
            "curve": np.mean(curves, axis=0).round(3).tolist(),
        }
    ranked = dict(sorted(found.items(), key=lambda item: float(np.mean(item[1]["test_error"]))))
    common = {key: runs[0][key] for key in ("labels", "budget", "command", "versions")}
    return common | {"images": max(one["images"] for one in runs), "methods": ranked}


def figure(results: Results) -> Figure:
    """Validation error against seconds of learning, the mean over draws; the model's own rules stand out."""
    drawn = Figure(figsize=(7.5, 4.6), layout="constrained")
    axis = drawn.subplots()
    others = iter("osvD^XP*hpd")
    for name, method in results["methods"].items():
        seconds, errors = zip(*method["curve"], strict=True)
        if name in OWN:
            axis.plot(seconds, errors, ".-", linewidth=2.6, zorder=3, label=name)
        else:
            axis.plot(seconds, errors, next(others) + "--", color="#7a8594", linewidth=1, markersize=4, label=name)
    axis.set(xscale="log", yscale="log", xlabel="seconds of learning, one core", ylabel="validation error, %")
    for scale in (axis.xaxis, axis.yaxis):
        readable_log(scale)
    axis.grid(color="#e4e8ee", linewidth=0.8)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.spines[["top", "right"]].set_visible(False)
    return drawn


def table(results: Results) -> str:
    """Others' rules of few-label learning beside the model's, the least error first, as Markdown."""
    errors = {
        name: dict(zip(method["seeds"], method["test_error"], strict=True))
        for name, method in results["methods"].items()
    }
    own = errors["kl"]
    title = f"MNIST, {results['labels']} labels, {len(own)} draws"
    rows = [
        f"| {title} | test error (%) | less that of kl, points | minutes |",
        "|---|--:|--:|--:|",
    ]
    for name, by_seed in errors.items():
        minutes = median(results["methods"][name]["seconds"]) / 60
        draws = "" if len(by_seed) == len(own) else f" ({len(by_seed)} draws)"
        rows.append(
            f"| {name} | {spread([*by_seed.values()])}{draws} | {difference(by_seed, own)} | {minutes:.1f} |"
        )
    return "\n".join(rows)


def run(asked: Namespace) -> Results:
    """Choose strengths on the validation part, learn with them on every label draw, and sum up."""
    folder = asked.out / "peers"
    task = cache(partial(Task, asked.data_dir, asked.labels))
    cost = kept(folder / "costs.json", lambda: {**costs(task(0, 1000)), "versions": versions()})

    def learned(part: str, name: str, strength: float, seed: int, epochs: float) -> Results:
        plan = Plan(asked.labels, asked.budget, tuning=part == "tuning")
        file = folder / part / f"{asked.labels}-{name}-{strength:g}-{seed}.json"
        return kept(file, lambda: learn(name, strength, task(seed, asked.images), plan, seed, epochs))

    for name in track(asked.methods, "tuning"):
        for strength in to_try(name):
            learned("tuning", name, strength, TUNING_SEED, 1)
    for name, seed in track(list(product(asked.methods, range(asked.seeds))), "runs"):
        epochs = 1 if name in SKLEARN else asked.budget / cost[name]
        learned("draws", name, chosen_strength(name, folder, asked.labels), seed, epochs)
    runs = [read_json(path) for path in sorted((folder / "draws").glob(f"{asked.labels}-*.json"))]
    if len({(one["budget"], one["versions"]["torch"]) for one in runs}) > 1:
        raise InputError(f"{folder}/draws has runs of several budgets or of another torch: choose another --out")
    return summary(runs)


def to_try(name: str) -> tuple[float, ...]:
    """The strengths to choose from; none where there is no choice."""
    known = () if name in SKLEARN else RULES[name].strengths
    return known if len(known) > 1 else ()


def chosen_strength(name: str, folder: Path, labels: int) -> float:
    """The best of those that were tried on validation images; the default if none were."""
    errors: dict[float, list[float]] = {}
    for path in (folder / "tuning").glob(f"{labels}-{name}-*.json"):
        one = read_json(path)
        errors.setdefault(one["strength"], []).append(one["validation_error"])
    if errors:
        return min(errors, key=lambda strength: mean(errors[strength]))
    return 0.0 if name in SKLEARN else RULES[name].strengths[0]


OPTIONS: dict[str, dict[str, Any]] = {
    "--labels": {"type": int, "default": 100},
    "--budget": {"type": float, "default": 4.0, "help": "time, in epochs of a rule that costs 1"},
    "--images": {"type": int, "help": "learn from so many images only"},
    "--methods": {"nargs": "+", "default": [*RULES, *SKLEARN], "choices": [*RULES, *SKLEARN]},
}

if __name__ == "__main__":
    study(run, table, figure, name="peers", target="peers", seeds=5, options=OPTIONS)
