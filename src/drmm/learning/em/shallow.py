"""EM for the shallow model: exact E-steps by differentiation, closed-form M-steps.

The derivative of log p(I) with respect to what a sufficient statistic multiplies is that statistic's posterior
mean (Fisher's identity). So the E-step is one convolution forward and one back: backprop through log Σ exp is the
soft E-step over c, t, a and z, backprop through max is the hard one. The M-step is least squares: a pixel of an
element depends only on the same pixel of the class's other elements, where the position left it on the canvas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from drmm.data.images import pixels
from drmm.errors import InputError, RunError
from drmm.learning.em.loop import Learner, named, unnamed
from drmm.model.randomness import categorical
from drmm.model.shallow import RMM, Quadratic
from drmm.storage.models import misfit

__all__ = ["Moments", "ShallowLearner", "expect", "grow", "maximise", "seed"]

_LEAST_NOISE = 1 / 12 / 255**2  # of σ²: what rounding to 8 bits leaves in pixels from 0 to 1
_STEADIEST = 255.0  # mean loadings at the most, in standard deviations: one level of 8 bits
_EMPTY = 0.5  # images; a class that explains less is empty
_NOTHING = -80.0  # nats
_BRIGHTNESS = 0.2  # standard deviation of a fresh template's brightness, as a share of its mean
_SEEDING = 20  # images per class that starting values are taken from


@dataclass(frozen=True)
class Moments:
    """What the M-step needs of the images: sums of posterior means, float64, as large for one image as for many.

    Attributes:
        weights: Σ p(c, t, a | I), (C, T, 2^K).
        loadings: Σ E[a z], (C, K).
        pairs: Σ E[(a ⊙ z)(a ⊙ z)ᵀ] at each position, (C, T, K, K).
        pictures: Σ E[a z] I, with I shifted back, (C, K, C_in, H, W).
        energy: Σ ‖I‖², ().
        worst: indices of the images that are explained worst, the worst first, (at most C,).
    """

    weights: Tensor
    loadings: Tensor
    pairs: Tensor
    pictures: Tensor
    energy: Tensor
    worst: Tensor


@final
class ShallowLearner(Learner):
    """A shallow model and its images.

    A class that explains less than half an image is empty. It starts again as the image that is explained worst,
    and stays so only if the objective rises, so that the trace never falls; after the first failure, empty classes
    are left alone. This belongs to the E-step, before convergence is tested.

    Args:
        model: changed in place. Start it with `seed`.
        x: images (N, C_in, H, W), uint8 or float in [0, 1].
        soft: the objective is log p(I), and latents are weighed by their posterior; otherwise it is
            max_{c,t,a} log p(I, c, t, a), and each image counts for its best configuration. Either way z is
            integrated out: a maximum over z would let the templates grow without end.

    Attributes:
        reseeded: how many empty classes have started again.

    Raises:
        InputError: if the images do not fit the model or are not finite.
    """

    def __init__(self, model: RMM, x: Tensor, *, soft: bool = True) -> None:
        _check(model, x)
        self.model, self.x, self.soft = model, x, soft
        self.reseeded = 0
        self._moments: Moments | None = None
        self._try_again = True

    def e_step(self) -> float:
        """The log-likelihood (soft) or the best log-joint (hard) per image, in nats."""
        objective, self._moments = expect(self.model, self.x, soft=self.soft)
        empty = self._moments.weights.sum((1, 2)) < _EMPTY
        if self._try_again and bool(empty.any()):
            before = {name: value.clone() for name, value in self.model.state_dict().items()}
            classes = empty.nonzero().squeeze(1)[: len(self._moments.worst)]
            _reseed(self.model, classes, pixels(self.x[self._moments.worst[: len(classes)]]))
            better, moments = expect(self.model, self.x, soft=self.soft)
            self._try_again = better > objective
            if self._try_again:
                self.reseeded += len(classes)
                objective, self._moments = better, moments
            else:
                self.model.load_state_dict(before)
        return objective

    def m_step(self) -> None:
        """Fit every parameter in closed form."""
        if self._moments is None:
            raise RunError("the M-step needs an E-step before it: call e_step first")
        maximise(self.model, self._moments)

    def state(self) -> dict[str, Tensor]:
        """Parameters and moments."""
        moments = {} if self._moments is None else asdict(self._moments)
        own = {"reseeded": torch.tensor(self.reseeded), "try_again": torch.tensor(self._try_again)}
        model = self.model.state_dict()
        return {**own, **named("model.", model), **named("moments.", moments)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        model = unnamed("model.", state)
        if misfit(self.model.state_dict(), model) is not None:
            raise RunError("the state is from another mixture: remove it and train again")
        self.model.load_state_dict(model)
        moments = unnamed("moments.", state)
        self._moments = Moments(**moments) if moments else None
        self.reseeded, self._try_again = int(state["reseeded"]), bool(state["try_again"])


@torch.enable_grad()
def expect(model: RMM, x: Tensor, *, soft: bool = True) -> tuple[float, Moments]:
    """The E-step, chunk by chunk.

    Args:
        model: at the current parameters.
        x: images (N, C_in, H, W), uint8 or float.
        soft: weigh configurations by their posterior; otherwise take the best of each image.

    Returns:
        The objective per image, in nats, and the moments.
    """
    gram = model.gram().requires_grad_()
    exact = model.quadratic(gram)
    leaves = Quadratic(*(part.detach().to(model.inference_dtype).requires_grad_() for part in exact))
    sums = [torch.zeros_like(part) for part in exact]
    energy, values = torch.zeros_like(model.noise, dtype=torch.float64), []
    for part in x.split(model.chunk):
        images = pixels(part).to(model.inference_dtype)
        joint = model.evaluate(images, leaves).flatten(1)
        best, posterior = _posterior(joint.detach(), soft=soft)
        for total, derivative in zip(sums, torch.autograd.grad(joint, leaves, posterior), strict=True):
            total.add_(derivative)
        values.append(best + model.log_white(images))
        energy += images.double().square().sum()
    (slope,) = torch.autograd.grad([exact.constant, exact.curvature], gram, sums[2:])
    value = torch.cat(values)
    moments = Moments(
        weights=sums[2].reshape(*gram.shape[:2], -1),
        loadings=sums[1].view_as(model.mean_loading),
        pairs=-(slope + slope.mT),
        pictures=sums[0].view_as(model.templates),
        energy=energy,
        worst=value.topk(min(len(x), model.n_classes), largest=False).indices,
    )
    return float(value.mean()), moments


def _posterior(joint: Tensor, *, soft: bool) -> tuple[Tensor, Tensor]:
    """Log Σ exp over configurations, (N,), and its derivative; or the maximum and its derivative, one-hot."""
    top, index = joint.max(1, keepdim=True)
    if not soft:
        return top.squeeze(1), torch.zeros_like(joint).scatter_(1, index, 1.0)
    # What is below e⁻⁸⁰ of the best counts for nothing: where exp underflows it takes seven times as long.
    odds = torch.threshold_((joint - top).clamp_(min=_NOTHING).exp_(), math.exp(_NOTHING + 1), 0.0)
    total = odds.sum(1, keepdim=True)
    return (top + total.log()).squeeze(1), odds.div_(total)


@torch.no_grad()
def maximise(model: RMM, moments: Moments) -> None:
    """The M-step: every parameter at its maximum, given the moments.

    z ~ N(ζ*, τ²) is fitted with a variance of its own, and the scale τ then moved into the templates, which leaves
    the model as it is and saves EM many small steps (Liu, Rubin and Wu 1998, parameter-expanded EM). What no image
    tells of stays as it was: a pixel that was never on the canvas, an element that was never on.

    Two bounds keep the density of repeated images finite: on σ² from below, on |ζ| from above. The maximum is
    taken within them, so that they never lower the objective.
    """
    n, of_class = moments.weights.sum(), moments.weights.sum((1, 2))
    on = moments.weights.sum(1) @ model.masks.double()
    templates, residual = _templates(model, moments)
    mean, spread = _loadings(model, moments, on)
    model.templates.copy_(templates * spread[..., None, None, None])
    model.mean_loading.copy_((mean / spread).clamp(-_STEADIEST, _STEADIEST))
    model.noise.copy_((residual / (n * math.prod(model.image_shape))).clamp(min=_LEAST_NOISE))
    model.class_prior.copy_(of_class / n)
    model.position_prior.copy_(moments.weights.sum((0, 2)) / n)
    known = of_class[:, None] > torch.finfo(on.dtype).tiny
    model.switch_prior.copy_(torch.where(known, on / of_class[:, None], model.switch_prior).clamp(0, 1))


def _templates(model: RMM, moments: Moments) -> tuple[Tensor, Tensor]:
    """Λ by least squares, float64 (C, K, C_in, H, W), K unknowns a class and pixel; and what is left of ‖I‖²."""
    visible = model.visible().flatten(1)
    system = (moments.pairs.permute(0, 2, 3, 1) @ visible).movedim(-1, 1)
    target = moments.pictures.flatten(3).permute(0, 3, 1, 2)
    former = model.templates.double().flatten(3).permute(0, 3, 1, 2)
    size = system.diagonal(dim1=-2, dim2=-1)
    unseen = size <= torch.finfo(size.dtype).tiny
    scale = torch.where(unseen, 1.0, size).rsqrt()[..., None]
    # The ridge is rounding: it keeps elements that always occur together, at one strength, from dividing by zero.
    ridge = torch.diag_embed(unseen.double() + torch.finfo(size.dtype).eps)
    step = torch.linalg.solve(scale * system * scale.mT + ridge, scale * (target - system @ former))
    solution = former + scale * step
    left = moments.energy - (solution * (2 * target - system @ solution)).sum()
    return solution.permute(0, 2, 3, 1).reshape(model.templates.shape), left


def _loadings(model: RMM, moments: Moments, on: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each element's loading where it is on, (C, K) each."""
    used = on > torch.finfo(on.dtype).tiny
    count = torch.where(used, on, 1.0)
    mean = torch.where(used, moments.loadings / count, model.mean_loading)
    square = torch.where(used, moments.pairs.diagonal(dim1=-2, dim2=-1).sum(1) / count, 1 + mean.square())
    # The most likely τ of N(±_STEADIEST τ, τ²): where the free one is smaller, the mean is beyond its bound.
    bound = _STEADIEST * mean.abs()
    least = 2 * square / (bound + (bound.square() + 4 * square).sqrt())
    return mean, torch.maximum((square - mean.square()).clamp(min=0).sqrt(), least)


