"""Why this class and not that one: two hypotheses about one picture, and what is left without what they share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drmm.errors import InputError
from drmm.explain.passes import as_drmm
from drmm.model.deep import evaluation

__all__ = ["Contrast", "contrast"]


@dataclass(frozen=True, slots=True)
class Contrast:
    """Evidence for two classes in the same pictures; (N, C, H, W) unless said otherwise.

    Attributes:
        label: the class, (N,).
        other: the class that it was not, (N,).
        template: rendering of the class.
        other_template: rendering of the other.
        own: evidence by pixel for the class without what speaks for both.
        others: likewise for the other.
        margin: score of the class less that of the other, (N,); what pixels add to it is `own - others`.
        bias: what of the margin paths that end in a bias add, (N,).
    """

    label: Tensor
    other: Tensor
    template: Tensor
    other_template: Tensor
    own: Tensor
    others: Tensor
    margin: Tensor
    bias: Tensor

    @property
    def maps(self) -> Tensor:
        """What each pixel adds to the margin, (N, H, W): `maps.sum((1, 2)) + bias == margin`."""
        return (self.own - self.others).sum(1)


def contrast(
    model: nn.Module, x: Tensor, label: Tensor | int | None = None, other: Tensor | int | None = None
) -> Contrast:
    """Draw two hypotheses, and take out the evidence that they share.

    Where a pixel speaks for both classes, or against both, the smaller of its two weights is shared. The switches
    are those of the bottom-up pass, which both hypotheses have in common where inference is exact.

    Args:
        model: a `DRMM` or a convnet.
        x: images (N, C, H, W).
        label: the class, (N,) or one for all; None takes the best.
        other: the class that it was not; None takes the best of all others.

    Raises:
        InputError: if the labels do not fit, both are the same class, or there is one class only.
    """
    drmm = as_drmm(model)
    if drmm.n_classes < 2:
        raise InputError("the model knows one class: there is no other to tell it from")
    with torch.no_grad(), evaluation(drmm):
        chosen, logits, switches = drmm.max_sum(x, label)
        beaten = logits.scatter(1, chosen[:, None], -torch.inf).argmax(1)
        rival = beaten if other is None else drmm.check_label(other, len(x))
        if bool((chosen == rival).any()):
            raise InputError("label and other are the same class: ask why it is one and not another")
        drawn, rivals = (drmm.levels.render(drmm.templates.weight[c], switches) for c in (chosen, rival))
    evidence, against = x * drawn, x * rivals
    agree = evidence.sign() == against.sign()
    shared = torch.where(agree, torch.minimum(evidence.abs(), against.abs()) * evidence.sign(), 0.0)
    scores = logits.gather(1, torch.stack([chosen, rival], 1))
    margin = scores[:, 0] - scores[:, 1]
    bias = margin - (evidence - against).flatten(1).sum(1)
    return Contrast(chosen, rival, drawn, rivals, evidence - shared, against - shared, margin, bias)
