"""The hard NN-DRMM: every template above the pixels is non-negative by construction.

Where z^(ℓ) ≥ 0 for all ℓ ≥ 1, one bottom-up pass is the exact joint MAP (slide "Inference in the DRMM yields
Deep Convnets") and every certificate gap is 0. The pixel dictionary and all biases keep their signs.
"""

from __future__ import annotations

from typing import TypeVar, cast

from torch import Tensor, nn
from torch.nn.utils import parametrize

from drmm.model import DRMM
from drmm.rendering import BatchNorm1d, BatchNorm2d, Conv2d, Level, Linear, Sequential

__all__ = ["NonNegative", "make_nonnegative"]

Model = TypeVar("Model", bound=DRMM)


class NonNegative(nn.Module):
    """The parametrisation w = |v|: it reaches 0 and leaves it again, where a clamp would stay there."""

    def forward(self, value: Tensor) -> Tensor:
        """|v|, any shape."""
        return value.abs()

    def right_inverse(self, value: Tensor) -> Tensor:
        """The v that a weight starts from."""
        return value.abs()


def make_nonnegative(model: Model) -> Model:
    """Constrain a DRMM in place: every dictionary and norm above the first dictionary, and the class templates.

    Args:
        model: levels of `Level`, `Conv2d`, `Linear`, norms, and renderings without parameters.

    Returns:
        The same model.
    """
    dictionaries = 0
    for module in [*_atoms(model.levels), model.templates]:
        if isinstance(module, Conv2d | Linear):
            dictionaries += 1
        # The norm that follows the pixel dictionary scales it: its sign is free.
        if dictionaries > 1 and isinstance(module, Conv2d | Linear | BatchNorm1d | BatchNorm2d):
            parametrize.register_parametrization(module, "weight", NonNegative())
            cast("nn.Module", module.parametrizations).train(module.training)
    return model


def _atoms(levels: Sequential) -> list[nn.Module]:
    atoms: list[nn.Module] = []
    for rendering in levels.renderings:
        if isinstance(rendering, Sequential):
            atoms.extend(_atoms(rendering))
        elif isinstance(rendering, Level):
            atoms.extend(m for m in (rendering.dictionary, rendering.norm) if m is not None)
        else:
            atoms.append(rendering)
    return atoms