# --- starting values -------------------------------------------------------------------------------------------


@torch.no_grad()
def seed(model: RMM, x: Tensor, generator: torch.Generator | None = None) -> None:
    """Start the classes as images that explain the others badly (k-means++, greedy, for any shift and brightness).

    Of a few images, drawn in proportion to what is left unexplained of them, the one that leaves least unexplained
    of all is chosen, moved to where most others come within reach. The further elements of a class start as `grow`
    has them.

    Args:
        model: changed in place.
        x: images (N, C_in, H, W), uint8 or float; a random part is used if there are many.
        generator: source of randomness.

    Raises:
        InputError: if the images do not fit the model or are not finite.
    """
    _check(model, x)
    some = _some(x, model, generator)
    left, chosen = some.flatten(1).square().sum(1), []
    for _ in range(model.n_classes):
        odds = left if bool((left > 0).any()) else torch.ones_like(left)
        tries = categorical(odds, 2 + int(math.log(model.n_classes)), generator)
        after = torch.minimum(left[:, None, None], _unexplained(some, some[tries], model.reach))
        best = divmod(int(after.sum(0).argmin()), len(model.shifts))
        left = after[:, *best]
        moved = torch.tensor([len(model.shifts) - 1 - best[1]])  # shifting back by -t is shifting by t
        chosen.append(model.align(some[tries[best[0]]][None], moved))
    single = RMM(model.n_classes, model.image_shape, reach=model.reach).to(model.noise)
    single.noise.copy_((left.mean() / some[0].numel()).clamp(min=_LEAST_NOISE))
    _draw(single, torch.arange(model.n_classes), torch.cat(chosen))
    grown = single if model.elements == 1 else grow(single, x, model.elements, generator)
    model.load_state_dict(grown.state_dict())


