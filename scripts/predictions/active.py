"""T5: units that are shut off do not matter, active ones do, in a net trained on rendered scenes.

Writes results/predictions/t05.json.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from scene_net import parser, scene_task

from drmm.data.images import pixels
from drmm.files import write_json
from drmm.runs.run import versions
from drmm.studies.predictions.active import active_paths_matter

COMMAND = "make predictions"
IMAGES, SEED = 100, 0
SHARES = (0.0001, 0.001, 0.01, 0.1, 1.0)


def main() -> None:
    """Measure and write."""
    arguments = parser(__doc__).parse_args()
    net, _, test = scene_task(arguments.cache, SEED)
    found = active_paths_matter(net, pixels(torch.from_numpy(test.images[:IMAGES])), shares=SHARES)
    medians = np.median(found.without_active, 0).tolist()
    content = {
        **asdict(found.verdict(COMMAND)),
        "units": {"inactive": float(found.inactive.mean()), "active": float(found.active.mean())},
        "without_inactive": float(found.without_inactive.max()),
        "without_active": dict(zip(map(str, SHARES), medians, strict=True)),
        "images": IMAGES,
        "seed": SEED,
        "versions": versions(),
    }
    write_json(Path("results/predictions/t05.json"), content)


if __name__ == "__main__":
    main()
