"""What a trained model is used for: labels, samples, explanations."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

from drmm.cli.console import say
from drmm.cli.predictions import notes_of
from drmm.data.base import Skipped, summary
from drmm.data.images import image_batches, load_image_files, pixels
from drmm.data.tables import table_in_parts
from drmm.errors import InputError, RunError
from drmm.explain.figures import explanation
from drmm.explain.plots import samples_sheet, save_figure
from drmm.files import check_absent
from drmm.learning.allocator import tune_allocator
from drmm.learning.metrics import CERTIFIED_AT_ONCE
from drmm.model.patch_prior import PatchPrior, borrow
from drmm.predicting.rows import Rows
from drmm.progress import Meter
from drmm.runs.parts import parts_of
from drmm.runs.run import Run
from drmm.storage.models import Recipe
from drmm.trust.promise import PROMISE

__all__ = ["explain", "predict", "sample"]

_PATCH_IMAGES = 4000  # training images of the patch prior: their switches take 40 kB each for MNIST


def predict(
    run: Path,
    images: Sequence[Path],
    out: Path,
    *,
    promise: float = PROMISE,
    all_classes: bool = False,
    force: bool = False,
) -> int:
    """Label image files, part by part, and write a table with a row for each (`drmm.predicting.rows`).

    Args:
        run: folder of a trained model.
        images: files, folders, or arrays.
        out: the table, CSV or Parquet by its suffix, written as it goes and there in the end, whole or not at all.
        promise: share of the sorted pictures that is to be right.
        all_classes: a column for the probability of each class.
        force: replace it if it is there.

    Returns:
        How many images there were.
    """
    check_absent(out, ".csv", force=force)
    tune_allocator()
    opened = Run.open(run)
    rows = Rows(opened, promise=promise, all_classes=all_classes)
    skipped: list[Skipped] = []
    shape, fill = opened.recipe.image_shape, opened.asked.shape
    batches = image_batches(images, shape, skipped, at_once=CERTIFIED_AT_ONCE, fill=fill)
    n = 0
    with closing(Meter("predicting")) as meter, table_in_parts(out, {"image": str, **rows.types}) as add:
        for names, x in batches:
            add([(name, *row) for name, row in zip(names, rows.of(x), strict=True)])
            n += len(names)
            meter.update(n)
    for note in notes_of(opened.assessment, promise):
        say(note)
    if skipped:
        say(summary(skipped))
    return n


@torch.no_grad()
def sample(
    run: Path,
    out: Path,
    *,
    n: int,
    label: str | None,
    noise: bool,
    seed: int,
    neighbours: int | None = None,
    data_dir: Path | None = None,
    force: bool = False,
) -> None:
    """Draw images from a trained model into one PNG.

    Args:
        run: folder of a trained model.
        out: the PNG.
        n: how many images.
        label: name of a class, or None for all in turn.
        noise: add pixel noise.
        seed: of the draw.
        neighbours: take switches from the images that the run learned from, patch by patch from one of so many
            that fit best (`drmm.model.patch_prior`); None draws every switch independently.
        data_dir: where the data sets' files are.
        force: replace the PNG if it is there.

    Raises:
        InputError: if there is no such class, or no image of it to take patches from.
        RunError: if `run` is no run, or the images that it learned from are gone.
    """
    check_absent(out, ".png", force=force)
    opened = Run.open(run)
    model, recipe = opened.model, opened.recipe
    code = _class_index(recipe, label)
    codes = torch.arange(n) % len(recipe.classes) if code is None else torch.full((n,), code)
    prior = None if neighbours is None else _patch_prior(opened, neighbours, seed, data_dir)
    generator = torch.Generator().manual_seed(seed)
    if noise:
        images = model.sample(n, codes, generator, prior)
    else:
        images = model.picture(model.sample_latents(n, codes, generator, prior))
    save_figure(samples_sheet(images, [recipe.classes[c] for c in codes.tolist()]), out)


def explain(
    run: Path, image: Path, out: Path, *, label: str | None, other: str | None, paths: int, force: bool = False
) -> None:
    """Explain one picture on one sheet (`drmm.explain`).

    Args:
        run: folder of a trained model.
        image: picture file.
        out: the PNG.
        label: name of the class to explain; None takes the best.
        other: name of the class that it was not; None takes the best of all others.
        paths: how many of the strongest paths to draw.
        force: replace the PNG if it is there.

    Raises:
        InputError: if there is no such class, both are the same, or the file holds several images.
        RunError: if `run` is no run, or the picture cannot be read.
    """
    check_absent(out, ".png", force=force)
    opened = Run.open(run)
    model, recipe = opened.model, opened.recipe
    x, names, _ = load_image_files(image, recipe.image_shape)
    if len(names) != 1:
        raise InputError(f"{image} holds {len(names)} images: pass one picture")
    asked = (_class_index(recipe, name) for name in (label, other))
    save_figure(explanation(model, x[0], recipe.classes, *asked, k=paths), out)


def _class_index(recipe: Recipe, name: str | None) -> int | None:
    if name is not None and name not in recipe.classes:
        raise InputError(f"no class {name!r} in this model: choose from {', '.join(recipe.classes)}")
    return None if name is None else recipe.classes.index(name)


def _patch_prior(run: Run, neighbours: int, seed: int, data_dir: Path | None) -> PatchPrior:
    """From some of the images that a run learned from."""
    if run.experiment is None:
        raise RunError(f"{run.folder} does not say what its model learned from: take a folder of drmm fit")
    parts = parts_of(run.experiment, run.data(data_dir))
    some = torch.randperm(len(parts.images), generator=torch.Generator().manual_seed(seed))[:_PATCH_IMAGES]
    return borrow(run.model, pixels(parts.images[some]), parts.labels[some], neighbours=neighbours)
