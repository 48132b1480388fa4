"""The slides' top-down inference: trace the signs back, infer again, and never lose score.

Slide "New DRMM Learning Algorithm with Top-Down Inference".
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.model.deep import DRMM, Latents, fit_amplitude
from drmm.rendering import Norm

__all__ = ["sign_traceback"]


@torch.no_grad()
def sign_traceback(
    model: DRMM, x: Tensor, label: Tensor | int | None = None, *, sweeps: int = 6, top: int | None = None
) -> Latents:
    """Joint MAP of a signed net, approached by block-coordinate ascent over the switches of each gate and pool.

    The score is linear in the switches of one gate or pool given all others, and its maximum has a closed form:
    â = [s ⊙ u > 0] and t̂ = argmax_t s ⊙ u(t), where s is the sign of the template z↓ that comes from above.
    One sweep traces the signs down and updates everything from the pixels up, through branches too. No sweep
    lowers the score, and an image stops at a local maximum: this is a heuristic, which `Latents.gap` shows.

    Clips (ReLU6) and local linear maps are no maximum over switches. They keep the convnet's choice, so that a
    sweep may lose score; an image then keeps what it had.

    Args:
        model: with fixed statistics: in evaluation mode.
        x: images (N, C, H, W).
        label: condition on a class, (N,) or one for all; None tries classes and keeps the best.
        sweeps: at most this many.
        top: try only so many classes, those that score best bottom-up; None tries every class.

    Raises:
        InputError: if there are not so many classes.
        ValueError: if a norm uses the statistics of the batch.
    """
    if top is not None and not 1 <= top <= model.n_classes:
        raise InputError(f"top must be from 1 to {model.n_classes}, the number of classes, got {top}")
    if any(isinstance(module, Norm) and module.uses_batch for module in model.modules()):
        raise ValueError("the sign traceback needs fixed statistics: call model.eval() first")
    start = model.infer(x, label)
    answer = _best_of(model, x, start, sweeps, top) if label is None else _ascend(model, x, start, sweeps)
    rendering = model.levels.render(model.templates.weight[answer.label], answer.switches)
    return replace(answer, amplitude=fit_amplitude(x, rendering))


def _best_of(model: DRMM, x: Tensor, start: Latents, sweeps: int, top: int | None) -> Latents:
    """Ascend once for each class that competes, and keep the best."""
    order = torch.arange(model.n_classes, device=x.device).expand(len(x), -1)
    candidates = order if top is None else start.logits.topk(top).indices

    def run(label: Tensor) -> Latents:
        score = start.logits.gather(1, label[:, None]).squeeze(1)
        return _ascend(model, x, replace(start, label=label, score=score), sweeps)

    return reduce(lambda best, other: _pick(other.score > best.score, other, best), map(run, candidates.T))


def _ascend(model: DRMM, x: Tensor, latents: Latents, sweeps: int) -> Latents:
    for _ in range(sweeps):
        candidate = _sweep(model, x, latents)
        better = candidate.score > latents.score
        if not better.any():
            break
        latents = _pick(better, candidate, latents)
    return latents


def _sweep(model: DRMM, x: Tensor, latents: Latents) -> Latents:
    """Signs from the top down, then switches from the pixels up. The amplitude stays what it was."""
    features, switches = model.levels.reinfer(x, latents.switches, model.templates.weight[latents.label])
    logits = model.templates(features)
    score = logits.gather(1, latents.label[:, None]).squeeze(1)
    return replace(latents, score=score, logits=logits, switches=switches)


def _pick(mask: Tensor, one: Latents, other: Latents) -> Latents:
    """`one` for the images where the mask (N,) is True, `other` elsewhere."""
    return Latents(
        label=torch.where(mask, one.label, other.label),
        score=torch.where(mask, one.score, other.score),
        logits=torch.where(mask[:, None], one.logits, other.logits),
        certificate=one.certificate.where(mask, other.certificate),
        amplitude=torch.where(mask, one.amplitude, other.amplitude),
        switches=one.switches.where(mask, other.switches),
    )
