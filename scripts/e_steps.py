"""The slides' own learning algorithm: EM by how the E-step chooses its switches: `make e-steps`.

50 digits of 8 x 8 pixels of each class, with labels, a net with a width of 8 that starts from patches of them, and
three M-steps. Before the first and after each: J of the latents that are kept, in nats an image; the share of
images whose freshly proposed switches explain them at least as well as the former ones; the error of the relaxed
classifier on 500 other digits, in percent; and the CPU's seconds of an E-step.

The rule, fixed before: an effect is more than 1 point of error, over draws of labels. Runs are kept one by one in
results/e_steps/.
"""

from __future__ import annotations

import copy
import time
from argparse import Namespace
from functools import partial
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from drmm.data import load, stratified_labels
from drmm.data.images import pixels
from drmm.learning.config import EStepName
from drmm.learning.e_steps import E_STEPS, EStep
from drmm.learning.em import PosteriorCache, e_step, m_step, relax
from drmm.learning.em.deep import centre
from drmm.learning.initialisation import initialise
from drmm.learning.metrics import error_percent
from drmm.model.brightness import Brightness
from drmm.model.deep import DRMM
from drmm.progress import track
from drmm.rendering import Switches
from drmm.storage.models import Recipe
from scripts.study import Results, kept, spread, study

PER_CLASS, M_STEPS, WIDTH = 50, 3, 8
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


def _fresh(seed: int) -> DRMM:
    return Recipe("conv_small", (1, 8, 8), tuple("0123456789"), width=WIDTH).build(seed)


def run(asked: Namespace) -> Results:
    """Learn and measure, or read what a stopped study has measured."""
    found: dict[str, list[Results]] = {name: [] for name in E_STEPS}
    cells = [(name, seed) for seed in range(asked.seeds) for name in E_STEPS]
    for name, seed in track(cells, "runs"):
        file = asked.out / "e_steps" / f"{name}-{seed}.json"
        found[name].append(kept(file, partial(em, name, seed)))
    return {"per_class": PER_CLASS, "width": WIDTH, "em": found}


def table(results: Results) -> str:
    """EM step by step, as Markdown."""
    rows = [
        f"| {results['seeds']} draws | M-steps | J, nats | accepted (%) | error (%) | E-step, s |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, shown in NAMES.items():
        for step in range(M_STEPS + 1):
            values = {key: [one[key][step] for one in results["em"][name]] for key in results["em"][name][0]}
            accepted = spread(values["accepted"]) if step else "–"
            seconds = f"{mean(values['seconds']):.2f}"
            cells = [spread(values["objective"]), accepted, spread(values["error"]), seconds]
            rows.append(f"| {shown} | {step} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    study(run, table, name="e_steps", target="e-steps", seeds=10)
