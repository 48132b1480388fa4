"""What the file of a model computes: levels of pictures in, named answers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from drmm.data.images import pixels
from drmm.errors import InputError
from drmm.model.deep import DRMM, Latents
from drmm.model.folding import folded
from drmm.records import nearest
from drmm.rendering.bounds import NoBoundError, bound
from drmm.trust.assessment import Assessment
from drmm.trust.calibration import Calibration
from drmm.trust.familiarity import Ranking, looks

__all__ = ["EXTRAS", "Answering"]

Answers = dict[str, Tensor]


def _certificate(model: DRMM, x: Tensor, latents: Latents) -> Answers:
    del model, x
    return {"score": latents.score, "gap": latents.gap, "certified": latents.certified()}


def _reconstruction(model: DRMM, x: Tensor, latents: Latents) -> Answers:
    del x
    return {"reconstruction": model.picture(latents)}


def _evidence(model: DRMM, x: Tensor, latents: Latents) -> Answers:
    return {"evidence": model.sum_over_paths(x, latents).pixels.sum(1)}


EXTRAS: Mapping[str, Callable[[DRMM, Tensor, Latents], Answers]] = {
    "certificate": _certificate,
    "reconstruction": _reconstruction,
    "evidence": _evidence,
}
"""Answers that are given if they are asked for, all of the class that the net itself finds best."""


class Answering(nn.Module):
    """A model with what is known of its trust, as one module from pictures to answers.

    Args:
        model: in evaluation mode; it is copied, with its norms in the convolutions below them.
        assessment: calibrates the probabilities, and says what is familiar; None leaves the net's own
            probabilities, and no familiarity.
        extras: which of `EXTRAS` to answer too.
        quick: answer label and probability alone, for which nothing is drawn.

    Raises:
        InputError: if there is no such answer, or the model has none.
    """

    offset: Tensor

    def __init__(
        self, model: DRMM, assessment: Assessment | None, extras: Sequence[str] = (), *, quick: bool = False
    ) -> None:
        super().__init__()
        for name in extras:
            if name not in EXTRAS:
                raise InputError(f"no answer {name!r}{nearest(name, EXTRAS)}")
        if "certificate" in extras:
            _check_bound(model)
        self.model, self.extras = folded(model), tuple(extras)
        self.ranking = None if assessment is None or quick else Ranking(assessment.familiarity)
        calibration = Calibration() if assessment is None else assessment.calibration
        self.temperature, self.is_calibrated = calibration.temperature, assessment is not None
        self.register_buffer("offset", torch.tensor(calibration.offset or (0.0,), dtype=torch.float64))

    def forward(self, pictures: Tensor) -> Answers:
        """Answers for N pictures.

        Args:
            pictures: their levels, uint8 (N, C, H, W).

        Returns:
            `label`, int64 (N,); `probability` of each class, (N, C); `familiarity`, (N,), if it is known; and the
            extras: `score`, `gap` and `certified`, (N,); `reconstruction`, (N, C, H, W); `evidence`, (N, H, W).
        """
        x = pixels(pictures)
        if self.ranking is None and not self.extras:
            return self._named(self.model(x))
        latents = self.model.infer(x)
        answers = self._named(latents.logits)
        if self.ranking is not None:
            answers["familiarity"] = self.ranking(looks(self.model, x, latents))[0].float()
        for name in self.extras:
            answers |= EXTRAS[name](self.model, x, latents)
        return answers

    def _named(self, logits: Tensor) -> Answers:
        """Class and probabilities, of logits (N, C)."""
        probability = (logits.double() / self.temperature + self.offset).softmax(1)
        return {"label": probability.argmax(1), "probability": probability.float()}


@torch.no_grad()
def _check_bound(model: DRMM) -> None:
    """Refuse a certificate that would always be infinite."""
    blank = torch.zeros(1, *(model.image_shape or ()))
    try:
        bound(model.templates, *bound(model.levels, blank, blank))
    except NoBoundError as error:
        raise InputError(f"this model has no certificate ({error}): leave certificate out") from error
