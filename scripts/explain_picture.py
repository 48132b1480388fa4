"""One digit explained by the demo's model: writes docs/explain.png, after `make demo`."""

from pathlib import Path

import torch

from drmm.data import load
from drmm.data.images import pixels
from drmm.explain.figures import explanation
from drmm.explain.plots import save_figure
from drmm.storage.models import load_model

RUN, DIGIT = Path("demo/soft"), 4

if __name__ == "__main__":
    data, (model, recipe) = load("mnist-5k"), load_model(RUN)
    first = int((data.y_test == DIGIT).nonzero()[0][0])
    x = pixels(torch.from_numpy(data.x_test[first]))
    save_figure(explanation(model, x, recipe.classes), Path("docs/explain.png"))
