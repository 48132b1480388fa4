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
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from drmm.errors import InputError
from drmm.model.constraints import NonNegative, is_nonnegative
from drmm.model.deep import DRMM
from drmm.rendering import (
    Abs,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Clip,
    Conv2d,
    Dropout,
    Dropout2d,
    Flatten,
    Identity,
    LeakyReLU,
    Level,
    Linear,
    MaxPool2d,
    PReLU,
    ReLU,
    Rendering,
    Sequential,
    Switches,
)
from drmm.rendering.convolution import padding_of

__all__ = ["NORMS", "POOLS", "Chain", "Moments", "Seen", "Stage", "correlate", "cut", "patches"]

_GATES = (ReLU, LeakyReLU, PReLU, Clip)
POOLS = (MaxPool2d, AdaptiveMaxPool2d)
NORMS = (BatchNorm1d, BatchNorm2d)
_CHANNELWISE = (
    *(*_GATES, *POOLS, *NORMS),
    *(Abs, AdaptiveAvgPool2d, AvgPool2d, Dropout, Dropout2d, Flatten, Identity),
)
_RIDGE = 1e-3  # of the regression, as a share of the mean variance
_STEPS = 200  # of the non-negative regression

Dictionary = Conv2d | Linear


@dataclass(frozen=True)
class Stage:
    """A dictionary and what follows it, up to the next one.

    Attributes:
        dictionary: Γ.
        start: place of the dictionary's rendering in the chain.
        top: place up to which its switches are: `features[top]` are its units.
        end: place of the next dictionary; the chain's length below the class templates.
        gated: whether it has a switch a.
    """

    dictionary: Dictionary
    start: int
    top: int
    end: int
    gated: bool

    @property
    def channels(self) -> int:
        """How many neurons it has."""
        return len(self.dictionary.weight)


@dataclass(frozen=True)
class Seen:
    """One batch on its way up and down again; `features[i]` goes into the chain's i-th rendering.

    Attributes:
        features: bottom-up, from the images to what the class templates see.
        switches: of each rendering.
        templates: top-down from the best class, as `features`.
    """

    features: list[Tensor]
    switches: list[Switches]
    templates: list[Tensor]

    def on(self, stage: Stage) -> Tensor:
        """1 where a unit of the stage is on and 0 elsewhere; units without a switch are always on."""
        y = self.features[stage.top]
        return (y > 0).to(y) if stage.gated else torch.ones_like(y)


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
        starts = [i for i, atom in enumerate(self.atoms) if isinstance(atom, Level | Conv2d | Linear)]
        if not starts:
            raise InputError("there is nothing to prune: no neurons between the pixels and the class templates")
        ends = [*starts[1:], len(self.atoms)]
        self.stages = tuple(self._stage(start, end) for start, end in zip(starts, ends, strict=True))
        templates: nn.Module = model.templates
        if not isinstance(templates, Linear) and not self.fixed(len(starts) - 1):
            raise InputError("the net's logits are not one dictionary's outputs: end it with a linear layer")

    def above(self, number: int) -> nn.Module:
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
        features, switches = [x], []
        for atom in self.atoms:
            _check_input(atom, features[-1])
            y, choice = atom.infer(features[-1])
            features.append(y)
            switches.append(choice)
        _check_input(self.model.templates, features[-1])
        label = self.model.templates(features[-1]).argmax(1)
        templates = [self.model.templates.weight[label]]
        for atom, choice in zip(reversed(self.atoms), reversed(switches), strict=True):
            templates.append(atom.render(templates[-1], choice))
        return Seen(features, switches, templates[::-1])

    def _stage(self, start: int, end: int) -> Stage:
        atom, after = self.atoms[start], self.atoms[start + 1 : end]
        choosing = [i for i, other in enumerate(after, start + 2) if isinstance(other, (*_GATES, *POOLS))]
        gated = isinstance(atom, Level) or any(isinstance(other, _GATES) for other in after)
        dictionary = atom.dictionary if isinstance(atom, Level) else cast("Dictionary", atom)
        return Stage(dictionary, start, max([start + 1, *choosing]), end, gated)


def _check(atom: Rendering) -> None:
    parts = (atom,) if not isinstance(atom, Level) else (atom.dictionary, atom.norm, atom.pool)
    for part in parts:
        if isinstance(part, Conv2d) and part.groups != 1:
            raise InputError("convolutions with groups cannot be pruned: their neurons come in bundles")
        if part is not None and not isinstance(part, (Conv2d, Linear, *_CHANNELWISE)):
            raise InputError(
                f"a model with {type(part).__name__} cannot be pruned: use a chain of levels, convolutions, "
                "linear layers, norms, gates and pools, such as a preset"
            )


def _check_input(module: nn.Module, x: Tensor) -> None:
    dictionary = module.dictionary if isinstance(module, Level) else module
    if isinstance(dictionary, Conv2d) and (x.ndim != 4 or x.shape[1] != dictionary.in_channels):
        raise InputError(f"images do not fit: {tuple(x.shape)} meets {dictionary}")
    if isinstance(dictionary, Linear) and (x.ndim != 2 or x.shape[1] != dictionary.in_features):
        raise InputError(f"images do not fit: {tuple(x.shape)} meets {dictionary}")


