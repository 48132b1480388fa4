"""Whether a model knows such pictures at all: how typical they are of those that it learned from.

The log-joint alone does not say: a net of photographs finds noise as likely as photographs, because it draws both
badly. Its parts do, each in its own way: noise has too many switches on in one level and too few in another, and a
class that nobody named is drawn like the others, but its features have no neighbours. A picture's distance from
known ones is ranked among theirs part by part, and the ranks are joined as p-values are (Fisher, 1925), though not
by his table: parts depend on each other, so that the sum is ranked again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from sklearn.covariance import LedoitWolf
from sklearn.preprocessing import StandardScaler, normalize
from torch import Tensor

from drmm.data.images import pixels
from drmm.learning.metrics import CERTIFIED_AT_ONCE, at_once
from drmm.model.deep import DRMM, Latents

__all__ = ["PARTS", "Familiarity", "fit_familiarity", "looks_of_pictures"]

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

    def distances(self, looks: Figures) -> Figures:
        """Of pictures from known ones in each part, (N, 4); arguments as of `p_values`."""
        drawn, features = np.split(looks, [len(self.mean)], axis=1)
        white = (drawn - self.mean) @ self.whitening
        far = 2 - 2 * normalize(features).astype(np.float32) @ self.directions.T
        white_features = features @ self.within
        from_centres = [np.linalg.norm(white_features - centre, axis=1) for centre in self.centres]
        return np.stack(
            [
                np.linalg.norm(white[:, :_PIXELS], axis=1),
                np.linalg.norm(white[:, _PIXELS:], axis=1),
                np.sqrt(np.where(far < _SAME**2, np.inf, far).min(1)),
                np.min(from_centres, axis=0),
            ],
            1,
        )

    def p_values(self, looks: Figures) -> tuple[Figures, Figures]:
        """Share of the known pictures that are at least as strange, from 1 / (R + 1) to 1.

        Args:
            looks: as of `looks_of_pictures`, (N, P + D).

        Returns:
            In all, (N,), and in each part, (N, 4).
        """
        p = self.ranked(self.distances(looks))
        nearer = np.searchsorted(self.sums, _sum(p) - _ROUNDING)
        return 1 - nearer / (len(self.sums) + 1), p

    def ranked(self, distances: Figures) -> Figures:
        """Share of the known pictures that are at least as far in each part, (N, 4)."""
        parts = zip(self.reference.T, distances.T, strict=True)
        nearer = [np.searchsorted(known, part - _ROUNDING) for known, part in parts]
        return np.asarray(1 - np.stack(nearer, 1) / (len(self.reference) + 1))


def fit_familiarity(model: DRMM, x: Tensor) -> Familiarity:
    """Look at pictures that the model learned from, with a label or without.

    Args:
        model: in evaluation mode.
        x: images (N, C, H, W); uint8 images are scaled to [0, 1]. Of many some are looked at, evenly spread.
    """
    some = x[torch.linspace(0, len(x) - 1, min(len(x), _MOST)).long()]
    found = [_looks(model, pixels(part)) for part in some.split(at_once(some, CERTIFIED_AT_ONCE))]
    looks, label = (np.concatenate(column) for column in zip(*found, strict=True))
    turn = np.arange(len(looks)) % (_TURNS if len(looks) >= 2 * _TURNS else 1)
    width = model.templates.weight.shape[1]
    distances = []
    for one in np.unique(turn):
        others = turn != one if turn.any() else turn == one
        distances.append(_typical(looks[others], label[others], width).distances(looks[turn == one]))
    apart = np.concatenate(distances)
    known = replace(_typical(looks, label, width), reference=np.sort(apart, 0))
    return replace(known, sums=np.sort(_sum(known.ranked(apart))))


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


def _sum(p: Figures) -> Figures:
    return np.asarray(-np.log(p).sum(1))


@torch.no_grad()
def _looks(model: DRMM, x: Tensor) -> tuple[Figures, npt.NDArray[np.int64]]:
    """Of pictures, and the classes that they are taken for."""
    latents = model.infer(x)
    return looks_of_pictures(model, x, latents), latents.label.numpy()


@torch.no_grad()
def looks_of_pictures(model: DRMM, x: Tensor, latents: Latents) -> Figures:
    """What a picture is judged by, (N, P + D): pixels first, then switches level by level, then features.

    Log of the residual's mean square; share of the energy that is drawn; log of the amplitude; of each kind of
    choice, bottom-up, its log-prior in nats; of each level, the share of switches that are on; the D features of
    the top level.

    Args:
        model: in evaluation mode.
        x: images (N, C, H, W).
        latents: theirs.
    """
    residual = (x - model.picture(latents)).flatten(1).square().mean(1)
    energy = x.flatten(1).square().mean(1)
    parts = [(residual + _TINY).log(), 1 - residual / energy.clamp(min=_TINY), (latents.amplitude + _TINY).log()]
    if model.prior is not None:
        parts += model.prior.log_probs(latents.switches)
    on = [leaf.a for leaf in latents.switches.leaves() if leaf.a is not None]
    parts += [a.sum(tuple(range(1, a.ndim))).double() / math.prod(a.shape[1:]) for a in on]
    numbers = torch.stack([part.double() for part in parts], 1)
    features = model.levels(x) if latents.features is None else latents.features
    return np.asarray(torch.cat([numbers, features.double()], 1).numpy())
