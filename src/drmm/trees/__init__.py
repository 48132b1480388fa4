"""The evolutionary DRMM: a hierarchy of templates, whose inference is a decision tree."""

from drmm.trees.forest import Forest
from drmm.trees.tree import EvolutionaryTree, from_leaves, pruned, telescoped

__all__ = ["EvolutionaryTree", "Forest", "from_leaves", "pruned", "telescoped"]
