"""Exact inference for any signs: linear bounds, and branching over the switches that they leave open.

The score is a maximum over all switches. Going down from the class template, each gate and pool is replaced by a
line that is nowhere below it (`Rendering.relaxed`): units that share switches below share them in the bound, which
two messages let each choose for itself. What comes down to a gate also says how to choose on the way up, so that a
configuration stands beside every bound. Where the two differ, the unit that has most part in it is tried with each
of its choices (branch and bound: Land & Doig, 1960).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from drmm.errors import InputError
from drmm.model.certificate import Certificate
from drmm.model.deep import DRMM, Latents
from drmm.model.drawing import draw, fit_amplitude
from drmm.model.modes import evaluation
from drmm.rendering import Gate, Pool, Rendering, Switches
from drmm.rendering.base import Down
from drmm.rendering.kinds import picked
from drmm.rendering.passes import parts_of

__all__ = ["branch_and_bound"]

_AT_ONCE = 16  # nodes that are split together: many cost hardly more than one


@torch.no_grad()
def branch_and_bound(model: DRMM, x: Tensor, label: Tensor | int | None = None, *, budget: int = 1000) -> Latents:
    """Joint MAP of a net of any signs for max_{c,g} ⟨μ_cg, I⟩, or how far off it may be at most.

    The best configuration that was met, no worse than the bottom-up pass's, and a bound no higher than that of two
    messages; in evaluation mode. They meet (`Latents.certified`) if the budget allows it, and so in small nets.

    Args:
        model: where `DRMM.upper_bound` is finite. Switches inside of a `Graph` are bounded, but not split.
        x: images (N, C, H, W).
        label: condition on a class, (N,) or one for all; None finds the best.
        budget: how many nodes to split for each image; 0 is the linear bound alone.

    Raises:
        InputError: if the budget is negative, or the labels do not fit.
        NoBoundError: if a rendering has no bound.
    """
    if budget < 0:
        raise InputError(f"budget must be 0 or more, got {budget}")
    with evaluation(model):
        model.check_bounded()
        start = model.infer(x, label)
        model.levels.bounds(x, x)  # refuses what has none
        classes = torch.arange(model.n_classes, device=x.device)
        found = []
        for i in range(len(x)):
            search = _Search(model, x[i : i + 1], start.select(slice(i, i + 1)))
            found.append(search.run(classes if label is None else start.label[i : i + 1], budget))
        names = ("label", "score", "logits", "upper_bound", "features")
        label, score, logits, bound, features = (
            torch.cat([getattr(one, name) for one in found]) for name in names
        )
        switches = Switches.joined([one.switches for one in found])
        amplitude = fit_amplitude(x, draw(model.levels, model.templates.weight[label], switches))
    return Latents(label, score, logits, Certificate(bound), amplitude, switches, features=features)


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Sets of configurations, in each of which some switches are held.

    Attributes:
        label: class, (M,).
        held: the choice of each unit of each gate and pool, -1 where it is free, (M, U).
        bound: no configuration among them scores more, (M,).
        unit: the free one that has most part in the bound's distance from a score, (M,); -1 if none has.
    """

    label: Tensor
    held: Tensor
    bound: Tensor
    unit: Tensor

    def select(self, index: Tensor) -> _Nodes:
        """Some of them."""
        return _Nodes(self.label[index], self.held[index], self.bound[index], self.unit[index])

    def joined(self, other: _Nodes) -> _Nodes:
        """These and others."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("label", "held", "bound", "unit"))
        return _Nodes(*map(torch.cat, pairs))


class _Search:
    """Branch and bound for one image (1, C, H, W), from what the bottom-up pass found."""

    def __init__(self, model: DRMM, x: Tensor, start: Latents) -> None:
        self.model, self.x, self.best = model, x, start
        self.layers = parts_of(model.levels)
        self.shapes = list[tuple[int, ...] | None]()  # of the choice of each layer, None if it has none
        self.options = list[list[int]]()  # of each unit that chooses
        for layer in self.layers:
            options = _options(layer, x)
            self.shapes.append(None if options is None else tuple(options.shape[:-1]))
            if options is not None:
                self.options += [row.nonzero().flatten().tolist() for row in options.flatten(0, -2)]
            x = layer.infer(x.clone())[0]

    def run(self, labels: Tensor, budget: int) -> Latents:
        """The best of some classes; so many nodes are split."""
        nodes = self._bounded(labels, labels.new_full((len(labels), len(self.options)), -1))
        while True:
            score = self.best.score
            rounding = 1e2 * torch.finfo(score.dtype).eps * (1 + score.abs())
            nodes = nodes.select(nodes.bound > score + rounding)
            order = nodes.bound.argsort(descending=True)
            if not len(order) or not budget or nodes.unit[order[0]] < 0:
                break
            top = order[: min(budget, _AT_ONCE)]
            top = top[nodes.unit[top] >= 0]
            budget -= len(top)
            rest = torch.ones_like(nodes.unit, dtype=torch.bool).index_fill(0, top, value=False)
            nodes = nodes.select(rest).joined(self._split(nodes.select(top)))
        return replace(self.best, certificate=Certificate(torch.cat([nodes.bound, score]).amax(0, keepdim=True)))

    def _split(self, nodes: _Nodes) -> _Nodes:
        """Each with its unit held at one choice after the other."""
        pairs = [(i, k) for i, unit in enumerate(nodes.unit.tolist()) for k in self.options[unit]]
        parent, choice = torch.tensor(pairs, device=nodes.unit.device).T
        parents = nodes.select(parent)
        children = self._bounded(parents.label, parents.held.scatter(1, parents.unit[:, None], choice[:, None]))
        return replace(children, bound=torch.minimum(children.bound, parents.bound))

    def _bounded(self, label: Tensor, held: Tensor) -> _Nodes:
        """A bound of each, and a configuration, which may be the best so far."""
        model, x = self.model, self.x.expand(len(label), *self.x.shape[1:])
        layers = self._held(held)
        boxes, ways = [(x, x)], list[Down]()
        for layer in layers:
            box, way = layer.relaxed(*boxes[-1])
            boxes.append(box)
            ways.append(way)
        z, bias = model.templates.weight[label], model.templates.bias
        bound = z.new_zeros(len(z)) if bias is None else bias[label]
        templates = list[Tensor]()
        for way in reversed(ways):
            templates.append(z)
            z, offset = way(z)
            bound = bound + offset
        bound = bound + (z * x).flatten(1).sum(1)
        y, switches, apart = x, list[Switches](), [x.new_zeros(len(x), 0)]
        for layer, template, box, shape in zip(layers, reversed(templates), boxes, self.shapes, strict=False):
            before = y
            y, found = layer.reinfer(y, layer.infer(y.clone())[1], template)
            switches.append(found)
            if shape is not None:
                line = layer.line(template, before, *box, None)
                apart.append((line - template * y).sum_to_size(len(x), *shape).flatten(1))
        free = torch.cat(apart, 1).where(held < 0, 0.0)
        most, unit = F.pad(free, (0, 1)).max(1)  # a net may have no unit that chooses
        logits = model.templates(y)
        self._offer(label, logits, y, switches)
        messages = model.templates.bounds(*boxes[-1])[1].gather(1, label[:, None]).squeeze(1)
        return _Nodes(label, held, torch.minimum(bound, messages), unit.where(most > 0, -1))

    def _held(self, held: Tensor) -> list[Any]:
        """The layers, where each unit of a choice that is held has no other."""
        layers, first = list[Any](), 0
        for layer, shape in zip(self.layers, self.shapes, strict=True):
            if shape is None:
                layers.append(layer)
                continue
            own = held[:, first : first + math.prod(shape)].reshape(-1, *shape)
            layers.append(_HeldPool(layer, own) if isinstance(layer, Pool) else _HeldGate(layer, own))
            first += math.prod(shape)
        return layers

    def _offer(self, label: Tensor, logits: Tensor, features: Tensor, switches: Sequence[Switches]) -> None:
        """Keep the best of some configurations, if it is better than what is known."""
        score, i = logits.gather(1, label[:, None]).squeeze(1).max(0)
        if score <= self.best.score:
            return
        one = slice(int(i), int(i) + 1)
        leaves = (leaf for layer in switches for leaf in layer.select(one).leaves())
        found = (choice for leaf in leaves for _, choice in reversed(list(leaf.choices())))

        def take(leaf: Switches) -> Switches:
            """The choices one by one, the position before what is on: so are a level's parts in order."""
            names = reversed(list(leaf.choices()))
            own: dict[str, Any] = {name: next(found).to(was.dtype).reshape(was.shape) for name, was in names}
            return replace(leaf, **own)

        self.best = replace(
            self.best,
            label=label[one],
            score=score[None],
            logits=logits[one],
            features=features[one],
            switches=self.best.switches.map_leaves(take),
        )


