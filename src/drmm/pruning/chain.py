"""A chain of renderings with fewer neurons: what is cut out, and what those that stay take over from it.

What the removed neurons R told the dictionary above is, as far as those that are kept K say so,
E[x_R | x_K] = m_R + C_RK C_KK⁻¹ (x_K - m_K), with the means and covariances of max-sum's features. This linear
regression moves into the weights of K and the bias: Γ_K + Γ_R C_RK C_KK⁻¹, in closed form. A neuron that is never
on has neither mean nor covariance, so that cutting it out changes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from drmm.errors import InputError
from drmm.model.constraints import NonNegative, is_nonnegative
from drmm.model.deep import DRMM, evaluation
from drmm.rendering import BatchNorm2d, Channels, Conv2d, Gate, Level, Linear, Pool, Rendering, Sequential
from drmm.rendering.kinds import Dictionary
from drmm.rendering.passes import ForwardPass, backward_pass, forward_pass

__all__ = ["Chain", "Moments", "Seen", "Stage", "cut"]

_RIDGE = 1e-3  # of the regression, as a share of the mean variance
_STEPS = 200  # of the non-negative regression


@dataclass(frozen=True)
class Stage:
    """A dictionary and what follows it, up to the next one.

    Attributes:
        dictionary: Γ.
        start: place of the dictionary's rendering in the chain.
        top: place up to which its switches are: `features[top]` are its units.
        end: place of the next dictionary; the chain's length below the class templates.
        gates: what says whether a unit is on.
    """

    dictionary: Dictionary
    start: int
    top: int
    end: int
    gates: tuple[Gate, ...]

    @property
    def channels(self) -> int:
        """How many neurons it has."""
        return len(self.dictionary.weight)


@dataclass(frozen=True, slots=True)
class Seen(ForwardPass):
    """One batch on its way up and down again; `features[i]` goes into the chain's i-th rendering.

    Attributes:
        templates: top-down from the best class, as `features`.
    """

    templates: list[Tensor]

    def on(self, stage: Stage) -> Tensor:
        """1 where a unit of the stage is on and 0 elsewhere; units without a switch are always on."""
        y = self.features[stage.top]
        mask = torch.ones_like(y)
        for gate in stage.gates:
            mask = mask * gate.on(y)
        return mask


@dataclass(frozen=True)
class Moments:
    """Of the patches that the entries of a dictionary's templates meet.

    Attributes:
        mean: (D,), D entries of one template.
        covariance: (D, D), or None where it would be too large: then only means are taken over.
    """

    mean: Tensor
    covariance: Tensor | None


class Chain:
    """A model as a chain of renderings whose dictionaries can become smaller.

    Args:
        model: its levels are `Level`s, `Conv2d`s without groups, `Linear`s and what works channel by channel.

    Raises:
        InputError: if it holds anything else, or no neurons at all.
    """

    def __init__(self, model: DRMM) -> None:
        self.model = model
        self.atoms = model.levels.atoms
        for atom in self.atoms:
            _check(atom)
        starts = [i for i, atom in enumerate(self.atoms) if atom.gamma is not None]
        if not starts:
            raise InputError("there is nothing to prune: no neurons between the pixels and the class templates")
        ends = [*starts[1:], len(self.atoms)]
        self.stages = tuple(self._stage(start, end) for start, end in zip(starts, ends, strict=True))
        if model.templates.gamma is None and not self.fixed(len(starts) - 1):
            raise InputError("the net's logits are not one dictionary's outputs: end it with a linear layer")

    def above(self, number: int) -> Rendering:
        """The dictionary that sees the outputs of a stage, or the class templates."""
        last = number + 1 == len(self.stages)
        return self.model.templates if last else self.stages[number + 1].dictionary

    def fixed(self, number: int) -> bool:
        """Whether a stage's neurons are the classes themselves: one for each, right below the templates."""
        return number + 1 == len(self.stages) and self.stages[number].channels == self.model.n_classes

    def observe(self, x: Tensor) -> Seen:
        """Up to the class, and down again, in evaluation mode.

        Raises:
            InputError: if the images (N, C, H, W) do not fit the model.
        """
        try:
            up = forward_pass(self.atoms, x)
            label = self.model.templates(up.features[-1]).argmax(1)
        except (RuntimeError, ValueError) as error:  # torch's own, about shapes
            raise InputError(f"images do not fit: {tuple(x.shape)} meets {self.atoms[0]} ({error})") from error
        z = self.model.templates.weight[label]
        return Seen(up.features, up.switches, backward_pass(self.atoms, z, up.switches))

    def _stage(self, start: int, end: int) -> Stage:
        rendering, after = self.atoms[start], list(enumerate(self.atoms[start + 1 : end], start + 2))
        layers = [layer for atom in self.atoms[start:end] for layer in atom.unfused().atoms]
        gates = tuple(layer for layer in layers if isinstance(layer, Gate) and layer.switches_off)
        choosing = [
            i for i, atom in after if isinstance(atom, Pool) or (isinstance(atom, Gate) and atom.switches_off)
        ]
        return Stage(cast("Dictionary", rendering.gamma), start, max([start + 1, *choosing]), end, gates)


