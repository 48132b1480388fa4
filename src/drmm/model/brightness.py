"""How bright a picture is drawn: α of I ~ N(α μ_cg, σ² 1), as the best fit of each image or with a prior.

What log p(I | c, g) has beyond the noise alone, log N(I; 0, σ² 1), depends on the image by two numbers, the match
⟨μ, I⟩ and the energy ‖μ‖²: (α ⟨μ, I⟩ - ½ α² ‖μ‖²) / σ² where α is known. The best α of each image gives a profile
likelihood, which is no density over images: its mass grows without limit. With a prior α is integrated out.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.model.randomness import uniform

__all__ = ["BestFit", "Brightness", "BrightnessPrior", "best_fit", "compare"]

_LEAST = 1e-30  # spread about a mean of 0, for a picture that has nothing in it
_NARROWEST = 1e-6  # spread, beside the mean, below which a prior is one brightness for all


def compare(x: Tensor, rendering: Tensor, observed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Match ⟨μ, I⟩ and energy ‖μ‖² of each image, (N,) each, over the pixels in the mask.

    Args:
        x: images (N, C, H, W); where they were not seen of any value.
        rendering: μ, of the same shape.
        observed: which pixels were seen, bool of the same shape; None if all were.
    """
    if observed is not None:
        x, rendering = (torch.where(observed, image, 0.0) for image in (x, rendering))
    x, rendering = x.flatten(1), rendering.flatten(1)
    return (x * rendering).sum(1), rendering.square().sum(1)


def best_fit(match: Tensor, energy: Tensor) -> Tensor:
    """The least-squares α ≥ 0, argmin ‖I - α μ‖², of the shape of the match; 0 where nothing is drawn."""
    tiny = torch.finfo(energy.dtype).tiny
    return torch.where(energy > 0, match / energy.clamp(min=tiny), 0.0).clamp(min=0)


class Brightness(ABC):
    """What is known of α, and so how well a template explains an image."""

    @abstractmethod
    def gain(self, match: Tensor, energy: Tensor, noise: Tensor) -> Tensor:
        """Log p(I | c, g) - log N(I; 0, σ² 1), in nats, of the shape of the match.

        Args:
            match: ⟨μ, I⟩.
            energy: ‖μ‖², of the same shape.
            noise: σ², ().
        """

    @abstractmethod
    def best(self, match: Tensor, energy: Tensor, noise: Tensor) -> Tensor:
        """The most probable α ≥ 0; arguments and shape as for `gain`."""


@final
@dataclass(frozen=True, slots=True)
class BestFit(Brightness):
    """Nothing is known: each image has the α that suits it best, and the gain is ½ ⟨μ, I⟩₊² / (‖μ‖² σ²)."""

    def gain(self, match: Tensor, energy: Tensor, noise: Tensor) -> Tensor:
        """See `Brightness.gain`."""
        return 0.5 * best_fit(match, energy) * match / noise

    def best(self, match: Tensor, energy: Tensor, noise: Tensor) -> Tensor:
        """See `Brightness.best`."""
        del noise
        return best_fit(match, energy)


@final
@dataclass(frozen=True)
class BrightnessPrior(Brightness):
    """p(α) ∝ N(α; mean, spread²) for α ≥ 0: half-normal where the mean is 0, one α for all where the spread is 0.

    Attributes:
        mean: of the normal distribution that is cut off at 0, not negative.
        spread: its standard deviation.

    Raises:
        InputError: if one is negative or not finite.
    """

    mean: float = 0.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.mean < math.inf and 0 <= self.spread < math.inf):
            raise InputError(
                f"a prior of brightness needs a mean and a spread of 0 or more, got {self.mean} and {self.spread}"
            )

    @classmethod
    def fit(cls, amplitude: Tensor) -> BrightnessPrior:
        """With the mean and the standard deviation of the best fits of many images, such as `Latents.amplitude`.

        Args:
            amplitude: (N,), two or more.

        Raises:
            InputError: if there are fewer, or some are not finite.
        """
        if len(amplitude) < 2:
            raise InputError(f"a prior of brightness is fitted to two images or more, got {len(amplitude)}")
        return cls(float(amplitude.mean()), float(amplitude.std()))

    def gain(self, match: Tensor, energy: Tensor, noise: Tensor) -> Tensor:
        """See `Brightness.gain`: the Gaussian integral over α ≥ 0."""
        spread = self._spread
        centre, narrowing = self._posterior(match, energy, noise)
        square = spread**2 * (match / noise).square() + (2 * match - self.mean * energy) * self.mean / noise
        cut = torch.special.log_ndtr(match.new_tensor(self.mean / spread))
        positive = torch.special.log_ndtr(centre * narrowing.sqrt() / spread)
        gain: Tensor = 0.5 * (square / narrowing - narrowing.log()) + positive - cut
        return gain

    def best(self, match: Tensor, energy: Tensor, noise: Tensor) -> Tensor:
        """See `Brightness.best`."""
        return self._posterior(match, energy, noise)[0].clamp(min=0)

    def sample(self, n: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw α of n images, (n,), of the type and device of `like`."""
        above = torch.special.ndtr(like.new_tensor(self.mean / self._spread))
        quantile = (above * uniform((n,), like, generator)).clamp(min=torch.finfo(like.dtype).tiny)
        alpha: Tensor = self.mean - self._spread * torch.special.ndtri(quantile)
        return alpha.clamp(min=0)

    @property
    def _spread(self) -> float:
        return max(self.spread, _NARROWEST * self.mean, _LEAST)

    def _posterior(self, match: Tensor, energy: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the normal distribution of α given the image, and by how much its variance is smaller."""
        narrowing = 1 + self._spread**2 * energy / noise
        return (self.mean + self._spread**2 * match / noise) / narrowing, narrowing