def _unexplained(x: Tensor, images: Tensor, reach: tuple[int, int]) -> Tensor:
    """‖I - α T_t μ‖² at the best t and α, for images (n, …) as templates, moved by each shift, (N, n, T)."""
    rows, columns = reach
    maps = F.conv2d(x, images, padding=(2 * rows, 2 * columns))
    match = F.max_pool2d(maps, (2 * rows + 1, 2 * columns + 1), stride=1).flatten(2).clamp(min=0)
    energy = images.flatten(1).square().sum(1).clamp(min=torch.finfo(x.dtype).tiny)
    return (x.flatten(1).square().sum(1)[:, None, None] - match.square() / energy[:, None]).clamp(min=0)


@torch.no_grad()
def grow(model: RMM, x: Tensor, elements: int, generator: torch.Generator | None = None) -> RMM:
    """The same mixture with more elements in each class, which start as its images' principal residuals.

    Elements that are added to classes that exist describe how the images of one kind vary; classes that start with
    all their elements at once mix kinds.

    Args:
        model: stays as it is.
        x: images (N, C_in, H, W), uint8 or float; a random part is used if there are many.
        elements: K of the new model.
        generator: source of randomness.
    """
    grown = RMM(model.n_classes, model.image_shape, elements=elements, reach=model.reach).to(model.noise)
    grown.class_prior, grown.position_prior = model.class_prior.clone(), model.position_prior.clone()
    grown.noise, old = model.noise.clone(), model.elements
    grown.templates.zero_()
    grown.mean_loading.zero_()
    for new, former in (
        (grown.templates, model.templates),
        (grown.mean_loading, model.mean_loading),
        (grown.switch_prior, model.switch_prior),
    ):
        new[:, :old] = former
    labels, residuals = _residuals(model, _some(x, model, generator))
    for c in range(model.n_classes):
        own = residuals[labels == c]
        if len(own) == 0:
            continue
        _, strengths, directions = torch.linalg.svd(own.flatten(1), full_matrices=False)
        last = min(elements, old + len(strengths))
        variance = (strengths.square() / len(own) - model.noise).clamp(min=float(model.noise))
        fresh = variance.sqrt()[:, None] * directions
        grown.templates[c, old:last] = fresh[: last - old].unflatten(1, model.image_shape)
    return grown


