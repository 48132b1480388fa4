"""What a trained model says of one picture: its classes, what speaks for them, and how it would draw them."""

from __future__ import annotations

import base64
import threading
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax

from drmm.data.decoding import decode_picture
from drmm.data.images import as_images
from drmm.display.text import one_line
from drmm.report.context import LEAST_DRAWN
from drmm.report.sprites import Sprites, SpriteSheet
from drmm.runs.run import Run

__all__ = ["Explained", "Explainer"]

_BEST = 3
_DRAWS_NOTHING = "This model draws next to nothing of a picture: its weights were learned to tell classes apart."


@dataclass(frozen=True)
class Explained:
    """What is said of a picture.

    Attributes:
        answers: the best classes, each with its probability.
        drawings: captions and PNGs.
        notes: what else is known, in sentences.
    """

    answers: tuple[tuple[str, float], ...]
    drawings: tuple[tuple[str, bytes], ...]
    notes: tuple[str, ...]


class Explainer:
    """Explains pictures by the model of a run, one at a time.

    Args:
        run: that has finished.

    Raises:
        RunError: if there is no model, or a file is damaged.
    """

    def __init__(self, run: Run) -> None:
        self._model, self._recipe, self._assessment = run.model, run.recipe, run.assessment
        self._fill = run.asked.shape
        self._turn = threading.Lock()

    @torch.no_grad()
    def explained(self, content: bytes, name: str) -> Explained:
        """All there is to say of a picture.

        Args:
            content: of its file.
            name: of its file, for errors.

        Raises:
            RunError: if it cannot be read.
            InputError: if it says nothing that the model can see.
        """
        channels, *size = self._recipe.image_shape
        levels = decode_picture(content, name, channels=channels, size=(size[0], size[1]), shape=self._fill).levels
        x = as_images(levels[None], channels=channels)
        with self._turn:
            latents = self._model.infer(x)
            probability, notes = softmax(latents.logits.double().numpy(), 1), []
            if self._assessment is not None:
                told = self._assessment.answers(self._model, x, latents)
                probability = told.probability
                share = f"{100 * float(told.familiarity[0]):.0f} % of the pictures that it learned from"
                notes.append(f"Familiarity: {share} are at least as strange to the model.")
            best = np.argsort(-probability[0], kind="stable")[:_BEST].tolist()
            drawn = self._model.reconstruct(x.expand(len(best), -1, -1, -1), torch.tensor(best))
            evidence = self._model.sum_over_paths(x, latents).pixels.sum(1)
        names = [one_line(label) for label in self._recipe.classes]
        sprites = Sprites()
        drawings = [("as the model sees it", sprites.pictures(x))]
        drawings.append(
            (f"evidence: red is for {names[int(latents.label)]}, blue against", sprites.evidence(evidence))
        )
        if 1 - float((x[0] - drawn[0]).square().sum() / x[0].square().sum().clamp(min=1e-12)) < LEAST_DRAWN:
            notes.append(_DRAWS_NOTHING)
        else:
            drawings += [(f"drawn as {names[c]}", sprites.pictures(drawn[i : i + 1])) for i, c in enumerate(best)]
        answers = tuple((names[c], float(probability[0, c])) for c in best)
        return Explained(answers, tuple((caption, _png(sheet)) for caption, sheet in drawings), tuple(notes))


def _png(sheet: SpriteSheet) -> bytes:
    return base64.b64decode(sheet.uri.partition(",")[2])
