"""The Deep Rendering Mixture Model: class templates, levels of rendering, priors and pixel noise.

Slide "Deep Rendering Mixture Model (DRMM)": c ~ Cat(π), g^(ℓ) ~ Cat(π_g), μ_cg = Λ^(1)_g … Λ^(L)_g μ_c,
I ~ N(μ_cg, σ² 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from drmm.errors import InputError
from drmm.model.brightness import Brightness, BrightnessPrior, compare
from drmm.model.certificate import Asked, Certificate
from drmm.model.drawing import Drawing, Sketch, draw, fit_amplitude, per_image
from drmm.model.gaussian import Objective, ObjectiveName, objective_of
from drmm.model.inpainting import complete, observed_pixels
from drmm.model.modes import evaluation, pieces
from drmm.model.moment import Moment
from drmm.model.priors import Prior, SwitchPrior
from drmm.model.randomness import categorical, normal, seeded
from drmm.rendering import Choice, Dropout, Dropout2d, Linear, Norm, Sequential, Switches
from drmm.rendering.bounds import NoBoundError, bound
from drmm.rendering.local import is_approximate, is_local

__all__ = ["DRMM", "Latents", "PathSum", "evaluation", "fit_amplitude", "per_image"]


class _Amplitude:
    """The attribute of latents that is given as numbers, or as a drawing that is made when it is read."""

    def __get__(self, latents: Latents | None, owner: type | None = None) -> Tensor:
        if latents is None:
            raise AttributeError("amplitude")  # which has no default
        return latents.drawing.read()

    def __set__(self, latents: Latents, given: Tensor | Drawing) -> None:
        object.__setattr__(latents, "drawing", given if isinstance(given, Drawing) else Drawing(given))


@dataclass(frozen=True)
class Latents:
    """The latent configuration of each image: ĉ and ĝ, and how good they are.

    Attributes:
        label: ĉ, (N,), an index of the class.
        score: the max-sum objective ⟨μ_ĉĝ, I⟩ plus the bias paths and the class bias, (N,); or log p(I, ĉ, ĝ) in
            nats, where that was maximised.
        logits: the score of every class with the same switches, (N, C); or with the best that were found.
        certificate: what `upper_bound` reads.
        amplitude: the least-squares factor of the rendering, α ≥ 0, (N,): I ≈ α μ_ĉĝ. Computed when it is first
            read, as `upper_bound` is.
        switches: ĝ.
        observed: which pixels were seen, bool (N, C, H, W); None if `infer` was not told.
        completed: the images with what was missing filled in, which the switches are of; None likewise.
        features: I^(L) of inference, which the templates were compared with, (N, D); None without one.
        objective: what was maximised.
        drawing: what `amplitude` reads.
    """

    label: Tensor
    score: Tensor
    logits: Tensor
    certificate: Certificate
    amplitude: _Amplitude = _Amplitude()
    switches: Switches  # type: ignore[misc]  # the descriptor above is no default
    observed: Tensor | None = None
    completed: Tensor | None = None
    features: Tensor | None = None
    objective: ObjectiveName = "inner"
    drawing: Drawing = field(init=False, repr=False, compare=False)

    @property
    def upper_bound(self) -> Tensor:
        """No configuration of the label (of any label, where none was given) scores higher, (N,).

        Computed when it is first read, for the weights and the images of the inference; infinite where there is no
        bound.

        Raises:
            InputError: if the weights or the images have changed before that.
        """
        return self.certificate.read()

    @property
    def gap(self) -> Tensor:
        """upper_bound - score, (N,): 0 means provably the joint MAP."""
        return self.upper_bound - self.score

    def certified(self, tolerance: float = 1e-5) -> Tensor:
        """Whether inference was provably exact, bool (N,); the tolerance is relative to the score."""
        return self.gap <= tolerance * (1 + self.score.abs())

    def top_k(self, k: int) -> tuple[Tensor, Tensor]:
        """Scores and labels of the k best classes, (N, k) each, best first."""
        scores, labels = self.logits.topk(k)
        return scores, labels

    @classmethod
    def without_score(cls, label: Tensor, amplitude: Tensor, switches: Switches, n_classes: int) -> Latents:
        """Latents that no max-sum pass has found: drawn, or read back."""
        unknown = torch.full_like(amplitude, math.nan)
        logits = unknown[:, None].expand(-1, n_classes)
        return cls(label, unknown, logits, Certificate(unknown), amplitude, switches)

    def select(self, index: Tensor | slice) -> Latents:
        """The latents of some images."""

        def of(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[index]

        return Latents(
            self.label[index],
            self.score[index],
            self.logits[index],
            self.certificate.select(index),
            self.drawing.select(index),
            self.switches.select(index),
            of(self.observed),
            of(self.completed),
            of(self.features),
            self.objective,
        )


@dataclass(frozen=True, slots=True)
class PathSum:
    """A score as a sum over active paths: `pixels.sum() + bias == score` for every image.

    Attributes:
        pixels: what the paths that end in a pixel contribute, (N, C, H, W): the active-path map.
        bias: what the paths that end in a bias contribute, (N,).
    """

    pixels: Tensor
    bias: Tensor


class DRMM(nn.Module):
    """A convnet and the generative model whose max-sum inference it is.

    Args:
        levels: pixels first.
        templates: a `Linear` whose rows are the class templates μ_c and whose bias is each class's log-odds; or a
            `Choice`, where the levels end with logits.
        image_shape: (C, H, W). Needed for priors over the switches, that is for `sample` and `log_joint`.
        class_prior: π, (C,); uniform by default.

    Attributes:
        verify: called with this model and the images before every pass up; what `drmm.lift` compares logits by.

    Raises:
        InputError: if `class_prior` is not a distribution over the templates.
    """

    verify: Callable[[DRMM, Tensor], None] | None = None

    def __init__(
        self,
        levels: Sequential,
        templates: Linear | Choice,
        *,
        image_shape: tuple[int, int, int] | None = None,
        class_prior: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.levels = levels
        self.templates = templates
        self.image_shape = image_shape
        n_classes = templates.out_features
        prior = torch.full((n_classes,), 1 / n_classes) if class_prior is None else class_prior
        if prior.shape != (n_classes,) or not bool((prior > 0).all()):
            raise InputError(f"class_prior must be {n_classes} positive numbers")
        self.class_prior: Tensor
        self.noise: Tensor
        self.amplitude: Tensor
        self.register_buffer("class_prior", prior / prior.sum())
        self.register_buffer("noise", torch.ones(()))
        self.register_buffer("amplitude", torch.ones(()))
        self.prior = None if image_shape is None else SwitchPrior(self.blank_switches())

    @property
    def n_classes(self) -> int:
        """How many class templates there are."""
        return self.templates.out_features

    @property
    def approximations(self) -> tuple[str, ...]:
        """Names of the operations that are drawn by a local linear map; none where every level is a rendering."""
        return tuple(name for name, module in self.levels.named_modules() if is_approximate(module))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C) of images (N, C, H, W): identical to the convnet's."""
        self.admit(x)
        return self.templates(self.levels(x))  # type: ignore[no-any-return]

    def admit(self, x: Tensor) -> None:
        """What every pass over images (N, C, H, W) begins with: `verify`, where `drmm.lift` has set it.

        Raises:
            LiftError: if a lifted model's logits are others than its net's.
        """
        if self.verify is not None:
            self.verify(self, x)

    def infer(
        self,
        x: Tensor,
        label: Tensor | int | None = None,
        generator: torch.Generator | None = None,
        observed: Tensor | None = None,
        *,
        certify: bool = False,
        objective: Objective | ObjectiveName = "inner",
    ) -> Latents:
        """Joint MAP of class and switches by max-sum, with the backtrace.

        Exact for max_{c,g} ⟨μ_cg, I⟩ (plus biases that scale with z) where every template above the pixels is
        non-negative, a heuristic otherwise: `upper_bound` says which. It is not the maximum of the Gaussian
        log-joint, from which the slides drop ½‖μ_cg‖²: with objective="gaussian" that is searched for, from here.

        Pixels that were not seen are latent as well: they are filled in as `inpaint` does, and the rest holds for
        the completed images. Then the amplitude, and the log-joint of these latents, are of the seen pixels alone.

        Args:
            x: images (N, C, H, W).
            label: condition on a class, (N,) or one for all; None takes the best.
            generator: source of randomness for renderings that draw (dropout in training mode).
            observed: True where a pixel was seen, bool (N, C, H, W) with any of the four 1, or (H, W); None if all
                were. Other pixels may have any value, NaN too.
            certify: compute `upper_bound` and the amplitude at once, and not when they are first read: for weights
                that will change.
            objective: "inner" is ⟨μ_cg, I⟩; "gaussian" is `drmm.model.gaussian.Gaussian()`, which may be given
                with other settings: never below max-sum in `log_joint`, and thousands of times as slow.

        Raises:
            InputError: if the labels or the mask do not fit, or there is no such objective; for the Gaussian one,
                if the model is in training mode or does not know its image shape.
        """
        aim = objective_of(objective)
        seen = None if observed is None else observed_pixels(x, observed)
        image = x if seen is None else self.inpaint(x, seen, label)
        with _randomness(generator):
            chosen, logits, switches, features = self._max_sum(image, label)
        moment, varies = Moment.now(self, image), self.varies()
        drawing = Drawing(None, Sketch(moment, chosen, switches, seen))
        if varies:
            certificate = Certificate.unknown(logits[:, 0].detach())
        else:
            certificate = Certificate(None, Asked(moment, None if label is None else chosen))
        if certify or varies:  # the next pass of training changes running statistics
            certificate.read()
            drawing.read()
        latents = Latents(
            label=chosen,
            score=logits.gather(1, chosen[:, None]).squeeze(1),
            logits=logits,
            certificate=certificate,
            amplitude=drawing,
            switches=switches,
            observed=seen,
            completed=None if seen is None else image,
            features=features,
        )
        return aim.refine(self, image, latents, given=label is not None)

    def inpaint(self, x: Tensor, observed: Tensor, label: Tensor | int | None = None) -> Tensor:
        """The images (N, C, H, W) with the pixels that were not seen filled in.

        From those beside them, and from what the model draws, as far as it can be trusted, which is hardly at all:
        nearly an interpolation (`drmm.model.inpainting`). It does so in evaluation mode and without a gradient;
        seen pixels are passed on.

        Args:
            x: images (N, C, H, W).
            observed: as for `infer`.
            label: draw this class, (N,) or one for all; None takes the best.

        Raises:
            InputError: if the labels or the mask do not fit.
        """
        seen = observed_pixels(x, observed)

        with torch.no_grad(), evaluation(self):
            completed = complete(x, seen, lambda image, known: self._drawn(image, label, known))
        return torch.where(seen, x, completed)

    @torch.no_grad()
    def upper_bound(self, x: Tensor) -> Tensor:
        """The two-message bound on each class's joint MAP score, (N, C), true for any signs.

        Where scales depend on the batch (a norm in training mode, or without running statistics), units are
        dropped at random, or a rendering has no registered bound, there is no certificate: the bound is infinite.
        """
        self.admit(x)
        try:
            self.check_bounded()
            return bound(self.templates, *bound(self.levels, x, x))[1]
        except NoBoundError:
            return x.new_full((x.shape[0], self.n_classes), math.inf)

    def render(self, latents: Latents) -> Tensor:
        """μ_ĉĝ, (N, C, H, W): the class template drawn through the switches."""
        return draw(self.levels, self.templates.weight[latents.label], latents.switches)

    def picture(self, latents: Latents) -> Tensor:
        """α μ_cg, (N, C, H, W): the rendering, as bright as the latents say."""
        amplitude, drawn = per_image(latents.amplitude), latents.drawing.rendering(self)
        return amplitude * (self.render(latents) if drawn is None else drawn)

    def reconstruct(self, x: Tensor, label: Tensor | int | None = None) -> Tensor:
        """α μ_ĉĝ, (N, C, H, W): the best explanation of each image, as bright as it should be."""
        return self._drawn(x, label)

    def sum_over_paths(self, x: Tensor, latents: Latents) -> PathSum:
        """The score as a sum over active paths (slide "The Sum-over-Paths Formulation").

        Args:
            x: the images that the latents were inferred from; those with missing pixels are taken as completed.
            latents: from `infer`.

        Raises:
            InputError: if their score is no sum over paths.
        """
        if latents.objective != "inner":
            raise InputError("only the inner product is a sum over paths: infer with objective='inner'")
        pixels = (x if latents.completed is None else latents.completed) * self.render(latents)
        return PathSum(pixels, latents.score - pixels.flatten(1).sum(1))

    def log_joint(
        self, x: Tensor, latents: Latents, prior: Prior | None = None, brightness: Brightness | None = None
    ) -> Tensor:
        """Log p(I, c, g) = log N(I; α μ_cg, σ²) + log π_c + log p(g | c) of each image, (N,), in nats.

        A profile likelihood, not a density: the amplitude α is the latents' own, and inferred ones have the α that
        suits the image best. All images along μ_cg are then as likely, and the integral over images grows without
        limit with the box. With a prior of α, over which the Gaussian is integrated, or one α for all images this
        is a density. I is what was seen, if pixels are missing.

        Args:
            x: images (N, C, H, W).
            latents: their latents.
            prior: over the switches; None is the model's own, which are independent.
            brightness: what is known of α, such as a `BrightnessPrior`; None takes the latents'.

        Raises:
            InputError: if the model does not know its image shape.
        """
        explained = (
            self.log_likelihood(x, latents)
            if brightness is None
            else self.log_evidence(x, self.render(latents), brightness, latents.observed)
        )
        return explained + self.log_prior(latents, prior)

    def log_prior(self, latents: Latents, prior: Prior | None = None) -> Tensor:
        """Log p(c, g) = log π_c + log p(g | c) of each image, (N,), in nats; the prior as for `log_joint`.

        Raises:
            InputError: if the model does not know its image shape.
        """
        chosen = self.switch_prior() if prior is None else prior
        return self.class_prior.log()[latents.label] + chosen.log_prob(latents.switches, latents.label)

    def log_likelihood(self, x: Tensor, latents: Latents) -> Tensor:
        """Log p(I | c, g) = log N(I; α μ_cg, σ²) of each image, (N,), in nats; of what was seen of it."""
        return self.log_density(x, self.picture(latents), latents.observed)

    def log_evidence(
        self, x: Tensor, rendering: Tensor, brightness: Brightness, observed: Tensor | None = None
    ) -> Tensor:
        """Log ∫ p(α) N(I; α μ, σ²) dα of each image, (N,), in nats; arguments as for `log_density`."""
        gain = brightness.gain(*compare(x, rendering, observed), self.noise)
        return self.log_density(x, torch.zeros_like(x), observed) + gain

    def log_density(self, x: Tensor, picture: Tensor, observed: Tensor | None = None) -> Tensor:
        """Log N(I; picture, σ²) of each image, (N,), in nats; of its pixels in the bool mask, if there is one."""
        residual = (x - picture).flatten(1)
        pixels = torch.full((x.shape[0],), residual.shape[1], device=x.device)
        if observed is not None:
            residual = torch.where(observed.flatten(1), residual, 0.0)
            pixels = observed.flatten(1).sum(1)
        normaliser = pixels * (2 * math.pi * self.noise).log()
        return -0.5 * (residual.square().sum(1) / self.noise + normaliser)

    @torch.no_grad()
    def sample_latents(
        self,
        n: int,
        label: Tensor | int | None = None,
        generator: torch.Generator | None = None,
        prior: Prior | None = None,
        brightness: BrightnessPrior | None = None,
    ) -> Latents:
        """Draw c ~ Cat(π) and g ~ p(g | c) for n images; arguments as for `sample`.

        Raises:
            InputError: as of `sample`.
        """
        self.check_samples()
        chosen = categorical(self.class_prior, n, generator) if label is None else self.check_label(label, n)
        switches = (self.switch_prior() if prior is None else prior).sample(
            chosen, self.blank_switches(), generator
        )
        alpha = self.amplitude.expand(n) if brightness is None else brightness.sample(n, self.noise, generator)
        return Latents.without_score(chosen, alpha, switches, self.n_classes)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        label: Tensor | int | None = None,
        generator: torch.Generator | None = None,
        prior: Prior | None = None,
        brightness: BrightnessPrior | None = None,
    ) -> Tensor:
        """Ancestral samples (n, C, H, W): class, switches, brightness, rendering, pixel noise.

        Args:
            n: how many.
            label: condition on a class, (n,) or one for all.
            generator: source of randomness.
            prior: of the switches; None is the model's own, which are independent and look it. `drmm.borrow` and
                `drmm.learn_prior` make some whose samples hang together.
            brightness: of α; None is one for all, the model's amplitude.

        Raises:
            InputError: if the model does not know its image shape, or draws only what it has seen.
        """
        mean = self.picture(self.sample_latents(n, label, generator, prior, brightness))
        return mean + self.noise.sqrt() * normal(mean.shape, mean, generator)

    @torch.no_grad()
    def track(self, x: Tensor, rendering: Tensor, switches: Switches) -> None:
        """One step of the closed-form M-step for σ², the amplitude and the priors over switches.

        Args:
            x: images (N, C, H, W).
            rendering: μ_ĉĝ of the same shape.
            switches: ĝ.
        """
        share = self.switch_prior().update(switches)
        amplitude = fit_amplitude(x, rendering)
        residual = (x - per_image(amplitude) * rendering).square().mean()
        self.noise.lerp_(residual, share.to(self.noise.dtype))
        self.amplitude.lerp_(amplitude.mean(), share.to(self.amplitude.dtype))

    @torch.no_grad()
    def settle(self, batches: Iterable[Tensor]) -> None:
        """Measure σ², the amplitude and the priors afresh, for weights that stay as they are.

        Args:
            batches: images (N, C, H, W), the model being in evaluation mode.
        """
        self.switch_prior().forget()
        for x in batches:
            label, _, switches = self.max_sum(x, None)
            self.track(x, self.levels.render(self.templates.weight[label], switches), switches)

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Measure the norms' running statistics afresh, for weights that stay as they are.

        Averaged weights see other statistics than those that were averaged along with them. Where a channel varies
        little about a large mean, that difference decides: a net that is right on 97% of the images can look as if
        it had collapsed to 40%.

        Args:
            batches: images (N, C, H, W).
        """
        update_bn(batches, self, self.templates.weight.device)

    @torch.no_grad()
    def blank_switches(self) -> Switches:
        """The switches of a black image in evaluation mode: their structure and frozen scales."""
        if self.image_shape is None:
            raise InputError("the model does not know its image shape: pass image_shape=(C, H, W)")
        weight = self.templates.weight
        blank = torch.zeros(1, *self.image_shape, device=weight.device, dtype=weight.dtype)
        with evaluation(self.levels):
            return self.levels.infer(blank)[1]

    def max_sum(self, x: Tensor, label: Tensor | int | None) -> tuple[Tensor, Tensor, Switches]:
        """One bottom-up pass: ĉ (N,) (or the label that is given), logits (N, C), and ĝ; arguments as `infer`."""
        return self._max_sum(x, label)[:3]

    def check_label(self, label: Tensor | int, n: int) -> Tensor:
        """Class indices (n,), from one for each of n images or one for all.

        Raises:
            InputError: if there is no such class, or another number of them.
        """
        labels = torch.as_tensor(label, device=self.templates.weight.device)
        whole = not labels.is_floating_point() and labels.dtype != torch.bool
        if (
            not whole
            or labels.numel() not in {1, n}
            or not set(labels.flatten().tolist()) <= set(range(self.n_classes))
        ):
            raise InputError(f"label must be one or {n} class indices from 0 to {self.n_classes - 1}")
        return labels.long().reshape(-1).expand(n)

    def _max_sum(self, x: Tensor, label: Tensor | int | None) -> tuple[Tensor, Tensor, Switches, Tensor]:
        """As `max_sum`, and the features (N, D)."""
        self.admit(x)
        parts = [slice(None)] if self.varies() else pieces(x.shape[0], x.shape[1:])
        found = [self.levels.infer(x[part]) for part in parts]
        features, switches = found[0]
        if len(found) > 1:
            features = torch.cat([y for y, _ in found])
            switches = Switches.joined([choices for _, choices in found])
        logits: Tensor = self.templates(features)
        chosen = logits.argmax(1) if label is None else self.check_label(label, x.shape[0])
        return chosen, logits, switches, features

    def _drawn(self, x: Tensor, label: Tensor | int | None, observed: Tensor | None = None) -> Tensor:
        """α μ_ĉĝ, (N, C, H, W), α being fitted to what was observed."""
        chosen, _, switches = self.max_sum(x, label)
        rendering = draw(self.levels, self.templates.weight[chosen], switches)
        return per_image(fit_amplitude(x, rendering, observed)) * rendering

    def varies(self) -> bool:
        """Whether what it infers depends on the batch or on chance, as in training mode."""
        return any(_varies(module) for module in self.levels.modules())

    def check_bounded(self) -> None:
        """Refuse bounds where none belongs to an image.

        Raises:
            NoBoundError: if what the levels do depends on the batch or on chance.
        """
        if self.varies():
            raise NoBoundError("no image has a bound of its own: a norm keeps no statistics, or units are dropped")

    def check_samples(self) -> None:
        """Refuse to draw what was not seen, where some operation draws by its derivative at what it has seen.

        Raises:
            InputError: if one does.
        """
        if local := [name for name, module in self.levels.named_modules() if is_local(module)]:
            raise InputError(
                f"{local[0]} draws by its slope at a picture that it saw, so nothing else can be drawn: explain "
                "and reconstruct pictures"
            )

    def switch_prior(self) -> SwitchPrior:
        """The model's own prior over the switches, which are independent.

        Raises:
            InputError: if the model does not know its image shape.
        """
        if self.prior is None:
            raise InputError("the model does not know its image shape: pass image_shape=(C, H, W)")
        return self.prior


def _varies(module: nn.Module) -> bool:
    """Whether what a module does depends on the batch or on chance; a stranger's may, in training mode."""
    if isinstance(module, Norm):
        return module.uses_batch
    if isinstance(module, Dropout | Dropout2d):
        return module.training and module.p > 0
    return module.training and type(module).__module__.partition(".")[0] not in {"drmm", "torch"}


def _randomness(generator: torch.Generator | None) -> AbstractContextManager[None]:
    """Let everything that draws inside take its randomness from `generator`."""
    if generator is None:
        return nullcontext()
    return seeded(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
