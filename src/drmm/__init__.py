"""The Deep Rendering Mixture Model: convnets as exact max-sum inference in a picture-rendering model."""

from drmm import explain, presets
from drmm._version import __version__
from drmm.borrowing import borrow
from drmm.estimator import DRMMClassifier
from drmm.evolution import EvolutionaryClassifier
from drmm.images import as_images
from drmm.inference import sign_traceback
from drmm.initialisation import initialise
from drmm.lift import lift
from drmm.mixture import RenderingMixture
from drmm.model import DRMM, Latents
from drmm.objective import Objective
from drmm.pruning import prune
from drmm.storage import load_model, save_model

__all__ = [
    "DRMM",
    "DRMMClassifier",
    "EvolutionaryClassifier",
    "Latents",
    "Objective",
    "RenderingMixture",
    "__version__",
    "as_images",
    "borrow",
    "explain",
    "initialise",
    "lift",
    "load_model",
    "presets",
    "prune",
    "save_model",
    "sign_traceback",
]
