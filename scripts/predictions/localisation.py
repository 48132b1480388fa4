"""Do active paths lead to the pixels of the object? Masks from maps on scenes whose masks are known.

Every method's maps are read in the same ways (smoothing, sign, share of the evidence), and the best is chosen by
IoU on scenes that the net was trained on; figures are of held-out scenes, over nets and scenes. Beside the
explainers stand Captum's LayerGradCam, which sees the last convolution; a box in the middle, whose size is chosen
likewise; guesses; and the same explainers on nets with random weights.

Writes results/predictions/localisation.json and docs/localisation.png.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradCam
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.data.images import pixels
from drmm.explain import EXPLAINERS, Explainer, LevelEvidence, as_drmm, contrast
from drmm.explain.plots import Row, save_figure, sheet
from drmm.progress import track
from drmm.studies.predictions import LEAST, MARGINS, Verdict, interval, judge, together
from drmm.studies.predictions.localisation import CentreBox, Localisation, RandomMap, localise
from drmm.studies.scenes import Scenes
from scripts.predictions.scene_net import CACHE, random_net, scene_task
from scripts.study import Results, study

TUNED_ON, TESTED = 200, 500
PATHS, GUIDE, CAM = "active paths", "guided backprop", "LayerGradCam (Captum)"
RIVAL, POOL, BOX = "active paths less\nthe next class's", "evidence of the last pool", "centre box"
AT_RANDOM = (PATHS, GUIDE, CAM)  # what is also tried with random weights
SHOWN = 8

Figures = dict[str, Any]


class GradCam:
    """Captum's LayerGradCam of the last convolutional features, enlarged to the picture."""

    def __call__(self, model: nn.Module, x: Tensor, label: Tensor | int | None = None) -> Tensor:
        """Maps (N, H, W)."""
        if not isinstance(model, nn.Sequential):
            raise TypeError("wants the plain net")
        chosen = model(x).argmax(1) if label is None else label
        last = [layer for layer in model if isinstance(layer, nn.ReLU)][-1]
        found = LayerGradCam(model, last).attribute(
            x.clone().requires_grad_(), target=chosen, relu_attributions=True
        )
        return F.interpolate(found.detach(), x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def methods(net: nn.Sequential) -> dict[str, Explainer]:
    """Everything that points at objects."""
    pools = [name for name, layer in net.named_children() if isinstance(layer, nn.MaxPool2d)]
    return {
        **EXPLAINERS,
        RIVAL: lambda model, x, label: contrast(model, x, label).maps,
        POOL: LevelEvidence(pools[-1]),
        CAM: GradCam(),
        BOX: CentreBox(),
        "random": RandomMap(),
    }


def tensors(scenes: Scenes, first: int) -> tuple[Tensor, Tensor]:
    """Pictures in [0, 1] and masks."""
    return pixels(torch.from_numpy(scenes.images[:first])), torch.from_numpy(scenes.masks[:first])


def localised(
    net: nn.Sequential, train: Scenes, test: Scenes, names: Collection[str] = ()
) -> dict[str, Localisation]:
    """Methods, all if none is named, on one net."""
    others, (x, masks) = tensors(train, TUNED_ON), tensors(test, TESTED)
    model = as_drmm(net)
    return {
        name: localise(explainer, net if name == CAM else model, x, masks, reading=others)
        for name, explainer in methods(net).items()
        if not names or name in names
    }


def rows(runs: list[dict[str, Localisation]]) -> tuple[Figures, dict[str, np.ndarray]]:
    """Intervals of all figures, over nets and scenes, and IoU (nets, scenes) by method."""
    figures, ious = {}, {}
    for name in runs[0]:
        one: Figures = {"reading": [asdict(found[name].reading) for found in runs]}
        for measure in ("iou", "pointing", "energy"):
            values = torch.stack([getattr(found[name], measure) for found in runs]).double().numpy()
            one[measure] = asdict(interval(values))
            if measure == "iou":
                ious[name] = values
        figures[name] = one
    return figures, ious


def plain(name: str) -> str:
    """A name in one line."""
    return name.replace("\n", " ")


def draw(test: Scenes, found: dict[str, Localisation], maps: dict[str, Tensor]) -> Figure:
    """Scenes, their masks, and the masks found by each method, a column a class."""
    x, masks = tensors(test, SHOWN)
    lines = [Row("scene", x), Row("object", masks[:, None].float())]
    for name in (PATHS, GUIDE, CAM, BOX):
        if name in maps:
            lines.append(Row(name, maps[name][:, None], "evidence"))
        lines.append(Row(f"mask by\n{name}", found[name].masks[:SHOWN, None].float()))
    return sheet(lines, [test.latents.classes[label].replace("_", "\n") for label in test.latents.label[:SHOWN]])


def verdict(trained: dict[str, np.ndarray], untrained: dict[str, np.ndarray], figures: Figures) -> Verdict:
    """Active paths against the box that knows nothing, and against the same paths through random weights."""
    over = {
        "box": interval(trained[PATHS] - trained[BOX]),
        "random": interval(trained[PATHS] - untrained[PATHS]),
        "cam": interval(trained[PATHS] - trained[CAM]),
    }
    iou = {name: float(values.mean()) for name, values in trained.items()}
    on = {name: f"{100 * figures[name]['pointing']['mean']:.0f}" for name in figures}
    return Verdict(
        claim="Active paths lead to the pixels of the object",
        slide="Active Paths Encode/Lead to Task-Relevant Pixels",
        law="localisation",
        verdict=together(judge(over[other], MARGINS["share"]) for other in ("box", "random")),
        says=f"IoU with the object's mask: active paths {iou[PATHS]:.2f}, a box in the middle "
        f"{iou[BOX]:.2f} (difference {over['box']}), paths through random weights {untrained[PATHS].mean():.2f} "
        f"(difference {over['random']}). GradCAM has {iou[CAM]:.2f} (difference {over['cam']}), the gradient "
        f"{iou['gradient']:.2f}, guided backprop {iou[GUIDE]:.2f}, and {untrained[GUIDE].mean():.2f} through "
        f"random weights. The strongest pixel is on the object in {on[PATHS]} % of scenes, the box's in "
        f"{on[BOX]}, GradCAM's in {on[CAM]}, guided backprop's in {on[GUIDE]}.",
        command="make predictions",
    )


def picture(net: nn.Sequential, test: Scenes, by_method: dict[str, Localisation]) -> Figure:
    """The first scenes, as one net sees them."""
    x, _ = tensors(test, SHOWN)
    model = as_drmm(net)
    maps = {
        name: explainer(net if name == CAM else model, x, None)
        for name, explainer in methods(net).items()
        if name != BOX
    }
    return draw(test, by_method, maps)


def run(asked: Namespace) -> Results:
    """Measure, draw, and judge."""
    trained, untrained = [], []
    for seed in track(range(asked.seeds), "nets"):
        net, train, test = scene_task(asked.cache, seed)
        trained.append(localised(net, train, test))
        untrained.append(localised(random_net(train, seed), train, test, AT_RANDOM))
        if seed == 0:
            save_figure(picture(net, test, trained[0]), asked.pictures / "localisation.png")
    figures, ious = rows(trained)
    others, random_ious = rows(untrained)
    return {
        **asdict(verdict(ious, random_ious, figures)),
        "figures": {plain(name): one for name, one in figures.items()},
        "random_weights": {plain(name): one for name, one in others.items()},
        "scenes": TESTED,
        "readings_chosen_on": TUNED_ON,
        "object_share": round(float(test.masks.mean()), 4),
    }


if __name__ == "__main__":
    study(run, name="predictions/localisation", target="predictions", seeds=LEAST, options=CACHE)
