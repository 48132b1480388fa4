"""T6 and T7: background, level by level, in nets trained on rendered scenes, beside redrawn and untrained ones.

Writes results/predictions/t06.json and t07.json, docs/saliency.png and docs/invariance.png.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from drmm.data.images import pixels
from drmm.explain import draw, guide
from drmm.explain.plots import save_figure
from drmm.studies.predictions import LEAST
from drmm.studies.predictions.curves import Panel, curves
from drmm.studies.predictions.invariance import BackgroundLoss, Invariance, background_loss, feature_invariance
from drmm.studies.scenes import Scenes, render
from scripts.predictions.scene_net import CACHE, accuracy, scene_task
from scripts.study import Results, study

COMMAND = "make predictions"
WAYS = {"guided backprop": guide, "active paths": draw}


def swapped(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Objects before the next scene's background, and the next scene's objects before the same background.

    Classes come in turn, so that the next object is of another class.
    """
    others = scenes.latents[np.roll(np.arange(len(scenes.latents)), -1)]
    images = [
        render(latents)[0]
        for latents in (scenes.latents.on_background_of(others), others.on_background_of(scenes.latents))
    ]
    return pixels(torch.from_numpy(images[0])), pixels(torch.from_numpy(images[1]))


def curves_of(found: BackgroundLoss | Invariance) -> dict[str, Any]:
    """All that was measured, (M, N, L) each, by name."""
    own = (
        {"trained": found.trained}
        if isinstance(found, BackgroundLoss)
        else {
            "background": found.background,
            "object": found.object,
            "trained": found.share,
        }
    )
    return {**own, "redrawn": found.redrawn, "untrained": found.untrained}


def figures(found: BackgroundLoss | Invariance) -> dict[str, Any]:
    """Effects, and what each level adds."""
    return {
        "levels": list(found.levels),
        "curves": {name: values.mean((0, 1)).round(4).tolist() for name, values in curves_of(found).items()},
        "effects": {name: asdict(effect) for name, effect in found.effects().items()},
        "added_by_level": [asdict(level) for level in found.added()],
    }


def conditional(found: dict[str, BackgroundLoss]) -> dict[str, Any]:
    """One row for both kinds of map: what holds for one kind alone holds "only if" it is that kind."""
    rows = {name: asdict(loss.verdict(COMMAND)) for name, loss in found.items()}
    outcomes = {name: row["verdict"] for name, row in rows.items()}
    holds = [name for name, outcome in outcomes.items() if outcome == "confirmed"]
    first = next(iter(rows.values()))
    if len(set(outcomes.values())) == 1:
        says = " ".join(f"{name.capitalize()}: {row['says']}" for name, row in rows.items())
        return {**first, "says": says}
    says = " ".join(f"{name.capitalize()} ({row['verdict']}): {row['says']}" for name, row in rows.items())
    if not holds:
        return {**first, "verdict": "inconclusive", "says": says}
    return {**first, "verdict": "only if", "says": f"Only if maps are those of {holds[0]}. {says}"}


def names(found: BackgroundLoss | Invariance) -> list[str]:
    """Levels by number."""
    return [
        "pixels" if name == "pixels" else str(number)
        for number, name in enumerate(found.levels, "pixels" not in found.levels)
    ]


def saliency_figure(found: dict[str, BackgroundLoss]) -> Figure:
    """T6 as a picture."""
    panels = [
        Panel(
            f"Background in maps by {name}",
            "share beyond chance (points)",
            {
                "trained": 100 * loss.trained,
                "this level redrawn": 100 * loss.redrawn,
                "all levels random": 100 * loss.untrained,
            },
            names(loss),
            (0, "chance: masks of other images"),
        )
        for name, loss in found.items()
    ]
    return curves(panels)


def invariance_figure(found: Invariance) -> Figure:
    """T7 as a picture."""
    swaps = {"background swapped": found.background, "object swapped": found.object}
    shares = {"trained": 100 * found.share, "this level redrawn": 100 * found.redrawn}
    panels = [
        Panel("What moves the features", "distance (two images = 1)", swaps, names(found)),
        Panel(
            "Background's part in that",
            "background / (background + object), %",
            {**shares, "all levels random": 100 * found.untrained},
            names(found),
            (50, "both count the same"),
        ),
    ]
    return curves(panels)


def task(asked: Namespace) -> tuple[list[nn.Module], Scenes, Results]:
    """Trained nets, held-out scenes to try them on, and what is said of both."""
    nets: list[nn.Module] = [scene_task(asked.cache, seed)[0] for seed in range(asked.seeds)]
    test = scene_task(asked.cache, 0)[2]
    some = slice(asked.images)
    scenes = Scenes(test.images[some], test.masks[some], test.latents[some], test.is_test[some])
    return nets, scenes, {"accuracy": [accuracy(net, test) for net in nets], "images": asked.images}


def run_saliency(asked: Namespace) -> Results:
    """T6."""
    nets, scenes, about = task(asked)
    x, masks = pixels(torch.from_numpy(scenes.images)), torch.from_numpy(scenes.masks)
    saliency = {name: background_loss(nets, x, masks, way=way, redraws=2) for name, way in WAYS.items()}
    save_figure(saliency_figure(saliency), asked.pictures / "saliency.png")
    by_way = {name: figures(loss) for name, loss in saliency.items()}
    return {**conditional(saliency), "maps": by_way, "background": float((~masks).double().mean()), **about}


def run_swaps(asked: Namespace) -> Results:
    """T7."""
    nets, scenes, about = task(asked)
    swaps = feature_invariance(nets, pixels(torch.from_numpy(scenes.images)), *swapped(scenes), redraws=2)
    save_figure(invariance_figure(swaps), asked.pictures / "invariance.png")
    return {**asdict(swaps.verdict(COMMAND)), **figures(swaps), **about}


if __name__ == "__main__":
    options = {**CACHE, "--images": {"type": int, "default": 104, "help": "held-out scenes"}}
    study(run_saliency, name="predictions/t06", target="predictions", seeds=LEAST, options=options)
    study(run_swaps, name="predictions/t07", target="predictions", seeds=LEAST, options=options)
