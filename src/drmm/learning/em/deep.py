"""EM for the deep model: max-sum E-step, derivative-free M-step, and the G-step that is backprop.

The objective is the complete-data log-joint of the Gaussian model under a flat prior over switches,

    J(θ, {c, g, α}) = 1/N (Σ_n log N(I_n; α_n μ_{c_n g_n}(θ), σ²) + log π_{c_n} + Σ_c log π_c),

in nats per image. Its last term counts one image of every class beforehand, so that no class becomes impossible.
A flat prior is what max-sum inference assumes; the switches' own prior is measured when learning is over. Max-sum
maximises ⟨μ_cg, I⟩, which is not J: new latents are proposals, and an image keeps its old ones where these explain
it better (generalised EM). So no step lowers J.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor

from drmm.data.images import pixels
from drmm.errors import InputError, RunError
from drmm.learning.batches import unlabelled
from drmm.learning.e_steps import EStep, bottom_up
from drmm.learning.em.chain import Chain, Site
from drmm.learning.em.loop import Learner, named, unnamed
from drmm.learning.em.posterior_cache import PosteriorCache, PosteriorStore
from drmm.learning.em.regression import solve
from drmm.model.brightness import BestFit
from drmm.model.constraints import is_nonnegative, set_weight
from drmm.model.deep import DRMM, Latents, fit_amplitude, per_image
from drmm.rendering import BatchNorm1d, BatchNorm2d, Switches
from drmm.rendering.norm import running_scale
from drmm.storage.models import misfit

__all__ = ["DeepLearner", "MStep", "Rule", "Stream", "e_step", "g_step", "m_step"]

Rule = Literal["gls", "ols"]
Stream = Callable[[], Iterator[tuple[Tensor, Latents, Tensor]]]

_NOISE_FLOOR = 1 / (12 * 255**2)  # σ² of rounding to 8-bit levels: no picture is known better
_CENTRING_BATCHES = 20


@dataclass(frozen=True)
class MStep:
    """How a dictionary is fitted.

    Attributes:
        rule: "gls" minimises the error of the picture, the levels below being what they are: the least-squares
            solution projected onto what these can draw (the slides' remark on linear nets). "ols" is the slides'
            formula as it stands, a regression of the features I^(ℓ-1) on ẑ^(ℓ), in one step and at the length that
            was: the same direction where Λ_gᵀΛ_g = 1 below (orthonormal levels that switch nothing off) and no
            border crops the canvas; otherwise it can lower the objective.
        sweeps: steps of preconditioned conjugate gradients on the normal equations, each a pass over the images.
            One never lowers the objective; many solve the equations.
        ridge: added to the Gram matrix, as a share of its largest entry.
    """

    rule: Rule = "gls"
    sweeps: int = 1
    ridge: float = 1e-6

    def __post_init__(self) -> None:
        if self.rule not in {"gls", "ols"} or self.sweeps < 1 or not self.ridge >= 0:
            raise InputError("an M-step needs rule 'gls' or 'ols', at least one sweep and a ridge of 0 or more")


@torch.no_grad()
def e_step(
    model: DRMM,
    x: Tensor,
    y: Tensor | None = None,
    *,
    previous: PosteriorCache | None = None,
    soft: bool = False,
    choose: EStep = bottom_up,
) -> PosteriorCache:
    """Infer class and switches of each image; keep the previous ones where they explain it better.

    Args:
        model: in evaluation mode.
        x: images (N, C, H, W).
        y: class indices (N,), -1 where there is no label; known labels are not inferred.
        previous: from an earlier E-step on the same images; it is judged at the norms' present scales.
        soft: responsibilities over all classes, for the switches found; otherwise the best class alone.
        choose: the switches of each image, given its label or the class that max-sum finds.

    Returns:
        The joint MAP (slide "Learning via Backpropagation: A Hard EM Interpretation"), or what was kept.
    """
    known = torch.full((len(x),), -1) if y is None else y
    best, _, found = model.max_sum(x, None)
    label = torch.where(known >= 0, known, best)
    switches = choose(model, x, label, found, BestFit())
    posterior = _explain(model, x, label, switches, known, soft=soft)
    if previous is None:
        return posterior
    label = torch.where(known >= 0, known, previous.responsibilities.argmax(1))
    former = switches.choosing(previous.switches)
    return posterior.better_of(_explain(model, x, label, former, known, soft=soft))


def _explain(
    model: DRMM, x: Tensor, label: Tensor, switches: Switches, known: Tensor, *, soft: bool
) -> PosteriorCache:
    """How well switches explain images: with one class each, or with all."""
    n, n_classes = len(x), model.n_classes
    amplitude, joint = x.new_zeros(n, n_classes), x.new_full((n, n_classes), -math.inf)
    classes = [torch.full_like(label, c) for c in range(n_classes)] if soft else [label]
    rows = torch.arange(n)
    for chosen in classes:
        rendering = model.levels.render(model.templates.weight[chosen], switches)
        brightness = fit_amplitude(x, rendering)
        amplitude[rows, chosen] = brightness
        likelihood = model.log_density(x, per_image(brightness) * rendering)
        joint[rows, chosen] = likelihood + model.class_prior.log()[chosen]
    outside = (known >= 0)[:, None] & (torch.arange(n_classes) != known[:, None])
    joint = joint.masked_fill(outside, -math.inf)
    return PosteriorCache(joint.softmax(1), amplitude, switches, joint.logsumexp(1))


def g_step(model: DRMM, x: Tensor, latents: Latents) -> dict[str, Tensor]:
    """Gradient of the log-likelihood at frozen latents, mean over images, by parameter name.

    Slide "Learning via Backpropagation": Δ Λ_g ∝ ∇ ℓ_DRMM(θ). Parameters that draw nothing (biases) have none.

    Args:
        model: its parameters are left alone.
        x: images (N, C, H, W).
        latents: of the E-step.
    """
    with torch.enable_grad():
        objective = model.log_likelihood(x, latents).mean()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(objective, list(named.values()), allow_unused=True)
    return {name: g for name, g in zip(named, gradients, strict=True) if g is not None}


def m_step(model: DRMM, stream: Stream, how: MStep | None = None) -> None:
    """Fit every dictionary, pixels first, then the class templates, σ² and π, to frozen latents.

    Slide "Hard EM Interpretation yields New Derivative-Free M-step": Λ^(ℓ) = GLS(I^(ℓ-1) ~ ẑ^(ℓ) | ĝ^(ℓ)), by
    statistics whose size does not depend on the number of images. A unit that was never on keeps its template.

    Args:
        model: changed in place.
        stream: called for every pass over the images; yields images, latents and their responsibilities.
        how: how dictionaries are fitted.
    """
    how = how or MStep()
    for site in Chain(model).sites:
        fit_site(site, stream, how)
    _fit_noise_and_classes(model, stream)


@torch.no_grad()
def fit_site(site: Site, stream: Stream, how: MStep) -> None:
    """The M-step of one dictionary."""
    moments, gradient = _statistics(site, stream, how.rule)
    gram = site.design.gram(moments).double()
    if not bool(gradient.isfinite().all()) or not bool(gram.isfinite().all()):
        raise InputError("the statistics of the M-step are not finite: check the images for infinite values")
    descent = solve(gram, gradient, ridge=how.ridge)
    if how.rule == "ols":
        # Every image has its own amplitude, so that the length is free: without this it would run away.
        before = site.coefficients()
        after = before + descent
        length = float(before.norm()) / max(float(after.norm()), torch.finfo(torch.double).tiny)
        site.move(length * after - before)
        return
    direction, slope = descent, float((gradient * descent).sum())
    total = torch.zeros_like(descent)
    # Where a step gains no more than rounding, the gradient is rounding too: more steps would lead anywhere.
    rounding, gained = torch.finfo(site.dictionary.weight.dtype).eps ** 1.25, 0.0
    for sweep in range(how.sweeps):
        image, curvature = _normal_product(site, stream, direction, last=sweep == how.sweeps - 1)
        if not curvature > 0 or slope**2 / curvature <= rounding * gained:
            break
        step = slope / curvature
        gained += step * slope
        total += step * direction
        if sweep < how.sweeps - 1:
            gradient = gradient - step * image
            descent = solve(gram, gradient, ridge=how.ridge)
            former, slope = slope, float((gradient * descent).sum())
            direction = descent + slope / max(former, torch.finfo(torch.double).tiny) * direction
    site.move(total)


def _statistics(site: Site, stream: Stream, rule: Rule) -> tuple[Tensor, Tensor]:
    """Moments of the units, and their cross moments with what is missing on the canvas."""
    moments, cross = [], []
    for x, latents, weight in stream():
        root = weight.sqrt()
        v = site.units(latents)
        v = v * root.reshape(-1, *[1] * (v.ndim - 1))
        canvas = site.canvas(v, latents.switches)
        image = per_image(root) * x
        picture, pull_back = site.linear_below(canvas, latents.switches)
        missing = pull_back(image - picture) if rule == "gls" else pull_back(image) - canvas
        moments.append(site.design.moments(v))
        cross.append(site.design.cross(v, missing).double())
        moments, cross = [sum(moments[1:], moments[0])], [sum(cross[1:], cross[0])]
    return moments[0], cross[0]


def _normal_product(site: Site, stream: Stream, direction: Tensor, *, last: bool) -> tuple[Tensor, float]:
    """The Gram matrix of the pictures times a direction, and the direction's share in it.

    In the last sweep only the share is needed, which spares the way back up.
    """
    weight = site.design.weight(direction).to(site.dictionary.weight.dtype)
    product, curvature = torch.zeros_like(direction), 0.0
    for _, latents, responsibility in stream():
        v = site.units(latents)
        v = v * responsibility.sqrt().reshape(-1, *[1] * (v.ndim - 1))
        canvas = site.design.draw(v, weight, site.shape(latents.switches))
        picture, pull_back = site.linear_below(canvas, latents.switches)
        curvature += float(picture.double().square().sum())
        if not last:
            product += site.design.cross(v, pull_back(picture)).double()
    return product, curvature


@torch.no_grad()
def _fit_noise_and_classes(model: DRMM, stream: Stream) -> None:
    """Closed form: σ² is the mean squared error, π the classes' shares, with one image of every class added."""
    error, numbers, images = 0.0, 0.0, torch.ones(model.n_classes, dtype=torch.double)
    for x, latents, weight in stream():
        residual = (x - model.picture(latents)).square().flatten(1).sum(1)
        error += float((weight * residual).double().sum())
        numbers += float(weight.double().sum()) * x[0].numel()
        images.index_add_(0, latents.label, weight.double())
    model.noise.fill_(max(error / max(1.0, numbers), _NOISE_FLOOR))
    model.class_prior.copy_(images / images.sum())


@final
class DeepLearner(Learner):
    """Generalised EM for a DRMM: what `fit_em` iterates.

    Args:
        model: changed in place; needs its image shape.
        x: images (N, C, H, W), uint8 or float in [0, 1].
        y: class indices (N,), -1 where there is no label.
        how: the M-step.
        soft: responsibilities over classes in the E-step.
        choose: the switches that the E-step proposes.
        folder: where the latents of all images are kept.
        chunk: images at once.
        seed: of the batches on which the norms are centred.

    Raises:
        InputError: if images and labels do not fit the model, or its templates must not be negative.
    """

    def __init__(
        self,
        model: DRMM,
        x: Tensor,
        y: Tensor,
        *,
        how: MStep,
        soft: bool,
        choose: EStep = bottom_up,
        folder: Path,
        chunk: int = 100,
        seed: int = 0,
    ) -> None:
        _check(model, x, y)
        self._model, self._x, self._y = model.eval(), x, y
        self._how, self._soft, self._choose, self._chunk, self._seed = how, soft, choose, chunk, seed
        self._store = PosteriorStore(folder)

    def e_step(self) -> float:
        """Infer all images anew, each keeping its latents where they are better."""
        some = unlabelled(self._x, batch_size=self._chunk, seed=self._seed, epoch=0, most=_CENTRING_BATCHES)
        centre(self._model, map(self._pixels, some))
        self._store.tidy()
        if self._store.generation and bool((self._y < 0).any()):
            equalise(self._model, self._stream)
        like, total = self._model.blank_switches(), float(self._model.class_prior.double().log().sum())
        for i, x, y in self._chunks():
            previous = self._store.read(i, like) if self._store.generation else None
            posterior = e_step(self._model, x, y, previous=previous, soft=self._soft, choose=self._choose)
            total += float(posterior.objective.double().sum())
            self._store.write(i, posterior)
        self._store.advance()
        return total / len(self._x)

    def m_step(self) -> None:
        """Fit all dictionaries, σ² and π."""
        m_step(self._model, self._stream, self._how)

    def state(self) -> dict[str, Tensor]:
        """Parameters, the number of the last generation of latents, and of how many images they are."""
        numbers = {"generation": torch.tensor(self._store.generation), "images": torch.tensor(len(self._x))}
        return {**numbers, **named("model.", self._model.state_dict())}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state; the latents are still in the folder."""
        weights = unnamed("model.", state)
        if misfit(self._model.state_dict(), weights) is not None:
            raise RunError("the folder's EM run is from another architecture: train into a new folder")
        if int(state["images"]) != len(self._x):
            raise RunError(f"the folder's EM run is on {int(state['images'])} images: train into a new folder")
        self._model.load_state_dict(weights)
        self._store.generation = int(state["generation"])

    def _chunks(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        pairs = zip(self._x.split(self._chunk), self._y.split(self._chunk), strict=True)
        for i, (x, y) in enumerate(pairs):
            yield i, self._pixels(x), y

    def _pixels(self, x: Tensor) -> Tensor:
        """Images in the model's precision."""
        return pixels(x).to(self._model.templates.weight)

    def _stream(self) -> Iterator[tuple[Tensor, Latents, Tensor]]:
        like = self._model.blank_switches()
        for i, x, _ in self._chunks():
            yield self._store.read(i, like).configurations(x)


def _check(model: DRMM, x: Tensor, y: Tensor) -> None:
    if model.image_shape is None:
        raise InputError("the model does not know its image shape: pass image_shape=(C, H, W)")
    if tuple(x.shape[1:]) != model.image_shape:
        raise InputError(f"images are {tuple(x.shape[1:])}, but the model is for {model.image_shape} (C, H, W)")
    if len(x) < 2 or not bool(x.isfinite().all()):
        raise InputError("EM needs at least two images, and finite pixels")
    whole = not y.is_floating_point() and y.dtype != torch.bool
    if not whole or y.shape != (len(x),) or y.min() < -1 or y.max() >= model.n_classes:
        raise InputError(f"EM needs a label from -1 to {model.n_classes - 1} for each of {len(x)} images")
    if any(is_nonnegative(module) for module in model.modules()):
        raise InputError("the M-step fits signed templates: learn a hard model by 'sgd' or 'eg'")
    owned = [id(parameter) for site in Chain(model).sites for parameter in site.dictionary.parameters()]
    if len(set(owned)) < len(owned):
        raise InputError("two levels share a dictionary, which no regression fits: learn by 'sgd' or 'eg'")


@torch.no_grad()
def centre(model: DRMM, batches: Iterator[Tensor]) -> None:
    """Measure the norms' means anew, and leave what is drawn alone.

    The means are the thresholds above which a unit is proposed to be on. The scales belong to the dictionaries,
    which the M-step has just fitted: γ takes up the change of σ.
    """
    norms = [
        norm
        for norm in model.modules()
        if isinstance(norm, BatchNorm1d | BatchNorm2d) and norm.affine and norm.running_var is not None
    ]
    if not norms:
        return
    gains = [norm.weight * running_scale(norm) for norm in norms]
    model.calibrate(batches)
    for norm, gain in zip(norms, gains, strict=True):
        norm.weight.copy_(gain / running_scale(norm))


@torch.no_grad()
def equalise(model: DRMM, stream: Stream) -> None:
    """Scale the class templates so that their renderings have norm 1 on average, and leave what is drawn alone.

    Every image has its own amplitude, so that the scale of a template is free. Max-sum compares the classes'
    scores, and prefers whichever is drawn larger.
    """
    images = torch.zeros(model.n_classes, dtype=torch.double)
    energy = torch.zeros(model.n_classes, dtype=torch.double)
    for _, latents, weight in stream():
        drawn = model.render(latents).square().flatten(1).sum(1)
        images.index_add_(0, latents.label, weight.double())
        energy.index_add_(0, latents.label, (weight * drawn).double())
    length = torch.where(energy > 0, (energy / images).sqrt(), 1.0).to(model.templates.weight.dtype)
    set_weight(model.templates, model.templates.weight / length[:, None])
