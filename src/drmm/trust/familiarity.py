"""Whether a model knows such pictures at all: how typical they are of those that it learned from.

The log-joint alone does not say: a net of photographs finds noise as likely as photographs, because it draws both
badly. Its parts do, each in its own way: noise has too many switches on in one level and too few in another, and a
class that nobody named is drawn like the others, but its features have no neighbours. A picture's distance from
known ones is ranked among theirs part by part, and the ranks are joined as p-values are (Fisher, 1925), though not
by his table: parts depend on each other, so that the sum is ranked again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from sklearn.covariance import LedoitWolf
from sklearn.preprocessing import StandardScaler, normalize
from torch import Tensor, nn
from torch.nn import functional

from drmm.data.images import pixels
from drmm.learning.metrics import CERTIFIED_AT_ONCE, at_once
from drmm.model.deep import DRMM, Latents
from drmm.model.folding import folded

__all__ = ["PARTS", "Familiarity", "Ranking", "fit_familiarity", "looks", "looks_of_pictures"]

Figures = npt.NDArray[np.float64]

PARTS = ("pixels", "switches", "neighbours", "class")
"""What may be strange: how it is drawn, the choices of the drawing, its features far from those of every training
picture, and far from those of its class."""

_PIXELS = 3  # numbers
_TINY = 1e-6  # of a pixel's energy, below which nothing is drawn
_FLOOR = 1e-4  # of a variance: what never varies does so by rounding
_TURNS = 3  # a third of the training pictures in turn is judged by the others
_ROUNDING = 1e-3  # of a distance, whose usual size is some units, and less between directions
_SAME = 1e-3  # between directions: copies, and a picture itself, are no company
_MOST = 3000  # training pictures that are looked at


@dataclass(frozen=True, eq=False)
class Familiarity:
    """How known pictures are distributed; D features.

    Attributes:
        mean: of the P numbers of pixels and switches, (P,).
        whitening: of each of both parts, (P, P): whitened, it has no correlation, and variance 1.
        directions: of the features of training pictures, (M, D).
        within: (D, D): makes features white within each class.
        centres: of the classes that training pictures are taken for, whitened, (C, D).
        reference: distances of training pictures from others in each of the four `PARTS`, ascending, (R, 4).
        sums: of their -log p-values over the parts, ascending, (R,).
    """

    mean: Figures
    whitening: Figures
    directions: npt.NDArray[np.float32]
    within: Figures
    centres: Figures
    reference: Figures
    sums: Figures

    def p_values(self, looks: Figures) -> tuple[Figures, Figures]:
        """Share of the known pictures that are at least as strange, from 1 / (R + 1) to 1.

        Args:
            looks: as of `looks_of_pictures`, (N, P + D).

        Returns:
            In all, (N,), and in each part, (N, 4).
        """
        p, parts = self._ranking(torch.from_numpy(looks))
        return p.numpy(), parts.numpy()

    @cached_property
    def _ranking(self) -> Ranking:
        return Ranking(self)


class Ranking(nn.Module):
    """Familiarity as a module, of tensors: what a file of a model carries.

    Args:
        known: which pictures are.
    """

    mean: Tensor
    whitening: Tensor
    directions: Tensor
    within: Tensor
    centres: Tensor
    reference: Tensor
    sums: Tensor

    def __init__(self, known: Familiarity) -> None:
        super().__init__()
        for one in fields(known):
            self.register_buffer(one.name, torch.from_numpy(np.ascontiguousarray(getattr(known, one.name))))

    def forward(self, looks: Tensor) -> tuple[Tensor, Tensor]:
        """As `Familiarity.p_values`, float64."""
        parts = self.ranked(self.distances(looks))
        return _share(self.sums[:, None], -parts.log().sum(1, keepdim=True))[:, 0], parts

    def distances(self, looks: Tensor) -> Tensor:
        """Of pictures from known ones in each part, (N, 4); looks (N, P + D), float64."""
        drawn, features = looks.tensor_split([self.mean.shape[0]], 1)
        white = (drawn - self.mean) @ self.whitening
        far = 2 - 2 * functional.normalize(features).float() @ self.directions.mT
        inner = features @ self.within
        squares = (inner.square().sum(1, keepdim=True), self.centres.square().sum(1))
        parts = [
            white[:, :_PIXELS].square().sum(1),
            white[:, _PIXELS:].square().sum(1),
            torch.where(far < _SAME**2, math.inf, far).amin(1).double(),
            (sum(squares) - 2 * inner @ self.centres.mT).amin(1).clamp(min=0),
        ]
        return torch.stack(parts, 1).sqrt()

    def ranked(self, distances: Tensor) -> Tensor:
        """Share of the known pictures that are at least as far in each part, (N, 4)."""
        return _share(self.reference, distances)


def fit_familiarity(model: DRMM, x: Tensor) -> Familiarity:
    """Look at pictures that the model learned from, with a label or without.

    Args:
        model: in evaluation mode.
        x: images (N, C, H, W); uint8 images are scaled to [0, 1]. Of many some are looked at, evenly spread.
    """
    some = x[torch.linspace(0, len(x) - 1, min(len(x), _MOST)).long()]
    quick = folded(model)
    found = [_looks(quick, pixels(part)) for part in some.split(at_once(some, CERTIFIED_AT_ONCE))]
    looks, label = (np.concatenate(column) for column in zip(*found, strict=True))
    turn = np.arange(len(looks)) % (_TURNS if len(looks) >= 2 * _TURNS else 1)
    width = model.templates.weight.shape[1]
    distances = []
    for one in np.unique(turn):
        others = turn != one if turn.any() else turn == one
        known = Ranking(_typical(looks[others], label[others], width))
        distances.append(known.distances(torch.from_numpy(looks[turn == one])))
    apart = torch.cat(distances)
    typical = replace(_typical(looks, label, width), reference=apart.sort(0).values.numpy())
    sums = -Ranking(typical).ranked(apart).log().sum(1)
    return replace(typical, sums=sums.sort().values.numpy())


def _typical(looks: Figures, label: npt.NDArray[np.int64], width: int) -> Familiarity:
    """All but the references, of looks, whose last numbers, so many, are features, and best classes (N,)."""
    drawn, features = np.split(looks, [-width], axis=1)
    whitening = np.zeros((drawn.shape[1], drawn.shape[1]))
    for part in (slice(_PIXELS), slice(_PIXELS, None)):
        whitening[part, part] = _whitening(drawn[:, part])
    classes, code = np.unique(label, return_inverse=True)
    centres = np.stack([features[code == c].mean(0) for c in range(len(classes))])
    within = _whitening(features - centres[code])
    directions = normalize(features).astype(np.float32)
    nothing = np.zeros((0, len(PARTS)))
    return Familiarity(drawn.mean(0), whitening, directions, within, centres @ within, nothing, nothing[:, 0])


def _whitening(numbers: Figures) -> Figures:
    """Of numbers (N, P), by a shrunk covariance, (P, P)."""
    if not numbers.shape[1]:
        return np.zeros((0, 0))
    scaler = StandardScaler().fit(numbers)
    values, vectors = np.linalg.eigh(LedoitWolf().fit(scaler.transform(numbers)).covariance_)
    return np.asarray(vectors / np.sqrt(values.clip(_FLOOR)) / scaler.scale_[:, None])


def _share(known: Tensor, distances: Tensor) -> Tensor:
    """Share of the known pictures (R, K) that are at least as far in each of K ways, of distances (N, K)."""
    nearer = (known < distances[:, None] - _ROUNDING).sum(1)
    return 1 - nearer.double() / (known.shape[0] + 1)


@torch.no_grad()
def _looks(model: DRMM, x: Tensor) -> tuple[Figures, npt.NDArray[np.int64]]:
    """Of pictures, and the classes that they are taken for."""
    latents = model.infer(x)
    return looks_of_pictures(model, x, latents), latents.label.numpy()


@torch.no_grad()
def looks_of_pictures(model: DRMM, x: Tensor, latents: Latents) -> Figures:
    """What a picture is judged by, (N, P + D); as of `looks`."""
    return np.asarray(looks(model, x, latents).numpy())


def looks(model: DRMM, x: Tensor, latents: Latents) -> Tensor:
    """What a picture is judged by, float64 (N, P + D): pixels first, then switches level by level, then features.

    Log of the residual's mean square; share of the energy that is drawn; log of the amplitude; of each kind of
    choice, bottom-up, its log-prior in nats; of each level, the share of switches that are on; the D features of
    the top level.

    Args:
        model: in evaluation mode.
        x: images (N, C, H, W).
        latents: theirs.
    """
    picture = x.flatten(1).double()  # of deep nets what is drawn is a millionth of the energy
    residual = (picture - model.picture(latents).flatten(1)).square().mean(1)
    energy = picture.square().mean(1)
    parts = [(residual + _TINY).log(), 1 - residual / energy.clamp(min=_TINY), (latents.amplitude + _TINY).log()]
    if model.prior is not None:
        parts += model.prior.log_probs(latents.switches)
    on = [leaf.a for leaf in latents.switches.leaves() if leaf.a is not None]
    parts += [a.sum(tuple(range(1, a.ndim))).double() / math.prod(a.shape[1:]) for a in on]
    numbers = torch.stack([part.double() for part in parts], 1)
    features = model.levels(x) if latents.features is None else latents.features
    return torch.cat([numbers, features.double()], 1)
