"""The terms of the slides' objective, each its own function, two more, and their weighted sum.

Slide "Application: Semi-supervised Learning", 𝓛 = α_H 𝓛_H + α_RC 𝓛_RC + α_KL 𝓛_KL + α_NN 𝓛_NN. Means are
taken over pixels and units, where the slides have sums, so that weights carry across image sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from drmm.errors import InputError
from drmm.learning.config import Learning
from drmm.learning.mixup import blended
from drmm.model.deep import DRMM

__all__ = [
    "KLSign",
    "Objective",
    "balance",
    "cross_entropy",
    "interpolation",
    "kl_divergence",
    "nonnegativity",
    "reconstruction",
]

KLSign = Literal["confident", "printed"]


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
        sign: "printed" is the slides' formula, whose minimum is q = p: it pushes posteriors to uniform (60% test
            error on the demo's data, `results/kl_printed.json`). "confident" is its negative, as the authors' code
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


def interpolation(model: DRMM, x: Tensor, logits: Tensor, *, shift: int = 0, collage: float = 0.0) -> Tensor:
    """Cross-entropy of the posteriors of blended images from the blend of their posteriors, in nats.

    No part of the slides: interpolation consistency (Verma et al., 2019). Classes are to change gradually from one
    image to another, which a posterior that is sure everywhere does not, and every part of an image is to speak
    for its class.

    Args:
        model: in training mode.
        x: images (N, C, H, W).
        logits: theirs, (N, C); the target has no gradient.
        shift: images are moved by up to so many pixels each way before they are blended, on their way to the same
            posteriors. This is augmentation: it says that a shift does not change the class.
        collage: share of the blends that are collages, a rectangle of one image pasted into the other.
    """
    blends, q = blended(x, F.softmax(logits.detach(), dim=1), shift=shift, collage=collage)
    return -(q * F.log_softmax(model.templates(model.levels(blends)), dim=1)).sum(1).mean()


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


@dataclass(frozen=True)
class Objective:
    """What learning minimises: the weights of the terms.

    A weight of 0 leaves a term out, and what only this term needs is not computed.

    Attributes:
        warm_up: share of the training over which the weights of the KL and of the interpolation rise from 0.
            Posteriors that are sure before the labels have shaped them are sure of what is wrong, and stay so: a
            cluster is captured by a wrong class.
        cool_down: share of the training over which the balance's weight falls to 0; 0 keeps it. Once clusters have
            formed it does harm: classes are not as equal as the prior says, and images are moved to make them so.
        shift: pixels by which images are moved, at most, before they are blended (`interpolation`): augmentation.
        collage: share of the blends that are collages, a rectangle of one image in the other.
    """

    cross_entropy: float = 1.0
    reconstruction: float = 1.0
    kl: float = 0.5
    balance: float = 0.5
    nonnegativity: float = 0.5
    kl_sign: KLSign = "confident"
    interpolation: float = 0.0
    warm_up: float = 0.0
    cool_down: float = 0.0
    shift: int = 0
    collage: float = 0.0

    def __post_init__(self) -> None:
        for name, whole in (("warm_up", "training"), ("cool_down", "training"), ("collage", "blends")):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a share of the {whole}, from 0 to 1, not {getattr(self, name)}")
        if self.shift < 0:
            raise InputError(f"shift is a number of pixels, 0 or more, not {self.shift}")

    @classmethod
    def of(
        cls, constraint: str = "soft", learning: Learning = "sgd", *, taught: bool = False, **weights: Any
    ) -> Objective:
        """The default for a constraint and a learning rule, with the given weights that are not None in its place.

        Under the hard constraint there is nothing for 𝓛_NN to penalise, and 𝓛_RC is left out: it costs accuracy
        there (see the README). "eg" is the complete-data log-joint alone, whose gradient at the E-step's switches
        is the G-step: 𝓛_RC for the picture, 𝓛_H for the labels. Where a teacher gives every image a label
        (`taught`), there is nothing for the KL and the balance to find out.

        Raises:
            InputError: if images are to be shifted or pasted where none are blended.
        """
        for name, said in (("shift", "are shifted"), ("collage", "become collages")):
            if weights.get(name) and not weights.get("interpolation"):
                raise InputError(f"only images that are blended {said}: give blends a weight, 1 say")
        default: dict[str, float] = {}
        if constraint == "hard":
            default = {"reconstruction": 0.0, "nonnegativity": 0.0}
        if learning == "eg":
            default = {"kl": 0.0, "balance": 0.0, "nonnegativity": 0.0}
        if taught:
            default |= {"kl": 0.0, "balance": 0.0}
        return cls(**{**default, **{name: value for name, value in weights.items() if value is not None}})

    @property
    def renders(self) -> bool:
        """Whether any term needs the top-down pass."""
        return bool(self.reconstruction or self.nonnegativity)

    def at(self, progress: float) -> Objective:
        """The objective at a point of the training, from 0 at its start to 1 at its end."""
        rising = min(1.0, progress / self.warm_up) if self.warm_up else 1.0
        falling = max(0.0, 1 - progress / self.cool_down) if self.cool_down else 1.0
        return replace(
            self,
            kl=self.kl * rising,
            balance=self.balance * falling,
            interpolation=self.interpolation * rising,
        )

    def __call__(self, model: DRMM, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Every term of a batch by its name, and the weighted sum as "loss".

        Labelled images are reconstructed from their true class, the others from ĉ.

        Args:
            model: in training mode.
            x: images (N, C, H, W).
            y: class indices (N,), -1 where there is no label.
        """
        features, switches = model.levels.infer(x) if self.renders else (model.levels(x), None)
        logits = model.templates(features)
        prior = model.class_prior
        terms = {
            "cross_entropy": cross_entropy(logits, y),
            "kl": kl_divergence(logits, prior, self.kl_sign),
            "balance": balance(logits, prior),
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
        if self.interpolation:
            terms["interpolation"] = interpolation(model, x, logits, shift=self.shift, collage=self.collage)
        terms["loss"] = torch.stack([getattr(self, name) * term for name, term in terms.items()]).sum()
        return terms
