"""A patch prior: switches drawn coarse-to-fine from patches of training images, so that samples hang together.

The slides admit that switches drawn independently make poor samples. Here every position of every level takes all
its switches from one training image of the class: one of those whose switches, in the patch around that position,
are most like what has been drawn already, on the level above and beside it. Each position asks anew, so a sample
is put together from patches of many images.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from drmm.errors import InputError
from drmm.model.deep import DRMM, evaluation
from drmm.model.priors import Prior, SwitchPrior
from drmm.model.randomness import categorical, uniform
from drmm.rendering import Switches

__all__ = ["PatchPrior", "borrow"]

_CHUNK = 50  # images drawn or judged at once

_Cell = dict[str, Tensor]  # the choices of all units at one position, (N, C) each, by name
_Choose = Callable[[int, int, Tensor], _Cell]


@final
class PatchPrior(Prior):
    """p(g | c) = Π over levels and positions of p(g_x | patch around x), as training images have it.

    Levels go from the top down, the positions x of a level row by row. The patch around x is the 3 × 3 positions
    of the level above that lie over it, and of its own level those next to it that are drawn already. A training
    image of the class is as far away as units of the patch differ: in a, in t where both are on, or in s. g_x is
    copied from one of the nearest neighbours, or of all that are as near as the last of them, each as probable as
    any other. With probability ε a switch is not copied but drawn by itself, from its frequencies in the class:

        p(g_x | patch) = mean over neighbours n of Π over switches u of (1 - ε) [g_u = g_u(n)] + ε p(g_u | c).

    So p is a distribution, and ε = 1 is the independent prior of each class. One neighbour copies whole images, as
    many as there are images makes the positions independent of each other. Shannon's n-grams are the same idea for
    text, and Efros and Leung's synthesis for textures.

    Args:
        switches: of the training images; their frozen scales do not matter.
        label: their classes, (N,).
        neighbours: how many training images are near: few copy, many mix.
        backoff: ε, in [0, 1].

    Raises:
        InputError: if an argument is out of range, or there are no images.
    """

    def __init__(self, switches: Switches, label: Tensor, *, neighbours: int = 5, backoff: float = 0.0) -> None:
        if len(label) == 0:
            raise InputError("there is no image to borrow switches from: pass one of every class")
        self._banks = {c: _Bank.of(switches.select(label == c)) for c in label.unique().tolist()}
        self._tune(neighbours, backoff)

    def tuned(self, *, neighbours: int | None = None, backoff: float | None = None) -> PatchPrior:
        """The same training images with other settings; None keeps one.

        Raises:
            InputError: if a setting is out of range.
        """
        other = copy(self)
        other._tune(  # noqa: SLF001 - a copy of this one
            self.neighbours if neighbours is None else neighbours, self.backoff if backoff is None else backoff
        )
        return other

    def _tune(self, neighbours: int, backoff: float) -> None:
        if neighbours < 1 or not 0 <= backoff <= 1:
            raise InputError("neighbours must be 1 or more, and backoff lie in [0, 1]")
        self.neighbours = neighbours
        self.backoff = backoff

    @torch.no_grad()
    def sample(self, label: Tensor, like: Switches, generator: torch.Generator | None = None) -> Switches:
        """Draw the switches of an image of each class (N,); see `Prior.sample`.

        Raises:
            InputError: if there is no training image of a class.
        """
        drawn = [
            {name: choice.new_empty(len(label), *choice.shape[1:]) for name, choice in leaf.choices()}
            for leaf in like.leaves()
        ]
        for bank, index in self._by_class(label):
            for level, cells in zip(drawn, self._draw(bank, len(index), generator), strict=True):
                for name, choice in level.items():
                    choice[index] = cells[name].reshape(choice[index].shape).to(choice.dtype)
        number = itertools.count()

        def take(leaf: Switches) -> Switches:
            chosen: dict[str, Any] = drawn[next(number)]
            return replace(leaf, **chosen)

        return like.map_leaves(take)

    @torch.no_grad()
    def log_prob(self, switches: Switches, label: Tensor | None = None) -> Tensor:
        """Log p(g | c) of each image, (N,), in nats; as low as numbers allow for what ε = 0 makes impossible.

        Raises:
            InputError: if there are no labels, or no training image of a class.
        """
        if label is None:
            raise InputError("borrowed switches depend on the class: pass labels")
        total = torch.zeros(len(label), device=label.device)
        for bank, index in self._by_class(label):
            total[index] = self._judge(bank, [_Grid.of(leaf) for leaf in switches.select(index).leaves()])
        return total

    def _by_class(self, label: Tensor) -> Iterator[tuple[_Bank, Tensor]]:
        """The training images of each class, and the indices of some of that class in `label`."""
        for c in label.unique().tolist():
            if c not in self._banks:
                raise InputError(f"no training image of class {c} to borrow switches from: pass some")
            for index in torch.nonzero(label == c).squeeze(1).split(_CHUNK):
                yield self._banks[c], index

    def _draw(self, bank: _Bank, n: int, generator: torch.Generator | None) -> list[_Cell]:
        """Choices (n, C, positions) of each level, pixels first."""
        drawn = [
            {name: choice.new_empty(n, *choice.shape[1:]) for name, choice in grid.choices.items()}
            for grid in bank.grids
        ]

        def choose(level: int, index: int, near: Tensor) -> _Cell:
            neighbour = categorical(near, 1, generator).squeeze(1)
            cell = {name: choice[neighbour] for name, choice in bank.grids[level].cell(index).items()}
            if self.backoff > 0:
                for name, choice in cell.items():
                    odds = bank.frequency(level, name, index)
                    own = uniform(choice.shape, odds, generator) < self.backoff
                    cell[name] = torch.where(own, categorical(odds.T, n, generator).T.to(choice.dtype), choice)
            for name, choice in cell.items():
                drawn[level][name][:, :, index] = choice
            return cell

        self._descend(bank, n, choose)
        return drawn

    def _judge(self, bank: _Bank, grids: list[_Grid]) -> Tensor:
        n = len(next(iter(grids[0].choices.values())))
        total = torch.zeros(n, device=bank.device)

        def choose(level: int, index: int, near: Tensor) -> _Cell:
            cell, training = grids[level].cell(index), bank.grids[level].cell(index)
            log_p = torch.where(near, 0.0, -torch.inf)
            for name, choice in cell.items():
                frequency = _value(bank.frequency(level, name, index), choice)
                copied = (1 - self.backoff + self.backoff * frequency).log()
                tiny = torch.finfo(frequency.dtype).tiny
                redrawn = (self.backoff * frequency).clamp(min=tiny).log()
                same = choice[:, None] == training[name]
                log_p = log_p + torch.where(same, copied[:, None], redrawn[:, None]).sum(2)
            total.add_(log_p.logsumexp(1) - near.sum(1).log())
            return cell

        self._descend(bank, n, choose)
        return total

    def _descend(self, bank: _Bank, n: int, choose: _Choose) -> None:
        """Let `choose` fill each position, top down: given level, index and which images are near (n, N)."""
        apart: Tensor | None = None
        for level in reversed(range(len(bank.grids))):
            grid = bank.grids[level]
            height, width = grid.size
            above = None if apart is None else _over(apart, grid.size)
            apart = torch.zeros(height, width, n, bank.n, device=bank.device)
            for i, j in itertools.product(range(height), range(width)):
                around = apart[max(0, i - 1) : i, max(0, j - 1) : j + 2].sum((0, 1))
                if j > 0:
                    around = around + apart[i, j - 1]
                if above is not None:
                    around = around + above[i, j]
                index = i * width + j
                cell = choose(level, index, _nearest(around, self.neighbours))
                apart[i, j] = torch.cdist(_state(cell), _state(grid.cell(index)), p=0)


def borrow(
    model: DRMM, x: Tensor, label: Tensor | None = None, *, neighbours: int = 5, backoff: float = 0.0
) -> PatchPrior:
    """The patch prior of the switches that a model infers for training images.

    Args:
        model: whose levels infer them, in evaluation mode.
        x: images (N, C, H, W).
        label: their classes (N,), -1 where not known: then ĉ, the model's own guess.
        neighbours: as for `PatchPrior`.
        backoff: likewise.

    Raises:
        InputError: as of `PatchPrior`, or if the model draws only what it has seen.
    """
    return PatchPrior(*inferred(model, x, label), neighbours=neighbours, backoff=backoff)


@torch.no_grad()
def inferred(model: DRMM, x: Tensor, label: Tensor | None) -> tuple[Switches, Tensor]:
    """The switches that a model infers in evaluation mode, and classes (N,); arguments, errors as of `borrow`."""
    model.check_samples()
    with evaluation(model):
        guess, _, switches = model.max_sum(x, None)
    return switches, guess if label is None else torch.where(label >= 0, label, guess)


@dataclass(frozen=True)
class _Grid:
    """The choices of one level, its positions in a row.

    Attributes:
        choices: by name, (N, C, positions).
        size: (H, W) of the positions; a level without positions has one.
    """

    choices: _Cell
    size: tuple[int, int]

    @classmethod
    def of(cls, leaf: Switches) -> _Grid:
        choices = dict(leaf.choices())
        shape = next(iter(choices.values())).shape
        size = (shape[2], shape[3]) if len(shape) == 4 else (1, 1)
        return cls({name: choice.reshape(*choice.shape[:2], -1) for name, choice in choices.items()}, size)

    def cell(self, index: int) -> _Cell:
        return {name: choice[:, :, index] for name, choice in self.choices.items()}


@dataclass(frozen=True)
class _Bank:
    """The training images of one class.

    Attributes:
        grids: their choices, pixels first.
        frequencies: how often each choice is made in the class.
        n: how many images.
    """

    grids: list[_Grid]
    frequencies: SwitchPrior
    n: int

    @classmethod
    def of(cls, switches: Switches) -> _Bank:
        frequencies = SwitchPrior(switches)
        frequencies.update(switches)
        grids = [_Grid.of(leaf) for leaf in switches.leaves()]
        return cls(grids, frequencies, len(next(iter(grids[0].choices.values()))))

    @property
    def device(self) -> torch.device:
        return next(iter(self.grids[0].choices.values())).device

    def frequency(self, level: int, name: str, index: int) -> Tensor:
        """Probability of each value of the units at a position, (values, C)."""
        p = self.frequencies.floored(level, name)
        if name != "t":
            p = torch.stack([1 - p, p])
        return p.reshape(*p.shape[:2], -1)[..., index]


def _over(apart: Tensor, size: tuple[int, int]) -> Tensor:
    """Differences (H', W', n, N) of the level above, in the 3 × 3 positions over each position: (H, W, n, N)."""
    sums = F.avg_pool2d(apart.permute(2, 3, 0, 1), 3, stride=1, padding=1, divisor_override=1)
    return F.interpolate(sums, size, mode="nearest").permute(2, 3, 0, 1).contiguous()


def _state(choices: _Cell) -> Tensor:
    """A number for what each unit does, float: 0 where it is off, as nobody sees the position of what is off."""
    kind = 1 + 2 * choices["t"].float() if "t" in choices else torch.ones(())
    kind = kind + choices["s"].float() if "s" in choices else kind
    return kind * choices["a"] if "a" in choices else kind


def _nearest(distance: Tensor, k: int) -> Tensor:
    """Which of the distances (n, N) are among the k smallest of a row, or as small as the last of these."""
    last = distance.kthvalue(min(k, distance.shape[1]), dim=1, keepdim=True).values
    return distance <= last


def _value(probability: Tensor, choice: Tensor) -> Tensor:
    """The probability of each choice (n, C) by the table (values, C)."""
    return probability.expand(len(choice), *probability.shape).gather(1, choice.long()[:, None]).squeeze(1)