def correlate(x: Tensor, weight: Tensor, dictionary: Dictionary) -> Tensor:
    """A dictionary's map with another weight, and without its bias: (N, ...) to (N, C, ...)."""
    if isinstance(dictionary, Conv2d):
        geometry: Any = (dictionary.stride, dictionary.padding, dictionary.dilation)
        return F.conv2d(x, weight, None, *geometry)
    return F.linear(x, weight)


def patches(x: Tensor, dictionary: nn.Module) -> Tensor:
    """What the entries of a dictionary's templates meet, one row for each image and place: (N · places, D)."""
    if not isinstance(dictionary, Conv2d):
        return x.flatten(1)
    options: dict[str, Any] = {"dilation": dictionary.dilation, "stride": dictionary.stride}
    found: Tensor = F.unfold(x, dictionary.kernel_size, padding=padding_of(dictionary), **options)
    return found.mT.flatten(0, 1)


@dataclass(frozen=True)
class _Some:
    """Some of the channels: sorted indices, and how many there were."""

    index: Tensor
    total: int

    def among(self, size: int) -> Tensor:
        """Their places where every channel has size / total entries: features, or entries of a template."""
        each = size // self.total
        return (self.index[:, None] * each + torch.arange(each, device=self.index.device)).flatten()


@torch.no_grad()
def cut(chain: Chain, kept: Sequence[Tensor], moments: Sequence[Moments | None]) -> DRMM:
    """A model without the other neurons, in evaluation mode; it shares nothing with the chain's own.

    Args:
        chain: the model, which is left as it is.
        kept: sorted indices of channels, for each stage.
        moments: of what the dictionary above each stage meets; None lets it take over nothing.

    Raises:
        InputError: if a weight has a parametrisation that nobody knows here.
    """
    model, number = chain.model, 0
    below: _Some | None = None
    atoms: list[Rendering] = []
    with torch.random.fork_rng(devices=[]):  # fresh layers draw weights, which are overwritten
        for atom in chain.atoms:
            if isinstance(atom, Level | Conv2d | Linear):
                out = _Some(kept[number], chain.stages[number].channels)
                atoms.append(_cut_level(atom, below, out, None if number == 0 else moments[number - 1]))
                below, number = out, number + 1
            else:
                atoms.append(_cut_channels(atom, below))
        templates = copy.deepcopy(model.templates)
        if isinstance(templates, Linear):
            templates = cast("Linear", _cut_dictionary(templates, below, None, moments[-1])[0])
        prior = model.class_prior.clone()
        smaller = DRMM(Sequential(*atoms), templates, image_shape=model.image_shape, class_prior=prior)
    smaller.noise.copy_(model.noise)
    smaller.amplitude.copy_(model.amplitude)
    return smaller.to(model.templates.weight.device).eval()


def _cut_level(atom: Rendering, below: _Some | None, out: _Some, moments: Moments | None) -> Rendering:
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
    below: _Some | None,
    out: _Some | None,
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
    options: dict[str, Any] = {"bias": bias is not None, "device": weight.device, "dtype": weight.dtype}
    smaller: Dictionary
    if isinstance(dictionary, Conv2d):
        geometry: Any = (dictionary.kernel_size, dictionary.stride, dictionary.padding, dictionary.dilation)
        smaller = Conv2d(weight.shape[1], weight.shape[0], *geometry, **options)
    else:
        smaller = Linear(weight.shape[1], weight.shape[0], **options)
    smaller.weight.copy_(weight)
    if bias is not None:
        cast("Tensor", smaller.bias).copy_(bias)
    return cast("Dictionary", _constrain_alike(smaller, dictionary)), spare


def _absorb(weight: Tensor, below: _Some, moments: Moments, *, nonnegative: bool) -> tuple[Tensor, Tensor]:
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


def _cut_channels(atom: Rendering, kept: _Some | None) -> Rendering:
    """What works channel by channel, with the channels that are kept."""
    if kept is None or not isinstance(atom, (*NORMS, PReLU)) or getattr(atom, "num_parameters", 2) == 1:
        return copy.deepcopy(atom)
    if isinstance(atom, PReLU):
        gate = PReLU(len(kept.index)).to(atom.weight)
        gate.weight.copy_(atom.weight[kept.index])
        return gate
    index = kept.among(atom.num_features)
    kind = BatchNorm1d if isinstance(atom, BatchNorm1d) else BatchNorm2d  # not its type, which may be parametrised
    smaller = kind(len(index), atom.eps, atom.momentum, atom.affine, atom.track_running_stats)
    for name in ("running_mean", "running_var", "weight", "bias"):
        if (values := getattr(atom, name)) is not None:
            getattr(smaller, name).data = values.detach()[index].clone()
    if atom.num_batches_tracked is not None:
        cast("Tensor", smaller.num_batches_tracked).copy_(atom.num_batches_tracked)
    return cast("Rendering", _constrain_alike(smaller, atom))


def _constrain_alike(module: nn.Module, like: nn.Module) -> nn.Module:
    """Parametrise a module's weight as another one's is."""
    if not parametrize.is_parametrized(like, "weight"):
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
