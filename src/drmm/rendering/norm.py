"""Batch normalisation: EM under a diagonal covariance, whose scale is frozen going down."""

from __future__ import annotations

from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.rendering.base import Channels, Switches, chosen
from drmm.rendering.kinds import Norm

__all__ = ["BatchNorm1d", "BatchNorm2d", "FrozenBatchNorm2d", "running_scale", "uses_batch"]

_Norm = nn.BatchNorm1d | nn.BatchNorm2d


def uses_batch(norm: _Norm) -> bool:
    """Whether the norm takes its statistics from the batch: in training, or where it keeps no others."""
    return norm.training or norm.running_var is None


def running_scale(norm: _Norm) -> Tensor:
    """1/σ of each channel from the running statistics, (C,)."""
    if norm.running_var is None:
        raise ValueError("this norm keeps no running statistics")
    return torch.rsqrt(norm.running_var + norm.eps)


def _frozen_scale(norm: _Norm, x: Tensor) -> Tensor:
    """1/σ of each channel as this pass normalises with it, (C,), detached.

    The statistics belong to the E-step: like the switches, they are frozen in the G-step.
    """
    if not uses_batch(norm):
        return running_scale(norm)
    # One vectorised pass, 20 times faster on a CPU than torch.var over three dimensions.
    variance = torch.batch_norm_update_stats(x.detach(), None, None, 0.0)[1]
    return torch.rsqrt(variance + norm.eps)


def _infer(norm: _Norm, x: Tensor) -> Switches:
    gain = _frozen_scale(norm, x)
    return Switches(tuple(x.shape[1:]), gain=gain.reshape(-1, *[1] * (x.ndim - 2)))


def _gain(norm: _Norm | FrozenBatchNorm2d, switches: Switches) -> Tensor:
    gain = chosen(switches.gain, "gain")
    return gain if norm.weight is None else norm.weight.reshape(gain.shape) * gain


class _BatchNorm(Norm):
    """What both have in common; they are layers of torch as well."""

    fresh = True

    @property
    def uses_batch(self) -> bool:
        """In training, or where it keeps no running statistics."""
        return uses_batch(self)  # type: ignore[arg-type]

    def gain(self, switches: Switches) -> Tensor:
        """γ/σ, (C, 1, 1) or (C,)."""
        return _gain(cast("_Norm", self), switches)

    @torch.no_grad()
    def measure(self, x: Tensor) -> None:
        """The mean and the variance of each channel."""
        norm = cast("_Norm", self)
        if norm.running_mean is not None and norm.running_var is not None:
            channels = x.transpose(0, 1).flatten(1)
            norm.running_mean.copy_(channels.mean(1))
            norm.running_var.copy_(channels.var(1, correction=0))

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Its values at both ends, in order."""
        one = self.forward(lower)
        other = one if lower is upper else self.forward(upper)
        return (one, one) if one is other else (torch.minimum(one, other), torch.maximum(one, other))

    @torch.no_grad()
    def narrowed(self, kept: Channels) -> Norm:
        """With the statistics of some channels."""
        norm = cast("_Norm", self)
        index = kept.among(norm.num_features)
        # Not its type, which may be parametrised.
        kind = BatchNorm1d if isinstance(self, BatchNorm1d) else BatchNorm2d
        smaller = kind(len(index), norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name in ("running_mean", "running_var", "weight", "bias"):
            if (values := getattr(norm, name)) is not None:
                getattr(smaller, name).data = values.detach()[index].clone()
        if norm.num_batches_tracked is not None:
            cast("Tensor", smaller.num_batches_tracked).copy_(norm.num_batches_tracked)
        return smaller


@final
class BatchNorm2d(nn.BatchNorm2d, _BatchNorm):
    """Whiten the channels of (N, C, H, W); takes the arguments of `torch.nn.BatchNorm2d`."""

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Normalise with the batch's statistics in training, with the running ones in evaluation."""
        switches = _infer(self, x)
        return nn.BatchNorm2d.forward(self, x), switches

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Scale by γ/σ: a diagonal map is its own transpose."""
        return z * _gain(self, switches)


@final
class BatchNorm1d(nn.BatchNorm1d, _BatchNorm):
    """Whiten the features of (N, C) or (N, C, L); takes the arguments of `torch.nn.BatchNorm1d`."""

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Normalise with the batch's statistics in training, with the running ones in evaluation."""
        switches = _infer(self, x)
        return nn.BatchNorm1d.forward(self, x), switches

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Scale by γ/σ: a diagonal map is its own transpose."""
        return z * _gain(self, switches)


@final
class FrozenBatchNorm2d(Norm):
    """A `BatchNorm2d` whose statistics never change again: those of a pretrained net, or of the pixels it knows.

    Args:
        num_features: how many channels.
        eps: added to the variance.
        affine: whether the channels have a factor and an offset, which are learned.
    """

    fresh = True
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, *, affine: bool = True) -> None:
        super().__init__()
        self.num_features, self.eps = num_features, eps
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    @property
    def uses_batch(self) -> bool:
        """Never."""
        return False

    def forward(self, x: Tensor) -> Tensor:
        """The features alone."""
        statistics = self.running_mean, self.running_var, self.weight, self.bias
        return F.batch_norm(x, *statistics, training=False, eps=self.eps)

    def infer(self, x: Tensor) -> tuple[Tensor, Switches]:
        """(N, C, H, W), normalised."""
        gain = torch.rsqrt(self.running_var + self.eps).reshape(-1, 1, 1)
        return self.forward(x), Switches(tuple(x.shape[1:]), gain=gain)

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Scale by γ/σ."""
        return z * _gain(self, switches)

    def gain(self, switches: Switches) -> Tensor:
        """γ/σ, (C, 1, 1)."""
        return _gain(self, switches)

    @torch.no_grad()
    def narrowed(self, kept: Channels) -> FrozenBatchNorm2d:
        """With the statistics of some channels."""
        index = kept.among(self.num_features)
        smaller = FrozenBatchNorm2d(len(index), self.eps, affine=self.weight is not None)
        smaller.load_state_dict({name: values[index] for name, values in self.state_dict().items()})
        return smaller
