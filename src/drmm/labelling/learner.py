"""What a model makes of the labels so far: learned in a process of its own, which nobody waits for."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from drmm.data.splits import label_folds
from drmm.errors import DrmmError
from drmm.labelling.asking import doubtful, familiarity_of, in_groups, is_reserved, most_worth, nearest, weights_of
from drmm.labelling.features import Seen
from drmm.labelling.store import State
from drmm.trust.calibration import Calibration, fit_calibration

__all__ = ["Answers", "Learned", "Learner", "learned"]

_QUEUE = 50  # pictures that are proposed at once
_NEAREST = 3
_FOLDS = 5
_STRENGTH = 50.0  # of logistic regression on directions; scikit-learn's C
_NICE = 10

Figures = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class Answers:
    """What is said of N pictures, numbered as in the pool.

    Attributes:
        version: of the labels that were learned from (`drmm.labelling.store.State`).
        seen: how many pictures were looked at by then.
        classes: numbers of the classes that were learned, (C,); none where there are no two with a label.
        probability: calibrated, of each class, float32 (N, C); NaN of pictures that were not looked at yet.
        familiarity: p-values, float32 (N,); 1 where nothing is known.
        nearest: labelled pictures that look most like each, nearest first, int32 (N, 3); -1 where there is none.
        groups: pictures that are the same picture share one, (N,).
        queue: pictures to ask for, the most urgent first, with why.
        strangers: unfamiliar ones in groups.
        doubts: pictures whose label is probably wrong, and the class that each looks like.
    """

    version: int
    seen: int
    classes: tuple[int, ...]
    probability: npt.NDArray[np.float32]
    familiarity: npt.NDArray[np.float32]
    nearest: npt.NDArray[np.int32]
    groups: Indices
    queue: tuple[tuple[int, str], ...]
    strangers: tuple[tuple[int, ...], ...]
    doubts: tuple[tuple[int, int], ...]


class Learned(NamedTuple):
    """What logistic regression says, calibrated by what it says of pictures whose label it has not learned.

    Attributes:
        probability: of each class, (M, C).
        held_out: places of labelled pictures whose label was held out once, (m,).
        held_out_probability: of each class, (m, C).
    """

    probability: Figures
    held_out: Indices
    held_out_probability: Figures


def learned(points: npt.ArrayLike, y: Indices, *, groups: Indices | None = None, seed: int = 0) -> Learned:
    """Logistic regression.

    Args:
        points: directions (M, D), as of `drmm.labelling.asking.geometry`.
        y: class indices (M,), -1 where there is no label; each class has one.
        groups: as of `drmm.data.splits.label_folds`.
        seed: of the folds.
    """
    x = np.asarray(points, np.float32)
    folds = label_folds(y, _FOLDS, seed=seed, groups=groups)
    held_out = np.concatenate([np.zeros(0, np.int64), *folds])
    logits = [np.zeros((0, int(y.max()) + 1))]
    for fold in folds:
        known = np.setdiff1d(np.flatnonzero(y >= 0), fold)
        logits.append(_regressed(x[known], y[known], int(y.max()) + 1, x[fold]))
    calibration = fit_calibration(np.concatenate(logits), y[held_out]) if len(held_out) else Calibration()
    known = np.flatnonzero(y >= 0)
    own = calibration.log_probability(_regressed(x[known], y[known], int(y.max()) + 1, x))
    return Learned(np.exp(own), held_out, np.exp(calibration.log_probability(np.concatenate(logits))))


def _regressed(x: npt.NDArray[np.float32], y: Indices, n: int, others: npt.NDArray[np.float32]) -> Figures:
    """Log-probability of each of n classes of other pictures, (M, n): next to none of those without a label."""
    logits = np.full((len(others), n), np.log(1e-6))
    classes = np.unique(y)
    if len(classes) == 1:
        logits[:, classes] = 0.0
        return logits
    with warnings.catch_warnings(action="ignore"):  # after so many steps it is good enough
        found = LogisticRegression(C=_STRENGTH, max_iter=100).fit(x, y)
    logits[:, classes] = found.predict_log_proba(others)
    return logits


class Learner:
    """Learns in a process of its own; nobody who asks waits.

    Args:
        folder: of pictures.
        files: as the pool numbers them.

    Attributes:
        answers: the latest; None before the first.
        trouble: why there are no more, in one line; "" where all is well.
    """

    def __init__(self, folder: Path, files: Sequence[PurePosixPath]) -> None:
        self.answers: Answers | None = None
        self.trouble = ""
        here, there = get_context("spawn").Pipe()
        self._link = here
        self._process = get_context("spawn").Process(target=_serve, args=(there, folder), daemon=True)
        self._there = there
        self._files = files
        self._latest: State | None = None
        self._news = threading.Condition()
        self._is_closed = False
        threading.Thread(target=self._tell, daemon=True).start()

    def learn(self, state: State) -> None:
        """There are such labels now; those that it was told of before and has not begun with are forgotten."""
        with self._news:
            self._latest = state
            self._news.notify()

    def close(self) -> None:
        """Stop, whatever it is doing."""
        with self._news:
            self._is_closed = True
            self._news.notify()
        if self._process.pid is not None:
            self._process.terminate()

    def _tell(self) -> None:
        """Start the process, and pass on what is new: it takes what it is sent when it has time."""
        try:
            self._process.start()
            self._there.close()
            threading.Thread(target=self._hear, daemon=True).start()
            self._link.send(self._files)
            while not self._is_closed:
                with self._news:
                    self._news.wait_for(lambda: self._latest is not None or self._is_closed)
                    state, self._latest = self._latest, None
                if state is not None:
                    self._link.send(state)
        except OSError as error:
            self._stopped(str(error))

    def _hear(self) -> None:
        try:
            while isinstance(heard := self._link.recv(), Answers):
                self.answers = heard
        except (EOFError, OSError):
            heard = "its process ended"
        self._stopped(heard)

    def _stopped(self, why: str) -> None:
        if not self._is_closed:
            self.trouble = f"nothing more is learned ({why}): start again; all labels are kept"


def _serve(link: Connection, folder: Path) -> None:
    """Of the learner's process: look at pictures and learn from labels, until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process ends this one
    if hasattr(os, "nice"):
        os.nice(_NICE)
    with suppress(EOFError, OSError):
        try:
            seen = Seen(folder, link.recv())
            state, is_new = link.recv(), True
            while True:
                if not seen.is_done and not (link.poll() and len(seen.number)):
                    seen.look(state.labels)
                    is_new = True
                if not link.poll() and is_new:
                    link.send(answers_of(seen, state))
                    is_new = False
                if link.poll() or seen.is_done:
                    state, is_new = _newest(link), True
        except (EOFError, OSError):
            raise
        except Exception as error:  # noqa: BLE001  (the page says it)
            kind = "" if isinstance(error, DrmmError) else f"{type(error).__name__}: "
            link.send(f"{kind}{error}".splitlines()[0])


