"""Least squares by streaming sufficient statistics: what is drawn on a dictionary's canvas, given what draws it.

For frozen switches a dictionary Γ draws the canvas y = Σ_k φ_k(v) Γ_k, linear in Γ: v are the units that come
down to its output, and φ(v) collects, for each place of the canvas, the units that can draw there. The M-step
regresses on φ(v) (slide "Hard EM Interpretation yields New Derivative-Free M-step"). All that it needs of the
images is the Gram matrix Σ φ φᵀ and the cross moments Σ φ yᵀ, whose size does not depend on how many images there
are.
"""

from __future__ import annotations

from typing import Protocol, final

import torch
from torch import Tensor, nn

from drmm.rendering import Conv2d, Linear
from drmm.rendering.convolution import draw

__all__ = ["Design", "design_of", "solve"]


class Design(Protocol):
    """A dictionary as the coefficients (G, P, Q) of a linear regression: G groups, P regressors, Q responses."""

    def coefficients(self, weight: Tensor) -> Tensor:
        """The dictionary's weight as coefficients (G, P, Q)."""
        ...

    def weight(self, coefficients: Tensor) -> Tensor:
        """Coefficients as a weight."""
        ...

    def draw(self, v: Tensor, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The canvas (N, *shape) that units v draw with a weight."""
        ...

    def cross(self, v: Tensor, target: Tensor) -> Tensor:
        """Σ φ yᵀ over images and places, (G, P, Q), for a target (N, *shape)."""
        ...

    def moments(self, v: Tensor) -> Tensor:
        """What the Gram matrix is made of; moments of several batches add up."""
        ...

    def gram(self, moments: Tensor) -> Tensor:
        """Σ φ φᵀ over images and places, (G, P, P), on a canvas without borders.

        A border takes places away, so that this matrix is never smaller than the true one: a step that it
        preconditions does not overshoot.
        """
        ...


def design_of(dictionary: nn.Module) -> Design | None:
    """How to regress on a dictionary, or None if the module is not one that is known here."""
    if isinstance(dictionary, Conv2d):
        return _ConvDesign(dictionary)
    return _LinearDesign() if isinstance(dictionary, Linear) else None


def solve(gram: Tensor, cross: Tensor, *, ridge: float) -> Tensor:
    """The smallest coefficients (G, P, Q) that satisfy the normal equations, where they have a solution.

    Args:
        gram: (G, P, P).
        cross: (G, P, Q).
        ridge: added to the diagonal, as a share of its largest entry. Directions in which the Gram matrix is no
            larger than rounding (units that were never on, templates that always occur together) stay at 0.
    """
    scale = gram.diagonal(dim1=1, dim2=2).amax(1)[:, None]
    values, vectors = torch.linalg.eigh(gram)
    known = values > scale * torch.finfo(gram.dtype).eps * gram.shape[1]
    inverse = torch.where(known, 1 / torch.where(known, values + ridge * scale, 1.0), 0.0)
    solution: Tensor = vectors @ (inverse[..., None] * (vectors.mT @ cross))
    return solution


@final
class _LinearDesign:
    """Without places: φ(v) = v."""

    def coefficients(self, weight: Tensor) -> Tensor:
        return weight[None]

    def weight(self, coefficients: Tensor) -> Tensor:
        return coefficients[0]

    def draw(self, v: Tensor, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        del shape
        drawn: Tensor = v @ weight
        return drawn

    def cross(self, v: Tensor, target: Tensor) -> Tensor:
        product: Tensor = v.flatten(0, -2).mT @ target.flatten(0, -2)
        return product[None]

    def moments(self, v: Tensor) -> Tensor:
        rows = v.flatten(0, -2)
        product: Tensor = rows.mT @ rows
        return product[None]

    def gram(self, moments: Tensor) -> Tensor:
        return moments


@final
class _ConvDesign:
    """With places: a regressor for each template and each of its pixels.

    Two regressors meet wherever their units lie as far apart as their pixels do. The Gram matrix is made of the
    units' correlations at these distances, and those of the accumulated cross-spectra: one Fourier transform of
    the units, and an outer product for each frequency.

    Args:
        conv: where stride, padding, dilation and groups come from.
    """

    def __init__(self, conv: Conv2d) -> None:
        self._conv = conv

    def coefficients(self, weight: Tensor) -> Tensor:
        groups = self._conv.groups
        coefficients: Tensor = weight.unflatten(0, (groups, -1)).movedim(2, -1).flatten(1, 3)
        return coefficients

    def weight(self, coefficients: Tensor) -> Tensor:
        conv = self._conv
        unit = (conv.out_channels // conv.groups, *conv.kernel_size)
        weight: Tensor = coefficients.unflatten(1, unit).movedim(-1, 2).flatten(0, 1)
        return weight.contiguous()

    def draw(self, v: Tensor, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        return draw(v, weight, self._conv, shape, quick=True)

    def cross(self, v: Tensor, target: Tensor) -> Tensor:
        # The canvas is linear in the weight; its transpose is what autograd knows as the weight's gradient.
        weight = torch.zeros_like(self._conv.weight, requires_grad=True)
        with torch.enable_grad():
            canvas = draw(v, weight, self._conv, tuple(target.shape[1:]), quick=True)
            (moments,) = torch.autograd.grad(canvas, weight, target)
        return self.coefficients(moments)

    def moments(self, v: Tensor) -> Tensor:
        """Cross-spectra (G, rows, columns, C_out / G, C_out / G), complex."""
        conv, stride = self._conv, self._conv.stride
        spread = v
        if max(stride) > 1:
            spread = v.new_zeros(*v.shape[:2], *((v.shape[2 + i] - 1) * stride[i] + 1 for i in (0, 1)))
            spread[..., :: stride[0], :: stride[1]] = v
        # Room for the distances in both directions keeps the circular correlation from wrapping around; an even
        # number of columns can be told from the number of frequencies.
        height, width = (spread.shape[2 + i] + conv.dilation[i] * (conv.kernel_size[i] - 1) for i in (0, 1))
        waves = torch.fft.rfft2(spread, s=(height, width + width % 2))
        waves = waves.unflatten(1, (conv.groups, -1)).permute(1, 3, 4, 2, 0)
        spectra: Tensor = waves.conj() @ waves.mT
        return spectra

    def gram(self, moments: Tensor) -> Tensor:
        conv, height, width = self._conv, moments.shape[1], 2 * (moments.shape[2] - 1)
        correlations = torch.fft.irfft2(moments, s=(height, width), dim=(1, 2))
        # Regressor (o, p) at place x is unit v_o at x - p: two meet at the distance p - p'.
        rows, columns = (
            (torch.arange(conv.kernel_size[i])[:, None] - torch.arange(conv.kernel_size[i])) * conv.dilation[i]
            for i in (0, 1)
        )
        met = correlations[:, rows[:, None, :, None] % height, columns[None, :, None, :] % width]
        matrix: Tensor = met.permute(0, 5, 1, 2, 6, 3, 4).flatten(4, 6).flatten(1, 3)
        return matrix
