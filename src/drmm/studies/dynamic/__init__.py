"""Dynamic programming, visible: one engine for shortest paths and for convnets, with tables and a backtrace."""

from drmm.studies.dynamic.convnet import Network, Unit, network
from drmm.studies.dynamic.engine import Entry, Hypothesis, Tables, solve, unroll
from drmm.studies.dynamic.problem import SLIDES_EDGES, Problem, Step, edge, paths
from drmm.studies.dynamic.semirings import (
    SEMIRINGS,
    Boolean,
    Counting,
    KBest,
    LogSumExp,
    MaxProduct,
    MaxSum,
    MinSum,
    Semiring,
    SumProduct,
)
from drmm.studies.dynamic.walkthrough import walkthrough

__all__ = [
    "SEMIRINGS",
    "SLIDES_EDGES",
    "Boolean",
    "Counting",
    "Entry",
    "Hypothesis",
    "KBest",
    "LogSumExp",
    "MaxProduct",
    "MaxSum",
    "MinSum",
    "Network",
    "Problem",
    "Semiring",
    "Step",
    "SumProduct",
    "Tables",
    "Unit",
    "edge",
    "network",
    "paths",
    "solve",
    "unroll",
    "walkthrough",
]