def _check(atom: Rendering) -> None:
    if getattr(atom.gamma, "groups", 1) != 1:
        raise InputError("convolutions with groups cannot be pruned: their neurons come in bundles")
    if atom.gamma is None:
        atom.narrowed(Channels(torch.arange(1), 1))  # all of them: refuses what knows no channels


@torch.no_grad()
def cut(chain: Chain, kept: Sequence[Tensor], moments: Sequence[Moments | None], seen: Seen) -> DRMM:
    """A model without the other neurons, in evaluation mode; it shares nothing with the chain's own.

    Args:
        chain: the model, which is left as it is.
        kept: sorted indices of channels, for each stage.
        moments: of what the dictionary above each stage meets; None lets it take over nothing.
        seen: a few images, on which what follows a dictionary must work channel by channel.

    Raises:
        InputError: if it does not, or a weight has a parametrisation that nobody knows here.
    """
    model, number = chain.model, 0
    below: Channels | None = None
    atoms: list[Rendering] = []
    with torch.random.fork_rng(devices=[]):  # fresh layers draw weights, which are overwritten
        for atom, x, y in zip(chain.atoms, seen.features, seen.features[1:], strict=False):
            if atom.gamma is not None:
                out = Channels(kept[number], chain.stages[number].channels)
                atoms.append(_cut_level(atom, below, out, None if number == 0 else moments[number - 1]))
                below, number = out, number + 1
            else:
                atoms.append(_cut_channels(atom, below))
                _check_channelwise(atom, atoms[-1], below, x, y)
        templates = copy.deepcopy(model.templates)
        if isinstance(templates, Linear):
            templates = cast("Linear", _cut_dictionary(templates, below, None, moments[-1])[0])
        prior = model.class_prior.clone()
        smaller = DRMM(Sequential(*atoms), templates, image_shape=model.image_shape, class_prior=prior)
    smaller.noise.copy_(model.noise)
    smaller.amplitude.copy_(model.amplitude)
    return smaller.to(model.templates.weight).eval()


def _cut_level(atom: Rendering, below: Channels | None, out: Channels, moments: Moments | None) -> Rendering:
    if not isinstance(atom, Level):
        return _cut_dictionary(cast("Dictionary", atom), below, out, moments)[0]
    norm = None if atom.norm is None else cast("BatchNorm2d", _cut_channels(atom.norm, out))
    moving = norm is not None and norm.running_mean is not None
    dictionary, spare = _cut_dictionary(atom.dictionary, below, out, moments, normed=moving)
    if norm is not None and norm.running_mean is not None and spare is not None:
        norm.running_mean -= spare
    return Level(cast("Conv2d", dictionary), norm, copy.deepcopy(atom.pool))


def _cut_dictionary(
    dictionary: Dictionary,
    below: Channels | None,
    out: Channels | None,
    moments: Moments | None,
    *,
    normed: bool = False,
) -> tuple[Dictionary, Tensor | None]:
    """The smaller dictionary, and the bias that it has no place for where a norm has one."""
    weight, bias, spare = dictionary.weight.detach(), dictionary.bias, None
    if out is not None:
        weight, bias = weight[out.index], None if bias is None else bias[out.index]
    if below is not None and moments is None:
        weight = weight[:, below.among(weight.shape[1])]
    elif below is not None and moments is not None and len(below.index) < below.total:
        flat, constant = _absorb(weight.flatten(1), below, moments, nonnegative=is_nonnegative(dictionary))
        weight = flat.view(len(weight), -1, *weight.shape[2:])
        if bias is None and normed:
            spare = constant
        else:
            bias = constant if bias is None else bias + constant
    smaller = dictionary.with_weight(weight, bias)
    return cast("Dictionary", _constrain_alike(smaller, dictionary)), spare


