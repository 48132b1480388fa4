"""Where learning starts: random, orthonormal or Glorot-Bengio dictionaries, or templates cut out of images.

Slide "Deriving/Explaining Other Architectures": Orthonormal Init, Glorot-Bengio Init. In the DRMM both are about
rendering as much as about inference. Where the templates of Γ are orthonormal and drawn without overlap,
Λ_gᵀ Λ_g = 1 on the active units: rendering keeps lengths, ‖Λ_g z‖ = ‖z‖, and the features I^(ℓ) = Λ_gᵀ I^(ℓ-1)
*are* the least-squares estimate of z^(ℓ). Glorot and Bengio's variance is the compromise between the two
directions, since the transpose has fan-in and fan-out exchanged.
"""

from __future__ import annotations

import math
from typing import cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.data.images import pixels
from drmm.errors import InputError
from drmm.learning.config import Initialisation
from drmm.model.constraints import heavy_tailed, is_nonnegative, set_weight
from drmm.model.deep import DRMM, evaluation
from drmm.rendering import Norm
from drmm.rendering.convolution import feature_size, padding_of
from drmm.rendering.passes import layers_of

__all__ = ["Initialisation", "initialise"]

_Dictionary = nn.Conv2d | nn.Linear

_LENGTH = 3**-0.5  # of a template as torch draws it, whatever its shape
_PIXELS = 250_000  # of the images that templates are cut out of: 318 images of 28x28
_LABELLED = 1000  # that class means are taken over
_PATCHES = 5000  # that a dictionary's templates are chosen from
_CONTRAST = 0.3  # share of the largest contrast that a template needs
_SHARE = 0.3  # of the largest entry, that the smallest of a non-negative template counts as
_PART = 100  # images at a time
_SAME = 1e-6  # patches closer than this (1 - cosine) are one and the same


