"""A residual net that knows nothing of this library, trained in plain PyTorch on real digits, lifted and drawn.

Writes docs/lift.png: what its generative model draws of each input, and the evidence by pixel, as the net was
trained (a classifier that was never asked to draw), and after some epochs of fine-tuning the lifted model with the
reconstruction term, on the same labels. Figures go to results/lift_picture.json.
"""

from __future__ import annotations

from argparse import Namespace

import torch
from torch import Tensor

import drmm
from drmm.data import load
from drmm.data.images import pixels
from drmm.explain.plots import Row, save_figure, sheet
from drmm.learning.config import Training
from drmm.learning.train import train
from scripts.plain_net import ResNet, train_plainly
from scripts.study import Results, study

WIDTH, EPOCHS, BATCH, TUNING_EPOCHS = 32, 6, 50, 15


@torch.no_grad()
def drawn(model: drmm.DRMM, x: Tensor, name: str) -> list[Row]:
    """What a model draws of images, and its evidence."""
    latents = model.infer(x)
    return [
        Row(f"reconstruction\n{name}", model.picture(latents)),
        Row(f"evidence by pixel\n{name}", model.sum_over_paths(x, latents).pixels, "evidence"),
    ]


@torch.no_grad()
def figures(model: drmm.DRMM, x: Tensor, y: Tensor) -> dict[str, float]:
    """Test error in percent, and the mean squared error of reconstructions as a share of the pictures' energy."""
    wrong = float((model.max_sum(x, None)[1].argmax(1) != y).double().mean())
    left = float((x - model.reconstruct(x)).square().mean() / x.square().mean())
    return {"test_error": round(100 * wrong, 2), "picture_not_drawn": round(left, 4)}


def run(asked: Namespace) -> Results:
    """Train, lift, draw; fine-tune, draw again."""
    torch.manual_seed(0)
    data = load("mnist-5k")
    images, labels = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    net = train_plainly(ResNet(1, WIDTH), images, labels, epochs=EPOCHS, batch=BATCH, progress=True)
    model = drmm.lift(net)
    x, y = pixels(torch.from_numpy(data.x_test)), torch.from_numpy(data.y_test)
    columns = torch.stack([torch.nonzero(y == c)[0, 0] for c in range(10)])
    before, rows = figures(model, x, y), [Row("input", x[columns]), *drawn(model, x[columns], "as trained")]
    tuned = train(drmm.lift(net, image_shape=(1, 28, 28)), images, labels, config=Training(epochs=TUNING_EPOCHS))
    rows += drawn(tuned, x[columns], "fine-tuned")
    save_figure(sheet(rows, data.classes), asked.pictures / "lift.png")
    return {"as trained": before, "fine-tuned": figures(tuned, x, y)}


if __name__ == "__main__":
    study(run, name="lift_picture", target="lift", seeds=1)
