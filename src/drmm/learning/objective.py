"""The terms of the slides' objective, each its own function, two more, and their weighted sum.

Slide "Application: Semi-supervised Learning", 𝓛 = α_H 𝓛_H + α_RC 𝓛_RC + α_KL 𝓛_KL + α_NN 𝓛_NN. Means are
taken over pixels and units, where the slides have sums, so that weights carry across image sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from drmm.errors import InputError
from drmm.learning.class_prior import Prior
from drmm.learning.config import Learning
from drmm.learning.mixup import mixed
from drmm.learning.views import View, named_views, random_views
from drmm.model.deep import DRMM
from drmm.records import Record

__all__ = [
    "Aim",
    "KLSign",
    "Objective",
    "agreement",
    "balance",
    "cross_entropy",
    "kl_divergence",
    "mixup",
    "nonnegativity",
    "reconstruction",
]

KLSign = Literal["confident", "printed"]

_TERMS = ("cross_entropy", "reconstruction", "kl", "balance", "nonnegativity", "mixup", "agreement")
# Beside agreement a weight of 1 draws next to nothing: 1 % of the energy of MNIST's digits, where 5 draws 30 %
# and, without views, 1 draws 34 %. With 10 there are more mistakes (a development draw).
_DRAWN_BESIDE_VIEWS = 5.0
_SHARPENED = 0.5  # temperature of the posterior that views are to agree with


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """𝓛_H = -1/|D_L| Σ_{n ∈ D_L} log q(c_n | I_n), in nats; 0 if nothing in the batch has a label.

    Args:
        logits: (N, C).
        y: class indices (N,), -1 where there is no label.
    """
    total = F.cross_entropy(logits, y, ignore_index=-1, reduction="sum")
    return total / (y >= 0).sum().clamp(min=1)


def reconstruction(x: Tensor, image: Tensor) -> Tensor:
    """𝓛_RC = 1/N Σ_n ‖I_n - Î_n‖² / D.

    Args:
        x: images (N, C, H, W).
        image: their reconstructions.
    """
    return F.mse_loss(image, x)


def kl_divergence(logits: Tensor, prior: Tensor, sign: KLSign = "confident") -> Tensor:
    """𝓛_KL = 1/N Σ_n Σ_c q log(q / p), in nats, with the sign of your choice.

    Args:
        logits: (N, C).
        prior: p, (C,).
        sign: "printed" is the slides' formula, whose minimum is q = p: it pushes posteriors to uniform (worse
            than the labels alone, `results/kl_sign.json`). "confident" is its negative, as the authors' code
            has it: posteriors become sure.
    """
    log_q = F.log_softmax(logits, dim=1)
    divergence = (log_q.exp() * (log_q - prior.log())).sum(1).mean()
    return divergence if sign == "printed" else -divergence


def balance(logits: Tensor, prior: Tensor) -> Tensor:
    """KL(q̄ ‖ p) of the batch's mean posterior q̄, in nats: guards confident posteriors against collapse.

    Together with the confident KL it maximises the mutual information of image and class.
    """
    q = F.softmax(logits, dim=1).mean(0)
    return (q * (q.clamp(min=torch.finfo(q.dtype).tiny).log() - prior.log())).sum()


def mixup(model: DRMM, x: Tensor, logits: Tensor, *, translation: int = 0, cutmix: float = 0.0) -> Tensor:
    """Cross-entropy of the posteriors of mixed images from the mixture of their posteriors, in nats.

    No part of the slides: interpolation consistency (Verma et al., 2019). Classes are to change gradually from one
    image to another, which a posterior that is sure everywhere does not, and every part of an image is to speak
    for its class.

    Args:
        model: in training mode.
        x: images (N, C, H, W).
        logits: theirs, (N, C); the target has no gradient.
        translation: images are moved by up to so many pixels each way before they are mixed, on their way to the
            same posteriors. This is augmentation: it says that a shift does not change the class.
        cutmix: share of the mixed images that are cutmix, a rectangle of one image pasted into the other.
    """
    mixed_x, mixed_q = mixed(x, F.softmax(logits.detach(), dim=1), translation=translation, cutmix=cutmix)
    return -(mixed_q * F.log_softmax(model.templates(model.levels(mixed_x)), dim=1)).sum(1).mean()


def agreement(logits: Tensor, of_pictures: Tensor) -> Tensor:
    """Cross-entropy of views' posteriors from the sharpened ones of the pictures themselves, in nats.

    No part of the slides: what does not change a picture's class is to leave its posterior (Sohn et al., 2020).

    Args:
        logits: of a view of each picture, (N, C).
        of_pictures: of the pictures as they are, (N, C), without a gradient.
    """
    target = F.softmax(of_pictures / _SHARPENED, dim=1)
    return -(target * F.log_softmax(logits, dim=1)).sum(1).mean()


def nonnegativity(templates: Sequence[Tensor]) -> Tensor:
    """𝓛_NN = 1/N Σ_n Σ_ℓ ‖max(0, -z^ℓ)‖² / D_ℓ, over the templates that come down to switches.

    Args:
        templates: z^(1), …, z^(L), each (N, ...); 0 if there are none.
    """
    if not templates:
        return torch.zeros(())
    return torch.stack([_MeanSquareBelowZero.apply(z) for z in templates]).sum()


class _MeanSquareBelowZero(torch.autograd.Function):
    """min(0, z)² on average, ten times faster on a CPU than through relu, square and mean."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        """Any shape to ()."""
        below = z.clamp(max=0)
        ctx.save_for_backward(below)
        bits = torch.promote_types(z.dtype, torch.float32)  # a norm in fewer is a rounded one
        mean: Tensor = torch.linalg.vector_norm(below, dtype=bits).square() / z.numel()
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The derivative is 2 min(0, z)."""
        below: Tensor = ctx.saved_tensors[0]
        return below * (gradient * 2 / below.numel()).to(below.dtype)


