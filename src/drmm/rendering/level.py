"""The fast path: dictionary, norm, ReLU and max-pool as one rendering, Λ_g = Γ M_a T_t."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from drmm.rendering.affine import Conv2d
from drmm.rendering.base import Rendering, Switches, Window, masked
from drmm.rendering.compose import Sequential
from drmm.rendering.convolution import correlate, draw, feature_size
from drmm.rendering.gates import ReLU
from drmm.rendering.norm import BatchNorm2d, running_scale, uses_batch
from drmm.rendering.pooling import MaxPool2d, best_position, draw_at, window_of

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

    def unfused(self) -> Sequential:
        """The slow twin: the same modules as a plain sequence."""
        return Sequential(*(m for m in (self.dictionary, self.norm, ReLU(), self.pool) if m is not None))

    def forward(self, x: Tensor) -> Tensor:
        """The features alone: (N, C_in, H, W) to (N, C_out, H', W')."""
        if self.norm is not None and uses_batch(self.norm):
            return self.infer(x)[0]
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
            return self._infer_batch(x, self.norm)
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

    def _infer_batch(self, x: Tensor, norm: BatchNorm2d) -> tuple[Tensor, Switches]:
        """Training: normalise with the batch's own statistics."""
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
            p, t = self._best(u)
        window = None if self.pool is None else window_of(self.pool)
        y = _NormReLU.apply(u, p, t, norm.weight * polarity, norm.bias, mean, scale, window)
        return y, self._switches(x, y.detach() > 0, t, scale)

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
    """relu(γ (p - mean)/σ + β) of the pooled p, with the gradient that batch norm sends to all of u."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        p: Tensor,
        t: Tensor | None,
        gamma: Tensor,
        beta: Tensor,
        mean: Tensor,
        scale: Tensor,
        window: Window | None,
    ) -> Tensor:
        """γ ≥ 0 (C,); u (N, C, H, W); p and t (N, C, H', W')."""
        gain = gamma * scale
        y = torch.addcmul(_per_channel(beta - mean * gain), p, _per_channel(gain)).relu_()
        ctx.save_for_backward(u, p, t, y, gamma, mean, scale)
        ctx.window = window
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Only chosen units pass a gradient; the batch's mean and variance spread it to all of u."""
        u, p, t, y, gamma, mean, scale = ctx.saved_tensors
        g = torch.ops.aten.threshold_backward(gradient, y, 0)
        d_beta = g.sum((0, 2, 3))
        d_gamma = ((g * p).sum((0, 2, 3)) - mean * d_beta) * scale
        gain, units = gamma * scale, u.numel() // u.shape[1]
        slope = -gain * scale * d_gamma / units
        offset = -gain * d_beta / units - slope * mean
        chosen = g * _per_channel(gain)
        if t is not None:
            chosen = draw_at(chosen, t, ctx.window, (u.shape[2], u.shape[3]))
        d_u = chosen.addcmul_(u, _per_channel(slope)).add_(_per_channel(offset))
        return d_u, None, None, d_gamma, d_beta, None, None, None


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