@final
class _HeldGate(Gate):
    """A gate some of whose units are held on a piece: `held` is its number, -1 where a unit is free, (N, ...)."""

    def __init__(self, gate: Any, held: Tensor) -> None:
        super().__init__()
        self.gate, self.held = gate, held

    def choose(self, x: Tensor) -> Tensor:
        """The gate's own choice, or what is held."""
        own: Tensor = self.gate.choose(x)
        return own.long().where(self.held < 0, self.held)

    def pieces(self, x: Tensor) -> list[tuple[Any, ...]]:
        """Those of the gate; a unit that is held has but one."""
        pieces = [[value * torch.ones_like(x) for value in piece] for piece in self.gate.pieces(x)]
        only = [picked(self.held, values) for values in zip(*pieces, strict=True)]
        return [tuple(map(partial(torch.where, self.held < 0), piece, only)) for piece in pieces]


@final
class _HeldPool(Pool):
    """A pool some of whose units are held at a place, as `_HeldGate`."""

    def __init__(self, pool: Any, held: Tensor) -> None:
        super().__init__()
        self.pool, self.held = pool, held

    def candidates(self, x: Tensor) -> Tensor:
        """Those of the pool; a unit that is held has but one."""
        candidates: Tensor = self.pool.candidates(x)
        place = torch.arange(candidates.shape[-1], device=x.device)
        held = self.held[..., None]
        return candidates.where((held < 0) | (held == place), -math.inf)


def _options(layer: Rendering, x: Tensor) -> Tensor | None:
    """What each unit of a gate or pool can choose from, bool (*units, K), for an image (1, ...)."""
    if isinstance(layer, Pool) and not layer.drawn:
        return layer.candidates(x)[0] > -math.inf
    if isinstance(layer, Gate) and not layer.drawn:
        shape = layer.choose(x).shape[1:]
        return torch.ones(*shape, len(layer.pieces(x)), dtype=torch.bool, device=x.device)
    return None