class Aim(Protocol):
    """What the training loop minimises."""

    def weights(self, progress: float | None = None) -> dict[str, float]:
        """See `Objective.weights`."""

    def __call__(
        self, model: DRMM, x: Tensor, y: Tensor, progress: float | None = None, of_labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `Objective`."""


@dataclass(frozen=True)
class Objective(Record):
    """What learning minimises: the weights of the terms.

    A weight of 0 leaves a term out, and what only this term needs is not computed. A weight that is none depends
    on the model's constraint, the learning rule and whether there is a teacher (`resolved`).

    Attributes:
        cross_entropy: weight of 𝓛_H, on the images with a label.
        reconstruction: weight of 𝓛_RC; none is 1, with agreement 5, and 0 under the hard constraint.
        kl: weight of 𝓛_KL; none is 0.5, and 0 for "eg" and with a teacher.
        balance: weight of the batch's balance of classes; none is 0.5, and 0 for "eg" and with a teacher.
        nonnegativity: weight of 𝓛_NN; none is 0.5, and 0 under the hard constraint and for "eg".
        kl_sign: "confident" as in the authors' code, or "printed" as in the slides' formula.
        mixup: weight of the term on mixed images (mixup: interpolation consistency).
        cutmix: share of the mixed images that are cutmix, a rectangle of one image in the other, from 0 to 1.
        translation: pixels by which images are moved, at most, before they are mixed: augmentation.
        agreement: weight of the term that asks views of a picture for the posterior of the picture itself. With it
            every other term is of such views. None is 1 where there are views, and 0 for "eg", "head" and with a
            teacher.
        views: in what views of a picture differ, which leaves its class: no "flip" of letters. "usual" is by the
            kind of picture (`drmm.learning.views.View`).
        warm_up: share of the training over which the weights of KL, mixup and agreement rise from 0. Posteriors
            that are sure before the labels have shaped them are sure of what is wrong, and stay so: a cluster is
            captured by a wrong class.
        cool_down: share of the training over which the balance's weight falls to 0; 0 keeps it. Once clusters have
            formed it does harm: classes are not as equal as the prior says, and images are moved to make them so.
        prior: how frequent classes are: "labels" as among the labels, right where these were drawn at random;
            "estimate" as the unlabelled images look; "uniform" equally; "auto" as among the labels, unless the
            unlabelled images refute that (`drmm.learning.class_prior`). The balance is by it; where it is not that
            of the labels, balance and KL are of unlabelled images alone, and cross-entropy allows for how labels
            differ.
    """

    cross_entropy: float = 1.0
    reconstruction: float | None = None
    kl: float | None = None
    balance: float | None = None
    nonnegativity: float | None = None
    kl_sign: KLSign = "confident"
    mixup: float = 0.0
    cutmix: float = 0.0
    translation: int = 0
    agreement: float | None = None
    views: tuple[View, ...] = ()
    warm_up: float = 0.0
    cool_down: float = 0.0
    prior: Prior = "labels"

    def __post_init__(self) -> None:
        for name, whole in (("warm_up", "training"), ("cool_down", "training"), ("cutmix", "mixed images")):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a share of the {whole}, from 0 to 1, not {getattr(self, name)}")
        if self.translation < 0:
            raise InputError(f"translation is a number of pixels, 0 or more, not {self.translation}")
        for name, choices in (
            ("kl_sign", get_args(KLSign)),
            ("prior", get_args(Prior)),
            ("views", get_args(View)),
        ):
            value = getattr(self, name)
            for word in value if isinstance(value, tuple) else (value,):
                if word not in choices:
                    raise InputError(f"no {name} {word!r}: choose from {', '.join(choices)}")
        for name in _TERMS:
            weight = getattr(self, name)
            if weight is not None and not 0 <= weight < math.inf:
                raise InputError(f"{name} is the weight of a term, 0 or more, not {weight}")
        self._check_parts()

    def _check_parts(self) -> None:
        """Refuse settings of terms that have no weight, and a term without what it is about."""
        for name in ("translation", "cutmix"):
            if getattr(self, name) and not self.mixup:
                raise InputError(f"{name} is a part of mixup, which has no weight: set mixup, to 1 say")
        if self.agreement and not self.views:
            raise InputError("agreement is between views, and there are none: set views, to usual say")

    def resolved(self, constraint: str = "soft", learning: Learning = "sgd", *, taught: bool = False) -> Objective:
        """The same with a number in place of every none.

        Under the hard constraint there is nothing for 𝓛_NN to penalise, and 𝓛_RC is left out: it costs accuracy
        there. "eg" is the complete-data log-joint alone, whose gradient at the E-step's switches is the G-step:
        𝓛_RC for the picture, 𝓛_H for the labels. "tune" draws nothing. Where a teacher gives every image a label,
        there is nothing for the KL and the balance to find out.

        Args:
            constraint: of the model.
            learning: the rule.
            taught: whether a teacher labels what has no label.
        """
        hard, eg, tunes = constraint == "hard", learning == "eg", learning == "tune"
        agreement = self.agreement
        if agreement is None:
            agreement = 1.0 if self.views and not taught and learning not in {"eg", "head"} else 0.0
        default = {
            "reconstruction": 0.0 if hard or tunes else _DRAWN_BESIDE_VIEWS if agreement else 1.0,
            "kl": 0.0 if eg or taught else 0.5,
            "balance": 0.0 if eg or taught else 0.5,
            "nonnegativity": 0.0 if hard or eg or tunes else 0.5,
            "agreement": agreement,
        }
        missing: dict[str, Any] = {name: weight for name, weight in default.items() if getattr(self, name) is None}
        return replace(self, **missing)

    def for_pictures(self, shape: Sequence[int], *, labelled: bool) -> Objective:
        """The same with the names of the views that are usual for pictures (C, H, W).

        Where no picture has a label there are none, unless agreement has a weight: a net agrees with itself by
        putting all pictures into one cluster.
        """
        views = named_views(self.views, shape) if labelled or self.agreement is not None else ()
        return replace(self, views=views)

    def of_head(self) -> Objective:
        """What class templates are learned by before their net is tuned: the KL makes them sure, not views."""
        return replace(self, kl=None, agreement=None, views=()).resolved(learning="head")

    def of_labels(self) -> Objective:
        """What is learned by from the labelled images alone: the KL and the balance are about the others."""
        return replace(self, kl=0.0, balance=0.0)

    @property
    def asks_unlabelled(self) -> bool:
        """Whether the class templates learn from images without a label."""
        return any(self.weights()[name] for name in ("kl", "balance", "mixup", "agreement"))

    def without_drawing(self) -> Objective:
        """The same without the terms that draw, for half the time, where others learn from all images."""
        whole = self.resolved()
        return replace(self, reconstruction=0.0, nonnegativity=0.0) if whole.kl or whole.agreement else self

    def weights(self, progress: float | None = None) -> dict[str, float]:
        """The weight of each term.

        Args:
            progress: point of the training, from 0 at its start to 1 at its end; none leaves out what rises and
                falls.
        """
        whole = self.resolved()
        weights: dict[str, float] = {name: getattr(whole, name) for name in _TERMS}
        if progress is not None and self.warm_up:
            for name in ("kl", "mixup", "agreement"):
                weights[name] *= min(1.0, progress / self.warm_up)
        if progress is not None and self.cool_down:
            weights["balance"] *= max(0.0, 1 - progress / self.cool_down)
        return weights

    def __call__(
        self, model: DRMM, x: Tensor, y: Tensor, progress: float | None = None, of_labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Every term of a batch by its name, and the weighted sum as "loss".

        Labelled images are reconstructed from their true class, the others from ĉ.

        Args:
            model: in training mode.
            x: images (N, C, H, W).
            y: class indices (N,), -1 where there is no label.
            progress: as for `weights`.
            of_labels: shares of the classes among all labels, (C,); none is as the model's prior.
        """
        weights = self.weights(progress)
        views = random_views(x, named_views(self.views, x.shape[1:])) if weights["agreement"] else x
        return self.of_views(model, x, views, y, weights, of_labels)

    def of_views(
        self,
        model: DRMM,
        pictures: Tensor,
        x: Tensor,
        y: Tensor,
        weights: Mapping[str, float],
        of_labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The same of views that have been made.

        Args:
            model: likewise, as the others are.
            pictures: as they are, which only agreement reads.
            x: a view of each.
            y: likewise.
            weights: of the terms, as of `weights`.
            of_labels: likewise.
        """
        model.admit(x)
        renders = weights["reconstruction"] or weights["nonnegativity"]
        if agrees := weights["agreement"]:
            with torch.no_grad():
                of_pictures = model.templates(model.levels(pictures))
        features, switches = model.levels.infer(x) if renders else (model.levels(x), None)
        logits = model.templates(features)
        prior, free, as_labelled = model.class_prior, logits, logits
        equal = torch.full_like(prior, 1 / len(prior))
        if self.prior != "labels" and not (of_labels is not None and torch.allclose(of_labels.to(prior), prior)):
            free = logits[y < 0] if bool((y < 0).any()) else logits
            # Bayes' rule: labels that were drawn otherwise follow another posterior (logit adjustment).
            as_labelled = logits if of_labels is None else logits + (of_labels / prior).log()
        terms = {
            "cross_entropy": cross_entropy(as_labelled, y),
            # Less KL(q‖p), plus KL(q̄‖p): p cancels, and what is left is largest for equal classes. So the first is
            # of equal classes, which makes posteriors sure, and the second alone says how many images each has.
            "kl": kl_divergence(free, prior if self.kl_sign == "printed" else equal, self.kl_sign),
            "balance": balance(free, prior),
        }
        if switches is not None:
            label = torch.where(y >= 0, y, logits.argmax(1))
            image, *templates = model.levels.render_levels(model.templates.weight[label], switches)
            image = image.to(x.dtype)  # under autocast it has fewer bits
            # The slides' formula as it stands, with amplitude 1: an amplitude fitted to each image made the term
            # indifferent to the rendering's scale, and pictures were learned more slowly.
            terms["reconstruction"] = reconstruction(x, image)
            chosen = zip(templates, switches.parts, strict=True)
            terms["nonnegativity"] = nonnegativity([z for z, part in chosen if any(True for _ in part.leaves())])
            model.track(x, image, switches)
        if weights["mixup"]:
            terms["mixup"] = mixup(model, x, logits, translation=self.translation, cutmix=self.cutmix)
        if agrees:
            terms["agreement"] = agreement(logits, of_pictures)
        terms["loss"] = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return terms
