"""A run on colour photos that is learned in a moment, and pictures of many sizes for it."""

from pathlib import Path

import numpy as np
import pytest
from holders import write_pictures
from PIL import Image

from drmm.runs.experiment import Experiment
from drmm.runs.fit import fit_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test changes it."""
    folder = tmp_path_factory.mktemp("predicting")
    for name in ("blue", "red", "unlabelled"):
        write_pictures(folder / "photos" / name, 6)
    experiment = Experiment().changed("data", source=str(folder / "photos")).changed("model", width=2)
    experiment = experiment.changed("training", epochs=1, min_steps=0, batch_size=8, labelled_per_batch=4)
    fit_run(experiment.changed("trust", folds=0), folder / "run", progress=False)
    return folder / "run"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five at the run's size, two larger ones, a grey one and one with an alpha channel."""
    folder = write_pictures(tmp_path / "pictures", 5)
    rng = np.random.default_rng(1)
    for name, shape in (("5", (30, 12, 3)), ("6", (9, 40, 3)), ("7", (12, 12)), ("8", (15, 15, 4))):
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(folder / f"{name}.png")
    return folder
