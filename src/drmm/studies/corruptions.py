"""What pictures suffer: noise, blur, occlusion, and attacks that look for a net's weak spot.

Every function takes images (N, C, H, W) with values in [0, 1] and returns new ones of the same shape, type and
device, in [0, 1] again. What is random comes from a generator, so that a seed decides it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from drmm.errors import InputError
from drmm.model.randomness import normal, uniform

__all__ = ["blur", "fgsm", "gaussian_noise", "occlude", "pgd"]

Classifier = Callable[[Tensor], Tensor]


def gaussian_noise(x: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
    """Add independent Gaussian noise to every value, and clip to [0, 1].

    Args:
        x: images (N, C, H, W) in [0, 1].
        sigma: standard deviation before clipping, in units of the whole range.
        generator: of any device; None uses torch's own.

    Raises:
        InputError: if x is no batch of images in [0, 1], or sigma is negative.
    """
    _check(x, sigma=sigma)
    return (x + sigma * normal(x.shape, x, generator)).clamp(0, 1)


def blur(x: Tensor, sigma: float) -> Tensor:
    """Convolve with a Gaussian, mirrored at the borders so that the picture's mean stays.

    Args:
        x: images (N, C, H, W) in [0, 1].
        sigma: standard deviation, in pixels; the Gaussian is cut off at three of them. 0 leaves x as it is.

    Raises:
        InputError: if x is no batch of images in [0, 1], or sigma is negative.
    """
    _check(x, sigma=sigma)
    radius = math.ceil(3 * sigma)
    if radius == 0:
        return x.clone()
    places = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.softmax(-0.5 * (places / sigma).square(), 0)
    y = x.flatten(0, 1).unsqueeze(1)
    y = F.conv2d(_mirrored(y, 2, radius), kernel.view(1, 1, -1, 1))
    y = F.conv2d(_mirrored(y, 3, radius), kernel.view(1, 1, 1, -1))
    return y.reshape(x.shape).clamp(0, 1)


def occlude(x: Tensor, size: int, generator: torch.Generator | None = None, *, value: float = 0.5) -> Tensor:
    """Cover a square at a random place, wholly inside the picture, another place for each image.

    As Cutout does (DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout",
    2017), where squares may reach beyond the border.

    Args:
        x: images (N, C, H, W) in [0, 1].
        size: side of the square, in pixels.
        generator: of any device; None uses torch's own.
        value: of the square's pixels.

    Raises:
        InputError: if x is no batch of images in [0, 1], the square does not fit, or the value is outside [0, 1].
    """
    _check(x, size=size)
    height, width = x.shape[-2:]
    if size > min(height, width):
        raise InputError(f"a square of {size} pixels does not fit into pictures of {height}x{width}")
    if not 0 <= value <= 1:
        raise InputError(f"value must be in [0, 1], got {value}")
    covered = [_span(len(x), length, size, generator, x.device) for length in (height, width)]
    square = covered[0][:, None, :, None] & covered[1][:, None, None, :]
    return torch.where(square, value, x)


def fgsm(classifier: Classifier, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """The fast gradient sign method: one step of size eps up the cross-entropy, in every pixel.

    Source: Goodfellow, Shlens & Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015.

    Args:
        classifier: images to logits (N, classes), differentiable in the images, in evaluation mode. Its parameters
            get no gradient.
        x: images (N, C, H, W) in [0, 1].
        y: the true classes, (N,).
        eps: largest change of a value, in units of the whole range.

    Raises:
        InputError: if x is no batch of images in [0, 1], eps is negative, or the labels do not fit.
    """
    _check(x, y, eps=eps)
    return (x + eps * _uphill(classifier, x, y)).clamp(0, 1)


def pgd(
    classifier: Classifier,
    x: Tensor,
    y: Tensor,
    eps: float,
    generator: torch.Generator | None = None,
    *,
    steps: int = 10,
    step: float | None = None,
) -> Tensor:
    """Projected gradient descent: sign steps from a random start, each put back into the eps-ball and [0, 1].

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018.

    Args:
        classifier: as for `fgsm`.
        x: images (N, C, H, W) in [0, 1].
        y: the true classes, (N,).
        eps: largest change of a value, in units of the whole range.
        generator: of the start, of any device; None uses torch's own.
        steps: how many.
        step: size of a step in the same units; None is 2.5 eps / steps, with which any point of the ball can be
            reached.

    Raises:
        InputError: if x is no batch of images in [0, 1], eps, steps or step is negative, or the labels do not fit.
    """
    step = 2.5 * eps / max(1, steps) if step is None else step
    _check(x, y, eps=eps, steps=steps, step=step)
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    start = 2 * uniform(x.shape, x, generator) - 1
    attacked = (x + eps * start).clamp(low, high)
    for _ in range(steps):
        attacked = (attacked + step * _uphill(classifier, attacked, y)).clamp(low, high)
    return attacked


def _uphill(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """The sign of the cross-entropy's gradient, whatever gradient mode the caller is in."""
    with torch.enable_grad():
        images = x.detach().requires_grad_()
        # The sum keeps each image's gradient from shrinking with the size of the batch.
        loss = F.cross_entropy(classifier(images), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    return gradient.sign()


def _mirrored(y: Tensor, dim: int, radius: int) -> Tensor:
    """Mirror a dimension beyond its borders, edge pixel included: more than once where it is short."""
    length = y.shape[dim]
    places = torch.arange(-radius, length + radius, device=y.device) % (2 * length)
    return y.index_select(dim, torch.minimum(places, 2 * length - 1 - places))


def _span(n: int, length: int, size: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Which of so many places an interval at a random start covers, bool (n, length)."""
    at = device if generator is None else generator.device
    start = torch.randint(length - size + 1, (n, 1), generator=generator, device=at).to(device)
    places = torch.arange(length, device=device)
    return (places >= start) & (places < start + size)


def _check(x: Tensor, y: Tensor | None = None, **amounts: float) -> None:
    if x.ndim != 4 or not x.is_floating_point():
        raise InputError(f"images must be floats (N, C, H, W), got {x.dtype} {tuple(x.shape)}")
    if x.numel() and not (bool(x.min() >= 0) and bool(x.max() <= 1)):
        raise InputError("images must be in [0, 1]: divide by 255, or undo a normalisation")
    for name, amount in amounts.items():
        if not amount >= 0:
            raise InputError(f"{name} must not be negative, got {amount}")
    if y is not None and (y.shape != x.shape[:1] or y.is_floating_point()):
        raise InputError(f"{len(x)} images need as many classes, got {y.dtype} {tuple(y.shape)}")
