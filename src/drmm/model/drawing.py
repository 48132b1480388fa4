"""What latents draw and how bright it should be, worked out when somebody reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.model.modes import evaluation, pieces
from drmm.model.moment import Moment, stale
from drmm.rendering import Choice, Linear, Sequential, Switches

__all__ = ["Drawing", "Sketch", "draw", "fit_amplitude"]


class Drawer(Protocol):
    """A model that draws."""

    @property
    def levels(self) -> Sequential:
        """The renderings."""

    @property
    def templates(self) -> Linear | Choice:
        """The class templates."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """What a drawing is made of.

    Attributes:
        model: what inferred.
        moment: when it did.
        label: ĉ, (N,).
        switches: ĝ.
        observed: which pixels were seen, bool (N, C, H, W), or None.
    """

    model: Drawer
    moment: Moment
    label: Tensor
    switches: Switches
    observed: Tensor | None

    def draw(self) -> Tensor:
        """μ_ĉĝ, (N, C, H, W), as it was drawn then.

        Raises:
            InputError: if the weights or the images have changed.
        """
        self.moment.check("amplitude")
        with torch.no_grad(), evaluation(self.model.levels):
            return draw(self.model.levels, self.model.templates.weight[self.label], self.switches)

    def select(self, index: Tensor | slice) -> Sketch:
        """Of some images."""
        observed = None if self.observed is None else self.observed[index]
        switches = self.switches.select(index)
        return Sketch(self.model, self.moment.select(index), self.label[index], switches, observed)


@final
class Drawing:
    """The amplitude of each image, (N,), given or fitted to what its latents draw.

    Drawing takes as long as inference, so that it is done when the amplitude is first read, by the weights and of
    the images of the inference: where either has changed, reading is an error. What was drawn is kept for
    `rendering`, as large as the images. Pickles and deep copies hold the amplitude itself.

    Args:
        amplitude: α; None fits it.
        sketch: what it is fitted to.
    """

    def __init__(self, amplitude: Tensor | None, sketch: Sketch | None = None) -> None:
        self._amplitude, self._sketch = amplitude, sketch
        self._rendering: Tensor | None = None

    def read(self) -> Tensor:
        """α, (N,).

        Raises:
            InputError: if the weights or the images have changed before it was first read.
        """
        if self._amplitude is None:
            if self._sketch is None:
                raise InputError(stale("amplitude"))
            self._rendering = self._sketch.draw()
            self._amplitude = fit_amplitude(self._sketch.moment.x, self._rendering, self._sketch.observed)
        return self._amplitude

    def rendering(self, model: Drawer) -> Tensor | None:
        """μ_ĉĝ, (N, C, H, W), if it was drawn, this model would draw it now, and no gradient is wanted."""
        if self._rendering is None or self._sketch is None or torch.is_grad_enabled():
            return None
        return self._rendering if self._sketch.model is model and self._sketch.moment.has_weights else None

    def select(self, index: Tensor | slice) -> Drawing:
        """The drawing of some images."""
        if self._amplitude is not None:
            return Drawing(self._amplitude[index])
        return Drawing(None, None if self._sketch is None else self._sketch.select(index))

    def __getstate__(self) -> dict[str, Any]:
        """The amplitude, or that it is lost."""
        known = self._amplitude is not None or (self._sketch is not None and self._sketch.moment.lasts)
        return {"_amplitude": self.read() if known else None, "_sketch": None, "_rendering": None}


def draw(levels: Sequential, z: Tensor, switches: Switches) -> Tensor:
    """Λ_g z, (N, C, H, W): what `levels.render` draws, a few images at a time where no gradient is wanted."""
    parts = pieces(len(z), switches.shape)
    drawn = [levels.render(z[part], switches.select(part)) for part in parts]
    return torch.cat(drawn) if len(drawn) > 1 else drawn[0]


@torch.no_grad()
def fit_amplitude(x: Tensor, rendering: Tensor, observed: Tensor | None = None) -> Tensor:
    """The least-squares brightness α ≥ 0 of each rendering, (N,): argmin ‖x - α μ‖², over the pixels in the mask.

    Detached: at the minimum the derivative with respect to α is 0, so that no gradient is lost.
    """
    if observed is not None:
        x, rendering = (torch.where(observed, image, 0.0) for image in (x, rendering))
    x, rendering = x.flatten(1), rendering.flatten(1)
    energy = rendering.square().sum(1)
    match = (x * rendering).sum(1)
    return torch.where(energy > 0, match / energy.clamp(min=torch.finfo(x.dtype).tiny), 0.0).clamp(min=0)
