"""The fast path: dictionary, norm, ReLU and max-pool as one rendering, Λ_g = Γ M_a T_t."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from drmm.rendering.affine import Conv2d
from drmm.rendering.base import Box, Down, Rendering, Switches, masked
from drmm.rendering.compose import Sequential
from drmm.rendering.convolution import as_channels_last, correlate, draw, feature_size
from drmm.rendering.gates import ReLU
from drmm.rendering.kinds import interval, present
from drmm.rendering.norm import BatchNorm2d, running_scale, uses_batch
from drmm.rendering.pooling import MaxPool2d, add_at, best_place, best_position, draw_at, position_of, window_of

__all__ = ["Level"]


@final
class Level(Rendering):
    """One level of the DRMM: a dictionary Γ, its norm, the switch a and the position t.

    Equal to `Sequential(dictionary, norm, ReLU(), pool)` in values and gradients, and faster: pooling comes
    first (it commutes with what is monotone), so that the norm's output and the mask exist at the pooled
    resolution only, and in evaluation the norm is folded into the dictionary. Works in channels-last memory.

    Args:
        dictionary: Γ, a `Conv2d`.
        norm: batch norm over the dictionary's channels, with affine parameters, or None.
        pool: max-pooling, or None for a level without positions.

    Raises:
        ValueError: if the norm does not fit the dictionary.
    """

    def __init__(self, dictionary: Conv2d, norm: BatchNorm2d | None = None, pool: MaxPool2d | None = None) -> None:
        super().__init__()
        if norm is not None and (norm.num_features != dictionary.out_channels or not norm.affine):
            raise ValueError(f"the norm needs {dictionary.out_channels} channels and affine=True, got {norm}")
        self.dictionary = dictionary
        self.norm = norm
        self.pool = pool

    @property
    def parts(self) -> tuple[Rendering, ...]:
        """What it is made of, pixels first: the position is chosen before the gate, which it commutes with."""
        return tuple(part for part in (self.dictionary, self.norm, self.pool, ReLU()) if part is not None)

    def unfused(self) -> Sequential:
        """The slow twin: the same modules as a plain sequence."""
        return Sequential(*(m for m in (self.dictionary, self.norm, ReLU(), self.pool) if m is not None))

    def forward(self, x: Tensor) -> Tensor:
        """The features alone: (N, C_in, H, W) to (N, C_out, H', W')."""
        if self.norm is not None and uses_batch(self.norm):
            return self._batch_features(x, self.norm)[0]
        u = correlate(x, *self.folded(), self.dictionary)
        u = u if self.pool is None else self.pool(u)
        return u.relu() if torch.is_grad_enabled() else u.relu_()

    def infer(self, x: Tensor, sign: Tensor | None = None) -> tuple[Tensor, Switches]:
        """Bottom-up, (N, C_in, H, W) to (N, C_out, H', W').

        Args:
            x: I^(ℓ-1).
            sign: s^(ℓ), ±1 of the output's shape: maximise s·u in place of u (the slides' sign traceback,
                in evaluation only); None is +1 everywhere.

        Raises:
            ValueError: if `sign` is given while the norm uses the statistics of the batch.
        """
        if self.norm is not None and uses_batch(self.norm):
            if sign is not None:
                raise ValueError("the sign traceback needs fixed statistics: call model.eval() first")
            return self._batch_infer(x, self.norm)
        u = correlate(x, *self.folded(), self.dictionary)
        y, t = self._best(u)
        if sign is not None:
            lowest, where_lowest = self._best(-u)
            t = t if t is None or where_lowest is None else torch.where(sign > 0, t, where_lowest)
            y = torch.where(sign > 0, y, -lowest)
        a = y > 0 if sign is None else y * sign > 0
        gain = None if self.norm is None else running_scale(self.norm)
        return y * a, self._switches(x, a, t, gain)

    def render(self, z: Tensor, switches: Switches) -> Tensor:
        """Top-down: switch, place, draw; (N, C_out, H', W') to (N, C_in, H, W)."""
        quick = self.norm is not None and uses_batch(self.norm)
        return draw(self.place(z, switches), self.drawing(switches), self.dictionary, switches.shape, quick=quick)

    @property
    def gamma(self) -> Conv2d:
        """Its dictionary."""
        return self.dictionary

    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the folded dictionary and of the pool, and 0: what is off."""

        def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return correlate(x, weight, bias, self.dictionary)

        lower, upper = interval(convolve, *self.folded(), lower, upper)
        if self.pool is not None:
            lower, upper = self.pool.bounds(lower, upper)
        return lower.clamp(max=0), upper.clamp(min=0)

    def relaxed(self, lower: Tensor, upper: Tensor, switches: Switches | None = None) -> tuple[Box, Down]:
        """Those of its parts, the position being chosen before the gate, as `infer` does."""
        if switches is not None:
            placed = (replace(switches, a=None) if part is self.pool else switches for part in self.parts)
            switches = replace(switches, parts=tuple(placed))
        return Sequential(*self.parts).relaxed(lower, upper, switches)

    def count(self, paths: Tensor, switches: Switches, *, every: bool) -> Tensor:
        """As its slow twin."""
        dictionary = self.dictionary
        if not every:
            paths = self.place(paths, switches)
        elif self.pool is not None:
            units = (dictionary.out_channels, *feature_size(dictionary, (switches.shape[1], switches.shape[2])))
            paths = self.pool.count(paths, replace(switches, shape=units), every=True)
        return draw(paths, present(self.drawing(switches)).to(paths), dictionary, switches.shape)

    def reinfer(self, x: Tensor, switches: Switches, z: Tensor) -> tuple[Tensor, Switches]:
        """By the sign of z."""
        del switches
        return self.infer(x, torch.where(z < 0, -1.0, 1.0).to(x.dtype))

    def guided(self, z: Tensor, switches: Switches) -> Tensor:
        """Positive parts only, where they come to the gate."""
        # Windows that overlap add up before they come to the gate, which the fused level has above its pool.
        placed = self.place(z, switches).clamp(min=0)
        return draw(placed, self.drawing(switches), self.dictionary, switches.shape)

    @property
    def shuts(self) -> bool:
        """It does: by its gate."""
        return True

    def place(self, z: Tensor, switches: Switches) -> Tensor:
        """M_a and T_t alone: what comes down to the dictionary, (N, C_out, H', W') to the dictionary's size."""
        if switches.a is None:
            raise ValueError("these switches hold no a: pass the ones that this level's infer returned")
        z = masked(z, switches.a)
        if switches.t is None or switches.window is None:
            return z
        canvas = feature_size(self.dictionary, (switches.shape[1], switches.shape[2]))
        return draw_at(z, switches.t, switches.window, canvas)

    def drawing(self, switches: Switches) -> Tensor:
        """Γ as `render` draws with it: each template times the norm's frozen scale, shape of the dictionary."""
        weight = self.dictionary.weight
        if self.norm is None or switches.gain is None:
            return weight
        return _per_template(self.norm.weight * switches.gain) * weight

    def running_gain(self) -> Tensor | None:
        """γ/σ of each template, (C,)."""
        return None if self.norm is None else self.norm.weight * running_scale(self.norm)

    def _batch_infer(self, x: Tensor, norm: BatchNorm2d) -> tuple[Tensor, Switches]:
        y, index, scale = self._batch_features(x, norm)
        t = None
        if index is not None and self.pool is not None:
            width = feature_size(self.dictionary, (x.shape[2], x.shape[3]))[1]
            t = position_of(index, window_of(self.pool), width)
        # Nothing is below 0, and converting is four times as fast as comparing.
        return y, self._switches(x, y.detach().bool(), t, scale)

    def _batch_features(self, x: Tensor, norm: BatchNorm2d) -> tuple[Tensor, Tensor | None, Tensor]:
        """Training: normalise with the batch's own statistics.

        Returns:
            The features, the pixel at which each pooled unit was found, and 1/σ.
        """
        # Where γ < 0 the norm turns the largest into the smallest. Flipping those templates makes the norm
        # increasing everywhere, so that it commutes with the pooling.
        polarity = torch.where(norm.weight.detach() < 0, -1.0, 1.0).to(norm.weight.dtype)
        weight, bias = self.dictionary.weight * _per_template(polarity), self.dictionary.bias
        # The norm takes a bias away again: only the running mean needs it. Under autocast u has fewer bits.
        u = correlate(x, weight, None, self.dictionary, quick=True).to(norm.weight.dtype)
        with torch.no_grad():
            mean, variance = torch.batch_norm_update_stats(u, None, None, 0.0)
            centre = mean * polarity if bias is None else mean * polarity + bias
            _track(norm, centre, variance, count=u.numel() // u.shape[1])
            scale = torch.rsqrt(variance + norm.eps)
        gamma = norm.weight * polarity
        if self.pool is None:
            return _NormReLU.apply(u, gamma, norm.bias, mean, scale), None, scale
        p, index = best_place(u.detach(), self.pool)
        return _PooledNormReLU.apply(u, p, index, gamma, norm.bias, mean, scale), index, scale

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """The dictionary with the norm's running statistics folded in, and its bias; differentiable."""
        weight, bias = self.dictionary.weight, self.dictionary.bias
        if self.norm is None or self.norm.running_mean is None:
            return weight, bias
        gain = self.norm.weight * running_scale(self.norm)
        offset = self.norm.running_mean if bias is None else self.norm.running_mean - bias
        return weight * _per_template(gain), self.norm.bias - offset * gain

    def _best(self, u: Tensor) -> tuple[Tensor, Tensor | None]:
        return (u, None) if self.pool is None else best_position(u, self.pool)

    def _switches(self, x: Tensor, a: Tensor, t: Tensor | None, gain: Tensor | None) -> Switches:
        window = None if self.pool is None else window_of(self.pool)
        return Switches(tuple(x.shape[1:]), a=a, t=t, gain=gain, window=window)


class _NormReLU(torch.autograd.Function):
    """relu(γ (u - mean)/σ + β) with the gradient of batch norm."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        """γ ≥ 0 and the others (C,); u (N, C, H, W)."""
        y = _normed(u, gamma, beta, mean, scale).relu_()
        ctx.save_for_backward(u, y, gamma, mean, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Only units that are on pass a gradient; the batch's mean and variance spread it to all."""
        u, y, gamma, mean, scale = ctx.saved_tensors
        g = _gated(gradient, y)
        d_u, d_gamma, d_beta = _norm_backward(g, u, gamma, mean, scale, [True, True, True])
        return d_u, d_gamma, d_beta, None, None


class _PooledNormReLU(torch.autograd.Function):
    """relu(γ (p - mean)/σ + β) of the pooled p, with the gradient that batch norm sends to all of u."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, p: Tensor, index: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, scale: Tensor
    ) -> Tensor:
        """γ ≥ 0 (C,); u (N, C, H, W); p and its index in u (N, C, H', W')."""
        y = _normed(p, gamma, beta, mean, scale).relu_()
        ctx.save_for_backward(u, p, index, y, gamma, mean, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Only chosen units pass a gradient; the batch's mean and variance spread it to all of u."""
        u, p, index, y, gamma, mean, scale = ctx.saved_tensors
        g = _gated(gradient, y)
        _, d_gamma, d_beta = _norm_backward(g, p, gamma, mean, scale, [False, True, True])
        gain, units = gamma * scale, u.numel() // u.shape[1]
        slope = -gain * scale * d_gamma / units
        offset = -gain * d_beta / units - slope * mean
        spread = torch.addcmul(_per_channel(offset), u, _per_channel(slope))
        return add_at(spread, index, g.mul_(_per_channel(gain))), None, None, d_gamma, d_beta, None, None


def _normed(u: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    gain = gamma * scale
    return torch.addcmul(_per_channel(beta - mean * gain), u, _per_channel(gain))


def _gated(gradient: Tensor, y: Tensor) -> Tensor:
    """The gradient where y is on, a new tensor in the layout of y."""
    return torch.ops.aten.threshold_backward(as_channels_last(gradient), y, 0)  # type: ignore[no-any-return]


def _norm_backward(
    gradient: Tensor, u: Tensor, gamma: Tensor, mean: Tensor, scale: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of γ (u - mean)/σ + β with respect to u, γ and β, mean and 1/σ being those of u."""
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        gradient, u, gamma, None, None, mean, scale, train=True, eps=0.0, output_mask=wanted
    )
    return gradients


@torch.no_grad()
def _track(norm: BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics towards the batch's, as `torch.nn.BatchNorm2d` does."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance * (count / max(1, count - 1)), share)


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None]


def _per_template(values: Tensor) -> Tensor:
    return values[:, None, None, None]
