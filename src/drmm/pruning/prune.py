"""Pruning: neurons and synapses that are seldom ON are removed, and the net really gets smaller.

Slide "Summary of Theory": the model predicts brain-like features, synaptic pruning among them. A neuron is an
element of a dictionary. Its switch a says for every image and place whether it draws; the mean of max-sum's
choices over images and places is its posterior probability of being ON. One that is never on lies on no active
path: without it every score stays what it is. One that is seldom on lies on few. A synapse, an entry of an upper
dictionary, is on where the neuron below and the one above are, on one active path.

What is never on can go without a trace (`tests/laws/test_pruning_dead_units.py`). Among neurons that are on now
and then, P(on) says less (`results/pruning.json`): after two more epochs of learning it leaves fewer errors than
the length of templates does, and no fewer than chance; for synapses it is worse than chance. What counts is that
those that stay take over from the others (`drmm.pruning.chain`), and some more learning.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast, final, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.prune import l1_unstructured, ln_structured

from drmm.errors import InputError
from drmm.learning.batches import unlabelled
from drmm.model.constraints import set_weight
from drmm.model.deep import DRMM, evaluation
from drmm.pruning.chain import Chain, Moments, Seen, Stage, cut
from drmm.rendering import Norm, Rendering

__all__ = [
    "Criterion",
    "Pruned",
    "Pruner",
    "Scope",
    "check_share",
    "prune",
    "prune_synapses",
    "synapse_probability",
]

Criterion = Literal["on", "contribution", "magnitude", "random"]
Scope = Literal["level", "net"]

_BATCH, _BATCHES = 128, 40  # images that statistics are measured on, as at the end of training
_PATCHES = 4000  # of a batch, that regressions are measured on
_LARGEST = 4096  # entries of a template whose covariances are kept


@dataclass(frozen=True)
class Pruned:
    """A smaller model, and why it is what it is.

    Attributes:
        model: in evaluation mode; it shares nothing with the model that it was made from.
        kept: the channels of the former model that it has, sorted indices, for each dictionary below the class
            templates, pixels first.
        on: P(on) of every channel of the former model, (C,) each.
        score: by what was chosen, (C,) each: the higher, the sooner kept.
    """

    model: DRMM
    kept: tuple[Tensor, ...]
    on: tuple[Tensor, ...]
    score: tuple[Tensor, ...]

    @property
    def channels(self) -> tuple[int, ...]:
        """How many channels each dictionary has left."""
        return tuple(len(index) for index in self.kept)


def prune(
    model: DRMM,
    images: Tensor,
    keep: float | Sequence[int] = 0.3,
    *,
    criterion: Criterion = "on",
    scope: Scope = "level",
    absorb: bool = True,
    recalibrate: bool = True,
    seed: int = 0,
) -> Pruned:
    """Remove the neurons that matter least; see `Pruner`, which measures once and prunes as often as you like.

    Args:
        model: as for `Pruner`.
        images: likewise.
        keep: as for `Pruner.prune`, like everything that follows.
        criterion: by what to choose.
        scope: what `keep` is a share of.
        absorb: let the neurons that stay take over from the others.
        recalibrate: measure the norms' statistics afresh.
        seed: of the order of the images, and of what is drawn at random.

    Raises:
        InputError: if `keep` is out of range, the images do not fit, or the model is no such chain.
    """
    pruner = Pruner(model, images, seed=seed)
    return pruner.prune(keep, criterion=criterion, scope=scope, absorb=absorb, recalibrate=recalibrate)


@final
class Pruner:
    """What a model's neurons do on average, measured once.

    Args:
        model: a chain of levels, or of the layers that they are made of; presets and lifted `nn.Sequential`s are.
            It is left as it is.
        images: what the model learned from, (N, C, H, W), float in [0, 1] or uint8; some 5,000 are looked at.
        seed: of the order of the images, and of what is drawn at random.

    Attributes:
        on: P(on) of every neuron, (C,) for each dictionary, pixels first; neurons without a switch are always on.
        contribution: E|share of the score that flows through| likewise.

    Raises:
        InputError: if the images do not fit, or the model is no such chain.
    """

    def __init__(self, model: DRMM, images: Tensor, *, seed: int = 0) -> None:
        self._chain, self._images, self._seed = Chain(model), images, seed
        self.on, self.contribution, self._moments = _observe(self._chain, images, seed)

    def prune(
        self,
        keep: float | Sequence[int] = 0.3,
        *,
        criterion: Criterion = "on",
        scope: Scope = "level",
        absorb: bool = True,
        recalibrate: bool = True,
    ) -> Pruned:
        """A smaller model.

        Args:
            keep: share of the neurons to keep, in (0, 1], or how many in each dictionary below the class
                templates. No dictionary loses its last neuron. One map for each class right below the templates
                stays as it is.
            criterion: "on" keeps those with the largest P(on), "contribution" those with the largest expected
                share of the score along active paths, "magnitude" those with the longest templates
                (`torch.nn.utils.prune.ln_structured`), "random" any.
            scope: a share of every "level", or of the whole "net" by one threshold, which can leave a level with a
                single neuron: P(on) is not of one size in all levels.
            absorb: let the neurons that stay take over what they can say about the others (`drmm.pruning.chain`).
            recalibrate: measure the norms' statistics afresh on the images.

        Raises:
            InputError: if `keep`, the criterion or the scope does not exist.
        """
        score = self._score(criterion)
        counts = _counts(self._chain, score, keep, scope)
        kept = tuple(_best(*choice, criterion) for choice in zip(self._chain.stages, score, counts, strict=True))
        with torch.no_grad(), evaluation(self._chain.model):
            seen = self._chain.observe(next(_batches(self._chain.model, self._images, self._seed))[:2])
        smaller = cut(self._chain, kept, self._moments if absorb else [None] * len(kept), seen)
        _settle(smaller, self._images, self._seed, recalibrate=recalibrate)
        return Pruned(smaller, kept, self.on, score)

    def _score(self, criterion: Criterion) -> tuple[Tensor, ...]:
        _check_criterion(criterion)
        if criterion == "on":
            return self.on
        if criterion == "contribution":
            return self.contribution
        if criterion == "magnitude":
            weights = [stage.dictionary.weight.detach() for stage in self._chain.stages]
            return tuple(weight.flatten(1).norm(dim=1) for weight in weights)
        generator = torch.Generator().manual_seed(self._seed)
        return tuple(torch.rand(len(on), generator=generator).to(on) for on in self.on)


def prune_synapses(
    model: DRMM,
    images: Tensor,
    keep: float = 0.5,
    *,
    criterion: Criterion = "on",
    on: Sequence[Tensor] | None = None,
    recalibrate: bool = True,
    seed: int = 0,
) -> DRMM:
    """Set the synapses that matter least to 0, the same share in every dictionary above the first.

    Nothing gets faster: zeros are multiplied like other numbers, and files hold them too (but compress well).

    Args:
        model: as for `prune`; it is left as it is.
        images: likewise.
        keep: share of each dictionary's entries to keep, in (0, 1]; no template loses its last one.
        criterion: "on" keeps those with the largest P(on), "contribution" those with the largest P(on) times
            strength, "magnitude" the strongest (`torch.nn.utils.prune.l1_unstructured`), "random" any.
        on: what `synapse_probability` says, if you have it already.
        recalibrate: measure the norms' statistics afresh on the images.
        seed: of the order of the images, and of what is drawn at random.

    Raises:
        InputError: as for `prune`.
    """
    check_share(keep)
    _check_criterion(criterion)
    if criterion in {"magnitude", "random"}:
        on = None
    elif on is None:
        on = synapse_probability(model, images, seed=seed)
    thinner = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for i, stage in enumerate(Chain(thinner).stages[1:]):
        weight = stage.dictionary.weight.detach()
        removed = weight.numel() - max(1, round(keep * weight.numel()))
        if criterion == "magnitude":
            mask = _torch_mask(weight, l1_unstructured, amount=removed)
        else:
            score = torch.rand(weight.shape, generator=generator).to(weight) if on is None else on[i]
            score = score * weight.abs() if criterion == "contribution" else score
            mask = _without_smallest(score, removed)
        set_weight(stage.dictionary, weight * _with_one_each(mask, weight))
    _settle(thinner, images, seed, recalibrate=recalibrate)
    return thinner


@torch.no_grad()
def synapse_probability(model: DRMM, images: Tensor, *, seed: int = 0) -> tuple[Tensor, ...]:
    """P(on) of every synapse of the dictionaries above the first, of the weight's shape each.

    A synapse is on where the neuron above is on (and its place chosen) and so is the one below that it reaches:
    the mean over images and over the places of the neuron above.

    Args:
        model: as for `prune`.
        images: (N, C, H, W), float in [0, 1] or uint8.
        seed: of the order of the images.

    Raises:
        InputError: as for `prune`.
    """
    chain = Chain(model)
    total = [torch.zeros_like(stage.dictionary.weight) for stage in chain.stages[1:]]
    count = 0
    with evaluation(model):
        for x in _batches(model, images, seed):
            seen = chain.observe(x)
            count += len(x)
            for i, (below, above) in enumerate(pairwise(chain.stages)):
                total[i] += _coincidences(chain, seen, below, above)
    return tuple(sums / count for sums in total)


# --- what neurons do ---


def _batches(model: DRMM, images: Tensor, seed: int) -> Iterator[Tensor]:
    weight = model.templates.weight
    for x in unlabelled(images, batch_size=_BATCH, seed=seed, epoch=0, most=_BATCHES):
        yield x.to(weight)


Tensors = tuple[Tensor, ...]


@torch.no_grad()
def _observe(chain: Chain, images: Tensor, seed: int) -> tuple[Tensors, Tensors, tuple[Moments, ...]]:
    """P(on), contributions, and moments of what the dictionary above meets, for each stage."""
    if images.ndim != 4 or len(images) < 2:
        raise InputError(f"images must be (N, C, H, W) with N ≥ 2, got {tuple(images.shape)}")
    generator = torch.Generator().manual_seed(seed)
    sums: list[list[Tensor]] = [[] for _ in chain.stages]
    count = 0
    with evaluation(chain.model):
        for x in _batches(chain.model, images, seed):
            seen, count = chain.observe(x), count + len(x)
            for i, stage in enumerate(chain.stages):
                flow = _by_channel(seen.features[stage.top] * seen.templates[stage.top])
                batch_sums = [_by_channel(seen.on(stage)).mean(2).sum(0), flow.sum(2).abs().sum(0)]
                batch_sums += _sums(seen.features[stage.end], chain.above(i), generator)
                sums[i] = [a + b for a, b in zip(sums[i], batch_sums, strict=True)] if sums[i] else batch_sums
    on, contribution = (tuple(total[i] / count for total in sums) for i in (0, 1))
    return on, contribution, tuple(_moments(*total[2:]) for total in sums)


def _sums(x: Tensor, above: Rendering, generator: torch.Generator) -> list[Tensor]:
    """Number, sum and, unless they are too many, products of the patches that a dictionary meets in a batch."""
    rows = x.flatten(1) if above.gamma is None else above.gamma.patches(x)
    if len(rows) > _PATCHES:
        rows = rows[torch.randperm(len(rows), generator=generator)[:_PATCHES].to(rows.device)]
    rows = rows.double()  # features vary little about a large mean
    sums = [rows.new_tensor(len(rows)), rows.sum(0)]
    return sums if rows.shape[1] > _LARGEST else [*sums, rows.mT @ rows]


def _moments(count: Tensor, total: Tensor, products: Tensor | None = None) -> Moments:
    mean = total / count
    return Moments(mean, None if products is None else products / count - mean.outer(mean))


def _by_channel(units: Tensor) -> Tensor:
    """(N, C) or (N, C, H, W) as (N, C, places)."""
    return units.flatten(2) if units.ndim > 2 else units[:, :, None]


def _coincidences(chain: Chain, seen: Seen, below: Stage, above: Stage) -> Tensor:
    """How often both ends of a synapse were on, summed over images, as a share of the places above."""
    lower = seen.on(below)
    for atom in chain.atoms[below.top : below.end]:
        lower = lower if isinstance(atom, Norm) else atom(lower)
    units = upper = seen.on(above)
    for i in range(above.top - 1, above.start, -1):
        upper = chain.atoms[i].count(upper, seen.switches[i], every=False)
    upper = chain.atoms[above.start].place(upper, seen.switches[above.start])
    # The transpose of correlating is what adds up, for each entry of the weight, the places where both are on.
    with torch.enable_grad():
        weight = torch.zeros_like(above.dictionary.weight, requires_grad=True)
        drawn = above.dictionary.correlate(lower, weight)
        (coincidences,) = torch.autograd.grad(drawn, weight, (upper > 0).to(drawn))
    return coincidences / (units[0].numel() / units.shape[1])


# --- which to keep ---


def check_share(keep: float) -> None:
    """Refuse a share that keeps nothing, or more than there is.

    Raises:
        InputError: if it lies outside (0, 1].
    """
    if not 0 < keep <= 1:
        raise InputError(f"keep must lie in (0, 1], not {keep}: 0.3 keeps three in ten")


def _check_criterion(criterion: Criterion) -> None:
    if criterion not in get_args(Criterion):
        raise InputError(f"no criterion {criterion!r}: choose from {', '.join(get_args(Criterion))}")


def _counts(chain: Chain, score: Sequence[Tensor], keep: float | Sequence[int], scope: Scope) -> list[int]:
    """How many channels to keep in each stage."""
    sizes = [stage.channels for stage in chain.stages]
    free = [i for i in range(len(sizes)) if not chain.fixed(i)]
    if scope not in get_args(Scope):
        raise InputError(f"no scope {scope!r}: choose from {', '.join(get_args(Scope))}")
    if not free:
        raise InputError("there is nothing to prune: the only neurons are the classes themselves")
    if isinstance(keep, Sequence):
        counts = [int(count) for count in keep]
        if len(counts) != len(sizes) or any(not 1 <= n <= size for n, size in zip(counts, sizes, strict=True)):
            raise InputError(f"keep must be a number for each dictionary, from 1 to {sizes}: got {counts}")
    else:
        check_share(keep)
        counts = [max(1, round(keep * size)) for size in sizes]
        if scope == "net":
            order = torch.cat([score[i] for i in free]).argsort(descending=True, stable=True).cpu()
            level = torch.cat([torch.full((sizes[i],), i) for i in free])
            chosen = level[order[: max(1, round(keep * len(order)))]]
            counts = [max(1, int((chosen == i).sum())) for i in range(len(sizes))]
    return [count if i in free else sizes[i] for i, count in enumerate(counts)]


def _best(stage: Stage, score: Tensor, count: int, criterion: Criterion) -> Tensor:
    """Indices of the channels to keep, sorted."""
    if criterion != "magnitude":
        return score.argsort(descending=True, stable=True)[:count].sort().values
    mask = _torch_mask(stage.dictionary.weight, ln_structured, amount=stage.channels - count, n=2, dim=0)
    return mask.flatten(1).any(1).nonzero().flatten()


def _torch_mask(weight: Tensor, method: Callable[..., object], **options: Any) -> Tensor:
    """The mask that a method of `torch.nn.utils.prune` puts on a weight."""
    holder = nn.Module()
    holder.weight = nn.Parameter(weight.detach().clone())
    method(holder, "weight", **options)
    return cast("Tensor", holder.weight_mask)


def _without_smallest(score: Tensor, n: int) -> Tensor:
    """0 at the n smallest scores, 1 elsewhere."""
    mask = torch.ones_like(score).flatten()
    mask[score.flatten().argsort(stable=True)[:n]] = 0
    return mask.view_as(score)


def _with_one_each(mask: Tensor, weight: Tensor) -> Tensor:
    """The mask, with the largest entry of each template that would be empty."""
    rows = mask.flatten(1)
    best = F.one_hot(weight.flatten(1).abs().argmax(1), rows.shape[1]).to(mask)
    return torch.where(rows.any(1, keepdim=True), rows, best).view_as(mask)


def _settle(model: DRMM, images: Tensor, seed: int, *, recalibrate: bool) -> None:
    """Measure what belongs to weights that have changed: the norms' statistics, σ², amplitude and priors."""
    if recalibrate:
        model.calibrate(_batches(model, images, seed))
    model.eval()
    if model.prior is not None:
        model.settle(_batches(model, images, seed))
