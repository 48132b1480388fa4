"""The generative model: the deep and the shallow rendering mixture, their priors, and their files."""

from drmm.model import presets

__all__ = ["presets"]  # `drmm.presets` is looked for here
