"""A learned prior over switches, coarse to fine: logistic regressions on what has been drawn already.

Slide "Key Limitations & Challenges": samples are poor, "due to the enormous number of iid switches". Here a switch
depends on the class, on the level above and on its own level as far as that is drawn.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.errors import InputError
from drmm.model.deep import DRMM
from drmm.model.patch_prior import inferred
from drmm.model.priors import Prior, SwitchPrior
from drmm.model.randomness import uniform
from drmm.rendering import Switches

__all__ = ["LearnedPrior", "learn_prior"]

_HELD_OUT = 10  # one image in so many says when to stop
_PATIENCE = 3  # epochs without a gain on them
_BATCH, _RATE = 50, 0.01


@final
class LearnedPrior(nn.Module, Prior):
    """p(g | c) = Π over levels and positions of p(g_x | what is drawn around x, c), by logistic regressions.

    Levels go from the top down, the positions x of a level row by row. The log-odds of a switch, or of each place
    that t can point to, are those of the independent prior and a sum over what is drawn: the units of the 3 × 3
    positions of the level above that lie over x, and of the neighbours of x that come before it. Weights are those
    of all positions of a level, but for what the class adds. Given these, the switches of a position are
    independent. With weights of 0, as made, p is the independent prior.

    Args:
        frequencies: the independent prior.
        switches: of any images of the model.
        n_classes: how many there are.
    """

    def __init__(self, frequencies: SwitchPrior, switches: Switches, n_classes: int) -> None:
        super().__init__()
        leaves = list(switches.leaves())
        above = [*(_state(leaf).shape[1] for leaf in leaves[1:]), 0]
        self.levels = nn.ModuleList(
            _Level(leaf, _log_odds(frequencies, number, leaf), inputs, n_classes)
            for number, (leaf, inputs) in enumerate(zip(leaves, above, strict=True))
        )

    def log_prob(self, switches: Switches, label: Tensor | None = None) -> Tensor:
        """Log p(g | c) of each image, (N,), in nats.

        Raises:
            InputError: if there are no labels.
        """
        if label is None:
            raise InputError("learned switches depend on the class: pass labels")
        leaves = list(switches.leaves())
        states = [*map(_state, leaves), None]
        total = torch.zeros(len(label), device=label.device)
        for level, leaf, own, above in zip(self._each(), leaves, states[:-1], states[1:], strict=True):
            logits = level.given(above, label) + level.own(cast("Tensor", own))
            total = total + level.log_prob(leaf, logits)
        return total

    @torch.no_grad()
    def sample(self, label: Tensor, like: Switches, generator: torch.Generator | None = None) -> Switches:
        """Draw the switches of an image of each class (N,); see `Prior.sample`."""
        above, drawn = None, []
        for level, leaf in reversed(list(zip(self._each(), like.leaves(), strict=True))):
            drawn.append(level.draw(leaf, level.given(above, label), generator))
            above = _state(drawn[-1])
        number = itertools.count(1)
        return like.map_leaves(lambda _: drawn[-next(number)])

    def _each(self) -> Iterator[_Level]:
        return (cast("_Level", level) for level in self.levels)


class _Level(nn.Module):
    """The regressions of one level.

    Args:
        leaf: its switches in any images.
        log_odds: by the independent prior, (outputs, H, W).
        above: how many numbers describe a position of the level above, 0 if there is none.
        n_classes: how many.
    """

    def __init__(self, leaf: Switches, log_odds: Tensor, above: int, n_classes: int) -> None:
        super().__init__()
        self.base: Tensor
        self.drawn: Tensor
        self.register_buffer("base", log_odds)
        self.register_buffer("drawn", torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0, 0]]))  # before the middle
        outputs = len(log_odds)
        self.of_class = nn.Parameter(torch.zeros(n_classes, *log_odds.shape))
        self.beside = nn.Parameter(torch.zeros(outputs, _state(leaf).shape[1], 3, 3))
        self.above = nn.Parameter(torch.zeros(outputs, above, 3, 3))

    def given(self, above: Tensor | None, label: Tensor) -> Tensor:
        """Log-odds as far as they depend on the class and on the level above, (N, outputs, H, W)."""
        logits = self.base + self.of_class[label]
        if above is None:
            return logits
        return logits + F.conv2d(F.interpolate(above.to(self.above), self.base.shape[1:]), self.above, padding=1)

    def own(self, state: Tensor) -> Tensor:
        """What is drawn of the level itself adds to them, of the same shape."""
        return F.conv2d(state.to(self.beside), self.beside * self.drawn, padding=1)

    def log_prob(self, leaf: Switches, logits: Tensor) -> Tensor:
        """Of a level's switches, (N,), by the log-odds of all."""
        total = torch.zeros(len(logits), device=logits.device)
        for name, choice, own in _by_choice(leaf, logits):
            chosen = choice.reshape(len(choice), *own.shape[2:])
            if name == "t":
                log_p = own.log_softmax(1).gather(1, chosen.long()[:, None])
            else:
                log_p = F.logsigmoid(torch.where(chosen[:, None], own, -own))
            total = total + log_p.flatten(1).sum(1)
        return total

    def draw(self, leaf: Switches, given: Tensor, generator: torch.Generator | None) -> Switches:
        """Position by position, as each depends on those before it."""
        n, (height, width) = len(given), given.shape[2:]
        blank: dict[str, Any] = {
            name: torch.zeros((n, *choice.shape[1:]), dtype=choice.dtype, device=given.device)
            for name, choice in leaf.choices()
        }
        drawn = replace(leaf, **blank)
        padded = F.pad(_state(drawn).to(self.beside), (1, 1, 1, 1))
        kernel = (self.beside * self.drawn).flatten(1)
        for i, j in itertools.product(range(height), range(width)):
            around = padded[:, :, i : i + 3, j : j + 3].flatten(1)
            logits = given[:, :, i, j] + around @ kernel.T
            here: dict[str, Any] = {}
            for name, choice, own in _by_choice(leaf, logits[..., None, None]):
                p = (own.softmax(1) if name == "t" else own.sigmoid())[..., 0, 0]
                here[name] = _drawn(p, generator, categorical=name == "t").to(choice.dtype)
                blank[name].view(n, -1, height, width)[:, :, i, j] = here[name]
            padded[:, :, i + 1, j + 1] = _state(replace(leaf, **here))[..., 0, 0]
        return drawn