def _residuals(model: RMM, x: Tensor) -> tuple[Tensor, Tensor]:
    """Each image's most probable class, (N,), and what it leaves unexplained, shifted back, (N, C_in, H, W)."""
    labels, residuals = [], []
    for part in x.to(model.noise.dtype).split(model.chunk):
        latents = model.explain(part)
        labels.append(latents.label)
        residuals.append(model.align(part - model.render(latents), latents.position))
    return torch.cat(labels), torch.cat(residuals)


def _reseed(model: RMM, classes: Tensor, images: Tensor) -> None:
    """Start some classes again as one image each; their further elements are the heaviest class's."""
    heaviest = model.class_prior.argmax()
    with torch.no_grad():
        for tensor in (model.templates, model.mean_loading, model.switch_prior):
            tensor[classes] = tensor[heaviest].clone()
        _draw(model, classes, images)
        model.class_prior[classes] = model.class_prior.mean()
        model.class_prior.div_(model.class_prior.sum())


def _draw(model: RMM, classes: Tensor, images: Tensor) -> None:
    """Make images (n, C_in, H, W) the first elements of some classes, of a brightness that varies a little."""
    with torch.no_grad():
        model.templates[classes, 0] = _BRIGHTNESS * images.to(model.noise.dtype)
        model.mean_loading[classes, 0] = 1 / _BRIGHTNESS


def _some(x: Tensor, model: RMM, generator: torch.Generator | None) -> Tensor:
    """A random part of the images, float32, in which a convolution takes a tenth of the time."""
    index = torch.randperm(len(x), generator=generator)[: max(2000, _SEEDING * model.n_classes)]
    return pixels(x[index]).float()


def _check(model: RMM, x: Tensor) -> None:
    if x.ndim != 4 or tuple(x.shape[1:]) != tuple(model.image_shape) or len(x) == 0:
        raise InputError(f"images are {tuple(x.shape)}, but the mixture is of (N, *{model.image_shape})")
    if x.is_floating_point() and not all(bool(part.isfinite().all()) for part in x.split(1000)):
        raise InputError("some pixels are NaN or infinite: repair or drop those images")