def _absorb(weight: Tensor, below: Channels, moments: Moments, *, nonnegative: bool) -> tuple[Tensor, Tensor]:
    """Templates (C, D) without the entries that nothing reaches any more, and what goes into the bias, (C,)."""
    keep = below.among(weight.shape[1])
    gone = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device).index_fill(0, keep, value=False)
    mean, covariance = moments.mean, moments.covariance
    left, removed = weight[:, keep].to(mean), weight[:, gone].to(mean)
    change = torch.zeros_like(left)
    if covariance is not None:
        among = covariance[keep][:, keep]
        among = among + _RIDGE * among.diagonal().mean() * torch.eye(len(keep)).to(among)
        target = removed @ covariance[gone][:, keep]
        change = _nonnegative(among, target, left) if nonnegative else _regress(among, target)
    return (left + change).to(weight), (removed @ mean[gone] - change @ mean[keep]).to(weight)


def _regress(among: Tensor, target: Tensor) -> Tensor:
    """The D with D C = T; 0 where C is 0, which says nothing."""
    root, failed = torch.linalg.cholesky_ex(among)
    return torch.zeros_like(target) if int(failed) else torch.cholesky_solve(target.mT, root).mT


def _nonnegative(among: Tensor, target: Tensor, start: Tensor) -> Tensor:
    """The D that minimises ½ tr D C Dᵀ - tr D Tᵀ with start + D ≥ 0, by accelerated projected gradient steps."""
    step = 1 / torch.linalg.matrix_norm(among, 2).clamp(min=torch.finfo(among.dtype).tiny)
    change, ahead, pace = torch.zeros_like(start), torch.zeros_like(start), 1.0
    for _ in range(_STEPS):
        better = torch.maximum(ahead - step * (ahead @ among - target), -start)
        faster = (1 + (1 + 4 * pace**2) ** 0.5) / 2
        ahead = better + (pace - 1) / faster * (better - change)
        change, pace = better, faster
    return change


def _cut_channels(atom: Rendering, kept: Channels | None) -> Rendering:
    """What works channel by channel, with the channels that are kept."""
    if kept is None:
        return copy.deepcopy(atom)
    return cast("Rendering", _constrain_alike(atom.narrowed(kept), atom))


def _check_channelwise(atom: Rendering, smaller: Rendering, kept: Channels | None, x: Tensor, y: Tensor) -> None:
    """Refuse what mixes channels: some channels of x (N, ...) must become what they became among all, in y."""
    if kept is None or getattr(atom, "drawn", False):
        return
    divides = x.shape[1] % kept.total == 0 and y.shape[1] % kept.total == 0
    if divides:
        with evaluation(smaller):
            answer = smaller(x[:, kept.among(x.shape[1])].clone())
        expected = y[:, kept.among(y.shape[1])]
        rounding = 1e-4 * (1 + float(y.abs().max()))
        if answer.shape == expected.shape and bool(((answer - expected).abs() <= rounding).all()):
            return
    raise InputError(
        f"a model with {atom.name} cannot be pruned: it does not work channel by channel, or its narrowed does "
        "not keep what it does to the others"
    )


def _constrain_alike(module: nn.Module, like: nn.Module) -> nn.Module:
    """Parametrise a module's weight as another one's is."""
    if not parametrize.is_parametrized(like, "weight") or parametrize.is_parametrized(module, "weight"):
        return module
    if is_nonnegative(like):
        parametrize.register_parametrization(module, "weight", NonNegative())
        return module
    if not hasattr(cast("nn.ModuleDict", like.parametrizations)["weight"], "original1"):
        raise InputError("a weight with a parametrisation of your own cannot be pruned: remove it first")
    weight_norm(module)
    direction = cast("Tensor", cast("nn.ModuleDict", module.parametrizations)["weight"].original1)
    direction[(direction.flatten(1) == 0).all(1)] = 1  # a template of zeros: any direction does, the length is 0
    return module
