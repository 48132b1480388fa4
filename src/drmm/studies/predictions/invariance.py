"""T6 and T7: does a net lose the background level by level, and is that what its training adds?

Slides "DP Interpretation: New Explanations & Testable Predictions" and "Saliency Maps show Selectivity and
Invariance are Built up over Layers": early neurons see small regions and fire for whatever may matter; every
further level filters out some of what does not. Random weights in one level show what its training adds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from drmm.errors import InputError
from drmm.explain import as_drmm, draw
from drmm.explain.passes import Descent, level_names
from drmm.model.deep import DRMM, evaluation
from drmm.progress import track
from drmm.rendering import Sequential, Switches
from drmm.rendering.passes import forward_pass
from drmm.studies.predictions.verdict import MARGINS, Interval, Verdict, interval, judge, together

__all__ = ["BackgroundLoss", "Invariance", "background_loss", "feature_invariance"]

Floats = npt.NDArray[np.float64]

_MARGIN = MARGINS["share"]


@dataclass(frozen=True, slots=True)
class BackgroundLoss:
    """T6: how much of what a level sees is background, beyond chance, for M nets, N images and L levels.

    0 is chance: as much as lies outside of the objects of the other images. So neither the background's area nor
    where objects usually are counts, and a map that is blurred by large receptive fields comes closer to 0.

    Attributes:
        levels: where each level ends, in the first net.
        trained: share of the map outside of the object minus chance, (M, N, L).
        redrawn: likewise with new random weights in that level alone, on top of trained levels, (M, N, L).
        untrained: likewise with random weights in all levels, (M, N, L).
    """

    levels: tuple[str, ...]
    trained: Floats
    redrawn: Floats
    untrained: Floats

    def effects(self) -> dict[str, Interval]:
        """What must exceed a point for the prediction to hold.

        "falls": share lost from the first level to the last, along the straight line that fits best; "falls more":
        that minus the same of untrained nets; "adds": how much more the levels see with new weights, on average.
        """
        return {
            "falls": _over_both(_fall(self.trained)),
            "falls more": _over_both(_fall(self.trained) - _fall(self.untrained)),
            "adds": _over_both((self.redrawn - self.trained).mean(2)),
        }

    def added(self) -> tuple[Interval, ...]:
        """What the training of each level takes away of the background, L intervals."""
        return tuple(_over_both(values) for values in np.moveaxis(self.redrawn - self.trained, 2, 0))

    def verdict(self, command: str) -> Verdict:
        """Confirmed if all effects are, refuted if one is; with one net it speaks of that net alone.

        Args:
            command: what measures it again.

        Raises:
            InputError: if there are fewer than two images.
        """
        effects = self.effects()
        helps = sum(judge(level, _MARGIN) == "confirmed" for level in self.added())
        first, last = (100 * float(self.trained[..., level].mean()) for level in (0, -1))
        return Verdict(
            claim="Saliency loses the background layer by layer, more than in layers of random weights",
            slide="New Explanations & Testable Predictions",
            law="T6",
            verdict=together(judge(effect, _MARGIN) for effect in effects.values()),
            says=f"Beyond chance, the background's share of a level's map goes from {first:+.1f} points at the "
            f"first level to {last:+.1f} at the last. The fall is {_points(effects['falls'])}, that beyond "
            f"untrained nets' {_points(effects['falls more'])}. One level redrawn at random brings "
            f"{_points(effects['adds'])} back on average; the training of {helps} of {len(self.levels)} levels "
            f"helps. {_counts(self.trained)}.",
            command=command,
        )


@dataclass(frozen=True, slots=True)
class Invariance:
    """T7: what changes a level's features, for M nets, N images and L levels above the pixels.

    Attributes:
        levels: "pixels", and where each level ends, in the first net.
        background: distance of the features when the background is swapped, in units of the mean distance between
            two images, (M, N, L + 1).
        object: likewise when the object is swapped, (M, N, L + 1).
        redrawn: `share` with new random weights in that level alone, (M, N, L + 1); the pixels are the same.
        untrained: `share` with random weights in all levels, (M, N, L + 1).
    """

    levels: tuple[str, ...]
    background: Floats
    object: Floats
    redrawn: Floats
    untrained: Floats

    @property
    def share(self) -> Floats:
        """Background / (background + object), (M, N, L + 1): 0 is invariance, 1/2 if both count the same."""
        return _share(self.background, self.object)

    def effects(self) -> dict[str, Interval]:
        """What must exceed a point for the prediction to hold.

        "falls", "falls more" and "adds" as in `BackgroundLoss`, of `share` (the pixels are the first level);
        "selects": how much farther apart objects are at the last level than as pixels, in the same unit.
        """
        share = self.share
        return {
            "falls": _over_both(_fall(share)),
            "falls more": _over_both(_fall(share) - _fall(self.untrained)),
            "adds": _over_both((self.redrawn - share)[..., 1:].mean(2)),
            "selects": _over_both(self.object[..., -1] - self.object[..., 0]),
        }

    def added(self) -> tuple[Interval, ...]:
        """By how much the training of each level lowers `share`, L intervals."""
        return tuple(_over_both(values) for values in np.moveaxis((self.redrawn - self.share)[..., 1:], 2, 0))

    def verdict(self, command: str) -> Verdict:
        """Confirmed if all effects are, refuted if one is; with one net it speaks of that net alone.

        Args:
            command: what measures it again.

        Raises:
            InputError: if there are fewer than two images.
        """
        effects = self.effects()
        helps = sum(judge(level, _MARGIN) == "confirmed" for level in self.added())
        first, last = (float(self.share[..., level].mean()) for level in (0, -1))
        return Verdict(
            claim="Invariance to the background grows with depth, and selectivity for the object stays",
            slide="New Explanations & Testable Predictions",
            law="T7",
            verdict=together(judge(effect, _MARGIN) for effect in effects.values()),
            says=f"Of what swapping background or object changes, the background's part is {100 * first:.0f} % in "
            f"pixels and {100 * last:.0f} % at the last level. The fall is {_points(effects['falls'])} points, "
            f"that beyond untrained nets' {_points(effects['falls more'])}. One level redrawn at random brings "
            f"{_points(effects['adds'])} back on average; the training of {helps} of {len(self.levels) - 1} "
            f"levels helps. Objects come farther apart by {effects['selects']} of the mean distance of two "
            f"images. {_counts(self.background)}.",
            command=command,
        )


@torch.no_grad()
def background_loss(
    models: nn.Module | Sequence[nn.Module],
    x: Tensor,
    masks: Tensor,
    *,
    way: Descent = draw,
    redraws: int = 3,
    seed: int = 0,
) -> BackgroundLoss:
    """Measure how much background each level still sees (T6), as `LevelEvidence` maps it.

    All images are in memory at once, with the features of every level: a few hundred are enough.

    Args:
        models: one `DRMM` or convnet, or several that differ in their seeds.
        x: images (N, C, H, W).
        masks: where the object is, bool (N, H, W).
        way: how to go down, `draw` (exact: what the pixels add) or `guide` (guided backprop, as on the slides).
        redraws: how often weights are drawn anew; results are averaged.
        seed: of these draws.

    Raises:
        InputError: if masks do not fit, there is one image only, or a net cannot be cut or redrawn.
    """
    if len(x) < 2:
        raise InputError("chance is what the masks of other images say: pass two or more images")
    if masks.shape != (len(x), *x.shape[2:]) or masks.dtype != torch.bool:
        raise InputError(
            f"masks must be bool ({len(x)}, H, W) as the images, got {masks.dtype} {tuple(masks.shape)}"
        )

    def see(tower: Sequence[Sequential], inferred: Inferred) -> Floats:
        z = inferred[-1][0]
        for stage, (_, switches) in zip(reversed(tower), reversed(inferred), strict=True):
            z = way(stage, z, switches)
        return _beyond_chance((x * z if way is draw else z).sum(1).abs(), masks)

    levels, *curves = _measure(models, x, see, redraws, seed)
    return BackgroundLoss(levels, *curves)


@torch.no_grad()
def feature_invariance(
    models: nn.Module | Sequence[nn.Module],
    x: Tensor,
    other_background: Tensor,
    other_object: Tensor,
    *,
    redraws: int = 3,
    seed: int = 0,
) -> Invariance:
    """Measure what changes each level's features (T7); memory as for `background_loss`.

    Args:
        models: one `DRMM` or convnet, or several that differ in their seeds.
        x: images (N, C, H, W).
        other_background: the same objects before other backgrounds, same shape.
        other_object: other objects before the same backgrounds, same shape.
        redraws: as for `background_loss`.
        seed: likewise.

    Raises:
        InputError: if shapes differ, or a net cannot be cut or redrawn.
    """
    if not x.shape == other_background.shape == other_object.shape or len(x) < 2:
        raise InputError(
            f"need three sets of the same two or more images, got {len(x)}, and other shapes or numbers"
        )

    def compare(_: Sequence[Sequential], inferred: Inferred) -> Floats:
        return _distances(inferred[-1][0])

    everything = torch.cat([x, other_background, other_object])
    levels, *curves = _measure(models, everything, compare, redraws, seed)
    pixels = np.broadcast_to(_distances(everything)[:, None], (len(curves[0]), len(x), 1, 2))
    trained, redrawn, untrained = (np.concatenate([pixels, curve], 2) for curve in curves)
    return Invariance(
        ("pixels", *levels),
        trained[..., 0],
        trained[..., 1],
        _share(redrawn[..., 0], redrawn[..., 1]),
        _share(untrained[..., 0], untrained[..., 1]),
    )


# --- nets, cut and redrawn ---

Inferred = list[tuple[Tensor, Switches]]
See = Callable[[Sequence[Sequential], Inferred], Floats]


def _measure(
    models: nn.Module | Sequence[nn.Module], x: Tensor, see: See, redraws: int, seed: int
) -> tuple[tuple[str, ...], Floats, Floats, Floats]:
    """Names of the levels, and what is seen at each: trained, redrawn in that level, untrained; (M, N, L, ...)."""
    if redraws < 1:
        raise InputError(f"redraws must be at least 1, got {redraws}")
    nets = [models] if isinstance(models, nn.Module) else list(models)
    names: list[tuple[str, ...]] = []
    by_net: list[list[Floats]] = []
    for number, model in enumerate(track(nets, "Nets")):
        drmm = as_drmm(model)
        seeds = [seed + 1000 * (number * redraws + draw) for draw in range(redraws)]  # the levels' are in between
        with evaluation(drmm):
            levels, tower = _cut(drmm, x[:1])
            names.append(levels)
            passed = forward_pass(tower, x)
            inferred = list(zip(passed.features[1:], passed.switches, strict=True))
            redrawn = [_each_level_redrawn(tower, x, inferred, see, one) for one in seeds]
            untrained = [_untrained(tower, x, see, one) for one in seeds]
            by_net.append([_each_level(tower, inferred, see), np.mean(redrawn, 0), np.mean(untrained, 0)])
    if len({len(levels) for levels in names}) != 1:
        raise InputError("the nets must be of one architecture: they have different numbers of levels")
    trained, redrawn_all, untrained_all = (np.stack(curves) for curves in zip(*by_net, strict=True))
    return names[0], trained, redrawn_all, untrained_all


def _cut(model: DRMM, one: Tensor) -> tuple[tuple[str, ...], list[Sequential]]:
    """The net in stages, each of which ends with a level that has a gate; what is above the last is left out."""
    names, tower, parts = [], [], []
    for name, level in zip(level_names(model), model.levels.renderings, strict=True):
        one, switches = level.infer(one.clone())
        parts.append(level)
        if any(leaf.a is not None for leaf in switches.leaves()):
            names.append(name)
            tower.append(Sequential(*parts))
            tower[-1].training = False
            parts = []
    if len(tower) < 2:
        raise InputError(f"depth needs two or more levels with gates, this net has {len(tower)}")
    return tuple(names), tower


def _each_level(tower: Sequence[Sequential], inferred: Inferred, see: See) -> Floats:
    """What is seen at each level, (N, L, ...)."""
    return np.stack([see(tower[: top + 1], inferred[: top + 1]) for top in range(len(tower))], 1)


def _each_level_redrawn(tower: Sequence[Sequential], x: Tensor, inferred: Inferred, see: See, seed: int) -> Floats:
    """What is seen at each level if that level alone is random, (N, L, ...)."""
    seen = []
    for level, stage in enumerate(tower):
        below = inferred[level - 1][0] if level else x
        other = _redrawn(stage, below, seed)
        seen.append(see([*tower[:level], other], [*inferred[:level], other.infer(below.clone())]))
    return np.stack(seen, 1)


def _untrained(tower: Sequence[Sequential], x: Tensor, see: See, seed: int) -> Floats:
    """What is seen at each level if all are random, (N, L, ...)."""
    others, inferred, features = [], [], x
    for level, stage in enumerate(tower):
        others.append(_redrawn(stage, features, seed + level))
        inferred.append(others[-1].infer(features.clone()))
        features = inferred[-1][0]
    return _each_level(others, inferred, see)


def _redrawn(stage: Sequential, inputs: Tensor, seed: int) -> Sequential:
    """A copy with the weights that torch starts with, its batch norms measured on the inputs as in training."""
    fresh = copy.deepcopy(stage)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in fresh.named_modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
            elif any(True for _ in module.parameters(recurse=False)):
                raise InputError(
                    f"{type(module).__name__} ({name}) has weights, and no reset_parameters that draws them anew"
                )
    norms = [module for module in fresh.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.momentum = None  # an average over what comes now, not over what came before
        norm.train()
    fresh.infer(inputs.clone())
    for norm in norms:
        norm.eval()
    return fresh


# --- what is measured ---


def _beyond_chance(maps: Tensor, masks: Tensor) -> Floats:
    """Share of maps (N, H, W) ≥ 0 outside of the own object minus that outside of others' objects, (N,)."""
    weight = maps.double().flatten(1)
    total = weight.sum(1, keepdim=True)
    # A black map points nowhere: it counts as one that is the same everywhere.
    weight = torch.where(total > 0, weight / total.clamp(min=torch.finfo(total.dtype).tiny), 1 / weight.shape[1])
    outside = weight @ (~masks).flatten(1).to(weight.dtype).T
    own = outside.diagonal()
    excess: Floats = (own - (outside.sum(1) - own) / (len(own) - 1)).cpu().numpy()
    return excess


