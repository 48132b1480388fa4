"""How many labels does it take until every class has been seen? `make coverage`.

A person labels 300 digits by what `drmm label` asks for, and is faster than the model: its answers are five
labels old when they come, every fifth label, the first after ten. Digits (8 x 8) and MNIST are drawn as they are,
and so that four classes have 150 pictures each and six have ten. Beside it are labels at random. `drmm label` does
not know how many classes there are.
"""

from __future__ import annotations

from argparse import Namespace
from itertools import product
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from drmm.data import load
from drmm.labelling.answering import answers_of
from drmm.labelling.asking import geometry
from drmm.labelling.features import untaught
from drmm.labelling.session import Session
from drmm.labelling.store import Event, State
from drmm.learning.features import features_of
from drmm.progress import track
from scripts.study import Results, study

Array = np.ndarray[Any, Any]
SETS, FORMS = ("digits", "mnist-5k"), ("as they are", "six rare classes")
N, OFTEN, RARE = 300, 150, 10  # pictures, of all or of a class
LATE, FIRST, MOST = 5, 10, 150  # labels


class Drawn(NamedTuple):
    """Pictures of a folder: points (N, D), and classes (N,)."""

    points: Array
    y: Array


def draw(name: str, form: str, seed: int) -> Drawn:
    """Some pictures of a set, as `drmm label` sees them."""
    data, generator = load(name), np.random.default_rng(seed)
    x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    rows = generator.permutation(len(x))
    if form == FORMS[0]:
        rows = rows[:N]
    else:
        often = generator.permutation(len(data.classes))[:4]
        some = [rows[y[rows] == c][: OFTEN if c in often else RARE] for c in range(len(data.classes))]
        rows = generator.permutation(np.concatenate(some))
    features = features_of(untaught(torch.from_numpy(x[rows])), torch.from_numpy(x[rows]), progress=False).numpy()
    return Drawn(geometry(features).transform(features), y[rows])


class Folder:
    """The pool of a folder that has been looked at.

    Args:
        digests: of its pictures.
    """

    is_ready = True

    def __init__(self, digests: list[str]) -> None:
        self.digests = digests

    def __len__(self) -> int:
        return len(self.digests)


class Late:
    """A learner whose answers come late.

    Args:
        seen: the pictures.
    """

    def __init__(self, seen: Any) -> None:
        self._seen, self._states, self.answers, self.trouble = seen, list[State](), None, ""

    def learn(self, state: State) -> None:
        """One label more."""
        self._states.append(state.copy())
        n = len(self._states) - 1
        if n >= FIRST and n % LATE == 0:
            self.answers = answers_of(self._seen, self._states[n - LATE])


def asked(drawn: Drawn, seed: int) -> int:
    """Labels until every class has been seen, by what `drmm label` asks for; MOST if it takes more."""
    numbers = np.arange(len(drawn.y))
    digests = [f"{seed:04x}{i:028x}" for i in numbers]
    state, classes = State(), np.unique(drawn.y)
    state.classes = {c: str(c) for c in classes.tolist()}
    seen = SimpleNamespace(
        files=numbers, digests=digests, number=numbers, points=drawn.points, groups=numbers, copies=numbers
    )
    store = SimpleNamespace(state=state)
    session = Session(cast("Any", Folder(digests)), cast("Any", store), cast("Any", Late(seen)))
    left = set(classes.tolist())
    for n in range(1, MOST):
        (one,) = session.next()
        label = int(drawn.y[one.picture])
        state.take(Event(n, "label", {digests[one.picture]: label}, drawn=one.is_drawn))
        state.version = n
        left.discard(label)
        if not left:
            return n
        session.learn()
    return MOST


def at_random(drawn: Drawn, seed: int) -> int:
    """The same, of labels that are drawn at random."""
    order = drawn.y[np.random.default_rng(seed).permutation(len(drawn.y))]
    return int(np.unique(order, return_index=True)[1].max()) + 1


def run(asked_for: Namespace) -> Results:
    """Every set, every form, every draw."""
    cells: Results = {f"{name}, {form}": {"asked": [], "random": []} for name in SETS for form in FORMS}
    for name, form, seed in track(list(product(SETS, FORMS, range(asked_for.seeds))), "folders"):
        drawn = draw(name, form, seed)
        cells[f"{name}, {form}"]["asked"].append(asked(drawn, seed))
        cells[f"{name}, {form}"]["random"].append(at_random(drawn, seed))
    return {"sets": cells}


def table(results: Results) -> str:
    """The mean and the most over all draws."""
    lines = ["| set | `drmm label`: mean | most | random: mean | most |", "|---|--:|--:|--:|--:|"]
    for name, told in results["sets"].items():
        figures = " | ".join(f"{np.mean(ns):.0f} | {max(ns)}" for ns in (told["asked"], told["random"]))
        lines.append(f"| {name} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    study(run, table, name="coverage", target="coverage", seeds=10)
