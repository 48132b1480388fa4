"""Parametrisations of the templates: non-negative (the hard NN-DRMM), or amplitude times direction.

Where z^(ℓ) ≥ 0 for all ℓ ≥ 1, one bottom-up pass is the exact joint MAP (slide "Inference in the DRMM yields
Deep Convnets") and every certificate gap is 0. The pixel dictionary and all biases keep their signs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from drmm.errors import InputError
from drmm.model.deep import DRMM
from drmm.rendering import Norm
from drmm.rendering.kinds import Dictionary
from drmm.rendering.passes import layers_of

__all__ = [
    "NonNegative",
    "free_parameters",
    "heavy_tailed",
    "is_nonnegative",
    "make_nonnegative",
    "set_weight",
    "start_sparse",
    "weight_normalise",
]

_SPEED = 5.0  # κ: how much faster than signed weights the non-negative ones move
_TAIL = 14  # power of a Gaussian that weights start from: the higher, the sparser

Model = TypeVar("Model", bound=DRMM)


class NonNegative(nn.Module):
    """The parametrisation w = (κ v)²: it reaches 0 and leaves it again, and large weights move in larger steps.

    Adam moves every v by about the learning rate, so that w changes by a share of itself: of the ways that were
    tried (|v|, softplus, exp, a clamp with a straight-through gradient), this learned fastest.
    """

    def forward(self, value: Tensor) -> Tensor:
        """(κ v)², any shape."""
        return (_SPEED * value).square()

    def right_inverse(self, value: Tensor) -> Tensor:
        """The v that a weight's absolute value starts from."""
        return value.abs().sqrt() / _SPEED


def make_nonnegative(model: Model) -> Model:
    """Constrain a DRMM in place: every dictionary and norm above the first dictionary, and the class templates.

    Args:
        model: levels of `Level`, `Conv2d`, `Linear`, norms, and renderings without parameters. Negative weights
            become their absolute values. Not for lifted models: the net's own weights would be replaced.

    Returns:
        The same model.

    Raises:
        InputError: if a weight has a parametrisation already.
    """
    modules = _upper(model)
    _check_free(modules)
    for module in modules:
        parametrize.register_parametrization(module, "weight", NonNegative())
        cast("nn.Module", module.parametrizations).train(module.training)
    return model


@torch.no_grad()
def start_sparse(model: Model) -> Model:
    """Draw weights that a non-negative net learns from, in place; call it before `make_nonnegative`.

    Upper templates made of many equal weights would all measure the same thing, how much there is to see. A few
    large weights among many small ones tell templates apart. And since no later level can take away, the pixel
    dictionary starts with both polarities: each template and its negative.

    Args:
        model: fresh from a preset.

    Returns:
        The same model.
    """
    dictionaries = _dictionaries(model)
    first = dictionaries[0].weight
    half = len(first) // 2
    first[half : 2 * half] = -first[:half]
    for dictionary in dictionaries[1:]:
        if dictionary.weight.min() >= 0:
            continue  # such as the identity on top of conv_large
        heavy = heavy_tailed(torch.randn_like(dictionary.weight))
        dictionary.weight.copy_(heavy * (dictionary.weight.std() / heavy.square().mean().sqrt()))
    return model


def heavy_tailed(values: Tensor) -> Tensor:
    """A few large numbers among many small ones, none negative: |values| to a high power, any shape."""
    return values.abs() ** _TAIL


def is_nonnegative(module: nn.Module) -> bool:
    """Whether a module's weight cannot be negative."""
    if not parametrize.is_parametrized(module, "weight"):
        return False
    chain = cast("nn.ModuleDict", module.parametrizations)["weight"]
    return any(isinstance(step, NonNegative) for step in cast("nn.ModuleList", chain))


def free_parameters(model: nn.Module) -> int:
    """How many numbers a model's weights are: w = g v/‖v‖ is as many as w, since the length of v is a gauge."""
    return sum(
        module().numel() if isinstance(module, parametrize.ParametrizationList) else _own(module)
        for module in model.modules()
    )


def _own(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


@torch.no_grad()
def set_weight(module: nn.Module, weight: Tensor) -> None:
    """Give a dictionary another weight, whichever way it is parametrised."""
    mine = cast("Tensor", module.weight)
    if parametrize.is_parametrized(module, "weight"):
        module.weight = weight.to(mine)
    else:
        mine.copy_(weight)


def weight_normalise(model: Model) -> Model:
    """Write every template as w = g v/‖v‖, amplitude times direction, in place (slides: "Weight Normalization").

    Inference and rendering share the weight, so that both stay what they were. What changes is learning: the
    match ⟨μ_cg, I⟩ is linear in the length of a template, a gauge that a norm above it can take away again. Here
    that direction has a coordinate of its own, g, and the gradient with respect to v is orthogonal to v.

    Args:
        model: levels as for `make_nonnegative`. Not for lifted models: the net's own weights would be replaced.

    Returns:
        The same model.

    Raises:
        InputError: if a weight has a parametrisation already, or a template is 0 and has no direction.
    """
    dictionaries = _dictionaries(model)
    _check_free(dictionaries)
    for module in dictionaries:
        if bool((module.weight.flatten(1).abs().amax(1) == 0).any()):
            raise InputError("a template of zeros has no direction: initialise the model before normalising it")
    for module in dictionaries:
        weight_norm(module)
        cast("nn.Module", module.parametrizations).train(module.training)
    return model


def _check_free(modules: Iterable[nn.Module]) -> None:
    if any(parametrize.is_parametrized(module, "weight") for module in modules):
        raise InputError("weights have a parametrisation already: normalise or constrain a model, once, not both")


def _upper(model: DRMM) -> list[nn.Module]:
    """Every module whose weight must not be negative."""
    modules: list[nn.Module] = []
    dictionaries = 0
    for module in [*layers_of(model.levels), model.templates]:
        dictionaries += module.gamma is not None
        # The norm that follows the pixel dictionary scales it: its sign is free.
        if dictionaries > 1 and (module.gamma is not None or isinstance(module, Norm)):
            modules.append(module)
    return modules


def _dictionaries(model: DRMM) -> list[Dictionary]:
    """Those of the levels, pixels first, and the class templates."""
    dictionaries = [module.gamma for module in [*layers_of(model.levels), model.templates]]
    return [dictionary for dictionary in dictionaries if dictionary is not None]
