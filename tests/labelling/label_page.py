"""A folder of small pictures, and the label page of it."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("dark", "bright")


def write_pictures(folder: Path, n: int = 24) -> dict[str, str]:
    """Pictures of noise, half of them bright, and what each one shows."""
    folder.mkdir(parents=True)
    generator, truth = np.random.default_rng(0), {}
    for i in range(n):
        levels = generator.integers(100, size=(8, 8)) + 150 * (i % 2)
        Image.fromarray(levels.astype(np.uint8)).save(folder / f"{i:03}.png")
        truth[f"{i:03}.png"] = CLASSES[i % 2]
    return truth


def read_labels(table: Path) -> dict[str, str]:
    with table.open() as file:
        return {row["file"]: row["label"] for row in csv.DictReader(file)}


class Still:
    """A learner that learns nothing."""

    answers, trouble = None, ""

    def learn(self, state: object) -> None:
        pass


class Served:
    """`drmm label` as a process of its own.

    Attributes:
        address: that it printed, with its token.
    """

    def __init__(self, pictures: Path, *options: str) -> None:
        # What it remembers of folders is not the user's.
        environment = os.environ | {"XDG_CACHE_HOME": str(pictures.with_name("cache")), "OMP_NUM_THREADS": "1"}
        code = "from drmm.cli.app import main; main()"
        command = [sys.executable, "-c", code, "label", str(pictures), "--no-browser", *options]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        line = self._process.stdout.readline()
        assert line, self._process.stderr.read()
        self.address = line.split()[1]

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def end(self) -> str:
        """As by Ctrl-C; what it says then."""
        self._process.send_signal(signal.SIGINT)
        out, err = self._process.communicate(timeout=30)
        assert self._process.returncode == 0, err
        return out
