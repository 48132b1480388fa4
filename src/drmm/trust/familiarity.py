"""Whether a model knows such pictures at all: how typical they are of those that it learned from.

The log-joint alone does not say: a net of photographs finds noise as likely as photographs, because it draws both
badly. Its parts do: how much of the picture is drawn and how brightly, and level by level how probable the
switches are and how many are on. Noise has too many on in one level and too few in another. The parts of a picture
are compared with those of training pictures by their Mahalanobis distance, far on either side being strange.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from sklearn.covariance import LedoitWolf
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from drmm.data.images import pixels
from drmm.learning.metrics import CERTIFIED_AT_ONCE
from drmm.model.deep import DRMM, Latents

__all__ = ["Familiarity", "fit_familiarity", "parts_of_pictures"]

Figures = npt.NDArray[np.float64]

_TINY = 1e-6  # of a pixel's energy, below which nothing is drawn
_TURNS = 3  # a third of the training pictures in turn is judged by the others
_ROUNDING = 1e-3  # of a distance, whose usual size is some units
_MOST = 3000  # training pictures that are looked at


@dataclass(frozen=True, eq=False)
class Familiarity:
    """How the parts of known pictures are distributed.

    Attributes:
        mean: of each part, (P,).
        whitening: (P, P): whitened parts have no correlation, and variance 1.
        reference: distances of training pictures from others, ascending, (R,).
    """

    mean: Figures
    whitening: Figures
    reference: Figures

    def distance(self, parts: npt.ArrayLike) -> Figures:
        """Mahalanobis distance of pictures from known ones, (N,), of their parts (N, P)."""
        away: Figures = np.linalg.norm((np.asarray(parts, float) - self.mean) @ self.whitening, axis=1)
        return away

    def p_value(self, parts: npt.ArrayLike) -> Figures:
        """Share of the known pictures that are at least as strange, (N,), from 1 / (R + 1) to 1."""
        nearer = np.searchsorted(self.reference, self.distance(parts) - _ROUNDING)
        return np.asarray(1 - nearer / (len(self.reference) + 1))


def fit_familiarity(model: DRMM, x: Tensor) -> Familiarity:
    """Look at pictures that the model learned from, with a label or without.

    Args:
        model: in evaluation mode.
        x: images (N, C, H, W); uint8 images are scaled to [0, 1]. Of many some are looked at, evenly spread.
    """
    some = x[torch.linspace(0, len(x) - 1, min(len(x), _MOST)).long()]
    parts = np.concatenate([_parts(model, pixels(part)) for part in some.split(CERTIFIED_AT_ONCE)])
    turn = np.arange(len(parts)) % (_TURNS if len(parts) >= 2 * _TURNS else 1)
    distances = [
        _typical(parts[turn != one] if turn.any() else parts).distance(parts[turn == one])
        for one in np.unique(turn)
    ]
    return replace(_typical(parts), reference=np.sort(np.concatenate(distances)))


def _typical(parts: Figures) -> Familiarity:
    """Mean and whitening, without a reference."""
    scaler = StandardScaler().fit(parts)
    values, vectors = np.linalg.eigh(LedoitWolf().fit(scaler.transform(parts)).covariance_)
    whitening = vectors / np.sqrt(values.clip(_TINY)) / scaler.scale_[:, None]
    return Familiarity(scaler.mean_, whitening, np.zeros(0))


@torch.no_grad()
def _parts(model: DRMM, x: Tensor) -> Figures:
    return parts_of_pictures(model, x, model.infer(x))


@torch.no_grad()
def parts_of_pictures(model: DRMM, x: Tensor, latents: Latents) -> Figures:
    """What a picture is judged by, (N, P): pixels first, then switches level by level.

    Log of the residual's mean square; share of the energy that is drawn; log of the amplitude; of each kind of
    choice, bottom-up, its log-prior in nats; of each level, the share of switches that are on.

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
    parts += [switches.flatten(1).double().mean(1) for switches in on]
    return np.stack([part.double().numpy() for part in parts], 1)