def learn_prior(
    model: DRMM, x: Tensor, label: Tensor | None = None, *, epochs: int = 50, decay: float = 1e-4, seed: int = 0
) -> LearnedPrior:
    """The learned prior of the switches that a model infers for training images.

    Args:
        model: whose levels infer them, in evaluation mode.
        x: images (N, C, H, W), 20 or more.
        label: their classes (N,), -1 where not known: then ĉ, the model's own guess.
        epochs: at the most; it stops where one image in ten, which is held out, gains no more.
        decay: weight of the squares of the weights.
        seed: of the order of images, and which are held out.

    Raises:
        InputError: if there are fewer images, or the model draws only what it has seen.
    """
    if len(x) < 2 * _HELD_OUT:
        raise InputError(f"a prior is learned from {2 * _HELD_OUT} images or more, got {len(x)}")
    switches, classes = inferred(model, x, label)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    held, kept = order[::_HELD_OUT], order[torch.arange(len(x)) % _HELD_OUT > 0]
    frequencies = SwitchPrior(switches)
    frequencies.update(switches.select(kept))
    prior = LearnedPrior(frequencies, switches, model.n_classes)
    optimiser = torch.optim.Adam(prior.parameters(), lr=_RATE)
    best, state, waited = -torch.inf, deepcopy(prior.state_dict()), 0
    for _ in range(epochs):
        for part in kept[torch.randperm(len(kept), generator=generator)].split(_BATCH):
            squares = torch.stack([weight.square().sum() for weight in prior.parameters()]).sum()
            loss = decay * squares - prior.log_prob(switches.select(part), classes[part]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            found = float(prior.log_prob(switches.select(held), classes[held]).mean())
        best, state, waited = (
            (found, deepcopy(prior.state_dict()), 0) if found > best else (best, state, waited + 1)
        )
        if waited == _PATIENCE:
            break
    prior.load_state_dict(state)
    return prior.requires_grad_(False)  # noqa: FBT003  (torch's)


def _log_odds(frequencies: SwitchPrior, number: int, leaf: Switches) -> Tensor:
    """By the independent prior: of each switch, or for t the log-probability of each place, (outputs, H, W)."""
    found = []
    for name, choice in leaf.choices():
        p = frequencies.floored(number, name)
        odds = p.log() if name == "t" else p.logit()[None]
        found.append(odds.reshape(-1, *_size(choice)))
    return torch.cat(found)


def _by_choice(leaf: Switches, logits: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each choice by name, as it is, and its part of the log-odds, (N, values, C, H, W)."""
    start = 0
    for name, choice in leaf.choices():
        values = leaf.window.positions if name == "t" and leaf.window is not None else 1
        end = start + values * choice.shape[1]
        yield name, choice, logits[:, start:end].unflatten(1, (values, choice.shape[1]))
        start = end


def _state(leaf: Switches) -> Tensor:
    """What is drawn, as numbers (N, F, H, W): on or off, and of what is on its sign and where it points."""
    found: list[Tensor] = []
    on = torch.ones(()) if leaf.a is None else leaf.a.float()
    for name, choice in leaf.choices():
        if name == "t" and leaf.window is not None:
            found += [on * (choice == place) for place in range(1, leaf.window.positions)]
        else:
            found.append(on if name == "a" else on * (2 * choice.float() - 1))
    return torch.cat([each.reshape(len(each), each.shape[1], *_size(each)) for each in found], 1)


def _size(choice: Tensor) -> tuple[int, int]:
    """(H, W) of the positions; a level without positions has one."""
    height, width = (*choice.shape[2:], 1, 1)[:2]
    return height, width


def _drawn(p: Tensor, generator: torch.Generator | None, *, categorical: bool) -> Tensor:
    """A choice by each probability (N, 1, C), or by those along the second dimension, (N, C)."""
    draws = uniform((p.shape[0], p.shape[2]), p, generator)
    if not categorical:
        return draws < p[:, 0]
    return (draws[:, None] >= p.cumsum(1)[:, :-1]).sum(1)
