"""T5: units that are shut off do not matter, active ones do, in a net trained on rendered scenes.

Writes results/predictions/t05.json.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

import numpy as np
import torch

from drmm.data.images import pixels
from drmm.studies.predictions.active import active_paths_matter
from scripts.predictions.scene_net import CACHE, scene_task
from scripts.study import Results, study

COMMAND = "make predictions"
IMAGES, SEED = 100, 0
SHARES = (0.0001, 0.001, 0.01, 0.1, 1.0)


def run(asked: Namespace) -> Results:
    """Measure, and judge."""
    net, _, test = scene_task(asked.cache, SEED)
    paths = active_paths_matter(net, pixels(torch.from_numpy(test.images[:IMAGES])), shares=SHARES)
    medians = np.median(paths.without_active, 0).tolist()
    return {
        **asdict(paths.verdict(COMMAND)),
        "units": {"inactive": float(paths.inactive.mean()), "active": float(paths.active.mean())},
        "without_inactive": float(paths.without_inactive.max()),
        "without_active": dict(zip(map(str, SHARES), medians, strict=True)),
        "images": IMAGES,
    }


if __name__ == "__main__":
    study(run, name="predictions/t05", target="predictions", seeds=1, options=CACHE)