@torch.no_grad()
def initialise(
    model: DRMM, how: Initialisation, *, x: Tensor | None = None, y: Tensor | None = None, seed: int = 0
) -> DRMM:
    """Start afresh, in place: dictionaries, class templates, biases and norms.

    - "default": as torch draws them, and as `start_sparse` does where they must not be negative.
    - "orthonormal": the templates of each dictionary orthonormal; if they are more than they have entries, the
      columns are (a tight frame). Biases are 0.
    - "glorot": uniform with variance 2 / (fan-in + fan-out), twice that in the levels, whose ReLU lets half of
      the units through in both directions (pooling is not counted). Biases are 0.
    - "data": pixels up, templates are patches of what their dictionary sees, less each patch's mean, chosen by
      k-means++ seeding among those with contrast; then the nearest orthonormal ones, as long as torch would draw
      them. Where patches run out (constant images, fewer patches than templates) templates stay random. A bias
      is minus the mean response. With labels, the class templates are the mean features of each class, less the
      mean of these. Templates that must not be negative keep the largest entries of their patch.

    An identity on top (one map a class, as in `conv_large`) is kept, unless the templates come from data. Where
    `x` is given, the running statistics of the norms are measured on some of it. All draws follow from the seed.
    The noise, the amplitude and the priors stay as they are: `DRMM.settle` measures them.

    Args:
        model: levels of `Level`, `Conv2d`, `Linear`, norms, nested `Sequential`, and renderings of your own.
        how: one of the four.
        x: images (N, C, H, W), float in [0, 1] or uint8 levels; needed for "data".
        y: class indices (N,), -1 where there is no label; used by "data".
        seed: of all draws.

    Returns:
        The same model.

    Raises:
        InputError: if `x` or `y` is missing or does not fit; if templates that must not be negative are asked to
            be orthonormal or "glorot"; if "data" meets a rendering of your own that holds dictionaries. The model
            is left as it was.
    """
    _check(model, how, x, y)
    generator = torch.Generator().manual_seed(seed)
    _draw(model, how, generator)
    if x is None:
        return model
    with evaluation(model):
        images = max(50, _PIXELS // x[0, 0].numel())
        some = _prepared(model, _pick(x, images, generator))
        features = _measured(model, some, generator if how == "data" else None)
        if how == "data" and model.templates.gamma is not None:
            _cut(model, cast("_Dictionary", model.templates), features, generator)
            if y is not None and bool((y >= 0).any()):
                known = _pick(torch.where(y >= 0)[0], _LABELLED, generator)
                _average(model, _prepared(model, x[known]), y[known])
    return model


def _check(model: DRMM, how: Initialisation, x: Tensor | None, y: Tensor | None) -> None:
    """Refuse what cannot be done, before anything has changed."""
    if how not in get_args(Initialisation):
        raise InputError(f"initialisation must be one of {', '.join(get_args(Initialisation))}, not {how!r}")
    if how in {"orthonormal", "glorot"} and any(is_nonnegative(module) for module in model.modules()):
        raise InputError(f"{how!r} needs templates of both signs: choose 'default' or 'data' for a hard model")
    if how == "data" and x is None:
        raise InputError("initialisation 'data' needs images: pass x, or choose 'orthonormal'")
    if how == "data" and model.templates.gamma is None:
        raise InputError("initialisation 'data' needs a linear layer on top: choose 'orthonormal'")
    for rendering in layers_of(model.levels):
        holds = any(isinstance(module, nn.Conv2d | nn.Linear) for module in rendering.modules())
        if how == "data" and holds and rendering.gamma is None:
            raise InputError(f"what the dictionaries in {rendering.name} see is not known: choose 'orthonormal'")
    if x is not None:
        _check_images(model, x)
        if y is not None:
            _check_labels(model, y, len(x))


# --- drawn at random ---


def _draw(model: DRMM, how: Initialisation, generator: torch.Generator) -> None:
    """All weights and biases at random, all norms as new."""
    top = model.templates
    identity = how != "data" and torch.allclose(top.weight, torch.eye(*top.weight.shape).to(top.weight))
    for module in [*model.levels.modules(), top]:
        if isinstance(module, nn.Conv2d | nn.Linear):
            if not (module is top and identity):
                set_weight(module, _drawn(module, how, generator, switched=module is not top))
                _mirror(model, module)
            if module.bias is not None:
                reach = module.weight[0].numel() ** -0.5 if how == "default" else 0.0
                module.bias.copy_(torch.empty(module.bias.shape).uniform_(-reach, reach, generator=generator))
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            if module.affine:
                set_weight(module, torch.ones_like(module.weight))
                module.bias.zero_()


def _drawn(dictionary: _Dictionary, how: Initialisation, generator: torch.Generator, *, switched: bool) -> Tensor:
    """Templates on the CPU; `switched` where a ReLU lets half of the units through."""
    weight = torch.empty(dictionary.weight.shape)
    fan_in = weight[0].numel()
    if is_nonnegative(dictionary):
        heavy = heavy_tailed(weight.normal_(generator=generator))
        return heavy * (_LENGTH / (fan_in * heavy.square().mean()).sqrt())
    if how == "orthonormal":
        for templates in weight.chunk(_groups(dictionary)):
            nn.init.orthogonal_(templates, generator=generator)
        return weight
    variance = _LENGTH**2 / fan_in
    if how == "glorot":
        variance = (2 if switched else 1) * 2 / (fan_in + _fan_out(dictionary))
    reach = math.sqrt(3 * variance)
    return weight.uniform_(-reach, reach, generator=generator)


def _groups(dictionary: _Dictionary) -> int:
    return int(getattr(dictionary, "groups", 1))


def _fan_out(dictionary: _Dictionary) -> float:
    """How many templates draw on one unit of the canvas, far from its border."""
    if isinstance(dictionary, nn.Linear):
        return dictionary.out_features
    return dictionary.weight.numel() / dictionary.in_channels / math.prod(dictionary.stride)


def _mirror(model: DRMM, dictionary: _Dictionary) -> None:
    """Both polarities in the pixel dictionary of a hard model: no later level can take away."""
    if is_nonnegative(model.templates) and not is_nonnegative(dictionary):
        half = len(dictionary.weight) // 2
        dictionary.weight[half : 2 * half] = -dictionary.weight[:half]


# --- cut out of images ---


def _measured(model: DRMM, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """The features of x, pixels up: norms are measured, and templates cut if there is a generator."""
    for rendering in layers_of(model.levels):
        if generator is not None and rendering.gamma is not None:
            _cut(model, cast("_Dictionary", rendering.gamma), x, generator)
        elif isinstance(rendering, Norm):
            rendering.measure(x)
        x = _in_parts(rendering, x)
    return x


def _cut(model: DRMM, dictionary: _Dictionary, x: Tensor, generator: torch.Generator) -> None:
    """Replace as many templates as there are patches with contrast that differ, and centre the responses."""
    weight = dictionary.weight.detach().cpu().flatten(1).clone()
    patches = _patches(dictionary, x, generator).cpu()
    for templates, seen in zip(weight.chunk(patches.shape[1]), patches.unbind(1), strict=True):
        distinct = _spread(_contrasts(seen), len(templates), generator)
        if len(distinct):
            fit = _sharpened if is_nonnegative(dictionary) else _decorrelated
            templates[: len(distinct)] = _LENGTH * fit(distinct)
    set_weight(dictionary, weight.reshape(dictionary.weight.shape))
    _mirror(model, dictionary)
    if dictionary.bias is not None:
        middle = patches.mean(0).to(x)[:, :, None]  # (groups, fan-in, 1)
        templates = dictionary.weight.flatten(1).unflatten(0, (len(middle), -1))
        dictionary.bias.copy_(-(templates @ middle).flatten())


def _decorrelated(patches: Tensor) -> Tensor:
    """The orthonormal vectors (K, D) nearest to patches; a tight frame of their span where they are dependent."""
    u, stretch, v = torch.linalg.svd(patches, full_matrices=False)
    spanned = stretch > _SAME**0.5 * stretch[0]
    return F.normalize(u[:, spanned] @ v[spanned])


def _sharpened(patches: Tensor) -> Tensor:
    """Little but the largest entries of each patch (K, D), at length 1, for the reason that `start_sparse` gives.

    What is left of the other entries is not 0, where (κ v)² has no slope.
    """
    shares = patches / patches.amax(1, keepdim=True)
    return F.normalize(heavy_tailed(shares.clamp(min=_SHARE)))


def _patches(dictionary: _Dictionary, x: Tensor, generator: torch.Generator) -> Tensor:
    """What some units of a dictionary see of x, (M, groups, fan-in); zeros beyond the border."""
    if isinstance(dictionary, nn.Linear):
        return _pick(x.flatten(0, -2), _PATCHES, generator)[:, None]
    height, width = feature_size(dictionary, (x.shape[2], x.shape[3]))
    unit = _pick(torch.arange(len(x) * height * width, device=x.device), _PATCHES, generator)
    image, pixel = unit // (height * width), unit % (height * width)
    rows, columns = (
        corner[:, None] * dictionary.stride[i]
        + torch.arange(dictionary.kernel_size[i], device=x.device) * dictionary.dilation[i]
        for i, corner in enumerate((pixel // width, pixel % width))
    )
    top, left = padding_of(dictionary)
    x = F.pad(x, (left, left + 1, top, top + 1))  # "same" pads once more at the end where the kernel is even
    seen = x.permute(0, 2, 3, 1)[image[:, None, None], rows[:, :, None], columns[:, None, :]]
    return seen.permute(0, 3, 1, 2).reshape(len(unit), dictionary.groups, -1)


def _contrasts(patches: Tensor) -> Tensor:
    """Patches (M, D) less their own mean, of length 1; those with too little contrast are left out."""
    differences = patches - patches.mean(1, keepdim=True)
    contrast = torch.linalg.vector_norm(differences, dim=1)
    rounding = _SAME * torch.linalg.vector_norm(patches, dim=1)
    enough = (contrast > rounding) & (contrast >= _CONTRAST * contrast.max())
    return F.normalize(differences[enough])


def _spread(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """At most k of the unit vectors (M, D), by k-means++ seeding: each with odds of its squared distance."""
    distance = points.new_ones(len(points))
    chosen: list[int] = []
    while len(chosen) < k and len(points) and float(distance.max()) > _SAME:
        chosen.append(int(torch.multinomial(distance, 1, generator=generator)))
        distance = torch.minimum(distance, (1 - points @ points[chosen[-1]]).clamp(min=0))
    return points[chosen]


def _average(model: DRMM, x: Tensor, y: Tensor) -> None:
    """Class templates as the mean features of each class that has images, less the mean of these."""
    features = _in_parts(model.levels, x)
    one_hot = F.one_hot(y.to(x.device).long(), model.n_classes).to(features.dtype)
    counts = one_hot.sum(0)
    means = one_hot.T @ features / counts.clamp(min=1)[:, None]
    middle = means[counts > 0].mean(0)
    directions = means - middle
    usable = (counts > 0) & (directions.norm(dim=1) > _SAME * means.norm(dim=1))
    weight = model.templates.weight.clone()
    fit = _sharpened if is_nonnegative(model.templates) else F.normalize
    weight[usable] = _LENGTH * fit(directions[usable])
    set_weight(model.templates, weight)
    if model.templates.bias is not None:
        model.templates.bias.copy_(-weight @ middle)


# --- images ---


def _check_images(model: DRMM, x: Tensor) -> None:
    if x.ndim != 4 or not len(x) or model.image_shape not in {None, tuple(x.shape[1:])}:
        shape = ("C", "H", "W") if model.image_shape is None else model.image_shape
        raise InputError(f"images must be (N, {', '.join(map(str, shape))}), not {tuple(x.shape)}: reshape x")
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        raise InputError("images hold NaN or infinity: clean them before initialising")


def _check_labels(model: DRMM, y: Tensor, n: int) -> None:
    whole = not y.is_floating_point() and y.dtype != torch.bool
    if not whole or y.shape != (n,) or int(y.min()) < -1 or int(y.max()) >= model.n_classes:
        raise InputError(f"y must hold {n} class indices from 0 to {model.n_classes - 1}, -1 where unlabelled")


def _prepared(model: DRMM, x: Tensor) -> Tensor:
    return pixels(x).to(model.templates.weight)


def _pick(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """At most n entries, in random order."""
    return x[torch.randperm(len(x), generator=generator)[:n].to(x.device)]


def _in_parts(module: nn.Module, x: Tensor) -> Tensor:
    """module(x) in steps that fit into memory."""
    return torch.cat([module(part) for part in x.split(_PART)])
