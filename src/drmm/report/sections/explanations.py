"""Sections on what a model sees: drawings, evidence, templates, levels, paths and samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drmm.data.images import pixels
from drmm.errors import InputError
from drmm.explain import LevelEvidence, PathCounts, contrast, count_paths, level_names
from drmm.explain.passes import climb
from drmm.model.deep import DRMM
from drmm.model.patch_prior import borrow
from drmm.model.priors import Prior
from drmm.progress import track
from drmm.rendering import Level, ReLU
from drmm.report.blocks import Chart, Charts, Gallery, Note, Picture, Section, Strip, Table
from drmm.report.charts import levels_by_power, power
from drmm.report.context import Material, percent
from drmm.report.evaluation import Indices
from drmm.report.sprites import Sheet, room

__all__ = ["Explained", "drawn", "explain", "levels", "paths", "samples", "templates"]

_TEMPLATE_BYTES = _SAMPLE_BYTES = 600_000  # of each sheet, before compression
_SAMPLES = 40
_CHUNK = 4  # of them drawn at once
_DONORS = 400  # training images to borrow switches from
_PER_TEMPLATE = 30  # images whose renderings are averaged
_COUNTED = 16  # images whose paths are counted
_MOST_CLASSES = 100


@dataclass(frozen=True)
class Explained:
    """What a model says about the featured images, a picture for each in every sheet.

    Attributes:
        rows: of the evaluation.
        drawn: reconstructions.
        evidence: active-path maps.
        rather: evidence for the best class without what speaks for the second as well; None if there is one class.
        rival: the second, (N,).
    """

    rows: Indices
    drawn: Sheet
    evidence: Sheet
    rather: Sheet | None
    rival: Indices

    def place(self, row: int) -> int:
        """Of an image in the sheets."""
        return int(np.flatnonzero(self.rows == row)[0])


@torch.no_grad()
def explain(material: Material) -> Explained | None:
    """Explain the featured images."""
    rows = material.featured
    if material.seen is None or not len(rows):
        return None
    model, x = material.source.model, material.inputs(rows)
    latents = model.infer(x)
    evidence = model.sum_over_paths(x, latents).pixels.sum(1)
    rather, rival = None, latents.label
    if model.n_classes > 1:
        two = contrast(model, x)
        rather, rival = material.sheets.evidence(two.maps), two.other
    return Explained(
        rows,
        material.sheets.pictures(model.picture(latents)),
        material.sheets.evidence(evidence),
        rather,
        rival.numpy(),
    )


def drawn(material: Material, explained: Explained | None) -> Section | None:
    """Images, what the model drew, and the evidence for it."""
    if explained is None or not len(material.examples):
        return None
    rows = material.examples.tolist()
    captions = tuple(material.told(row) for row in rows)

    def row_of(sheet: Sheet, what: str) -> tuple[Picture, ...]:
        return tuple(
            Picture(sheet, explained.place(row), f"{what} of {told}")
            for row, told in zip(rows, captions, strict=True)
        )

    strip = [("image", "", tuple(material.image(row, "") for row in rows))]
    remark = "the best explanation: the class's template through the switches"
    strip.append(("drawn", remark, row_of(explained.drawn, "drawing")))
    remark = "what active paths through each pixel add to the score"
    strip.append(("evidence", remark, row_of(explained.evidence, "evidence")))
    if explained.rather is not None:
        remark = "evidence for this class and against the second best"
        strip.append(("why not the other", remark, row_of(explained.rather, "contrast")))
    lead = (
        "One image of each class. Red speaks for the class, blue against it; each map by its own largest value. "
        "Evidence and biases sum up to the score."
    )
    return Section("seen", "What it sees", lead, (Strip(captions, tuple(strip), "Images, drawings and evidence"),))


@torch.no_grad()
def templates(material: Material) -> Section:
    """What each class looks like to the model."""
    model, names = material.source.model, material.found_names
    shown = range(min(len(names), _MOST_CLASSES, room(material.source.recipe.image_shape, _TEMPLATE_BYTES)))
    if material.seen is None:
        lead = "The mean of pictures that the model draws of each class. Each is as bright as it can be."
    else:
        lead = "The mean of what the model draws for images of each class. Each is as bright as it can be."
    means = torch.stack([_template(material, model, c) for c in track(shown, "drawing templates")])
    sheet = material.sheets.stretched(means)
    pictures = tuple(Picture(sheet, c, f"template of {names[c]}", names[c]) for c in shown)
    more = () if len(shown) == len(names) else (Note(f"The first {len(shown)} of {len(names)} classes."),)
    return Section("templates", "What a class looks like", lead, (Gallery(pictures, large=True), *more))


@torch.no_grad()
def samples(material: Material) -> Section:
    """Pictures that the model makes up."""
    data, model, names = material.source.data, material.source.model, material.found_names
    most = min(_MOST_CLASSES, room(material.source.recipe.image_shape, _SAMPLE_BYTES))
    codes = torch.arange(len(names)).repeat_interleave(max(1, _SAMPLES // len(names)))[:most]

    def gallery(caption: str, prior: Prior | None) -> Gallery:
        generator = torch.Generator().manual_seed(material.seed)
        drawn = [
            model.picture(model.sample_latents(len(some), some, generator, prior))
            for some in track(codes.split(_CHUNK), "sampling")
        ]
        sheet = material.sheets.stretched(torch.cat(drawn))
        pictures = (Picture(sheet, i, f"sample of {names[c]}", names[c]) for i, c in enumerate(codes.tolist()))
        return Gallery(tuple(pictures), caption)

    blocks: list[Gallery | Note] = []
    if data is not None and len(data.x_train):
        draw = np.random.default_rng(material.seed).permutation(len(data.x_train))[:_DONORS]
        donors = pixels(torch.from_numpy(data.x_train[np.sort(draw)]))
        try:
            blocks.append(gallery("Switches borrowed from training images, piece by piece", borrow(model, donors)))
        except InputError as error:
            blocks.append(Note(f"Switches cannot be borrowed from training images: {error}."))
    blocks.append(gallery("Every switch drawn independently of the others", None))
    lead = "Pictures that the model makes up: a class, a draw of the switches, and the way down to the pixels."
    return Section("samples", "What it dreams", lead, tuple(blocks))


def levels(material: Material) -> Section | None:
    """Which pixels the active units of every level see."""
    if material.seen is None or not len(material.examples):
        return None
    model, rows = material.source.model, material.examples.tolist()
    x, captions = material.inputs(rows), tuple(material.told(row) for row in rows)
    strip = [("image", "", tuple(material.image(row, "") for row in rows))]
    for number, (place, what) in enumerate(_numbered(model), 1):
        sheet = material.sheets.evidence(LevelEvidence(place)(model, x))
        pictures = tuple(Picture(sheet, i, f"level {number} of {told}") for i, told in enumerate(captions))
        strip.append((f"level {number}", what, pictures))
    lead = (
        "Every active unit of a level drawn down to the pixels, as strongly as it is on, whatever the class: the "
        "pixels that the level holds on to. Red pixels turned units on, blue ones held them down."
    )
    return Section("levels", "Level by level", lead, (Strip(captions, tuple(strip), "Evidence by level"),))


def paths(material: Material) -> Section | None:
    """How few units are on, and how few of all paths are active."""
    seen, model = material.seen, material.source.model
    if seen is None:
        return None
    chosen = np.unique(np.linspace(0, len(seen.index) - 1, _COUNTED).astype(int))
    try:
        found = [count_paths(model, material.inputs([row])) for row in track(chosen.tolist(), "counting paths")]
    except InputError as error:
        return Section("paths", "Active paths", f"Paths cannot be counted: {error}.", ())
    rows, exponents = _path_rows(model, found)
    share = float(np.mean([float(one.share[0, -1]) for one in found]))
    lead = (
        "A path goes from the class down to a pixel, along one weight of every level. Of all paths "
        f"{percent(share, 2)} are active in an image; mean over {len(found)} images."
    )
    head = ("level", "units that are on", "active paths", "all paths", "active")
    chart = Chart(
        levels_by_power(exponents, "Active paths of all paths, by level"),
        "paths from the class down to each level: active, inside of all there are (powers of ten)",
    )
    return Section("paths", "Active paths", lead, (Charts((chart,)), Table(head, rows, "Paths by level")))


def _path_rows(
    model: DRMM, found: list[PathCounts]
) -> tuple[tuple[tuple[str, ...], ...], dict[str, tuple[float, float]]]:
    """The table's rows, and both counts as exponents, from the top level down to the pixels."""
    names = level_names(model)
    numbered = {names[place - 1]: f"level {i}" for i, (place, _) in enumerate(_numbered(model), 1)}
    active = torch.cat([one.active for one in found]).mean(0)
    on = torch.cat([one.on for one in found]).mean(0)
    every = found[0].all
    rows, exponents = [], {}
    for i, name in enumerate(found[0].levels):
        told = numbered.get(name, "pixels" if i == len(names) else None)
        if told is None:
            continue
        few, many = (float(value.clamp(min=1).log10()) for value in (active[i], every[i]))
        exponents[told] = (few, many)
        share = percent(float(active[i] / every[i]), 2)
        rows.append((told, percent(float(on[i]), 0), power(few), power(many), share))
    return tuple(rows), exponents


