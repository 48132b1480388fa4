"""Folders of pictures to label."""

from pathlib import Path

import numpy as np
from PIL import Image


def pictures(folder: Path, n: int, *, seed: int = 0) -> Path:
    """So many small pictures of noise, 000.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(generator.integers(0, 256, (12, 10), dtype=np.uint8)).save(folder / f"{i:03}.png")
    return folder
