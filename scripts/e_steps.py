"""The slides' own learning algorithm: EM and EG by how the E-step chooses its switches: `make e-steps`.

All learn the 1,297 digits of 8 x 8 pixels, or 50 of each class in EM, all with labels, and tested on 500.

EM: a net with a width of 8 that starts from patches of the images, three M-steps. Before the first and after each:
J of the latents that are kept, in nats an image; the share of images whose freshly proposed switches explain them
at least as well as the former ones; the error of the relaxed classifier, in percent; and the CPU's seconds of an
E-step.

EG: the same net, six epochs. The error; what is left of the test pictures (mean square, the label given, α = 1)
when they are drawn through the switches of the pass up, and of the E-step that was learned with; and the CPU's
seconds of the training.

The rule, fixed before: an effect is more than 1 point of error, over draws (of labels, or of weights and batches).
Runs are kept one by one in results/e_steps/.
"""

from __future__ import annotations

import copy
import time
from argparse import Namespace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from drmm.data import load, stratified_labels
from drmm.data.images import pixels
from drmm.learning.config import EStepName, Training
from drmm.learning.e_steps import E_STEPS, EStep
from drmm.learning.em import PosteriorCache, e_step, m_step, relax
from drmm.learning.em.deep import centre
from drmm.learning.initialisation import initialise
from drmm.learning.metrics import error_percent
from drmm.learning.train import train
from drmm.model.brightness import Brightness, BrightnessPrior
from drmm.model.deep import DRMM
from drmm.progress import track
from drmm.rendering import Switches
from drmm.storage.models import Recipe
from scripts.study import Results, kept, spread, study

PER_CLASS, M_STEPS, WIDTH = 50, 3, 8
EG = {"epochs": 6, "batch_size": 50, "labelled_per_batch": 50, "min_steps": 0}
DRAWS = {"em": 2, "eg": 1}  # for each seed that is asked for: EM is cheap
NAMES = {"bottom-up": "bottom-up", "traceback": "traceback", "gaussian": "Gaussian"}


def em(name: EStepName, seed: int) -> Results:
    """One figure of each kind for each E-step, in lists."""
    data = load("digits")
    some = stratified_labels(data.y_train, PER_CLASS, seed=seed)
    x, y = pixels(torch.from_numpy(data.x_train[some])), torch.from_numpy(data.y_train[some])
    test = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    model = initialise(_fresh(seed), "data", x=x, y=y, seed=seed).eval()
    posterior, found = None, []
    for _ in range(M_STEPS + 1):
        if posterior is not None:
            m_step(model, partial(_stream, posterior, x))
            centre(model, iter(x.split(100)))
        start = time.process_time()
        fresh = e_step(model, x, y, choose=E_STEPS[name])
        seconds = time.process_time() - start
        former = fresh if posterior is None else e_step(model, x, y, choose=_those_of(posterior))
        posterior = fresh.better_of(former)
        prior = float(model.class_prior.double().log().sum())
        found.append(
            {
                "objective": round((float(posterior.objective.double().sum()) + prior) / len(x), 2),
                "accepted": round(100 * float((fresh.objective >= former.objective).double().mean()), 2),
                "error": error_percent(relax(copy.deepcopy(model), x, y), *test),
                "seconds": round(seconds, 2),
            }
        )
    return {key: [one[key] for one in found] for key in found[0]}


def _stream(posterior: PosteriorCache, x: Tensor) -> Any:
    return iter([posterior.configurations(x)])


def _those_of(posterior: PosteriorCache) -> EStep:
    """Chooses what was kept: all images have a label here."""

    def choose(model: DRMM, x: Tensor, label: Tensor, found: Switches, brightness: Brightness) -> Switches:
        del model, x, label, brightness
        return found.choosing(posterior.switches)

    return choose


def eg(name: EStepName, seed: int) -> Results:
    """Figures of one net."""
    data = load("digits")
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    test, labels = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    config = Training(learning="eg", e_step=name, seed=seed, **EG)  # type: ignore[arg-type]
    start = time.process_time()
    model = train(_fresh(seed), x, y, config=config, progress=False)
    seconds = time.process_time() - start
    left = {f"left, {way}": _left(model, pixels(test), labels, E_STEPS[way]) for way in ("bottom-up", name)}
    return {"error": error_percent(model, test, labels), "seconds": round(seconds, 1), **left}


@torch.no_grad()
def _left(model: DRMM, x: Tensor, label: Tensor, choose: EStep) -> float:
    """Mean square of what is left of the pictures."""
    switches = choose(model, x, label, model.max_sum(x, label)[2], BrightnessPrior(1.0, 0.0))
    drawn = model.levels.render(model.templates.weight[label], switches)
    return round(float((x - drawn).square().mean()), 4)


def _fresh(seed: int) -> DRMM:
    return Recipe("conv_small", (1, 8, 8), tuple("0123456789"), width=WIDTH).build(seed)


def run(asked: Namespace) -> Results:
    """Learn and measure, or read what a stopped study has measured."""

    def one(rule: str, name: EStepName, seed: int) -> Results:
        def make() -> Results:
            return em(name, seed) if rule == "em" else eg(name, seed)

        return kept(asked.out / "e_steps" / f"{rule}-{name}-{seed}.json", make)

    seeds = [(rule, seed) for rule, times in DRAWS.items() for seed in range(times * asked.seeds)]
    cells = [(rule, name, seed) for rule, seed in seeds for name in E_STEPS]
    found: Results = {rule: {name: [] for name in E_STEPS} for rule in DRAWS}
    for rule, name, seed in track(cells, "runs"):
        found[rule][name].append(one(rule, name, seed))
    settings = {"per_class": PER_CLASS, "width": WIDTH, **EG}
    return {"settings": settings, **found}


def table(results: Results) -> str:
    """EM step by step, and the gradient rules, as Markdown."""
    draws = {rule: len(results[rule]["traceback"]) for rule in DRAWS}
    rows = [
        f"| EM, {draws['em']} draws | M-steps | J, nats | accepted (%) | error (%) | E-step, s |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, shown in NAMES.items():
        for step in range(M_STEPS + 1):
            values = {key: [one[key][step] for one in results["em"][name]] for key in results["em"][name][0]}
            accepted = spread(values["accepted"]) if step else "–"
            cells = [spread(values["objective"]), accepted, spread(values["error"]), spread(values["seconds"])]
            rows.append(f"| {shown} | {step} | " + " | ".join(cells) + " |")
    rows += [
        "",
        f"| EG, {draws['eg']} draws | error (%) | left of pictures, pass up | own E-step | training, s |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, shown in NAMES.items():
        runs = results["eg"][name]
        left = [sum(run[f"left, {way}"] for run in runs) / len(runs) for way in ("bottom-up", name)]
        error, seconds = (spread([run[key] for run in runs]) for key in ("error", "seconds"))
        rows.append(f"| {shown} | {error} | {left[0]:.3f} | {left[1]:.3f} | {seconds} |")
    return "\n".join(rows)


if __name__ == "__main__":
    study(run, table, name="e_steps", target="e-steps", seeds=5)