def _distances(features: Tensor) -> Floats:
    """To the other background and to the other object, in units of the mean distance of two images, (N, 2)."""
    own, background, others = features.double().flatten(1).chunk(3)
    unit = torch.pdist(own).mean().clamp(min=torch.finfo(own.dtype).tiny)
    distances: Floats = (
        (torch.stack([(own - other).norm(dim=1) for other in (background, others)], 1) / unit).cpu().numpy()
    )
    return distances


def _share(background: Floats, objects: Floats) -> Floats:
    """Background / (background + object); one half where nothing changes anything."""
    total = background + objects
    return np.where(total > 0, background / np.where(total > 0, total, 1), 0.5)


def _fall(curve: Floats) -> Floats:
    """From the first level to the last (M, N, L), along the straight line that fits best, (M, N)."""
    level = np.arange(curve.shape[2]) - (curve.shape[2] - 1) / 2
    fall: Floats = -(curve @ level) / (level @ level) * (curve.shape[2] - 1)
    return fall


def _over_both(values: Floats) -> Interval:
    """Over nets and images, of values (M, N); over the images of one net, of which alone it then speaks."""
    return interval(values if len(values) > 1 else values[0])


def _points(effect: Interval) -> str:
    """In percentage points."""
    return f"{100 * effect.mean:.1f} [{100 * effect.low:.1f}, {100 * effect.high:.1f}]"


def _counts(values: Floats) -> str:
    nets, images = values.shape[:2]
    return f"{nets} net{'s' if nets > 1 else ''}, {images} images"
