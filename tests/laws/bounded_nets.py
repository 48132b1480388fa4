"""Small nets of every rendering that has a bound, with weights of either sign, fused or not."""

from torch import nn

from drmm import DRMM
from drmm.rendering import (
    Abs,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Identity,
    Largest,
    LeakyReLU,
    Level,
    Linear,
    MaxPool2d,
    PReLU,
    ReLU,
    Sequential,
)

PLAIN, EVERY = range(5), range(9)  # cases: of plain layers; also of fused ones, and pools of other kinds


def bounded_net(case, classes):
    """In evaluation mode, for images (N, 1, 3, 3), by torch's own generator."""
    levels, features = list(_levels())[case]
    model = DRMM(levels, Linear(features, classes), image_shape=(1, 3, 3)).eval()
    for value in [*model.parameters(), *(b for name, b in model.named_buffers() if name.endswith("running_mean"))]:
        nn.init.normal_(value)
    return model


def _levels():
    """Levels and their features, in windows that overlap or leave the picture."""
    yield Sequential(Conv2d(1, 2, 2), Abs(), MaxPool2d((1, 2)), Conv2d(2, 2, (2, 1)), LeakyReLU(0.2), Flatten()), 2
    yield (
        Sequential(
            Conv2d(1, 2, 2), BatchNorm2d(2), MaxPool2d(2), LeakyReLU(-0.5), Flatten(), Linear(2, 3), ReLU()
        ),
        3,
    )
    yield Sequential(Conv2d(1, 2, 2), ReLU(), AvgPool2d((2, 1)), MaxPool2d((1, 2)), Identity(), Flatten()), 2
    yield (
        Sequential(Conv2d(1, 1, 2), ReLU(), MaxPool2d(2, 1, 1), BatchNorm2d(1), AdaptiveAvgPool2d(1), Flatten()),
        1,
    )
    yield (
        Sequential(
            Flatten(), Dropout(0.5), Linear(9, 3), BatchNorm1d(3), ReLU(), Linear(3, 3), BatchNorm1d(3), Abs()
        ),
        3,
    )
    yield (
        Sequential(Conv2d(1, 1, 2), ReLU(), MaxPool2d(2, 1, 1), BatchNorm2d(1), Flatten(), Linear(9, 2), Abs()),
        2,
    )
    yield Sequential(Level(Conv2d(1, 2, 2), BatchNorm2d(2), MaxPool2d(2, 1)), Level(Conv2d(2, 3, 1)), Flatten()), 3
    yield Sequential(Conv2d(1, 2, 2), PReLU(2), Largest((1,), largest=False), Flatten(), Linear(4, 2), ReLU()), 2
    yield Sequential(Conv2d(1, 2, 2), ReLU(), AdaptiveMaxPool2d(1), Flatten(), Linear(2, 3), PReLU()), 3
