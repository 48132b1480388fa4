"""What is known of how far a model can be trusted, and its answers for pictures in that light."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit
from scipy.stats import binomtest
from torch import Tensor

from drmm.data.images import pixels, reduced
from drmm.learning.class_prior import class_prior
from drmm.learning.metrics import CERTIFIED_AT_ONCE, at_once, predict_logits
from drmm.model.deep import DRMM, Latents
from drmm.trust.calibration import Calibration, fit_calibration
from drmm.trust.crossfit import Fold, as_sure_as, does_harm, evenly_spread, pool_of
from drmm.trust.decisions import decisions, labels_needed, promised_share
from drmm.trust.familiarity import Familiarity, fit_familiarity, looks_of_pictures
from drmm.trust.promise import check_promise
from drmm.trust.strangers import strangers_share

__all__ = ["Answers", "Assessment", "HeldOut", "Simpler", "Surest", "assess", "assess_guarded"]

Figures = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Answers:
    """Three answers for each of N pictures: which class, how sure, and whether the model knows such pictures.

    Attributes:
        probability: calibrated, of each class, (N, C).
        familiarity: p-values (N,).
        parts: p-values of each of the four `drmm.trust.familiarity.PARTS`, (N, 4).
        rank: share of the training pictures of which the model is less sure, (N,).
    """

    probability: Figures
    familiarity: Figures
    parts: Figures
    rank: Figures


@dataclass(frozen=True)
class Surest:
    """Which pictures may be sorted.

    Attributes:
        share: of all, the surest first.
        promised: whether the labels show, at 95 % confidence, that as many are right as was asked for; otherwise
            the calibrated confidence estimates it. They show nothing of pictures unlike the labelled ones.
        labels: how many the promise takes at the least.
    """

    share: float
    promised: bool
    labels: int | None


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Cross-fitted answers for labelled images, n of them, calibrated.

    Attributes:
        index: of the image among those that were learned from, (n,).
        label: its class, (n,).
        log_probability: of each class, in nats, (n, C).
        rank: share of the training pictures of which the net that answered is less sure, (n,).
    """

    index: Indices
    label: Indices
    log_probability: Figures
    rank: Figures

    @cached_property
    def wrong(self) -> npt.NDArray[np.bool_]:
        """Which answers were wrong, (n,)."""
        return np.asarray(self.log_probability.argmax(1) != self.label)


@dataclass(frozen=True, eq=False)
class Assessment:
    """How far a model can be trusted.

    Attributes:
        calibration: of its logits.
        held_out: cross-fitted answers; of no image where there was none to learn from.
        pool: its calibrated log-odds of training pictures, ascending, (M,).
        familiarity: what its training pictures are like.
        strangers: share of the unlabelled pictures that is not like the labelled ones, at the least, at 99 %
            confidence; 0 where nothing is seen (`drmm.trust.strangers`). Then nothing is promised.
    """

    calibration: Calibration
    held_out: HeldOut
    pool: Figures
    familiarity: Familiarity
    strangers: float = 0.0

    def error(self) -> dict[str, Any] | None:
        """Cross-fitted error in percent, with its exact 95 % interval; None where there is none.

        The nets that it is of had fewer labels, and a shorter schedule: the model itself is rather better.
        """
        n, mistakes = len(self.held_out.wrong), int(self.held_out.wrong.sum())
        if not n:
            return None
        low, high = binomtest(mistakes, n).proportion_ci()
        return {
            "error": round(100 * mistakes / n, 2),
            "interval": [round(100 * low, 2), round(100 * high, 2)],
            "labels": n,
        }

    @property
    def warning(self) -> str:
        """What follows where some of the unlabelled pictures are not like the labelled ones, in one line."""
        return (
            f"at least {100 * self.strangers:.2g} % of the unlabelled pictures are not like the labelled ones, at "
            "99 % confidence: pictures of a class without labels are taken for one of the others, however sure "
            "that looks; label some of each class, drawn at random"
        )

    def summary(self) -> dict[str, Any]:
        """What people may want to know."""
        promises = {f"{promise:g}": asdict(self.surest(promise)) for promise in (0.9, 0.95, 0.98, 0.99)}
        return {
            "calibration": asdict(self.calibration),
            "cross_fitted": self.error(),
            "strangers_at_least": round(self.strangers, 4),
            "promises": promises,
        }

    def surest(self, promise: float) -> Surest:
        """Which pictures may be sorted, so that as many are right as promised.

        Raises:
            InputError: if the promise is no share between 0 and 1.
        """
        check_promise(promise)
        share = promised_share(self.held_out.rank, self.held_out.wrong, promise)
        if share and not self.strangers:
            return Surest(share, promised=True, labels=labels_needed(promise))
        sure = expit(self.pool[::-1])  # the surest first
        enough = np.cumsum(sure) >= promise * np.arange(1, len(sure) + 1)
        return Surest(float(enough.mean()), promised=False, labels=labels_needed(promise))

    def answers(self, model: DRMM, x: Tensor, latents: Latents) -> Answers:
        """The model's answers for images (N, C, H, W), float, of which these are the latents."""
        logs = self.calibration.log_probability(latents.logits.double().numpy())
        return Answers(
            np.exp(logs),
            *self.familiarity.p_values(looks_of_pictures(model, x, latents)),
            _rank(logs, self.pool),
        )

    def of_pictures(self, model: DRMM, x: Tensor) -> Answers:
        """The same for images as they are learned from, batch by batch."""
        with torch.no_grad():
            parts = [
                self.answers(model, v, model.infer(v)) for v in map(pixels, x.split(at_once(x, CERTIFIED_AT_ONCE)))
            ]
        return Answers(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Answers)))

    def decide(self, answers: Answers, promise: float) -> npt.NDArray[np.str_]:
        """What to do with each picture, (N,): a `drmm.trust.decisions.Decision`.

        Raises:
            InputError: if the promise is no share between 0 and 1.
        """
        share = self.surest(promise).share
        return decisions((answers.rank >= 1 - share) & (share > 0), answers.familiarity)

    def tensors(self) -> dict[str, Tensor]:
        """All that `of_tensors` makes it of again."""
        arrays: dict[str, Any] = {f"held_out.{name}": value for name, value in asdict(self.held_out).items()}
        arrays |= {f"familiarity.{name}": value for name, value in asdict(self.familiarity).items()}
        arrays |= {
            f"calibration.{name}": np.array(value, float) for name, value in asdict(self.calibration).items()
        }
        return {
            name: torch.from_numpy(np.ascontiguousarray(array))
            for name, array in {**arrays, "pool": self.pool, "strangers": np.array(self.strangers)}.items()
        }

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Assessment:
        """From what `tensors` returned.

        Raises:
            KeyError: if something is missing.
        """
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return cls(
            Calibration(arrays["calibration.temperature"].item(), tuple(arrays["calibration.offset"].tolist())),
            HeldOut(*(arrays[f"held_out.{f.name}"] for f in fields(HeldOut))),
            arrays["pool"],
            Familiarity(*(arrays[f"familiarity.{f.name}"] for f in fields(Familiarity))),
            arrays["strangers"].item(),
        )


