"""What a class looks like to a model: the picture that excites it most, and the few pictures that it is made of.

Slide "How are Memories of Objects Stored in a Convnet?": the activity-maximising image is a rendering, and deep
nets model the appearance of a class by a mixture over nuisance variables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from drmm.errors import InputError
from drmm.explain.passes import as_drmm
from drmm.model.deep import DRMM, evaluation, per_image

__all__ = ["Excitation", "Mixture", "ascend", "class_mixture", "closed_form"]

_CHUNK = 250
_SMALLEST = 1e-4  # a smaller step than this is none


@dataclass(frozen=True, slots=True)
class Excitation:
    """Pictures of unit length that excite a class.

    Attributes:
        image: (N, C, H, W), ‖image‖ = 1.
        score: of the class, (N,).
        steps: how many were made.
    """

    image: Tensor
    score: Tensor
    steps: int


def closed_form(
    model: nn.Module, start: Tensor, label: Tensor | int, *, steps: int = 100, tolerance: float = 1e-9
) -> Excitation:
    """The picture that excites a class most, from its rendering: I* = μ_cĝ / ‖μ_cĝ‖, until ĝ is its own.

    For given switches the rendering is the answer (Cauchy-Schwarz); switches are those of the picture. Where
    max-sum inference is exact and there are no biases, the score is a maximum of linear functions of the picture,
    and no step lowers it. Other steps that would are not taken: an image stops there.

    Args:
        model: a `DRMM` or a convnet.
        start: pictures (N, C, H, W) to start from, such as those of the class.
        label: the class, (N,) or one for all.
        steps: at most so many.
        tolerance: stop when no score grows by more, relative to itself.

    Raises:
        InputError: if a picture is black everywhere, or the labels do not fit.
    """
    return _ascend(model, start, label, math.inf, steps, tolerance)


def ascend(
    model: nn.Module,
    start: Tensor,
    label: Tensor | int,
    *,
    rate: float = 0.1,
    steps: int = 500,
    tolerance: float = 1e-9,
) -> Excitation:
    """As `closed_form`, by small steps along the gradient on the unit sphere (Simonyan et al., 2013).

    Args:
        model: a `DRMM` or a convnet.
        start: as for `closed_form`.
        label: the class, (N,) or one for all.
        rate: length of a step, in units of the picture's length; a step that lowers the score is halved.
        steps: at most so many.
        tolerance: as for `closed_form`.

    Raises:
        InputError: as `closed_form`.
    """
    if not rate > 0:
        raise InputError(f"rate must be positive, got {rate}")
    return _ascend(model, start, label, rate, steps, tolerance)


def _ascend(
    model: nn.Module, start: Tensor, label: Tensor | int, rate: float, steps: int, tolerance: float
) -> Excitation:
    """Move pictures on the unit sphere while their scores grow; an infinite rate goes to the rendering at once."""
    drmm, taken = as_drmm(model), 0
    if bool((start.flatten(1).norm(dim=1) == 0).any()):
        raise InputError("a black picture excites nothing: start from pictures of the class, or from noise")
    labels, image = drmm.check_label(label, len(start)), _unit(start)
    rates = image.new_full((len(image),), rate)
    with torch.no_grad(), evaluation(drmm):
        score, slope = _slope(drmm, image, labels)
        while taken < steps:
            candidate = _unit(image / per_image(rates) + _unit(slope))
            new, new_slope = _slope(drmm, candidate, labels)
            better = new > score + tolerance * score.abs()
            rates = torch.where(better, rates, rates / 2)
            if not bool((better | (rates < math.inf) & (rates > _SMALLEST)).any()):
                break
            taken += 1
            image, slope = (
                torch.where(per_image(better), one, other)
                for one, other in ((candidate, image), (new_slope, slope))
            )
            score = torch.where(better, new, score)
    return Excitation(image, score, taken)


def _slope(model: DRMM, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Score (N,) and its gradient, which is the rendering."""
    _, logits, switches = model.max_sum(image, labels)
    return logits.gather(1, labels[:, None]).squeeze(1), model.levels.render(
        model.templates.weight[labels], switches
    )


def _unit(image: Tensor) -> Tensor:
    """Pictures of length 1."""
    length = image.flatten(1).norm(dim=1)
    return image / per_image(length.clamp(min=torch.finfo(image.dtype).tiny))


@dataclass(frozen=True, slots=True)
class Mixture:
    """A class as a mixture over nuisances.

    Attributes:
        templates: (K, C, H, W), of unit length; they have no sign of their own.
        share: of the class's images that each stands for, (K,).
        explained: share of the energy of held-out images that is explained by the best of K templates, each as
            bright as fits.
        by_one: likewise by one template.
    """

    templates: Tensor
    share: Tensor
    explained: float
    by_one: float


def class_mixture(
    model: nn.Module, images: Tensor, label: int, k: int, *, held_out: Tensor, seed: int = 0
) -> Mixture:
    """K templates of a class: its renderings, clustered by what the nuisances make of them.

    Args:
        model: a `DRMM` or a convnet.
        images: pictures of the class (N, C, H, W), whose renderings are clustered.
        label: the class.
        k: how many templates.
        held_out: pictures of the class that judge them.
        seed: of the clustering.

    Raises:
        InputError: if there are fewer pictures than templates, or none to judge.
    """
    if not 1 <= k <= len(images):
        raise InputError(f"k must be 1 to {len(images)}, the number of pictures, got {k}")
    if not len(held_out):
        raise InputError("held_out has no pictures: keep some of the class to judge the templates by")
    drmm = as_drmm(model)
    with torch.no_grad(), evaluation(drmm):
        drawn = torch.cat(
            [_slope(drmm, part, drmm.check_label(label, len(part)))[1] for part in images.split(_CHUNK)]
        )
    one, many = (_cluster(_unit(drawn), n, seed) for n in (1, k))
    share = torch.bincount(many[1], minlength=k).to(drawn.dtype) / len(drawn)
    order = share.argsort(descending=True)
    return Mixture(
        many[0][order], share[order], _explained_energy(held_out, many[0]), _explained_energy(held_out, one[0])
    )


def _explained_energy(images: Tensor, templates: Tensor) -> float:
    """Share of the images' energy that the best of K templates of unit length explains, each as bright as fits."""
    match = images.flatten(1) @ templates.flatten(1).T
    return float(match.clamp(min=0).amax(1).square().sum() / images.square().sum())


def _cluster(drawn: Tensor, k: int, seed: int) -> tuple[Tensor, Tensor]:
    """Means of k clusters, of unit length, (K, C, H, W), and the cluster of each rendering, (N,)."""
    kmeans = KMeans(k, n_init=3, random_state=seed).fit(drawn.flatten(1).double().cpu().numpy())
    centres = torch.from_numpy(kmeans.cluster_centers_).to(drawn).reshape(k, *drawn.shape[1:])
    return _unit(centres), torch.from_numpy(kmeans.labels_).long()
