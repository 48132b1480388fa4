"""Learning as the slides have it: the E-step infers, the M-step regresses, the G-step is backprop.

`fit_em` is the one loop, for the shallow model (`shallow`) and the deep one (`deep`).
"""

from drmm.em.beliefs import Beliefs
from drmm.em.deep import DeepLearner, MStep, e_step, g_step, m_step
from drmm.em.fit import fit_em
from drmm.em.loop import Learner, Trace
from drmm.em.relaxation import relax
from drmm.em.shallow import ShallowLearner, seed

__all__ = [
    "Beliefs",
    "DeepLearner",
    "Learner",
    "MStep",
    "ShallowLearner",
    "Trace",
    "e_step",
    "fit_em",
    "g_step",
    "m_step",
    "relax",
    "seed",
]
