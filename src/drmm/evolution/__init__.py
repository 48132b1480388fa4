"""The evolutionary DRMM: a hierarchy of templates, whose inference is a decision tree."""

from drmm.evolution.estimator import EvolutionaryClassifier
from drmm.evolution.forest import Forest
from drmm.evolution.tree import EvolutionaryTree, from_leaves, pruned, telescoped

__all__ = ["EvolutionaryClassifier", "EvolutionaryTree", "Forest", "from_leaves", "pruned", "telescoped"]
