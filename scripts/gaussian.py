"""Who drew this picture? Max-sum, the Gaussian objective and trying every configuration: `make gaussian`.

Own pictures: small random nets, non-negative above the pixels, draw with one brightness for all, and noise of
0.1 is added. By each rule: how often the class is the one that drew the picture, the share of switches that are
as they were, what of the drawn picture's energy the found one misses (a factor for brightness allowed), and how
often the best of all configurations is found.

Digits: nets of a width of 4 that learned MNIST's 4,000 with all labels. The error, log p(I, ĉ, ĝ) with each
picture's own brightness and the cost in forward passes, of 40 test images.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import drmm
from drmm.data import load
from drmm.data.images import pixels
from drmm.learning.config import Training
from drmm.learning.train import train
from drmm.model.brightness import BestFit
from drmm.model.deep import Latents, fit_amplitude, per_image
from drmm.model.gaussian import Gaussian, Objective, ObjectiveName
from drmm.progress import track
from drmm.rendering import Switches
from drmm.storage.models import Recipe
from drmm.studies.predictions import interval
from drmm.studies.timing import ratio, take_turns
from drmm.testing import enumerate_configurations, random_net
from scripts.study import Results, kept, study

KINDS = {
    "non-negative": (False, False, False),
    "signed pixels": (True, False, False),
    "signed pixels, 3 levels": (True, False, False, False),
}
DRAWN, NOISE = 60, 0.1  # pictures of each net, and the standard deviation of their pixels
RULES: Mapping[str, Objective | ObjectiveName] = {
    "max-sum": "inner",
    "Gaussian": "gaussian",
    "Gaussian, brightness fitted": Gaussian(BestFit()),
}
EVERY = "every configuration"
OF_DIGITS = ("max-sum", "Gaussian")
RECIPE = Recipe("conv_small", (1, 28, 28), tuple("0123456789"), width=4)
NETS, EVERY_NTH = 5, 25  # of digits; one test image in so many
CONFIG = Training(epochs=12, batch_size=64, min_steps=0)
ROUNDING = 1e-8

Figures = dict[str, float]


@torch.no_grad()
def own(signed: tuple[bool, ...], seed: int) -> dict[str, Figures]:
    """How well each rule finds what drew the pictures of one net."""
    generator = torch.Generator().manual_seed(seed)
    model = random_net(generator, signed=signed, bias=False).double()
    truth = model.sample_latents(DRAWN, generator=generator)
    picture = model.picture(truth)
    x = picture + NOISE * torch.randn(picture.shape, generator=generator, dtype=picture.dtype)
    model.noise.fill_(NOISE**2)
    every = enumerate_configurations(model, x, "gaussian")
    found = {name: model.infer(x, objective=rule) for name, rule in RULES.items()}
    answers = {name: (latents.label, latents.switches) for name, latents in found.items()}
    answers[EVERY] = every.label, every.switches
    best, figures = every.score.amax(1), {}
    for name, (label, switches) in answers.items():
        drawn = model.levels.render(model.templates.weight[label], switches)
        scaled = per_image(fit_amplitude(picture, drawn)) * drawn
        nats = -(x - drawn).square().flatten(1).sum(1) / 2
        figures[name] = {
            "class": mean(label == truth.label),
            "switches": same(switches, truth.switches),
            "missed": mean((picture - scaled).square().flatten(1).sum(1) / energy(picture)),
            "optimum": mean(nats >= best - ROUNDING * (1 + best.abs())),
        }
    return figures


def mean(values: Tensor) -> float:
    """In percent."""
    return round(100 * float(values.double().mean()), 2)


def energy(picture: Tensor) -> Tensor:
    """Of each image, (N,); all but 0 where nothing was drawn."""
    return picture.square().flatten(1).sum(1).clamp(min=NOISE**2)


def same(one: Switches, other: Switches) -> float:
    """Share of the choices that agree, in percent."""
    pairs = zip(one.leaves(), other.leaves(), strict=True)
    agree = [
        (a == b).flatten()
        for mine, theirs in pairs
        for (_, a), (_, b) in zip(mine.choices(), theirs.choices(), strict=True)
    ]
    return mean(torch.cat(agree))


@torch.no_grad()
def digits(model: drmm.DRMM, x: Tensor, y: Tensor) -> dict[str, Figures]:
    """Error and log-joint of each rule, of one net."""
    found: dict[str, Latents] = {name: model.infer(x, objective=RULES[name]) for name in OF_DIGITS}
    return {
        name: {
            "error": mean(latents.label != y),
            "log_joint": round(float(model.log_joint(x, latents).double().mean()), 2),
        }
        for name, latents in found.items()
    }


@torch.no_grad()
def cost(model: drmm.DRMM, x: Tensor) -> Figures:
    """Of each rule in forward passes, in one interleaved run."""
    passes = {name: lambda rule=RULES[name]: model.infer(x, objective=rule) for name in OF_DIGITS}
    seconds = take_turns({"forward": lambda: model(x), **passes}, rounds=3)
    return {name: round(ratio(seconds[name], seconds["forward"]), 2) for name in OF_DIGITS}


def transposed(runs: list[dict[str, Figures]]) -> dict[str, dict[str, list[float]]]:
    """Figures of each rule, net by net."""
    return {name: {key: [run[name][key] for run in runs] for key in runs[0][name]} for name in runs[0]}


def run_own(nets: int) -> Results:
    """Measure what nets make of their own pictures."""
    return {
        kind: transposed([own(signed, seed) for seed in track(range(nets), f"{kind}, own pictures")])
        for kind, signed in KINDS.items()
    }


def run_digits() -> Results:
    """Learn digits, and measure."""
    data = load("mnist-5k")
    x, y = pixels(torch.from_numpy(data.x_test))[::EVERY_NTH], torch.from_numpy(data.y_test)[::EVERY_NTH]
    learned = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    found: list[dict[str, Figures]] = []
    costs: Figures = {}
    for seed in track(range(NETS), "nets of digits"):
        config = replace(CONFIG, seed=seed)
        net = train(RECIPE.build(seed), *learned, objective=drmm.Objective(), config=config).eval()
        found.append(digits(net, x, y))
        costs = costs or cost(net, x[:20])
    return {"digits": transposed(found), "images": len(x), "cost": costs}


def run(asked: Namespace) -> Results:
    """Measure both, or read what a stopped study has measured."""
    own_pictures = kept(asked.out / "gaussian" / "own.json", lambda: run_own(asked.seeds))
    settings = {"drawn": DRAWN, "noise": NOISE, "width": RECIPE.width, "epochs": CONFIG.epochs}
    return {"settings": settings, "own": own_pictures, **kept(asked.out / "gaussian" / "digits.json", run_digits)}


def table(results: Results) -> str:
    """Both parts, as Markdown."""

    def cell(values: list[float]) -> str:
        found = interval(values)
        return f"{found.mean:.0f} ± {found.high - found.mean:.0f}"

    nets = len(next(iter(results["own"].values()))[EVERY]["class"])
    rows = [
        f"| own pictures, {nets} nets | found by | class (%) | switches (%) | energy missed (%) | optimum (%) |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for kind, rules in results["own"].items():
        for name, figures in rules.items():
            rows.append(f"| {kind} | {name} | " + " | ".join(cell(values) for values in figures.values()) + " |")
    rows += [
        "",
        f"| digits, {NETS} nets | error (%) | log p(I, ĉ, ĝ), nats | cost, forward passes |",
        "|---|--:|--:|--:|",
    ]
    for name, figures in results["digits"].items():
        costs: dict[str, Any] = results["cost"]
        rows.append(f"| {name} | {cell(figures['error'])} | {cell(figures['log_joint'])} | {costs[name]:,.1f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    study(run, table, name="gaussian", target="gaussian", seeds=10)
