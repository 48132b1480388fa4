"""What all kinds of rendering are made of: derivatives, intervals, choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["chord", "extremes", "interval", "is_exporting", "picked", "present", "pull_back", "tensors_of"]


def present(entries: Tensor) -> Tensor:
    """1 where an entry of a matrix is not 0: what path counts put in its place."""
    return (entries != 0).to(entries.dtype)


def is_exporting() -> bool:
    """Whether an exporter traces; torch before 2.7 does not say."""
    return bool(getattr(torch.compiler, "is_exporting", bool)())


def pull_back(function: Callable[..., Tensor], points: tuple[Tensor, ...], z: Tensor) -> tuple[Tensor, ...]:
    """Jᵀz for each argument of a function, J being its derivative at the points; differentiable in z."""

    def pulled(*inputs: Tensor) -> tuple[Tensor, ...]:
        canvases: tuple[Tensor, ...] = torch.func.vjp(function, *inputs[:-1])[1](inputs[-1])
        return canvases

    if is_exporting():  # which does not look into a transform of torch
        from torch.fx.experimental.proxy_tensor import (  # noqa: PLC0415  (slow)
            disable_proxy_modes_tracing,
            make_fx,
        )

        with torch._C.DisableTorchFunction(), disable_proxy_modes_tracing():  # noqa: SLF001
            table: Any = torch.export.default_decompositions()
            pulled = make_fx(pulled, table)(*points, z)
    return pulled(*points, z)


def extremes(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Smallest and largest of several, unit by unit."""
    stacked = torch.stack(torch.broadcast_tensors(*values))
    return stacked.amin(0), stacked.amax(0)


def interval(
    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    weight: Tensor,
    bias: Tensor | None,
    lower: Tensor,
    upper: Tensor,
) -> tuple[Tensor, Tensor]:
    """Σ w⁺L + w⁻U and Σ w⁺U + w⁻L; where the two are one known x, as at the pixels, just Σ w x."""
    if lower is upper:
        known = apply(lower, weight, bias)
        return known, known
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    return (
        apply(lower, positive, bias) + apply(upper, negative, None),
        apply(upper, positive, bias) + apply(lower, negative, None),
    )


def chord(x: Tensor, lower: Tensor, upper: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """The line through (lower, first) and (upper, last) at x; where there is but a point, the last."""
    width = upper - lower
    return last + torch.where(width > 0, (last - first) / width, 0.0) * (x - upper)


def picked(choice: Tensor, values: Sequence[Tensor]) -> Tensor:
    """For each unit the value of its choice, of the values' shape."""
    if choice.dtype == torch.bool:
        return torch.where(choice, values[1], values[0])
    picked = values[0]
    for number, value in enumerate(values[1:], 1):
        picked = torch.where(choice == number, value, picked)
    return picked


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Parameters, buffers and other tensors that a module holds."""
    held = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    return [*module.parameters(), *module.buffers(), *held]
