"""A plain convnet that knows nothing of this library, trained on rendered scenes, to try the predictions on.

Scenes and weights are drawn and learnt once, and kept in a cache.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.data.download import default_data_dir
from drmm.data.images import pixels
from drmm.progress import track
from drmm.studies.scenes import CLASSES, Scenes, render, sample
from scripts.study import Options

__all__ = ["CACHE", "IMAGES", "accuracy", "draw_scenes", "random_net", "scene_net", "scene_task", "train_net"]

CACHE: Options = {
    "--cache": {
        "type": Path,
        "default": default_data_dir() / "predictions",
        "help": "folder for scenes and trained nets",
    }
}
IMAGES, TEST_IMAGES = 5000, 1000
EPOCHS, BATCH = 8, 50
_SCENES_SEED, _TEST_SEED = 100, 101


def scene_net() -> nn.Sequential:
    """64 x 64 colour images to a logit a class: six convolutions with batch norm, three pools, and a mean."""
    layers: list[nn.Module] = []
    for inputs, outputs, pooled in (
        (3, 16, True),
        (16, 24, True),
        (24, 32, False),
        (32, 48, True),
        (48, 64, False),
        (64, 64, False),
    ):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pooled else []
    return nn.Sequential(*layers, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, len(CLASSES)))


def scene_task(cache: Path, seed: int, images: int = IMAGES) -> tuple[nn.Sequential, Scenes, Scenes]:
    """A trained net, in evaluation mode, the scenes that it was trained on, and others.

    Args:
        cache: folder where scenes and weights are looked for, and kept.
        seed: of the net: its first weights and the order of the images; all nets see the same scenes.
        images: how many to train on.
    """
    train, test = draw_scenes(cache, images, _SCENES_SEED), draw_scenes(cache, TEST_IMAGES, _TEST_SEED)
    file = cache / f"net-{images}-{seed}.safetensors"
    torch.manual_seed(seed)
    net = scene_net()
    if file.exists():
        net.load_state_dict(load_file(file))
    else:
        train_net(net, train)
        save_file(net.state_dict(), file)
    return net.eval(), train, test


def draw_scenes(cache: Path, n: int, seed: int) -> Scenes:
    """Scenes on backgrounds that say nothing of the class, from the cache where it has them."""
    file, latents = cache / f"scenes-{n}-{seed}.npz", sample(n, seed=seed)
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        images, masks = render(latents)
        np.savez(file, images=images, masks=masks)
    with np.load(file) as found:
        return Scenes(found["images"], found["masks"], latents, np.full(n, seed == _TEST_SEED))


def train_net(net: nn.Module, scenes: Scenes, *, epochs: int = EPOCHS) -> None:
    """Cross-entropy, Adam, one cycle: as anybody would."""
    x, y = torch.from_numpy(scenes.images), torch.from_numpy(scenes.latents.label)
    steps = range(epochs * (len(x) // BATCH))
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=len(steps))
    order = torch.empty(0, dtype=torch.long)
    net.train()
    for _ in track(steps, "steps"):
        if len(order) < BATCH:
            order = torch.randperm(len(x))
        chosen, order = order[:BATCH], order[BATCH:]
        optimizer.zero_grad()
        F.cross_entropy(net(pixels(x[chosen])), y[chosen]).backward()
        optimizer.step()
        schedule.step()
    net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, scenes: Scenes) -> float:
    """Share of scenes whose class is found."""
    labels: list[Tensor] = [net(pixels(part)).argmax(1) for part in torch.from_numpy(scenes.images).split(250)]
    return float((torch.cat(labels) == torch.from_numpy(scenes.latents.label)).double().mean())


def random_net(scenes: Scenes, seed: int) -> nn.Sequential:
    """A net with first weights, whose batch norms have seen scenes."""
    torch.manual_seed(seed)
    net = scene_net()
    norms = [layer for layer in net if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = None  # a plain mean over batches
    with torch.no_grad():
        for part in torch.from_numpy(scenes.images[:1000]).split(100):
            net(pixels(part))
    return net.eval()
