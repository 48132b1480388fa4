"""Inference for the Gaussian log-joint: max-sum proposes, and what it drops, ½‖μ_cg‖², decides.

For a class the Gaussian wants the configuration whose picture is nearest to the image. The pictures of all
configurations span a polytope, on which ‖I - m‖² is convex, and max-sum finds its corners: of any image r it
maximises ⟨μ_cg, r⟩. So the algorithm of Frank and Wolfe (1956) is a few more passes of the convnet, each on what
the mean m of the pictures so far leaves unexplained, r = I - m. Every corner on the way is a candidate. Then a few
switches at a time are drawn anew from their prior. No candidate counts that lowers `DRMM.log_joint` below that of
the max-sum configuration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.model.brightness import BestFit, Brightness, BrightnessPrior, best_fit, compare
from drmm.model.certificate import Certificate
from drmm.model.drawing import draw, fit_amplitude, per_image
from drmm.model.priors import Prior
from drmm.model.randomness import uniform
from drmm.rendering import Switches

if TYPE_CHECKING:
    from drmm.model.deep import DRMM, Latents

__all__ = ["OBJECTIVES", "Gaussian", "Objective", "ObjectiveName", "objective_of"]

ObjectiveName = Literal["inner", "gaussian"]

_REDRAWN = 3.0  # switches that are drawn anew at a time, on average


class Objective:
    """What inference maximises; this one is the slides' own, max_{c,g} ⟨μ_cg, I⟩, which max-sum has done."""

    def refine(self, model: DRMM, x: Tensor, latents: Latents, *, given: bool) -> Latents:
        """The best configuration that is found from max-sum's.

        Args:
            model: what inferred.
            x: images (N, C, H, W), without gaps.
            latents: of max-sum.
            given: keep their labels.
        """
        del model, x, given
        return latents


