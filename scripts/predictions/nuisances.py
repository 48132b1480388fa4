"""How much do nets that learned to classify know about nuisances? Linear decoding of scenes' latents by level.

From the features of every stage, in at most 512 numbers, a ridge regression reads azimuth, elevation, scale,
place, light, colour, background and class of scenes that neither the nets nor it learned from; beside trained nets
stand nets with random weights (batch norms measured on scenes). Then the same from the switches alone: which units
are on, and where pools took their largest value. Skill is R² for numbers and Cohen's kappa for kinds; 0.05 or more
counts as information, a limit set before anything was measured.

Writes results/predictions/t19.json, t19_each.json, t19_switches.json and docs/nuisances.png.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import nn

from drmm.progress import track
from drmm.studies.predictions import LEAST, MARGINS, Interval, Verdict, interval, judge, together
from drmm.studies.predictions.nuisances import Codes, Targets, decode, encode, scene_targets
from drmm.studies.scenes import Scenes
from scripts.predictions.scene_net import CACHE, draw_scenes, random_net, scene_task
from scripts.study import Results, study

LEARNED_ON, SCENES_SEED = 3000, 102
SIZE, SMALLER = 512, 64  # numbers that each stage is brought to
INFORMATION, AS_GOOD = MARGINS["information"], MARGINS["as good as features"]
CLASS = "class"
SLIDE = "How much information about nuisance variables is there in a net trained for classification?"
COMMAND = "make predictions"

Floats = npt.NDArray[np.float64]
Skill = dict[str, dict[str, Floats]]  # by stage and latent, (scenes,) of one net, (nets, scenes) of several
Intervals = dict[str, dict[str, Interval]]  # likewise
Figures = dict[str, Any]


def decoded(kind: Mapping[str, Any], other: Mapping[str, Any], targets: Targets, known: Targets) -> Skill:
    """Skill of every stage."""
    return {name: decode(kind[name], targets, other[name], known) for name in kind}


def fewer(codes: Mapping[str, Floats]) -> dict[str, Floats]:
    """Codes projected further, at random and always alike."""
    rng = np.random.default_rng(0)
    turns = {
        length: rng.standard_normal((length, SMALLER)) for length in sorted({c.shape[1] for c in codes.values()})
    }
    return {name: c @ turns[c.shape[1]] if c.shape[1] > SMALLER else c for name, c in codes.items()}


def skills(net: nn.Module, learned: Scenes, test: Scenes) -> dict[str, Skill]:
    """Skill from features, from fewer numbers of them, and from switches."""
    targets, known = scene_targets(learned.latents), scene_targets(test.latents)
    codes: list[Codes] = [encode(net, torch.from_numpy(scenes.images), size=SIZE) for scenes in (learned, test)]
    features, switches = [code.features for code in codes], [code.switches for code in codes]
    return {
        "features": decoded(features[0], features[1], targets, known),
        f"features in {SMALLER} numbers": decoded(fewer(features[0]), fewer(features[1]), targets, known),
        "switches": decoded(switches[0], switches[1], targets, known),
    }


def stacked(runs: list[Skill]) -> Skill:
    """All nets as one."""
    return {
        stage: {name: np.stack([one[stage][name] for one in runs]) for name in runs[0][stage]} for stage in runs[0]
    }


def intervals(found: dict[str, Skill]) -> dict[str, Intervals]:
    """Of everything that was decoded."""
    return {
        kind: {
            stage: {name: interval(values) for name, values in latents.items()} for stage, latents in skill.items()
        }
        for kind, skill in found.items()
    }


def as_json(found: dict[str, Intervals]) -> Figures:
    """Intervals as plain numbers."""
    return {
        kind: {stage: {name: asdict(one) for name, one in latents.items()} for stage, latents in stages.items()}
        for kind, stages in found.items()
    }


def overall(skill: Mapping[str, Floats]) -> Floats:
    """Mean over nuisances, by net and scene."""
    return np.mean([values for name, values in skill.items() if name != CLASS], 0)


def last_maps(skill: Skill) -> str:
    """The last stage that chooses: the deepest before all places are averaged."""
    return list(skill)[-1]


def keeps(trained: dict[str, Skill], untrained: dict[str, Skill]) -> Verdict:
    """T19: is anything still known about nuisances at the deepest convolution?"""
    top = last_maps(trained["switches"])
    averages = {
        stage: [float(overall(found["features"][stage]).mean()) for found in (trained, untrained)]
        for stage in trained["features"]
    }
    pooled = list(averages)[-2]
    here, beside = (overall(found["features"][top]) for found in (trained, untrained))
    return Verdict(
        claim="A net that was trained to classify keeps information about nuisances",
        slide=SLIDE,
        law="T19",
        verdict=judge(interval(here), INFORMATION),
        says=f"Skill of a linear decoder, mean over nuisances (0 chance, 1 perfect): {interval(here)} at the last "
        f"convolution, where {INFORMATION} would do; pixels have {averages['pixels'][0]:.2f}, features "
        f"averaged over places {averages[pooled][0]:.2f}, logits {averages['logits'][0]:.2f}. Random weights have "
        f"{averages[top][1]:.2f} at the last convolution; difference {interval(here - beside)}.",
        command=COMMAND,
    )


def keeps_each(trained: dict[str, Skill], untrained: dict[str, Skill]) -> Verdict:
    """T19: and about every single one?"""
    top = last_maps(trained["switches"])
    known = {name: interval(v) for name, v in trained["features"][top].items() if name != CLASS}
    outcomes = {name: judge(found, INFORMATION) for name, found in known.items()}
    listed = ", ".join(
        f"{name.replace('_', ' ')} {found.mean:.2f} ({untrained['features'][top][name].mean():.2f})"
        for name, found in known.items()
    )
    lost = ", ".join(name.replace("_", " ") for name, one in outcomes.items() if one == "refuted")
    return Verdict(
        claim="A net that was trained to classify keeps information about every nuisance",
        slide=SLIDE,
        law="T19",
        verdict=together(outcomes.values()),
        says=f"At the last convolution, in brackets with random weights: {listed}."
        + (f" Below {INFORMATION}, and so lost: {lost}." if lost else ""),
        command=COMMAND,
    )


def in_switches(trained: dict[str, Skill]) -> Verdict:
    """T19: do switches alone hold what features hold, at every stage?"""
    effects = {
        stage: interval(overall(found) - overall(trained["features"][stage]))
        for stage, found in trained["switches"].items()
    }
    means = {
        kind: np.mean([overall(trained[kind][stage]).mean() for stage in effects])
        for kind in ("switches", "features")
    }
    return Verdict(
        claim="What a net knows about nuisances is in its switches: alone they tell nearly as much as features",
        slide=SLIDE,
        law="T19",
        verdict=together(judge(effect, AS_GOOD) for effect in effects.values()),
        says=f"Mean skill over nuisances and stages: switches {means['switches']:.2f}, features "
        f"{means['features']:.2f}; difference by stage, from the pixels up, where {AS_GOOD} was allowed: "
        f"{', '.join(map(str, effects.values()))}.",
        command=COMMAND,
    )


def figure(results: Results) -> Figure:
    """A panel a latent: skill by stage."""
    trained, untrained = results["figures"]["trained"], results["figures"]["random_weights"]
    curves = {
        ("trained, features", "C0", "-"): trained["features"],
        ("trained, switches alone", "C1", "-"): trained["switches"],
        ("random weights, features", "0.5", "--"): untrained["features"],
    }
    names = list(next(iter(trained["features"].values())))
    stages = list(trained["features"])
    ticks = ["pixels", *(f"conv {i + 1}" for i in range(len(stages) - 3)), "mean", "logits"]
    drawn = Figure(figsize=(14, 5.6), layout="constrained")
    axes = drawn.subplots(2, -(-len(names) // 2), sharex=True, sharey=True, squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        for (label, colour, style), skill in curves.items():
            positions = [stages.index(stage) for stage in skill]
            mean, low, high = ([skill[stage][name][end] for stage in skill] for end in ("mean", "low", "high"))
            axis.plot(positions, mean, style, color=colour, label=label, lw=1.6)
            axis.fill_between(positions, low, high, color=colour, alpha=0.2)
        axis.axhline(0, color="0.8", lw=0.8, zorder=0)
        axis.set_title(name.replace("_", " "), fontsize=10)
        axis.set_ylim(-0.1, 1.02)
        axis.set_xticks(range(len(stages)), ticks, rotation=60, fontsize=8)
    drawn.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    drawn.supylabel("skill of a linear decoder: 0 chance, 1 perfect", fontsize=10)
    return drawn


@cache
def measured(folder: Path, seeds: int) -> tuple[dict[str, Skill], dict[str, Skill], Results]:
    """Skills of trained nets, of nets with random weights, and what is said of both."""
    learned = draw_scenes(folder, LEARNED_ON, SCENES_SEED)
    runs: dict[str, list[dict[str, Skill]]] = {"trained": [], "random": []}
    for seed in track(range(seeds), "nets"):
        net, train, test = scene_task(folder, seed)
        runs["trained"].append(skills(net, learned, test))
        runs["random"].append(skills(random_net(train, seed), learned, test))
    trained, untrained = (
        {kind: stacked([one[kind] for one in skill]) for kind in skill[0]} for skill in runs.values()
    )
    scenes = {"learned_on": len(learned.masks), "tested_on": len(test.masks)}
    return trained, untrained, {"numbers_a_stage": SIZE, "scenes": scenes}


def run(asked: Namespace) -> Results:
    """Decode, and judge the whole."""
    trained, untrained, about = measured(asked.cache, asked.seeds)
    figures = {"trained": as_json(intervals(trained)), "random_weights": as_json(intervals(untrained))}
    return {**asdict(keeps(trained, untrained)), "figures": figures, **about}


def run_each(asked: Namespace) -> Results:
    """Decode, and judge every nuisance."""
    trained, untrained, about = measured(asked.cache, asked.seeds)
    return {**asdict(keeps_each(trained, untrained)), **about}


def run_switches(asked: Namespace) -> Results:
    """Decode, and judge the switches."""
    trained, _, about = measured(asked.cache, asked.seeds)
    return {**asdict(in_switches(trained)), **about}


if __name__ == "__main__":
    study(
        run,
        figure=figure,
        name="predictions/t19",
        target="predictions",
        picture="nuisances",
        seeds=LEAST,
        options=CACHE,
    )
    study(run_each, name="predictions/t19_each", target="predictions", seeds=LEAST, options=CACHE)
    study(run_switches, name="predictions/t19_switches", target="predictions", seeds=LEAST, options=CACHE)
