"""One digit explained by the demo's model: writes docs/explain.png, after `make demo`."""

import argparse
from pathlib import Path

import torch

from drmm.data import load
from drmm.data.images import pixels
from drmm.explain.figures import explanation
from drmm.explain.plots import save_figure
from drmm.model.storage import load_model


def main() -> None:
    """Load, explain, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("demo/soft"))
    parser.add_argument("--digit", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("docs/explain.png"))
    asked = parser.parse_args()
    data, (model, recipe) = load("mnist-5k"), load_model(asked.run)
    first = int((data.y_test == asked.digit).nonzero()[0][0])
    x = pixels(torch.from_numpy(data.x_test[first]))
    save_figure(explanation(model, x, recipe.classes), asked.out)


if __name__ == "__main__":
    main()