def assess(model: DRMM, x: Tensor, y: Tensor, folds: Sequence[Fold]) -> Assessment:
    """What is known of a model after its training.

    Args:
        model: in evaluation mode.
        x: images that it learned from, (N, C, H, W).
        y: class indices (N,), -1 where there is no label.
        folds: from `drmm.trust.crossfit.cross_fit`; none leaves the logits as they are.
    """
    index = np.concatenate([np.zeros(0, np.int64), *(fold.index for fold in folds)])
    logits = np.concatenate([np.zeros((0, model.n_classes)), *(fold.logits for fold in folds)])
    label = y.numpy()[index]
    # Labels that were not drawn at random are calibrated as if they had been.
    shift = -_more_frequent(model, x, y).log().double().numpy()
    calibration = fit_calibration(logits, label, shift) if folds else Calibration()
    log_probability = calibration.log_probability
    ranks = [_rank(log_probability(fold.logits), _pool(log_probability(fold.pool))) for fold in folds]
    held_out = HeldOut(index, label, log_probability(logits), np.concatenate([np.zeros(0), *ranks]))
    pool = _pool(log_probability(predict_logits(model, pool_of(x, y)).double().numpy()))
    return Assessment(calibration, held_out, pool, fit_familiarity(model, x), _strangers(x, y, folds))


@dataclass(frozen=True, eq=False)
class Simpler:
    """A simpler way to learn, which is taken where another one does harm.

    Attributes:
        folds: cross-fitted answers of nets that learned so.
        model: learns so from all labels.
        said: what is told where it is taken.
    """

    folds: Sequence[Fold]
    model: Callable[[], DRMM]
    said: str


def assess_guarded(
    model: DRMM, x: Tensor, y: Tensor, folds: Sequence[Fold], simpler: Simpler, tell: Callable[[str], object]
) -> tuple[DRMM, Assessment]:
    """The model to keep, and what is known of it: it is kept unless nets that learned in a simpler way are better.

    Args:
        model: the others as of `assess`.
        x: likewise.
        y: likewise.
        folds: likewise.
        simpler: the other way.
        tell: is told where that is taken.
    """
    if not does_harm(folds, simpler.folds, y, _more_frequent(model, x, y)):
        return model, assess(model, x, y, folds)
    tell(simpler.said)
    other = simpler.model()
    return other, assess(other, x, y, as_sure_as(other, simpler.folds, pool_of(x, y)))


def _more_frequent(model: DRMM, x: Tensor, y: Tensor) -> Tensor:
    """By how much each class is more frequent by the model's prior than among the labels, (C,)."""
    return model.class_prior / class_prior(x, y, model.n_classes)


def _strangers(x: Tensor, y: Tensor, folds: Sequence[Fold]) -> float:
    """`strangers_share`; 0 where it cannot be told."""
    labels = y.numpy()
    pool = evenly_spread(np.flatnonzero(labels < 0))
    if len(folds) < 2 or not len(pool):  # a single fold has nothing to be compared with
        return 0.0
    held_out = np.concatenate([fold.index for fold in folds])
    known = np.union1d(held_out, evenly_spread(np.flatnonzero(labels >= 0)))
    pictures, others = (reduced(x[torch.from_numpy(rows)]).flatten(1).numpy() for rows in (known, pool))
    return strangers_share(pictures, labels[known], others, [np.searchsorted(known, fold.index) for fold in folds])


def _odds(log_probability: Figures) -> Figures:
    """Log-odds of the best class, (N,), of (N, C): they tell pictures apart of which a net is very sure."""
    ordered = np.sort(log_probability, 1)
    return np.asarray(ordered[:, -1] - np.logaddexp.reduce(ordered[:, :-1], 1))


def _pool(log_probability: Figures) -> Figures:
    return np.sort(_odds(log_probability))


def _rank(log_probability: Figures, pool: Figures) -> Figures:
    """Share of the pool of which the net is less sure."""
    return np.searchsorted(pool, _odds(log_probability)) / len(pool)
