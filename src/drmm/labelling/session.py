"""A person at work: the pictures, the labels and the learner together, and what comes next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import itemgetter

import numpy as np

from drmm.errors import InputError
from drmm.labelling.asking import EVERY, Audit, Estimate, chance, estimate, is_reserved
from drmm.labelling.learner import Answers, Learner
from drmm.labelling.pool import Pool
from drmm.labelling.store import State, Store

__all__ = ["Question", "Session", "Standing"]


@dataclass(frozen=True)
class Question:
    """A picture that a person is asked about.

    Attributes:
        picture: its number in the pool.
        is_drawn: whether it was drawn at random: its label is to be kept as such (`Store.label`, `drawn`).
        why: "random"; "spread", as it stands for many; "unsure", as the model is of it and its like; "strange"; or
            "doubt", as its label is probably wrong.
        proposal: number of the class that the model takes it for; None where there is no answer.
        confidence: its calibrated probability.
    """

    picture: int
    is_drawn: bool
    why: str
    proposal: int | None = None
    confidence: float = 0.0


@dataclass(frozen=True)
class Standing:
    """How far one has come.

    Attributes:
        version: of the labels.
        counts: labels of each class, by its number, 0 where there is none.
        skipped: how many pictures were skipped.
        learned: of the labels that the latest answers are of; -1 before the first.
        seen: pictures that were looked at by then.
        error: of the latest answers, on pictures that were drawn at random; nothing is known where `n` is 0.
        trouble: why nothing is learned, in one line; "" where all is well.
    """

    version: int
    counts: dict[int, int]
    skipped: int
    learned: int
    seen: int
    error: Estimate
    trouble: str


class Session:
    """What comes next; nothing of it waits for learning.

    Args:
        pool: the pictures.
        store: the labels.
        learner: who learns from them.
    """

    def __init__(self, pool: Pool, store: Store, learner: Learner) -> None:
        self.pool, self.store, self.learner = pool, store, learner
        learner.learn(store.state)

    def learn(self) -> None:
        """Tell the learner of the labels that there are now."""
        self.learner.learn(self.store.state)

    def next(self, n: int = 1, but: Collection[int] = ()) -> list[Question]:
        """The pictures to ask for next.

        Args:
            n: how many; fewer come where no more are left.
            but: numbers of pictures that the person has before them, or has answered by now.
        """
        state = self.store.state
        if not self.pool.is_ready:
            return self._before_all_are_known(n, set(but), state)
        answers = self.learner.answers
        told = state.labels.keys() | state.skipped
        done = self._done(told, but, answers)
        n_done = len(told) + len(set(but) - {i for digest in told for i in self._numbers.get(digest, ())})
        drawn = iter(self._reserve)
        chosen = chain(answers.queue if answers else (), ((i, "spread") for i in self._spread))
        questions: list[Question] = []
        while len(questions) < n:
            is_drawn = (n_done + len(questions) + 1) % EVERY == 0
            order: list[Iterator[tuple[int, str]]] = [drawn, chosen] if is_drawn else [chosen, drawn]
            found = next(
                (one for source in order for one in source if self._group(one[0], answers) not in done), None
            )
            if found is None:
                break
            done.add(self._group(found[0], answers))
            questions.append(self._question(*found))
        return questions

    def strangers(self) -> list[list[Question]]:
        """Pictures unlike all that have a label, those that are alike together, the largest group first."""
        state, answers = self.store.state, self.learner.answers
        if answers is None or not self.pool.is_ready:
            return []
        done = self._done(state.labels.keys() | state.skipped, (), answers)
        groups = (
            [self._question(i, "strange") for i in group if self._group(i, answers) not in done]
            for group in answers.strangers
        )
        return sorted(filter(None, groups), key=len, reverse=True)

    def doubts(self) -> list[Question]:
        """Labelled pictures whose label is probably wrong, and the class that each looks like, the worst first."""
        state, answers = self.store.state, self.learner.answers
        if answers is None or not self.pool.is_ready:
            return []
        looked_at = {digest for event in self.store.since(answers.version) for digest in event.labels}
        said = [(i, _now(label, state)) for i, label in answers.doubts if self.pool.digests[i] not in looked_at]
        return [
            Question(i, is_drawn=False, why="doubt", proposal=label)
            for i, label in said
            if label not in {None, state.labels.get(self.pool.digests[i])}
        ]

    def audit(self, promise: float, seed: int = 0) -> Audit:
        """An audit of what the model would sort now, of as many pictures as keep the promise by its own account.

        Raises:
            InputError: if the promise is none, or there is nothing to look at.
        """
        state, answers = self.store.state, self.learner.answers
        if answers is None or not answers.classes or not self.pool.is_ready:
            raise InputError("the model has no answers yet: label pictures of two classes first")
        best, sure = answers.probability.argmax(1), answers.probability.max(1)
        may = [
            i
            for i, digest in enumerate(self.pool.digests)
            if sure[i] >= 0 and digest not in state.labels and not is_reserved(digest)
        ]
        may.sort(key=lambda i: -sure[i])
        n = int((np.cumsum(sure[may]) >= promise * np.arange(1, len(may) + 1)).sum())
        labels = {i: _now(answers.classes[best[i]], state) for i in may[:n]}
        sorted_so = {self.pool.digests[i]: label for i, label in labels.items() if label is not None}
        if not sorted_so:
            raise InputError(f"the model would sort no picture at a promise of {promise:g}: give it more labels")
        return Audit(sorted_so, promise, seed)

    def standing(self) -> Standing:
        """How far one has come."""
        state, answers = self.store.state, self.learner.answers
        counted = Counter(state.labels.values())
        return Standing(
            state.version,
            {number: counted[number] for number in state.classes},
            len(state.skipped),
            -1 if answers is None else answers.version,
            0 if answers is None else answers.seen,
            self._error(state, answers),
            self.learner.trouble,
        )

    def answer(self, picture: int) -> dict[int, float]:
        """The probability of each class, by its number, the most probable first; empty where nothing is known."""
        answers = self.learner.answers
        if answers is None or not answers.classes or np.isnan(answers.probability[picture, 0]):
            return {}
        return self._of_today(zip(answers.classes, answers.probability[picture].tolist(), strict=True))

    def guess(self, content: bytes) -> dict[int, float]:
        """The same of a picture from elsewhere, by its file's content; errors as of `Learner.answer`."""
        return self._of_today(self.learner.answer(content, self.store.state).items())

    def number(self, digest: str) -> int | None:
        """Of a picture, once all have been looked at; None if it is not here."""
        return next(iter(self._numbers.get(digest, ())), None)

    # --- details ---

    def _of_today(self, answer: Iterable[tuple[int, float]]) -> dict[int, float]:
        """By the classes that there are now, the most probable first."""
        state, found = self.store.state, dict[int, float]()
        for label, share in answer:
            if (now := _now(label, state)) is not None:
                found[now] = found.get(now, 0.0) + share
        return dict(sorted(found.items(), key=itemgetter(1), reverse=True))

    def _error(self, state: State, answers: Answers | None) -> Estimate:
        """Of the pictures that were drawn at random, which no model has learned."""
        if answers is None or not answers.classes or not self.pool.is_ready or not state.drawn:
            return estimate(0, 0)
        best = answers.probability.argmax(1)
        right = [
            _now(answers.classes[best[i]], state) == state.labels[digest]
            for digest in state.drawn
            for i in self._numbers.get(digest, ())[:1]
            if not np.isnan(answers.probability[i, 0])
        ]
        return estimate(len(right) - sum(right), len(right))

    def _question(self, picture: int, why: str) -> Question:
        best = next(iter(self.answer(picture).items()), (None, 0.0))
        return Question(picture, why == "random", why, *best)

    def _before_all_are_known(self, n: int, but: set[int], state: State) -> list[Question]:
        """Before all have been looked at, the folder's files say something of them: classes often lie together."""
        found: list[Question] = []
        for i in self._spread_numbers:
            if len(found) == n:
                break
            if i not in but and self.pool.digest(i) not in state.labels.keys() | state.skipped:
                found.append(Question(i, is_drawn=False, why="spread"))
        return found

    def _done(self, told: Collection[str], but: Collection[int], answers: Answers | None) -> set[int]:
        """Groups of pictures that need not be asked for."""
        numbers = {i for digest in told for i in self._numbers.get(digest, ())} | set(but)
        return {self._group(i, answers) for i in numbers}

    def _group(self, picture: int, answers: Answers | None) -> int:
        if answers is not None:
            return int(answers.groups[picture])
        return self._numbers.get(self.pool.digests[picture], [picture])[0]

    @cached_property
    def _numbers(self) -> Mapping[str, list[int]]:
        """Of pictures by digest."""
        found: dict[str, list[int]] = {}
        for i, digest in enumerate(self.pool.digests):
            if digest:
                found.setdefault(digest, []).append(i)
        return found

    @cached_property
    def _reserve(self) -> list[tuple[int, str]]:
        """Pictures that are asked for by chance alone, in random order."""
        digests = sorted(filter(is_reserved, self._numbers), key=chance)
        return [(self._numbers[digest][0], "random") for digest in digests]

    @cached_property
    def _spread(self) -> list[int]:
        """The others, evenly spread over the folder."""
        return [i for i in self._spread_numbers if (d := self.pool.digests[i]) and not is_reserved(d)]

    @cached_property
    def _spread_numbers(self) -> list[int]:
        """All, so that the first few lie evenly spread in the order of their names (van der Corput)."""
        bits = max(len(self.pool) - 1, 1).bit_length()
        mirrored = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits))
        return [i for i in mirrored if i < len(self.pool)]


def _now(label: int, state: State) -> int | None:
    """What has become of a class; None if it was taken back."""
    while label in state.merged:
        label = state.merged[label]
    return label if label in state.classes else None
