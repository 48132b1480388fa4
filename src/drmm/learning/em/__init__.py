"""Learning as the slides have it: the E-step infers, the M-step regresses, the G-step is backprop.

`fit_em` is the one loop, for the shallow model (`shallow`) and the deep one (`deep`).
"""

from drmm.learning.em.deep import DeepLearner, MStep, e_step, g_step, m_step
from drmm.learning.em.fit import fit_em
from drmm.learning.em.loop import Learner, Trace
from drmm.learning.em.posterior_cache import PosteriorCache
from drmm.learning.em.relaxation import relax
from drmm.learning.em.shallow import ShallowLearner, seed

__all__ = [
    "DeepLearner",
    "Learner",
    "MStep",
    "PosteriorCache",
    "ShallowLearner",
    "Trace",
    "e_step",
    "fit_em",
    "g_step",
    "m_step",
    "relax",
    "seed",
]
