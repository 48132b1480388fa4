"""The rendering algebra: every level of the picture owns `infer` and `render`, transposes of each other."""

from drmm.rendering.affine import AdaptiveAvgPool2d, AvgPool2d, Conv2d, Flatten, Identity, Linear
from drmm.rendering.base import Rendering, Switches, Window
from drmm.rendering.compose import Sequential
from drmm.rendering.gates import Abs, Dropout, LeakyReLU, ReLU
from drmm.rendering.level import Level
from drmm.rendering.norm import BatchNorm1d, BatchNorm2d
from drmm.rendering.pooling import MaxPool2d

__all__ = [
    "Abs",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "Dropout",
    "Flatten",
    "Identity",
    "LeakyReLU",
    "Level",
    "Linear",
    "MaxPool2d",
    "ReLU",
    "Rendering",
    "Sequential",
    "Switches",
    "Window",
]
