"""What a model makes of the labels so far: learned in a process of its own, which nobody waits for."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from drmm.errors import DrmmError, InputError, RunError
from drmm.labelling.pool import Pool
from drmm.labelling.store import State

if TYPE_CHECKING:
    from drmm.labelling.features import Seen

__all__ = ["Answers", "Learner"]

_NICE = 10


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
    groups: npt.NDArray[np.int64]
    queue: tuple[tuple[int, str], ...]
    strangers: tuple[tuple[int, ...], ...]
    doubts: tuple[tuple[int, int], ...]


class Learner:
    """Learns in a process of its own; nobody who asks waits.

    Args:
        pool: the pictures.

    Attributes:
        answers: the latest; None before the first.
        trouble: why there are no more, in one line; "" where all is well.
    """

    def __init__(self, pool: Pool) -> None:
        self.answers: Answers | None = None
        self.trouble = ""
        context = get_context("spawn")
        (self._link, there), (self._asking, asked) = context.Pipe(), context.Pipe()
        self._there = (there, asked)
        self._process = context.Process(target=_serve, args=self._there, daemon=True)
        self._pool = pool
        self._latest: State | None = None
        self._news = threading.Condition()
        self._turn = threading.Lock()
        self._is_closed = False
        threading.Thread(target=self._tell, daemon=True).start()

    def learn(self, state: State) -> None:
        """There are such labels now; those that it was told of before and has not begun with are forgotten."""
        with self._news:
            self._latest = state
            self._news.notify()

    def answer(self, content: bytes, state: State) -> dict[int, float]:
        """The probability of each class, by its number, of a picture from elsewhere; who asks waits for it.

        Args:
            content: of its file.
            state: the labels.

        Raises:
            InputError: if nothing is learned yet, or nothing can be told of it.
            RunError: if it cannot be read, or the process has ended.
        """
        with self._turn:
            try:
                self._asking.send((content, state))
                heard = self._asking.recv()
            except (EOFError, OSError) as error:
                raise RunError(self.trouble or "nothing is learned any more: start again") from error
        if isinstance(heard, DrmmError):
            raise heard
        return dict(heard)

    def close(self) -> None:
        """Stop, whatever it is doing."""
        with self._news:
            self._is_closed = True
            self._news.notify()
        if self._process.pid is not None:
            self._process.kill()

    def _tell(self) -> None:
        """Start the process, and pass on what is new: it takes what it is sent when it has time."""
        try:
            self._process.start()
            for end in self._there:
                end.close()
            threading.Thread(target=self._hear, daemon=True).start()
            self._link.send((self._pool.files, self._pool.known))
            while not self._is_closed:
                with self._news:
                    self._news.wait_for(lambda: self._latest is not None or self._is_closed)
                    state, self._latest = self._latest, None
                if state is not None:
                    self._link.send(state)
        except Exception as error:  # noqa: BLE001  (the page says it)
            self._stopped(_in_one_line(error))

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


def _serve(link: Connection, asked: Connection) -> None:
    """Of the learner's process: look at pictures and learn from labels, until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process ends this one
    from drmm.labelling.answering import answers_of  # noqa: PLC0415  # torch: the page does not wait for it
    from drmm.labelling.features import Seen  # noqa: PLC0415

    if hasattr(os, "nice"):
        os.nice(_NICE)
    with suppress(EOFError, OSError):
        try:
            seen = Seen(*link.recv())
            threading.Thread(target=_answer, args=(asked, seen), daemon=True).start()
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
            link.send(_in_one_line(error))


def _answer(asked: Connection, seen: Seen) -> None:
    """Of one picture after the other, whatever the process is learning."""
    from drmm.labelling.answering import answer_of  # noqa: PLC0415

    with suppress(EOFError, OSError):
        while True:
            content, state = asked.recv()
            answer: object
            try:
                answer = answer_of(content, seen, state)
            except InputError as error:
                answer = InputError(str(error))
            except Exception as error:  # noqa: BLE001  (who asks is told)
                answer = RunError(_in_one_line(error))
            asked.send(answer)


def _in_one_line(error: Exception) -> str:
    kind = "" if isinstance(error, DrmmError) else f"{type(error).__name__}: "
    return f"{kind}{error}".splitlines()[0]


def _newest(link: Connection) -> State:
    """What was sent last; it waits for something."""
    state: State = link.recv()
    while link.poll():
        state = link.recv()
    return state
