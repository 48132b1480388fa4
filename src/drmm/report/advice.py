"""What to do next, from what is known of a run and its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from drmm.display.text import one_line
from drmm.trust.assessment import Surest

__all__ = ["State", "advice"]

_FEW = 3  # labels that do not show what a class is
_LOW, _SEEN = 0.7, 5  # recall that is low, and of how many pictures at least it is one
_MANY = 0.05  # share of unfamiliar pictures that is no accident
_NAMED = 3  # classes


@dataclass(frozen=True)
class State:
    """What is known.

    Attributes:
        labels: how many each class has.
        promise: share of the sorted pictures that is to be right.
        surest: what may be sorted by it; None where the run does not say.
        recall: of each class, how many pictures were found and how many there are.
        doubtful: pictures whose label may be wrong.
        leaks: pictures that are both learned from and tested with.
        unfamiliar: how many pictures the model does not know, and of how many.
        unreadable: files.
        sorted_into: folder into which the model sorted pictures; "" where it sorted none.
        unsure: how many pictures are in `_unsure/`.
        strangers: share of the unlabelled pictures that is not like the labelled ones.
    """

    labels: Mapping[str, int] = field(default_factory=dict)
    promise: float = 0.98
    surest: Surest | None = None
    recall: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    doubtful: int = 0
    leaks: int = 0
    unfamiliar: tuple[int, int] = (0, 0)
    unreadable: int = 0
    sorted_into: str = ""
    unsure: int = 0
    strangers: float = 0.0


def advice(state: State) -> tuple[str, ...]:
    """Sentences, what is most urgent first; none where nothing stands out."""
    return (*_of_labels(state), *_of_the_promise(state), *_of_pictures(state))


def _of_labels(state: State) -> Iterator[str]:
    if state.doubtful:
        yield f"Correct the labels that are wrong, of {state.doubtful:,} that may be (below), and train again."
    few = sorted((n, name) for name, n in state.labels.items() if n < _FEW)
    if few:
        named = _listed([f"{one_line(name)} ({n})" for n, name in few])
        yield f"Label more of {named}: fewer than {_FEW} labels do not show what a class is."
    low = {name: (found, of) for name, (found, of) in state.recall.items() if of >= _SEEN and found < _LOW * of}
    if low:
        order = sorted(low, key=lambda name: low[name][0] / low[name][1])
        named = _listed([f"{one_line(name)} ({low[name][0]:,} of {low[name][1]:,})" for name in order])
        yield f"Label more of the classes that are found too rarely: {named}."


def _of_the_promise(state: State) -> Iterator[str]:
    surest, labels, right = state.surest, sum(state.labels.values()), f"{100 * state.promise:g} %"
    if state.strangers:
        yield (
            f"Label some of each class, drawn at random: {100 * state.strangers:.2g} % of the unlabelled "
            "pictures, at the least, are not like the labelled ones, and nothing can be promised."
        )
    elif surest is not None and not surest.promised:
        if surest.labels is None:
            yield f"Promise less: no number of labels can show that {right} are right."
        elif surest.labels > labels:
            yield (
                f"Label {surest.labels - labels:,} more, drawn at random: {labels:,} labels cannot show that "
                f"{right} of what is sorted is right, {surest.labels:,} at the least might."
            )
        else:
            yield f"Label more, or promise less: the {labels:,} labels do not show that {right} are right."
    elif state.unsure:
        yield f"Label some of the {state.unsure:,} pictures in _unsure/ and train again: they teach most."
    if state.sorted_into:
        yield f"Look at some of what was sorted: drmm audit {state.sorted_into} says how many are wrong at most."


def _of_pictures(state: State) -> Iterator[str]:
    strange, of = state.unfamiliar
    if strange > _MANY * of:
        yield (
            f"Look at the {strange:,} of {of:,} pictures that are unlike what the model learned from. If they are "
            "of classes that no label names, label some of each; if they do not belong here, remove them."
        )
    if state.leaks:
        yield f"Keep each picture in train/ or in test/: {state.leaks:,} are in both, and the test error flatters."
    if state.unreadable:
        yield f"Copy the files again that cannot be read: {state.unreadable:,}, listed below."


def _listed(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
