"""What the E-step takes its switches from: one pass up, the slides' way back down, or the Gaussian objective.

Slide "New DRMM Learning Algorithm with Top-Down Inference": E↑ finds the class, E↓ the switches of that class. So
all take the class from the label, or from the pass up. What follows, an M-step or a step along a gradient, draws
through the switches; a class is always told by max-sum, in learning and afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.learning.config import EStepName
from drmm.model.brightness import Brightness
from drmm.model.deep import DRMM, Latents, evaluation
from drmm.model.gaussian import Gaussian
from drmm.model.priors import SwitchPrior
from drmm.model.traceback import sign_traceback
from drmm.rendering import Switches

__all__ = ["E_STEPS", "EStep", "bottom_up"]

EStep = Callable[[DRMM, Tensor, Tensor, Switches, Brightness], Switches]
"""From model, images (N, C, H, W), classes (N,), switches of the pass up and what is known of α: the switches."""

_STEPS = 4  # of the Gaussian objective, without redraws, which cost more than they find


def bottom_up(model: DRMM, x: Tensor, label: Tensor, found: Switches, brightness: Brightness) -> Switches:
    """Those of the pass up."""
    del model, x, label, brightness
    return found


def _traceback(model: DRMM, x: Tensor, label: Tensor, found: Switches, brightness: Brightness) -> Latents:
    """The largest inner product, in which neither a prior nor the brightness matters."""
    del found, brightness
    return sign_traceback(model, x, label)


def _gaussian(model: DRMM, x: Tensor, label: Tensor, found: Switches, brightness: Brightness) -> Latents:
    """The nearest picture: like learning's objectives with a flat prior over switches."""
    flat = SwitchPrior(found)
    return model.infer(x, label, objective=Gaussian(brightness, steps=_STEPS, redraws=0, prior=flat))


def _inferred(infer: Callable[[DRMM, Tensor, Tensor, Switches, Brightness], Latents]) -> EStep:
    """An E-step that infers at the norms' running statistics in full precision, at the pass up's frozen scales."""

    @torch.no_grad()
    def e_step(model: DRMM, x: Tensor, label: Tensor, found: Switches, brightness: Brightness) -> Switches:
        with evaluation(model), torch.autocast(x.device.type, enabled=False):
            if model.varies():
                raise InputError("a norm keeps no statistics, so no picture has an E-step: use 'bottom-up'")
            return found.choosing(infer(model, x, label, found, brightness).switches)

    return e_step


E_STEPS: Mapping[EStepName, EStep] = {
    "bottom-up": bottom_up,
    "traceback": _inferred(_traceback),
    "gaussian": _inferred(_gaussian),
}
