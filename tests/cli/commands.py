"""A command as a user gives it, and what came out."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

Answer = tuple[int, str, str]
"""Exit code, stdout and stderr."""

QUICK = ["--set", "training.min_steps=0"]
FIT = ["fit", "digits", "--labels-per-class", "5", "--epochs", "2", "--width", "4", *QUICK]
FIT += ["--set", "training.batch_size=256", "--set", "trust.folds=2"]
EM = ["fit", "digits", "--set", "training.learning=em", "--set", "training.tolerance=0"]
EM += ["--set", "trust.folds=2", "--epochs", "2", "--width", "4", "--labels-per-class", "5"]


def sets(*assignments: str) -> list[str]:
    """Options that set settings."""
    return [word for assignment in assignments for word in ("--set", assignment)]


def refused(answer: Answer, *words: str) -> None:
    """Exit code 2 and one line that holds the words."""
    code, _, err = answer
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
