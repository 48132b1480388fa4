"""The shallow Rendering Mixture Model: a class, a position, elements that are on or off, pixel noise.

Slide "The Shallow Rendering Mixture Model": I = Λ(c,t)(a ⊙ z) + noise. Choose a class, where to draw, which of its
elements to use and how much to weigh each, and add noise. Two inferences are exact:

- max-sum, argmax ⟨Λ(c,t)(a ⊙ z), I⟩, is one layer of a convnet (slide "Theorem: Inference in RMM yields One
  Layer of Convnet"): `forward` and `infer`;
- the Gaussian posterior, by trying every class, position and switching vector with z integrated out: `log_joint`.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.errors import InputError
from drmm.model.randomness import categorical, normal, uniform
from drmm.rendering import Conv2d, MaxPool2d
from drmm.rendering.convolution import correlate, draw
from drmm.rendering.pooling import best_position

__all__ = ["RMM", "Quadratic", "ShallowLatents"]

_MOST_ELEMENTS = 6  # of a class: all their 2^K switching vectors are tried
_CHUNK = 2_000_000  # numbers in the largest tensors of an E-step
_NEGLIGIBLE = 0.01  # nats of an image that rounding may take


@dataclass(frozen=True, slots=True)
class ShallowLatents:
    """One latent configuration for each image.

    Attributes:
        label: c, (N,).
        position: t, an index into `RMM.shifts`, (N,).
        switches: a, which elements are on, bool (N, K).
        loadings: z, how much each weighs, (N, K).
    """

    label: Tensor
    position: Tensor
    switches: Tensor
    loadings: Tensor


class Quadratic(NamedTuple):
    """The log-joint of every configuration as a quadratic of the correlations v = (I ⋆ dictionary) + offset.

    EM differentiates the log-likelihood with respect to these four: the derivatives are what the posterior
    expects, summed over images (Fisher's identity).

    Attributes:
        dictionary: Λ/σ², (C·K, C_in, H, W). Derivative: Σ E[a z] I, shifted back.
        offset: zero, (C·K,). Derivative: Σ E[a z].
        constant: (C·T, 1, 2^K). Derivative: Σ p(c, t, a | I), the responsibilities.
        curvature: coefficients of v_k and of v_k v_l, k ≤ l, (C·T, K(K+3)/2, 2^K).
    """

    dictionary: Tensor
    offset: Tensor
    constant: Tensor
    curvature: Tensor


@final
class RMM(nn.Module):
    """A mixture of classes, each a few templates that are drawn together anywhere within reach.

    c ~ Cat(π), t ~ Cat(π_t), a_k ~ Bernoulli(ρ_ck), z_k ~ N(ζ_ck, 1), I ~ N(Σ_k a_k z_k T_t Λ_ck, σ² 1). What is
    drawn beyond the canvas is lost. With one element a class is one template of variable brightness; with more it
    is a factor analyser whose factors can be switched off (spike and slab). The variance of z is 1 by choice of
    scale: ζ_ck Λ_ck is the element's mean picture, Λ_ck one standard deviation of it.

    Args:
        n_classes: C.
        image_shape: (C_in, H, W).
        elements: K, of each class.
        reach: the largest shift in pixels, one number or (rows, columns); T = (2·rows + 1)(2·columns + 1).

    Attributes:
        dictionary: Λ, a `Conv2d` whose templates are the elements, class by class.
        shifts: (rows, columns) in pixels of each position t, (T, 2).
        masks: every switching vector, bool (2^K, K).
        class_prior: π, (C,).
        position_prior: π_t, (T,).
        switch_prior: ρ, (C, K).
        mean_loading: ζ, (C, K).
        noise: σ², ().

    Raises:
        InputError: if there are no classes, too many elements, or shifts as large as the picture.
    """

    class_prior: Tensor
    position_prior: Tensor
    switch_prior: Tensor
    mean_loading: Tensor
    noise: Tensor
    shifts: Tensor
    masks: Tensor

    def __init__(
        self,
        n_classes: int,
        image_shape: tuple[int, int, int],
        *,
        elements: int = 1,
        reach: int | tuple[int, int] = 2,
    ) -> None:
        super().__init__()
        try:
            both = reach if isinstance(reach, tuple | list) else (reach, reach)
            rows, columns = (int(operator.index(pixels)) for pixels in both)
        except (TypeError, ValueError):
            raise InputError(f"reach must be pixels, one number or (rows, columns), got {reach!r}") from None
        channels, height, width = image_shape
        if n_classes < 1:
            raise InputError(f"a mixture needs one class or more, got {n_classes}")
        if not 1 <= elements <= _MOST_ELEMENTS:
            raise InputError(f"elements must be 1 to {_MOST_ELEMENTS} (all 2^K masks are tried), got {elements}")
        if not (0 <= rows < height and 0 <= columns < width):
            raise InputError(f"reach={reach} must be 0 or more and less than the picture, {height}x{width} pixels")
        self.n_classes, self.elements = n_classes, elements
        self.image_shape, self.reach = image_shape, (rows, columns)
        templates = n_classes * elements
        self.dictionary = Conv2d(channels, templates, (height, width), padding=(rows, columns), bias=False)
        self.pool = MaxPool2d((2 * rows + 1, 2 * columns + 1))
        steps = torch.cartesian_prod(torch.arange(-rows, rows + 1), torch.arange(-columns, columns + 1))
        bits = torch.arange(2**elements)[:, None] >> torch.arange(elements)
        self.register_buffer("class_prior", torch.full((n_classes,), 1 / n_classes))
        self.register_buffer("position_prior", torch.full((len(steps),), 1 / len(steps)))
        self.register_buffer("switch_prior", torch.full((n_classes, elements), 0.5))
        self.register_buffer("mean_loading", torch.ones(n_classes, elements))
        self.register_buffer("noise", torch.ones(()))
        self.register_buffer("shifts", steps, persistent=False)
        self.register_buffer("masks", bits % 2 == 1, persistent=False)

    @property
    def templates(self) -> Tensor:
        """Λ as (C, K, C_in, H, W), a view of the dictionary's weight."""
        weight: Tensor = self.dictionary.weight.unflatten(0, (self.n_classes, self.elements))
        return weight

    @property
    def means(self) -> Tensor:
        """The mean picture of each class at no shift, Σ_k ρ_ck ζ_ck Λ_ck, (C, C_in, H, W)."""
        weight = self.switch_prior * self.mean_loading
        return (weight[..., None, None, None] * self.templates).sum(1)

    @property
    def n_parameters(self) -> int:
        """Free parameters: templates, mean loadings, priors over classes, positions and switches, noise."""
        free = self.dictionary.weight.numel() + self.mean_loading.numel() + self.switch_prior.numel() + 1
        return free + len(self.class_prior) - 1 + len(self.position_prior) - 1

    @property
    def chunk(self) -> int:
        """How many images to infer at once, so that memory does not grow with their number."""
        return max(1, _CHUNK // (self.n_classes * len(self.shifts) * (len(self.masks) + self.elements**2)))

    @property
    def inference_dtype(self) -> torch.dtype:
        """The parameters' type, but double where its rounding of ‖I‖²/σ², of pixels in [0, 1], can be seen."""
        dtype = self.noise.dtype
        rounding = math.prod(self.image_shape) / float(self.noise) * torch.finfo(dtype).eps
        return dtype if rounding < _NEGLIGIBLE else torch.float64

    # --- max-sum: one layer of a convnet ---------------------------------------------------------------------

    def forward(self, x: Tensor, loadings: Tensor | None = None) -> Tensor:
        """MaxPool(ReLU(Conv(I))): the max-sum score of every class, (N, C).

        Args:
            x: images (N, C_in, H, W).
            loadings: z, (C, K); the prior means ζ by default.
        """
        return best_position(self._lit(x, loadings)[1], self.pool)[0].flatten(1)

    def infer(self, x: Tensor, loadings: Tensor | None = None) -> tuple[Tensor, ShallowLatents]:
        """Joint MAP of max-sum: Choose(MaxPool(ReLU(Conv(I)))), exact for max_{c,t,a} ⟨Λ(c,t)(a ⊙ z), I⟩.

        Elements share one position: their maps are added before the pooling. It is not the maximum of the Gaussian
        log-joint, from which the slides drop ½‖Λ(c,t)(a ⊙ z)‖² and the priors; `explain` maximises that.

        Args:
            x: images (N, C_in, H, W).
            loadings: z, (C, K); the prior means ζ by default. They weigh the templates before the ReLU, so that
                any sign will do.

        Returns:
            The best score of each image, (N,), and ĉ, t̂, â.
        """
        u, lit = self._lit(x, loadings)
        scores, positions = best_position(lit, self.pool)
        score, label = scores.flatten(1).max(1)
        image = torch.arange(len(x), device=x.device)
        t = positions.flatten(1)[image, label].long()
        z = (self.mean_loading if loadings is None else loadings)[label]
        return score, ShallowLatents(label, t, u.flatten(3)[image, label, :, t] > 0, z)

    def _lit(self, x: Tensor, loadings: Tensor | None) -> tuple[Tensor, Tensor]:
        """Correlations with the weighted elements, (N, C, K, rows, columns), and the sum of their ReLUs."""
        z = self.mean_loading if loadings is None else loadings
        u = correlate(x, z.reshape(-1, 1, 1, 1) * self.dictionary.weight, None, self.dictionary)
        u = u.unflatten(1, (self.n_classes, self.elements))
        return u, u.relu().sum(2)

    # --- drawing ---------------------------------------------------------------------------------------------

    def render(self, latents: ShallowLatents) -> Tensor:
        """Λ(c,t)(a ⊙ z), (N, C_in, H, W): the transpose of the correlation, applied to the units that are on."""
        n, window = len(latents.label), tuple(2 * pixels + 1 for pixels in self.reach)
        units = self.noise.new_zeros(n, self.n_classes, len(self.shifts), self.elements)
        image = torch.arange(n, device=units.device)
        units[image, latents.label, latents.position] = (latents.switches * latents.loadings).to(units.dtype)
        maps = units.transpose(2, 3).reshape(n, -1, *window)
        return draw(maps, self.dictionary.weight, self.dictionary, self.image_shape)

    def align(self, x: Tensor, position: Tensor) -> Tensor:
        """Images (N, C_in, H, W) shifted back by their positions (N,); what lies beyond the canvas is 0."""
        row, column = _divmod(position, 2 * self.reach[1] + 1)
        return self._windows(x).movedim(1, 3)[torch.arange(len(x), device=x.device), row, column]

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, ShallowLatents]:
        """Ancestral samples: pictures (n, C_in, H, W) and the latents that drew them."""
        label = categorical(self.class_prior, n, generator)
        position = categorical(self.position_prior, n, generator)
        a = uniform((n, self.elements), self.noise, generator) < self.switch_prior[label]
        z = normal((n, self.elements), self.noise, generator)
        latents = ShallowLatents(label, position, a, self.mean_loading[label] + z)
        mean = self.render(latents)
        return mean + self.noise.sqrt() * normal(mean.shape, mean, generator), latents

    # --- the Gaussian posterior ------------------------------------------------------------------------------

    @torch.no_grad()
    def log_joint(self, x: Tensor) -> Tensor:
        """Log p(I, c, t, a) of every configuration, z integrated out, (N, C, T, 2^K), float64, in nats.

        Args:
            x: images (N, C_in, H, W). Memory grows with N·C·T·2^K: `chunk` says how many are not too many.
        """
        return self._configurations(x) + self.log_white(x)[:, None, None, None]

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """Log p(I), (N,), float64, in nats: exact, a sum over every configuration."""
        return self._configurations(x).flatten(1).logsumexp(1) + self.log_white(x)

    @torch.no_grad()
    def responsibilities(self, x: Tensor) -> Tensor:
        """p(c | I), (N, C)."""
        return self._configurations(x).flatten(2).logsumexp(2).softmax(1)

    @torch.no_grad()
    def explain(self, x: Tensor) -> ShallowLatents:
        """The most probable ĉ, t̂, â of the Gaussian posterior, jointly, and the loadings expected given these."""
        x, quadratic = x.to(self.inference_dtype), self._quadratic()
        label_and_shift, mask = _divmod(self.evaluate(x, quadratic).flatten(1).argmax(1), len(self.masks))
        label, t = _divmod(label_and_shift, len(self.shifts))
        a, prior = self.masks[mask], self.mean_loading[label]
        v = self._correlations(x, quadratic)[torch.arange(len(x), device=x.device), label, :, t]
        precision, _ = _precision(a, self.gram()[label, t].to(v.dtype))
        expected = torch.linalg.solve(precision, a * (v + prior))
        return ShallowLatents(label, t, a, torch.where(a, expected, prior))

    def evaluate(self, x: Tensor, quadratic: Quadratic) -> Tensor:
        """Log p(I, c, t, a) - log N(I; 0, σ² 1) of every configuration, (N, C·T, 2^K).

        Args:
            x: images (N, C_in, H, W).
            quadratic: of the images' type.
        """
        v = self._correlations(x, quadratic).permute(1, 3, 0, 2).flatten(0, 1)
        first, second = torch.triu_indices(self.elements, self.elements)
        features = torch.cat([v, v[..., first] * v[..., second]], -1)
        return torch.baddbmm(quadratic.constant, features, quadratic.curvature).transpose(0, 1)

    def log_white(self, x: Tensor) -> Tensor:
        """Log N(I; 0, σ² 1), (N,), float64: what an image is worth as noise alone."""
        energy, noise = x.flatten(1).double().square().sum(1), self.noise.double()
        return -0.5 * (energy / noise + math.prod(self.image_shape) * (2 * math.pi * noise).log())

    def visible(self) -> Tensor:
        """Whether a template's pixel is on the canvas at each position, 0 or 1, float64 (T, H, W)."""
        blank = torch.ones(1, 1, *self.image_shape[1:], dtype=torch.float64, device=self.noise.device)
        return self._windows(blank)[0, 0].flatten(0, 1)

    def gram(self) -> Tensor:
        """Inner products of a class's elements as drawn at each position, over σ², float64 (C, T, K, K)."""
        templates = self.templates.detach().double().transpose(1, 2)
        products = (templates[:, :, :, None] * templates[:, :, None]).sum(1).flatten(3)
        drawn: Tensor = products @ self.visible().flatten(1).T / self.noise.double()
        return drawn.permute(0, 3, 1, 2)

    def quadratic(self, gram: Tensor) -> Quadratic:
        """What `evaluate` needs, float64, and differentiable with respect to the Gram matrices.

        Given c, t and a, z is Gaussian with precision A = 1 + M_a G M_a and mean A⁻¹ M_a (v + ζ), where v are the
        correlations over σ² and G the Gram matrix over σ². Integrating z out leaves ½ (v + ζ)ᵀ M_a A⁻¹ M_a (v + ζ)
        - ½ ‖M_a ζ‖² - ½ log|A|. Its derivative with respect to G is -½ E[(a ⊙ z)(a ⊙ z)ᵀ].

        Args:
            gram: G, from `gram`.
        """
        a = self.masks.double()[:, None, None]
        zeta = a * self.mean_loading.double()[:, None]
        precision, pairs = _precision(a, gram)
        root = torch.linalg.cholesky(precision)
        inverse = torch.cholesky_inverse(root)
        linear = (inverse @ zeta.expand(precision.shape[:-1])[..., None]).squeeze(-1)
        log_volume = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = self._log_prior() - 0.5 * (zeta * (zeta - linear)).sum(-1) - log_volume
        first, second = torch.triu_indices(self.elements, self.elements)
        square = (inverse * pairs)[..., first, second] * torch.where(first == second, 0.5, 1.0)
        return Quadratic(
            dictionary=self.dictionary.weight.detach().double() / self.noise.double(),
            offset=self.noise.new_zeros(self.dictionary.out_channels, dtype=torch.float64),
            constant=constant.flatten(1).T[:, None],
            curvature=torch.cat([a * linear, square], -1).flatten(1, 2).permute(1, 2, 0),
        )

    def _configurations(self, x: Tensor) -> Tensor:
        """As `evaluate`, (N, C, T, 2^K)."""
        joint = self.evaluate(x.to(self.inference_dtype), self._quadratic())
        configurations: Tensor = joint.unflatten(1, (self.n_classes, -1))
        return configurations

    def _quadratic(self) -> Quadratic:
        return Quadratic(*(part.to(self.inference_dtype) for part in self.quadratic(self.gram())))

    def _correlations(self, x: Tensor, quadratic: Quadratic) -> Tensor:
        """Correlations v, (N, C, K, T)."""
        v = correlate(x, quadratic.dictionary, quadratic.offset, self.dictionary)
        return v.reshape(len(x), self.n_classes, self.elements, -1)

    def _log_prior(self) -> Tensor:
        """Log p(c) p(t) p(a | c), float64 (2^K, C, T)."""
        rho = self.switch_prior.double()
        switches = torch.where(self.masks[:, None], rho.log(), torch.log1p(-rho)).sum(-1)
        return switches[..., None] + self.class_prior.double().log()[:, None] + self.position_prior.double().log()

    def _windows(self, x: Tensor) -> Tensor:
        """What lies under a template at each position, a view (N, C_in, rows, columns, H, W)."""
        (rows, columns), (_, height, width) = self.reach, self.image_shape
        return F.pad(x, (columns, columns, rows, rows)).unfold(2, height, 1).unfold(3, width, 1)


def _precision(a: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Precision of the loadings, 1 + M_a G M_a, and whether both elements of a pair are on, (…, K, K) each."""
    pairs = a[..., :, None] * a[..., None, :]
    return torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device) + pairs * gram, pairs


def _divmod(index: Tensor, base: int) -> tuple[Tensor, Tensor]:
    return torch.div(index, base, rounding_mode="floor"), index % base
