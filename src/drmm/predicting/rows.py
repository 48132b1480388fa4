"""A row for each picture: which class, how sure, whether the model knows such pictures, and what to do with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.special import softmax
from torch import Tensor

from drmm.data.decoding import UnreadableError, decode_picture, drawn_levels, quiet
from drmm.data.images import pixels
from drmm.data.parallel import ahead
from drmm.errors import InputError
from drmm.learning.metrics import CERTIFIED_AT_ONCE, at_once
from drmm.model.folding import folded
from drmm.model.moment import unwatched
from drmm.runs.run import Run
from drmm.trust.assessment import Answers
from drmm.trust.decisions import UNFAMILIAR
from drmm.trust.familiarity import PARTS
from drmm.trust.promise import PROMISE, check_promise

__all__ = ["FACTS", "REASON", "Levels", "Rows"]

Levels = npt.NDArray[np.uint8]
"""Of a picture as a model sees it, (C, H, W)."""

FACTS = ("confidence", "second", "second_confidence", "familiarity", "strange_in")
"""Columns between label and decision: what is known of a picture whose label a model says."""

REASON = "reason"
"""Column that says why a picture could not be read."""

_COLUMNS = ("label", *FACTS, "decision")
_OF_INFERENCE = ("log_joint", "gap", "certified")
_TEXTS = {"label", "second", "strange_in", "decision"}


class Rows:
    """Makes rows of pictures by a run's model; a picture has the same row whatever its neighbours.

    A run that does not say how far it can be trusted (a pruned model, one of an earlier version) has the net's own
    confidence, which is too high as a rule, and neither familiarity nor decision.

    Args:
        run: opened.
        promise: share of the sorted pictures that is to be right.
        all_classes: a column for the probability of each class, and for the familiarity of each part of a picture.
        inference: columns for log-joint, gap and certificate, which take as long again.

    Attributes:
        promise: as given.
        types: of the columns, by name: str, float or bool; a cell is None where a run does not say.

    Raises:
        InputError: if the promise is no share between 0 and 1.
        RunError: if there is no model, or a file is damaged.
    """

    def __init__(
        self, run: Run, *, promise: float = PROMISE, all_classes: bool = False, inference: bool = True
    ) -> None:
        check_promise(promise)
        self._model, self._classes = folded(run.model), run.recipe.classes
        if self._model.prior is not None:
            self._model.prior.fix()
        self._assessment, self.promise = run.assessment, promise
        self._all, self._inference = all_classes, inference
        self._how = run.decoding
        names = [*_COLUMNS, *(_OF_INFERENCE if inference else ())]
        if all_classes:
            names += [f"familiarity({part})" for part in PARTS] + [f"p({name})" for name in self._classes]
        self.types = {name: str if name in _TEXTS else bool if name == "certified" else float for name in names}

    def of(self, x: Tensor) -> list[tuple[object, ...]]:
        """Of images (N, C, H, W), float."""
        most = at_once(x, CERTIFIED_AT_ONCE)
        return [row for part in x.split(most) for row in self._rows(_in_company(part, most))[: len(part)]]

    def decoded(self, pictures: Iterable[tuple[str, object]]) -> Iterator[tuple[str, Levels | str]]:
        """Each picture by name, in order, as the model sees it, decoded ahead by threads; or why it is not.

        Args:
            pictures: what to call each, and what it is: a file's content or path, a mapping with its `bytes` or
                `path`, a Pillow picture, levels 0..255 as uint8 (H, W), (H, W, C) or (C, H, W), or an error in its
                place.
        """
        with quiet():
            yield from ahead(lambda named: (named[0], _levels(*named, self._how)), pictures)

    def of_decoded(self, pictures: Sequence[Levels | str]) -> list[tuple[object, ...]]:
        """Of what `decoded` yields, each with its reason in the end: empty where there are answers."""
        levels = [picture for picture in pictures if not isinstance(picture, str)]
        rows = iter(self.of(pixels(torch.from_numpy(np.stack(levels)))) if levels else ())
        empty = (None,) * len(self.types)
        return [(*empty, picture) if isinstance(picture, str) else (*next(rows), "") for picture in pictures]

    @torch.no_grad()
    @unwatched()
    def _rows(self, x: Tensor) -> list[tuple[object, ...]]:
        latents = self._model.infer(x)
        if self._assessment is None:
            probability, each = softmax(latents.logits.double().numpy(), 1), np.full((len(x), len(PARTS)), None)
            known: list[tuple[object, ...]] = [(None, None, None)] * len(x)
        else:
            answers = self._assessment.answers(self._model, x, latents)
            decided = self._assessment.decide(answers, self.promise).tolist()
            facts = (answers.familiarity.tolist(), _strange_in(answers), decided)
            probability, known, each = answers.probability, list(zip(*facts, strict=True)), answers.parts
        best = np.argsort(-probability, 1, kind="stable")[:, :2].tolist()
        inference = (
            (self._model.log_joint(x, latents), latents.gap, latents.certified()) if self._inference else ()
        )
        more = np.concatenate([each, probability], 1)[:, : None if self._all else 0].tolist()
        columns = zip(best, probability.tolist(), known, more, *(part.tolist() for part in inference), strict=True)
        return [
            (*self._named(pair, p), *of_picture, *of_inference, *others)
            for pair, p, of_picture, others, *of_inference in columns
        ]

    def _named(self, pair: Sequence[int], probability: Sequence[float]) -> list[object]:
        """The two best classes, each with its probability."""
        return [cell for c in pair for cell in (self._classes[c], probability[c])]


def _in_company(x: Tensor, most: int) -> Tensor:
    """The same images, of which one alone is there twice: products with one vector are rounded otherwise."""
    return x.expand(2, -1, -1, -1) if len(x) == 1 < most else x


def _levels(name: str, picture: object, how: Mapping[str, Any]) -> Levels | str:
    try:
        if isinstance(picture, Mapping):
            content, path = picture.get("bytes"), picture.get("path")
            name, picture = path or name, path if content is None else content
        return decode_picture(_source(picture), name, **how).levels
    except UnreadableError as error:
        return error.reason
    except (OSError, RuntimeError, TypeError, ValueError) as error:  # of paths, tensors and arrays; `InputError`
        return str(error).partition("\n")[0]


def _source(picture: object) -> Path | bytes | Image.Image:
    """What a picture can be decoded from."""
    if isinstance(picture, UnreadableError):
        raise picture
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, str | Path):
        if (file := Path(picture)).exists() and not file.is_file():
            raise InputError("it is no ordinary file")  # of which some have no end
        return file
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if picture is None:
        raise InputError("there is none")
    levels = np.asarray(picture)
    if levels.dtype != np.uint8 or not levels.size:
        raise InputError(f"{levels.dtype} of shape {levels.shape} is no picture: give levels 0..255 as uint8")
    return levels.tobytes() if levels.ndim == 1 else drawn_levels(levels)


def _strange_in(answers: Answers) -> list[str]:
    """The strangest part of each picture that is unfamiliar; of others an empty text, as columns have a type."""
    strangest = [PARTS[part] for part in answers.parts.argmin(1).tolist()]
    unfamiliar = (answers.familiarity < UNFAMILIAR).tolist()
    return [part if strange else "" for part, strange in zip(strangest, unfamiliar, strict=True)]
