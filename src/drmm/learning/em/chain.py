"""A model as a chain of renderings, and the dictionaries that stand in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from drmm.learning.em.regression import Design, design_of
from drmm.model.constraints import set_weight
from drmm.model.deep import DRMM, Latents
from drmm.rendering import Switches
from drmm.rendering.kinds import Dictionary

__all__ = ["Chain", "Site"]


class Chain:
    """The renderings of a model one by one, pixels first, nested sequences taken apart.

    Args:
        model: its parameters are shared, not copied.
    """

    def __init__(self, model: DRMM) -> None:
        self.model = model
        self.atoms = model.levels.atoms

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every dictionary that the M-step can fit, pixels first, the class templates last."""
        every = enumerate((*self.atoms, self.model.templates))
        dictionaries = [(i, atom.gamma) for i, atom in every if atom.gamma is not None]
        designs = [(i, gamma, design_of(gamma)) for i, gamma in dictionaries]
        return tuple(Site(self, i, gamma, design) for i, gamma, design in designs if design is not None)

    def chosen(self, latents: Latents) -> Tensor:
        """The choice of class as units above the templates: α_n at ĉ_n, (N, C)."""
        one_hot = F.one_hot(latents.label, self.model.n_classes).to(latents.amplitude.dtype)
        return latents.amplitude[:, None] * one_hot

    def parts(self, switches: Switches) -> tuple[Switches, ...]:
        """The switches of each rendering of the chain."""
        return self.model.levels.atom_switches(switches)


@dataclass(frozen=True)
class Site:
    """One dictionary: what comes down to it from above, and what draws its canvas below.

    Attributes:
        chain: where it stands.
        index: of its rendering in the chain; the length of the chain for the class templates.
        dictionary: the module with the weight.
        design: how its canvas depends on its weight.
    """

    chain: Chain
    index: int
    dictionary: Dictionary
    design: Design

    def units(self, latents: Latents) -> Tensor:
        """α ẑ at the dictionary's output: the regressors of the M-step."""
        z = self.chain.chosen(latents)
        if self.index == len(self.chain.atoms):
            return z
        z = self.chain.model.templates.render(z, latents.switches)
        parts = self.chain.parts(latents.switches)
        for i in range(len(self.chain.atoms) - 1, self.index, -1):
            z = self.chain.atoms[i].render(z, parts[i])
        return self.chain.atoms[self.index].place(z, parts[self.index])

    def drawing(self, switches: Switches) -> Tensor:
        """The weight that is drawn with, norm included."""
        if self.index == len(self.chain.atoms):
            return self.dictionary.drawing(switches)
        return self.chain.atoms[self.index].drawing(self.chain.parts(switches)[self.index])

    def shape(self, switches: Switches) -> tuple[int, ...]:
        """Shape of one canvas."""
        if self.index == len(self.chain.atoms):
            return (self.dictionary.weight.shape[1],)
        return self.chain.parts(switches)[self.index].shape

    def canvas(self, v: Tensor, switches: Switches) -> Tensor:
        """What units v draw on the dictionary's input."""
        return self.design.draw(v, self.drawing(switches), self.shape(switches))

    def linear_below(self, canvas: Tensor, switches: Switches) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Λ^(1) … Λ^(ℓ-1) of a canvas, the picture; and the transpose, which takes pictures back up."""
        if self.index == 0:
            return canvas, lambda picture: picture
        parts = self.chain.parts(switches)
        canvas = canvas.detach().requires_grad_()
        with torch.enable_grad():
            picture = canvas
            for i in range(self.index - 1, -1, -1):
                picture = self.chain.atoms[i].render(picture, parts[i])
        return picture.detach(), lambda other: torch.autograd.grad(picture, canvas, other)[0]

    def coefficients(self) -> Tensor:
        """The dictionary as it draws, norm included, as regression coefficients."""
        return self.design.coefficients(self.dictionary.weight * self._gain()).double()

    def move(self, coefficients: Tensor) -> None:
        """Add coefficients to the dictionary as it draws; the norm's scale is divided out."""
        gain = self._gain()
        change = self.design.weight(coefficients).to(gain.dtype) / gain
        set_weight(self.dictionary, self.dictionary.weight + torch.where(gain == 0, 0.0, change))

    def _gain(self) -> Tensor:
        """γ/σ of each template, broadcast against the weight; 1 where no norm belongs to the dictionary."""
        weight = self.dictionary.weight
        gain = None if self.index == len(self.chain.atoms) else self.chain.atoms[self.index].running_gain()
        if gain is None:
            return torch.ones_like(weight[:1])
        return gain.reshape(-1, *[1] * (weight.ndim - 1))
