"""The kinds of rendering: what a class declares, and all that follows from it.

- `AffineRendering` chooses nothing: a dictionary, a blur, a shift.
- `Gate` chooses one of a few linear pieces for each unit: ReLU, absolute value, dropout.
- `Pool` chooses one of several places for each unit: max-pooling, maxout.
- `Norm` scales each unit by a gain that is frozen on the way down: batch norm.
- `Join` makes one of several inputs (`drmm.rendering.joins`).

Bounds, path counts, the traceback, guided backprop and pruning ask a rendering's kind, and no list of classes.
"""

from drmm.rendering.kinds.affine import AffineRendering, Dictionary
from drmm.rendering.kinds.functions import extremes, interval, is_exporting, picked, present, pull_back
from drmm.rendering.kinds.gate import Gate
from drmm.rendering.kinds.norm import Norm
from drmm.rendering.kinds.pool import Pool

__all__ = [
    "AffineRendering",
    "Dictionary",
    "Gate",
    "Norm",
    "Pool",
    "extremes",
    "interval",
    "is_exporting",
    "picked",
    "present",
    "pull_back",
]