@final
@dataclass(frozen=True)
class Gaussian(Objective):
    """max_{c,g} log N(I; α μ_cg, σ²) + log π_c + log p(g): a heuristic, and never below max-sum.

    Attributes:
        brightness: what is known of α; None is one for all, the model's, as `DRMM.sample` draws.
        steps: passes over what is left unexplained, for each class.
        redraws: how often a few switches are drawn anew, for each class.
        prior: p(g | c); None is the model's own.

    Raises:
        InputError: if `steps` or `redraws` is negative.
    """

    brightness: Brightness | None = None
    steps: int = 8
    redraws: int = 32
    prior: Prior | None = None

    def __post_init__(self) -> None:
        if self.steps < 0 or self.redraws < 0:
            raise InputError(f"steps and redraws must be 0 or more, got {self.steps} and {self.redraws}")

    @torch.no_grad()
    def refine(self, model: DRMM, x: Tensor, latents: Latents, *, given: bool) -> Latents:
        """See `Objective.refine`; of classes without a candidate that counts, logits are -∞.

        Raises:
            InputError: if the model is in training mode, or does not know its image shape.
        """
        if model.varies():
            raise InputError("the Gaussian objective needs a model in evaluation mode: call model.eval() first")
        brightness = self.brightness or BrightnessPrior(float(model.amplitude), 0.0)
        alone = model.log_density(x, torch.zeros_like(x), latents.observed)
        prior = model.switch_prior() if self.prior is None else self.prior
        task = _Task(model, x, latents, brightness, prior, alone)
        start = task.explain(latents.label, latents.switches)
        task = replace(task, least=start.fitted)
        labels = [latents.label] if given else [torch.full_like(latents.label, c) for c in range(model.n_classes)]
        found = [self._search(task, label) for label in labels]
        best = reduce(_Candidate.or_better, found, start)
        classes = torch.stack([each.label for each in found], 1)
        joints = torch.stack([each.joint for each in found], 1)
        logits = torch.full_like(latents.logits, -math.inf).scatter(1, classes, joints)
        return replace(
            latents,
            label=best.label,
            score=best.joint,
            logits=logits,
            certificate=Certificate.unknown(best.joint),
            amplitude=best.amplitude,
            switches=best.switches,
            features=None,
            objective="gaussian",
        )

    def _search(self, task: _Task, label: Tensor) -> _Candidate:
        """The best configuration found of one class for each image (N,)."""
        best = corner = task.explain(label, task.start.switches)
        mean = corner.picture
        for _ in range(self.steps):
            rest = task.rest(mean)
            corner = task.explain(label, task.corner(rest, corner))
            best = best.or_better(corner)
            way = corner.picture - mean
            mean = mean + per_image(fit_amplitude(rest, way).clamp(max=1)) * way
        generator = torch.Generator().manual_seed(0)
        for _ in range(self.redraws):
            best = best.or_better(task.explain(label, task.redrawn(best.switches, generator)))
        return best


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A configuration of each image.

    Attributes:
        label: (N,).
        switches: g.
        joint: log p(I, c, g) by what is known of α, (N,); -∞ where the candidate does not count.
        fitted: the same with the best α of each image.
        amplitude: that α, (N,).
        picture: α μ_cg with the most probable α, (N, C, H, W); 0 where nothing was seen.
    """

    label: Tensor
    switches: Switches
    joint: Tensor
    fitted: Tensor
    amplitude: Tensor
    picture: Tensor

    def or_better(self, other: _Candidate) -> _Candidate:
        """The one with the larger joint, image by image; this one in a tie."""
        mask = other.joint > self.joint

        def choose(name: str) -> Tensor:
            mine: Tensor = getattr(self, name)
            return torch.where(mask.reshape(-1, *[1] * (mine.ndim - 1)), getattr(other, name), mine)

        tensors = {name: choose(name) for name in ("label", "joint", "fitted", "amplitude", "picture")}
        return _Candidate(switches=other.switches.where(mask, self.switches), **tensors)


@dataclass(frozen=True, slots=True)
class _Task:
    """What there is to explain.

    Attributes:
        model: of the images.
        x: images (N, C, H, W).
        start: what max-sum made of them.
        brightness: what is known of α.
        prior: p(g | c).
        alone: log N(I; 0, σ² 1), (N,).
        least: what no candidate may fall below, (N,).
    """

    model: DRMM
    x: Tensor
    start: Latents
    brightness: Brightness
    prior: Prior
    alone: Tensor
    least: Tensor | None = None

    def explain(self, label: Tensor, switches: Switches) -> _Candidate:
        """How well a configuration does."""
        model, seen = self.model, self.start.observed
        drawn = draw(model.levels, model.templates.weight[label], switches)
        drawn = drawn if seen is None else torch.where(seen, drawn, 0.0)
        match, energy = compare(self.x, drawn)
        amplitude = best_fit(match, energy)
        latents = self.start.without_score(label, amplitude, switches, model.n_classes)
        undrawn = model.log_prior(latents, self.prior) + self.alone
        fitted = undrawn + BestFit().gain(match, energy, model.noise)
        joint = undrawn + self.brightness.gain(match, energy, model.noise)
        if self.least is not None:
            joint = torch.where(fitted >= self.least, joint, -math.inf)
        picture = per_image(self.brightness.best(match, energy, model.noise)) * drawn
        return _Candidate(label, switches, joint, fitted, amplitude, picture)

    def rest(self, mean: Tensor) -> Tensor:
        """What a picture leaves unexplained; nothing where nothing was seen."""
        rest, seen = self.x - mean, self.start.observed
        return rest if seen is None else torch.where(seen, rest, 0.0)

    def corner(self, rest: Tensor, before: _Candidate) -> Switches:
        """Max-sum of what is left, for the classes and by the signs of a candidate."""
        z = self.model.templates.weight[before.label]
        return self.model.levels.reinfer(rest, before.switches, z)[1]

    def redrawn(self, switches: Switches, generator: torch.Generator) -> Switches:
        """A few of them drawn from their prior, the same for all images: none depends on what others there are."""
        one = switches.select(slice(1))
        units = sum(choice.numel() for leaf in one.leaves() for _, choice in leaf.choices())
        fresh = self.prior.sample(self.start.label[:1], one, generator).leaves()

        def take(leaf: Switches) -> Switches:
            drawn = dict(next(fresh).choices())
            chosen: dict[str, Any] = {
                name: torch.where(
                    uniform(drawn[name].shape, self.x, generator) < _REDRAWN / units, drawn[name], choice
                )
                for name, choice in leaf.choices()
            }
            return replace(leaf, **chosen)

        return switches.map_leaves(take)


def objective_of(named: Objective | str) -> Objective:
    """What a name stands for; an objective is itself.

    Raises:
        InputError: if there is none of that name.
    """
    if isinstance(named, Objective):
        return named
    if named not in tuple(OBJECTIVES):
        raise InputError(f"objective must be {' or '.join(map(repr, OBJECTIVES))}, got {named!r}")
    return OBJECTIVES[named]


OBJECTIVES: Mapping[str, Objective] = {"inner": Objective(), "gaussian": Gaussian()}
