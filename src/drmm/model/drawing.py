"""What latents draw and how bright it should be, worked out when somebody reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from drmm.model.brightness import best_fit, compare
from drmm.model.modes import evaluation, pieces
from drmm.model.moment import Inferring, Later, Moment
from drmm.rendering import Sequential, Switches

__all__ = ["Drawing", "Sketch", "draw", "fit_amplitude", "per_image"]


@dataclass(frozen=True, slots=True)
class Sketch:
    """What a drawing is made of.

    Attributes:
        moment: when the model inferred.
        label: ĉ, (N,).
        switches: ĝ.
        observed: which pixels were seen, bool (N, C, H, W), or None.
    """

    moment: Moment
    label: Tensor
    switches: Switches
    observed: Tensor | None

    def select(self, index: Tensor | slice) -> Sketch:
        """Of some images."""
        observed = None if self.observed is None else self.observed[index]
        return Sketch(self.moment.select(index), self.label[index], self.switches.select(index), observed)


@final
class Drawing(Later[Sketch]):
    """The amplitude α of each image, (N,), given or fitted to what its latents draw.

    What was drawn is kept for `rendering`, as large as the images.
    """

    _asked = "amplitude"
    _rendering: Tensor | None = None

    def rendering(self, model: Inferring) -> Tensor | None:
        """μ_ĉĝ, (N, C, H, W), if it was drawn, this model would draw it now, and no gradient is wanted."""
        if self._rendering is None or self._question is None or torch.is_grad_enabled():
            return None
        moment = self._question.moment
        return self._rendering if moment.model is model and moment.has_weights else None

    def _answer(self, question: Sketch) -> Tensor:
        model = question.moment.model
        with torch.no_grad(), evaluation(model.levels):
            self._rendering = draw(model.levels, model.templates.weight[question.label], question.switches)
        return fit_amplitude(question.moment.x, self._rendering, question.observed)


def draw(levels: Sequential, z: Tensor, switches: Switches) -> Tensor:
    """Λ_g z, (N, C, H, W): what `levels.render` draws, a few images at a time where no gradient is wanted."""
    parts = pieces(z.shape[0], switches.shape)
    drawn = [levels.render(z[part], switches.select(part)) for part in parts]
    return torch.cat(drawn) if len(drawn) > 1 else drawn[0]


@torch.no_grad()
def fit_amplitude(x: Tensor, rendering: Tensor, observed: Tensor | None = None) -> Tensor:
    """The least-squares brightness α ≥ 0 of each rendering, (N,): argmin ‖x - α μ‖², over the pixels in the mask.

    Detached: at the minimum the derivative with respect to α is 0, so that no gradient is lost.
    """
    return best_fit(*compare(x, rendering, observed))


def per_image(values: Tensor) -> Tensor:
    """(N,) as (N, 1, 1, 1), to scale images with."""
    return values[:, None, None, None]
