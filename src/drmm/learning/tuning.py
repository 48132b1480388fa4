"""A net that has learned before goes on learning in its upper levels: lower ones stay, and are passed once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from drmm.data.images import pixels
from drmm.errors import InputError
from drmm.learning.config import Training
from drmm.learning.e_steps import EStep, bottom_up
from drmm.learning.head import some_of
from drmm.learning.kept import features_of_views
from drmm.learning.metrics import predict_logits
from drmm.learning.objective import Objective
from drmm.learning.rates import first_to_learn
from drmm.learning.views import N_VIEWS, named_views
from drmm.model.deep import DRMM
from drmm.model.folding import folded
from drmm.rendering import Sequential

__all__ = ["OfViews", "UpperLevels", "tuned_on"]

_MOST = 10_000  # pictures without a label that are learned from
_BYTES = 2**31  # of the features that are kept, at the most: or fewer levels learn


@final
@dataclass(frozen=True)
class OfViews:
    """An objective of features of pictures and of views of them, in place of pictures.

    Attributes:
        objective: of pictures.
    """

    objective: Objective

    def weights(self, progress: float | None = None) -> dict[str, float]:
        """See `Objective.weights`."""
        return self.objective.weights(progress)

    def __call__(
        self,
        model: DRMM,
        x: Tensor,
        y: Tensor,
        progress: float | None = None,
        of_labels: Tensor | None = None,
        e_step: EStep = bottom_up,
    ) -> dict[str, Tensor]:
        """See `Objective`; x are features (N, V, ...) of each picture as it is and of views of it."""
        x = x.to(model.templates.weight.dtype)
        views = x[torch.arange(len(x)), torch.randint(x.shape[1], (len(x),))]
        return self.objective.of_views(model, x[:, 0], views, y, self.weights(progress), of_labels, e_step)


class UpperLevels:
    """The levels of a model that are tuned, as a model of features in place of pictures.

    What lower ones make of each picture and of its views is computed once, so that an epoch takes a fraction of
    the time of one that begins with pixels; views are the same few in each epoch.

    Args:
        model: its levels and class templates are shared.
        x: images (N, C, H, W), float in [0, 1] or uint8.
        y: class indices (N,), -1 where there is no label.
        objective: of pictures.
        config: whose `rate_decay` says which levels learn, unless what is kept would be too much.
        progress: show a progress bar.

    Attributes:
        model: DRMM of the features (N, V, ...), by `objective`.
        x: the features, of labelled pictures and of some of the others where they are many.
        y: their class indices.
        objective: of features.

    Raises:
        InputError: if the objective draws.
        RunError: if there is no space for the features.
    """

    def __init__(
        self, model: DRMM, x: Tensor, y: Tensor, objective: Objective, config: Training, *, progress: bool
    ) -> None:
        weights = objective.weights()
        if weights["reconstruction"] or weights["nonnegativity"]:
            raise InputError("nothing is drawn while a net is tuned: leave reconstruction and nonnegativity at 0")
        rows = tuned_on(y, config)
        kinds = named_views(objective.views, x.shape[1:]) if weights["agreement"] else ()
        lowest = _lowest(model, x[:1], first_to_learn(model, config), _BYTES / (2 * N_VIEWS * len(rows)))
        self._lower = Sequential(*model.levels.renderings[:lowest])
        pictures = x if len(rows) == len(x) else x[rows]  # pixels lie in a mapped file: no copy of all of them
        self.x, self.y = features_of_views(self._lower, pictures, kinds, progress=progress), y[rows]
        self.model = DRMM(
            Sequential(*model.levels.renderings[lowest:]), model.templates, class_prior=model.class_prior
        )
        self.objective = OfViews(objective)

    def features(self, x: Tensor) -> Tensor:
        """Of images as they are, to measure errors on, float (N, ...)."""
        return predict_logits(folded(self._lower), x)


def tuned_on(y: Tensor, config: Training) -> Tensor:
    """Places of the images that a net is tuned on: all with a label, and so many of the others; y is (N,)."""
    known, others = (torch.nonzero(rows).flatten() for rows in (y >= 0, y < 0))
    return torch.cat([known, some_of(others, _MOST, config.seed)]).sort().values


@torch.no_grad()
def _lowest(model: DRMM, x: Tensor, first: int, most: float) -> int:
    """The first level from there on that is given no more than so many features by a picture; or none is."""
    below = pixels(x).to(model.templates.weight.dtype)
    for number, level in enumerate(model.levels):
        if number >= first and math.prod(below.shape[1:]) <= most:
            return number
        below = level(below)
    return len(model.levels)
