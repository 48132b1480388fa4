"""Pixels that were not seen: what they probably were, from those beside them and from what the model draws.

Slide "Missing-at-Random Inference in the DRMM yields DropOut", for pixels. If noise were independent from pixel to
pixel, the best guess of a missing one would be the rendering, α μ_ĉĝ. But what a rendering leaves out of a picture
is as smooth as the picture itself, so that neighbours tell about it. With correlated noise the expectation is

    Î = w α μ + S(I - w α μ) = S(I) + w (α μ - S(α μ)),

where S regresses missing pixels on seen ones; a weighted mean of them stands in for it. How far to trust the
picture, w, is measured: some pixels that were seen are hidden from inference, and predicted. A model that draws
badly is then not listened to.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from drmm.errors import InputError

__all__ = ["complete", "from_neighbours", "hold_out", "observed_pixels", "trust"]

_POWER = 6  # of the distance, by which neighbours' weights fall: best or equal of 4, 6, 8 at 30 to 80 % missing
_EVERY = 3  # one of so many seen pixels is hidden from inference
_PRIOR = 0.1  # variance of w before anything was measured, about 0


def observed_pixels(x: Tensor, observed: Tensor) -> Tensor:
    """Which pixels were seen, bool of the images' shape.

    Args:
        x: images (N, C, H, W), float.
        observed: bool (N, C, H, W), with any of the four 1; or (H, W), the same for all images and channels.

    Raises:
        InputError: if the images are no batch, or the mask is not bool or of another shape.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise InputError(f"images must be floats (N, C, H, W), got {x.dtype} {tuple(x.shape)}")
    if observed.dtype != torch.bool:
        raise InputError(f"observed must be bool, True where a pixel was seen, got {observed.dtype}")
    fits = all(mine in {1, size} for mine, size in zip(observed.shape[::-1], x.shape[::-1], strict=False))
    if observed.ndim not in {2, 4} or not fits:
        raise InputError(
            f"observed must be (H, W) or fit (N, C, H, W) = {tuple(x.shape)}, got {tuple(observed.shape)}: "
            "a mask for each image is (N, 1, H, W)"
        )
    return observed.to(x.device).expand(x.shape)


def from_neighbours(x: Tensor, observed: Tensor, power: float = _POWER) -> Tensor:
    """Each missing pixel as the mean of the seen ones of its channel, weighted by distance^-power.

    Inverse distance weighting (Shepard, 1968). The power law is a sum of Gaussians an octave apart, for speed.

    Args:
        x: images (N, C, H, W), finite where they were seen.
        observed: bool of the same shape.
        power: the larger, the more the nearest pixels count.

    Returns:
        The images; seen pixels are as they were, and channels of which nothing was seen are 0.
    """
    seen, height, width = torch.where(observed, x, 0.0), *x.shape[-2:]
    total, weight = torch.zeros_like(x), torch.zeros_like(x)
    there, scale = observed.to(x.dtype), 0.25
    while scale < 2 * max(height, width):
        down, across = _gaussian(height, scale, x), _gaussian(width, scale, x)
        share = scale**-power
        total += share * (down @ seen @ across)
        weight += share * (down @ there @ across)
        scale *= 2
    return torch.where(observed, x, total / weight.clamp(min=torch.finfo(x.dtype).tiny))


def hold_out(observed: Tensor) -> Tensor:
    """Every third place of which something was seen, in all channels at once, bool (N, C, H, W)."""
    places = observed.any(1, keepdim=True)
    count = places.flatten(1).cumsum(1).reshape(places.shape)
    return observed & (count % _EVERY == 0)


def trust(error: Tensor, detail: Tensor, held: Tensor) -> Tensor:
    """How much of what a picture adds is there, w in [0, 1], (N,): regression of the error on the detail.

    The posterior mean under w ~ N(0, 1/10), at the noise that least squares leaves; 0 if there is nothing to tell.

    Args:
        error: what the guess was short of, (N, C, H, W).
        detail: what the picture would have added to it.
        held: on which pixels to measure, bool.
    """
    error, detail = (torch.where(held, values, 0.0).flatten(1) for values in (error, detail))
    match, energy = (error * detail).sum(1), detail.square().sum(1)
    best = match / energy.clamp(min=torch.finfo(error.dtype).tiny)
    degrees = held.flatten(1).sum(1) - 1
    noise = (error - best[:, None] * detail).square().sum(1) / degrees.clamp(min=1)
    shrunk = match / (energy + noise / _PRIOR).clamp(min=torch.finfo(error.dtype).tiny)
    return torch.where(degrees > 0, shrunk, 0.0).clamp(0, 1)


def complete(x: Tensor, observed: Tensor, draw: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Fill in what was not seen.

    Args:
        x: images (N, C, H, W), of any values where they were not seen.
        observed: bool of the same shape.
        draw: the model's picture α μ_ĉĝ of images without gaps, its α fitted to the pixels of a mask.

    Returns:
        The images without gaps; values that were not seen had no part in it.
    """
    held = hold_out(observed)
    guess, detail = _guess(x, observed & ~held, draw)
    share = trust(x - guess, detail, held)
    guess, detail = _guess(x, observed, draw)
    return torch.where(observed, x, guess + share[:, None, None, None] * detail)


def _guess(x: Tensor, observed: Tensor, draw: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """S(I), and α μ - S(α μ): what a picture of that guess adds to it."""
    guess = from_neighbours(x, observed)
    picture = draw(guess, observed)
    return guess, picture - from_neighbours(picture, observed)


def _gaussian(size: int, scale: float, like: Tensor) -> Tensor:
    coordinate = torch.arange(size, dtype=like.dtype, device=like.device)
    return (-0.5 * ((coordinate[:, None] - coordinate) / scale).square()).exp()
