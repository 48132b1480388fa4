"""A residual net and its training in plain PyTorch, which know nothing of this library: what scripts lift."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.data.images import pixels
from drmm.progress import track

__all__ = ["ResNet", "train_plainly"]


class Block(nn.Module):
    """Two convolutions around which the features also go directly."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm, self.second_norm = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W), the same."""
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(x + self.second_norm(self.second(y)))


class ResNet(nn.Module):
    """A stem, three residual blocks with pools between them, and a mean."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 5, padding=2)
        self.blocks = nn.Sequential(Block(width), nn.MaxPool2d(2), Block(width), nn.MaxPool2d(2), Block(width))
        self.classes = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, 10)."""
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        return self.classes(self.blocks(x).mean((2, 3)))


def train_plainly(net: nn.Module, x: Tensor, y: Tensor, *, epochs: int, batch: int, progress: bool) -> nn.Module:
    """Cross-entropy on all labels, Adam, cosine schedule: as anybody would. The same net, in evaluation mode."""
    steps = range(epochs * (len(x) // batch))
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(steps))
    for _ in track(steps, "steps") if progress else steps:
        chosen = torch.randint(len(x), (batch,))
        optimizer.zero_grad()
        F.cross_entropy(net(pixels(x[chosen])), y[chosen]).backward()
        optimizer.step()
        schedule.step()
    return net.eval()