def _numbered(model: DRMM) -> list[tuple[int, str]]:
    """Levels that have switches, from the pixels up: place among the renderings, and what they are in words."""
    blank = torch.zeros(1, *(model.image_shape or (1, 1, 1)), dtype=model.templates.weight.dtype)
    features = climb(model, blank).features[1:]
    found = []
    for place, (rendering, units) in enumerate(zip(model.levels.renderings, features, strict=True), 1):
        if isinstance(rendering, Level | ReLU):
            sizes = tuple(units.shape[1:])
            where = f", {sizes[1]} × {sizes[2]} places" if len(sizes) == 3 else ""
            found.append((place, f"{sizes[0]} templates{where}"))
    return found


def _template(material: Material, model: DRMM, label: int) -> Tensor:
    """The mean picture of a class: of images that are (or were found to be) of it, else of samples."""
    seen = material.seen
    if seen is not None:
        of = seen.found if material.source.clusters or not seen.known.any() else seen.truth
        mine = np.flatnonzero(of == label)[:_PER_TEMPLATE]
        if len(mine):
            return model.reconstruct(material.inputs(mine), label).mean(0)
    generator = torch.Generator().manual_seed(material.seed)
    return model.picture(model.sample_latents(_PER_TEMPLATE, label, generator)).mean(0)