def _newest(link: Connection) -> State:
    """What was sent last; it waits for something."""
    state: State = link.recv()
    while link.poll():
        state = link.recv()
    return state


def answers_of(seen: Seen, state: State) -> Answers:
    """What the labels so far say of all pictures."""
    here = [seen.digests[i] for i in seen.number.tolist()]
    label = np.array([state.labels.get(digest, -1) if digest not in state.drawn else -1 for digest in here])
    classes, y = np.unique(label, return_inverse=True)
    if -1 in classes:
        classes, y = classes[1:], y - 1
    groups = seen.groups[seen.number]
    told = np.isin(groups, groups[[digest in state.labels or digest in state.skipped for digest in here]])
    first = np.zeros(len(groups), bool)
    first[np.unique(groups, return_index=True)[1]] = True
    may = first & ~told & ~np.array([is_reserved(digest) for digest in here], bool)
    known = np.flatnonzero(y >= 0)
    weight, why, doubts = np.ones(len(here)), "spread", list[tuple[int, int]]()
    probability = np.zeros((len(here), 0))
    if len(classes) > 1:
        found = learned(seen.points, y, groups=groups)
        probability, why = found.probability, "unsure"
        weight = weights_of(probability, np.bincount(y[known]))
        doubts = _doubts(found, y, seen.number, classes)
    near, far = nearest(seen.points, known, _NEAREST)
    familiarity = familiarity_of(far, known)
    queue = most_worth(seen.points, weight, known, may, _QUEUE, seed=state.version)
    return Answers(
        state.version,
        len(here),
        tuple(classes.tolist()) if len(classes) > 1 else (),
        _spread_out(probability, seen, np.nan),
        _spread_out(familiarity, seen, 1),
        _spread_out(np.where(near < 0, -1, seen.number[near]), seen, -1).astype(np.int32),
        seen.groups,
        tuple((int(seen.number[i]), why) for i in queue),
        tuple(tuple(seen.number[group].tolist()) for group in in_groups(seen.points, familiarity, may)),
        tuple(doubts),
    )


def _doubts(found: Learned, y: Indices, number: Indices, classes: Indices) -> list[tuple[int, int]]:
    """Labels that are probably wrong, by picture and the class that it looks like."""
    there, code = np.unique(y[found.held_out], return_inverse=True)
    if len(there) < 2:
        return []
    posterior = found.held_out_probability[:, there]
    return [
        (int(number[found.held_out[i]]), int(classes[there[c]]))
        for i, c in doubtful(posterior / posterior.sum(1, keepdims=True), code)
    ]


def _spread_out(values: npt.NDArray[np.generic], seen: Seen, nothing: float) -> npt.NDArray[np.float32]:
    """Numbers of pictures that were seen, (M, ...), as those of all, (N, ...)."""
    whole = np.full((len(seen.files), *values.shape[1:]), nothing, np.float32)
    whole[seen.number] = values
    return whole[seen.copies]
