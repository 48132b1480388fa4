"""The rendering algebra: every level of the picture owns `infer` and `render`, transposes of each other."""

from drmm.rendering.affine import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    Choice,
    Conv2d,
    Flatten,
    Identity,
    Linear,
    SamePad2d,
)
from drmm.rendering.base import Channels, Rendering, Switches, Window
from drmm.rendering.compose import Sequential
from drmm.rendering.gates import Abs, Clip, Dropout, Dropout2d, LeakyReLU, PReLU, ReLU
from drmm.rendering.graph import Aside, Graph, Step
from drmm.rendering.joins import Concat, Join, Maximum, Sum
from drmm.rendering.kinds import AffineRendering, Gate, Norm, Pool
from drmm.rendering.level import Level
from drmm.rendering.local import Affine, AffineJoin, LocalJoin, LocalLinear
from drmm.rendering.norm import BatchNorm1d, BatchNorm2d, FrozenBatchNorm2d
from drmm.rendering.pooling import AdaptiveMaxPool2d, Largest, MaxPool2d

__all__ = [
    "Abs",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "Affine",
    "AffineJoin",
    "AffineRendering",
    "Aside",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Channels",
    "Choice",
    "Clip",
    "Concat",
    "Conv2d",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "FrozenBatchNorm2d",
    "Gate",
    "Graph",
    "Identity",
    "Join",
    "Largest",
    "LeakyReLU",
    "Level",
    "Linear",
    "LocalJoin",
    "LocalLinear",
    "MaxPool2d",
    "Maximum",
    "Norm",
    "PReLU",
    "Pool",
    "ReLU",
    "Rendering",
    "SamePad2d",
    "Sequential",
    "Step",
    "Sum",
    "Switches",
    "Window",
]
