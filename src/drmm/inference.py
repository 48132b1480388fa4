"""The slides' top-down inference: trace the signs back, infer again, and never lose score.

Slide "New DRMM Learning Algorithm with Top-Down Inference".
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from drmm.model import DRMM, Latents, fit_amplitude
from drmm.rendering import Level, Switches

__all__ = ["sign_traceback"]


@torch.no_grad()
def sign_traceback(model: DRMM, x: Tensor, label: Tensor | int | None = None, *, sweeps: int = 6) -> Latents:
    """Joint MAP of a signed net, approached by block-coordinate ascent over the levels' switches.

    The score is linear in each level's switches given the others, and its maximum has a closed form:
    â = [s ⊙ u > 0] and t̂ = argmax_t s ⊙ u(t), where s is the sign of the template z↓ that comes from above.
    One sweep traces the signs down and updates every level from the pixels up. No sweep lowers the score, and
    an image stops at a local maximum: this is a heuristic, which `Latents.gap` shows.

    Args:
        model: in evaluation mode; every level with switches must be a `Level`.
        x: images (N, C, H, W).
        label: condition on a class, (N,) or one for all; None tries every class and keeps the best.
        sweeps: at most this many.

    Raises:
        TypeError: if a rendering with switches is not a `Level`.
    """
    if label is None:
        runs = [_ascend(model, x, c, sweeps) for c in range(model.n_classes)]
        best = torch.stack([run.score for run in runs]).argmax(0)
        answer = runs[0]
        for c, run in enumerate(runs[1:], 1):
            answer = _pick(best == c, run, answer)
        ceiling = torch.stack([run.upper_bound for run in runs]).amax(0)
        return replace(answer, upper_bound=ceiling)
    return _ascend(model, x, label, sweeps)


def _ascend(model: DRMM, x: Tensor, label: Tensor | int, sweeps: int) -> Latents:
    latents = model.infer(x, label)
    for _ in range(sweeps):
        candidate = _sweep(model, x, latents)
        better = candidate.score > latents.score
        if not better.any():
            break
        latents = _pick(better, candidate, latents)
    return latents


def _sweep(model: DRMM, x: Tensor, latents: Latents) -> Latents:
    """Signs from the top down, then switches from the pixels up."""
    top = model.templates.weight[latents.label]
    templates = model.levels.render_levels(top, latents.switches)[1:]
    features, parts = x, []
    for level, template in zip(model.levels.renderings, templates, strict=True):
        if isinstance(level, Level):
            # Where nothing comes down, both signs score the same: keep the convnet's.
            features, part = level.infer(features, torch.where(template < 0, -1.0, 1.0).to(x.dtype))
        else:
            features, part = level.infer(features)
            if any(True for _ in part.leaves()):
                raise TypeError(f"the sign traceback needs {type(level).__name__} inside a Level")
        parts.append(part)
    logits = model.templates(features)
    switches = Switches(latents.switches.shape, parts=tuple(parts))
    return replace(
        latents,
        score=logits.gather(1, latents.label[:, None]).squeeze(1),
        logits=logits,
        switches=switches,
        amplitude=fit_amplitude(x, model.levels.render(top, switches)),
    )


def _pick(mask: Tensor, one: Latents, other: Latents) -> Latents:
    """`one` for the images where the mask (N,) is True, `other` elsewhere."""
    return Latents(
        label=torch.where(mask, one.label, other.label),
        score=torch.where(mask, one.score, other.score),
        logits=torch.where(mask[:, None], one.logits, other.logits),
        upper_bound=torch.where(mask, one.upper_bound, other.upper_bound),
        amplitude=torch.where(mask, one.amplitude, other.amplitude),
        switches=one.switches.where(mask, other.switches),
    )
