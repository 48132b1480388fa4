"""Several trees that vote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from drmm.trees.tree import EvolutionaryTree

__all__ = ["Forest", "Inference"]

Inference = Literal["exact", "greedy"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees that each find a leaf for an image.

    Attributes:
        trees: one or more, of the same classes and pixels.
    """

    trees: tuple[EvolutionaryTree, ...]

    def leaves(self, x: Array, inference: Inference) -> Array:
        """The leaf that each tree finds, (N, T), of images (N, D)."""
        return np.stack([_ROUTES[inference](tree, x) for tree in self.trees], axis=1)

    def posterior(self, leaves: Array) -> Array:
        """The mean of p(c | leaf) over trees, (N, C), of leaves (N, T)."""
        posteriors = [tree.classes[leaf] for tree, leaf in zip(self.trees, leaves.T, strict=True)]
        return np.asarray(np.mean(posteriors, axis=0))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything, as tensors by name: what `of_state` takes."""
        return {f"{i}.{name}": part for i, tree in enumerate(self.trees) for name, part in tree.state().items()}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The forest that `state_dict` describes."""
        parts: dict[int, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            number, name = key.split(".")
            parts.setdefault(int(number), {})[name] = tensor
        return cls(tuple(EvolutionaryTree.of_state(parts[number]) for number in sorted(parts)))


def _best(tree: EvolutionaryTree, x: Array) -> Array:
    return tree.best_leaf(x)[0]


_ROUTES: dict[Inference, Callable[[EvolutionaryTree, Array], Array]] = {
    "exact": _best,
    "greedy": EvolutionaryTree.greedy_leaf,
}
