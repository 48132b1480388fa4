"""Small models, what is known of them, and what they say themselves: what files are compared with."""

from dataclasses import replace

import torch
from torch import Tensor, nn

import drmm
from drmm.data.images import pixels
from drmm.export.parity import noise
from drmm.model.deep import DRMM
from drmm.storage.models import Recipe
from drmm.trust.assessment import Assessment, assess
from drmm.trust.calibration import Calibration

SHAPE, CLASSES = (1, 8, 8), ("a", "b", "c")
LESS_SURE = Calibration(1.7, (0.4, -0.3, 0.1))


def preset(name: str = "conv_small", constraint: str = "soft") -> DRMM:
    """With norms that have seen something."""
    depth = 2 if name == "conv_small" else 1
    recipe = Recipe(preset=name, constraint=constraint, width=3, depth=depth).fitted(SHAPE, CLASSES)
    model = recipe.build(0)
    model.calibrate(pixels(noise(32, SHAPE, seed)) for seed in (1, 2))
    return model.eval()


class Residual(nn.Module):
    """A skip connection, a norm, a smooth unit and two pools: what is drawn by joins, gains, slopes and places."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.norm, self.average = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.AvgPool2d(2)
        self.body, self.smooth, self.top = nn.Conv2d(3, 3, 3, padding=1), nn.SiLU(), nn.Linear(12, 3)
        self.largest = nn.AdaptiveMaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.average(self.norm(self.below(x)).relu())
        return self.top(self.largest(x + self.smooth(self.body(x))).flatten(1))


def lifted(net: nn.Module) -> DRMM:
    torch.manual_seed(0)
    return drmm.lift(net.eval(), image_shape=SHAPE, strict=False).eval()


def assessed(model: DRMM) -> Assessment:
    pictures = noise(24, SHAPE, seed=5)
    known = assess(model, pictures, torch.full((24,), -1), ())
    return replace(known, calibration=LESS_SURE)
