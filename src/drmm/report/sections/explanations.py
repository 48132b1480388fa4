"""Sections that explain a model: reconstructions, evidence, templates, samples, levels and active paths."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drmm.data.images import pixels
from drmm.errors import InputError
from drmm.explain import LevelEvidence, PathCounts, contrast, count_paths, level_names
from drmm.explain.passes import activations
from drmm.model.deep import DRMM
from drmm.model.patch_prior import borrow
from drmm.model.priors import Prior
from drmm.progress import track
from drmm.rendering import Gate, Level
from drmm.report.blocks import Chart, Charts, Gallery, Note, Picture, Section, Strip, Table
from drmm.report.charts import levels_by_power, power
from drmm.report.context import Context, percent
from drmm.report.evaluation import Indices
from drmm.report.sprites import SpriteSheet, room

__all__ = ["Explanations", "explain", "explanations", "levels", "paths", "samples", "templates"]

_TEMPLATE_BYTES = _SAMPLE_BYTES = 600_000  # of each sheet, before compression
_SAMPLES = 40
_CHUNK = 4  # of them drawn at once
_PATCH_IMAGES = 400  # training images that the patch prior takes switches from
_PER_TEMPLATE = 30  # images whose renderings are averaged
_COUNTED = 16  # images whose paths are counted
_MOST_CLASSES = 100
_DRAWS_NOTHING = (
    "This net draws next to nothing of a picture, so that neither reconstructions nor samples are shown: its "
    "weights were learned to tell classes apart, and not to draw. The evidence is exact none the less."
)


@dataclass(frozen=True)
class Explanations:
    """Explanations of the featured images, a picture for each in every sheet.

    Attributes:
        rows: of the evaluation.
        reconstructions: renderings of the predicted class through the inferred switches.
        evidence: active-path maps.
        contrast: evidence for the best class and against the second; None if there is one class.
        label: the best class, by the model itself, (N,).
        rival: the second best class, (N,).
    """

    rows: Indices
    reconstructions: SpriteSheet
    evidence: SpriteSheet
    contrast: SpriteSheet | None
    label: Indices
    rival: Indices

    def sprite(self, row: int) -> int:
        """Index of an image in the sheets."""
        return int(np.flatnonzero(self.rows == row)[0])


@torch.no_grad()
def explain(context: Context) -> Explanations | None:
    """Explain the featured images."""
    rows = context.featured
    if context.evaluation is None or not len(rows):
        return None
    model, x = context.source.model, context.inputs(rows)
    latents = model.infer(x)
    evidence = model.sum_over_paths(x, latents).pixels.sum(1)
    against, rival = None, latents.label
    if model.n_classes > 1:
        two = contrast(model, x)
        against, rival = context.sprites.evidence(two.maps), two.other
    return Explanations(
        rows,
        context.sprites.pictures(model.picture(latents)),
        context.sprites.evidence(evidence),
        against,
        latents.label.numpy(),
        rival.numpy(),
    )


def explanations(context: Context, explained: Explanations | None) -> Section | None:
    """Images, their reconstructions, and the evidence for the predicted class."""
    if explained is None or not len(context.examples):
        return None
    rows = context.examples.tolist()
    captions = tuple(context.caption(row, int(explained.label[explained.sprite(row)])) for row in rows)

    def row_of(sheet: SpriteSheet, what: str) -> tuple[Picture, ...]:
        return tuple(
            Picture(sheet, explained.sprite(row), f"{what} of {caption}")
            for row, caption in zip(rows, captions, strict=True)
        )

    strip = [("image", "", tuple(context.image(row, "") for row in rows))]
    if context.draws:
        remark = "the predicted class rendered through the inferred switches"
        strip.append(("reconstruction", remark, row_of(explained.reconstructions, "reconstruction")))
    remark = "what active paths through each pixel add to the score"
    strip.append(("evidence", remark, row_of(explained.evidence, "evidence")))
    if explained.contrast is not None:
        remark = "evidence for this class and against the second best"
        strip.append(("contrast", remark, row_of(explained.contrast, "contrast")))
    lead = (
        "One image of each class. Red pixels are evidence for the predicted class, blue ones against it; each map "
        "has its own scale. Evidence and biases sum to the score."
    )
    table = Strip(captions, tuple(strip), "Images, reconstructions and evidence")
    return Section(
        "explanations", "Explanations", lead, (table, *(() if context.draws else (Note(_DRAWS_NOTHING),)))
    )


@torch.no_grad()
def templates(context: Context) -> Section | None:
    """The mean picture of each class; none of a model that draws nothing."""
    if not context.draws:
        return None
    model, names = context.source.model, context.predicted_names
    shown = range(min(len(names), _MOST_CLASSES, room(context.source.recipe.image_shape, _TEMPLATE_BYTES)))
    if context.evaluation is None:
        lead = "The mean sample of each class. Each is as bright as it can be."
    else:
        lead = "The mean reconstruction of images of each class. Each is as bright as it can be."
    means = torch.stack([_template(context, model, c) for c in track(shown, "rendering templates")])
    sheet = context.sprites.stretched(means)
    pictures = tuple(Picture(sheet, c, f"template of {names[c]}", names[c]) for c in shown)
    more = () if len(shown) == len(names) else (Note(f"The first {len(shown)} of {len(names)} classes."),)
    return Section("templates", "Class templates", lead, (Gallery(pictures, large=True), *more))


@torch.no_grad()
def samples(context: Context) -> Section | None:
    """Samples of the model; none of one that draws nothing."""
    if not context.draws:
        return None
    data, model, names = context.data, context.source.model, context.predicted_names
    most = min(_MOST_CLASSES, room(context.source.recipe.image_shape, _SAMPLE_BYTES))
    codes = torch.arange(len(names)).repeat_interleave(max(1, _SAMPLES // len(names)))[:most]

    def gallery(caption: str, prior: Prior | None) -> Gallery:
        generator = torch.Generator().manual_seed(context.seed)
        images = [
            model.picture(model.sample_latents(len(some), some, generator, prior))
            for some in track(codes.split(_CHUNK), "sampling")
        ]
        sheet = context.sprites.stretched(torch.cat(images))
        pictures = (Picture(sheet, i, f"sample of {names[c]}", names[c]) for i, c in enumerate(codes.tolist()))
        return Gallery(tuple(pictures), caption)

    blocks: list[Gallery | Note] = []
    if data is not None and len(data.x_train):
        draw = np.random.default_rng(context.seed).permutation(len(data.x_train))[:_PATCH_IMAGES]
        training = pixels(torch.from_numpy(data.x_train[np.sort(draw)]))
        try:
            caption = "Patch prior: switches taken patch by patch from training images"
            blocks.append(gallery(caption, borrow(model, training)))
        except InputError as error:
            reason, _, _ = str(error).partition(": ")  # what to do about it is for callers
            blocks.append(Note(f"There is no patch prior: {reason}."))
    try:
        blocks.append(gallery("Independent prior: every switch drawn by itself", None))
    except InputError as error:
        blocks = [Note(f"There are none: {error}.")]
    lead = "Drawn from the model: a class, its switches, and the rendering down to the pixels."
    return Section("samples", "Samples", lead, tuple(blocks))


def levels(context: Context) -> Section | None:
    """The active units of every level, rendered down to the pixels."""
    if context.evaluation is None or not len(context.examples):
        return None
    model, rows = context.source.model, context.examples.tolist()
    x, captions = context.inputs(rows), tuple(context.caption(row) for row in rows)
    strip = [("image", "", tuple(context.image(row, "") for row in rows))]
    for number, (rendering, what) in enumerate(_numbered(model), 1):
        sheet = context.sprites.evidence(LevelEvidence(rendering)(model, x))
        pictures = tuple(Picture(sheet, i, f"level {number} of {caption}") for i, caption in enumerate(captions))
        strip.append((f"level {number}", what, pictures))
    lead = (
        "All active units of a level rendered down to the pixels, each as strongly as it is active, whatever the "
        "class. Red pixels excite them, blue ones inhibit them."
    )
    return Section("levels", "Evidence by level", lead, (Strip(captions, tuple(strip), "Evidence by level"),))


def paths(context: Context) -> Section | None:
    """How many units and how many of all paths are active."""
    evaluation, model = context.evaluation, context.source.model
    if evaluation is None:
        return None
    chosen = np.unique(np.linspace(0, len(evaluation.index) - 1, _COUNTED).astype(int))
    try:
        counts = [count_paths(model, context.inputs([row])) for row in track(chosen.tolist(), "counting paths")]
    except InputError as error:
        return Section("paths", "Active paths", f"Paths cannot be counted: {error}.", ())
    rows, exponents = _path_rows(model, counts)
    share = float(np.mean([float(one.share[0, -1]) for one in counts]))
    lead = (
        "A path goes from the class down to a pixel, along one weight of every level. Of all paths "
        f"{percent(share, 2)} are active in an image; mean over {len(counts)} images."
    )
    head = ("level", "active units", "active paths", "all paths", "share active")
    chart = Chart(
        levels_by_power(exponents, "Active paths of all paths, by level"),
        "paths from the class down to each level: active, inside of all there are (powers of ten)",
    )
    return Section("paths", "Active paths", lead, (Charts((chart,)), Table(head, rows, "Paths by level")))


def _path_rows(
    model: DRMM, counts: list[PathCounts]
) -> tuple[tuple[tuple[str, ...], ...], dict[str, tuple[float, float]]]:
    """The table's rows, and both counts as exponents, from the top level down to the pixels."""
    names = level_names(model)
    numbered = {names[rendering - 1]: f"level {i}" for i, (rendering, _) in enumerate(_numbered(model), 1)}
    active = torch.cat([one.active for one in counts]).mean(0)
    on = torch.cat([one.on for one in counts]).mean(0)
    every = counts[0].all
    rows, exponents = [], {}
    for i, name in enumerate(counts[0].levels):
        level = numbered.get(name, "pixels" if i == len(names) else None)
        if level is None:
            continue
        few, many = (float(value.clamp(min=1).log10()) for value in (active[i], every[i]))
        exponents[level] = (few, many)
        share = percent(float(active[i] / every[i]), 2)
        rows.append((level, percent(float(on[i]), 0), power(few), power(many), share))
    return tuple(rows), exponents


def _numbered(model: DRMM) -> list[tuple[int, str]]:
    """Levels that have switches, from the pixels up: number among the renderings, and their size in words."""
    blank = torch.zeros(1, *(model.image_shape or (1, 1, 1)), dtype=model.templates.weight.dtype)
    features = activations(model, blank).features[1:]
    numbered = []
    for number, (rendering, units) in enumerate(zip(model.levels.renderings, features, strict=True), 1):
        if isinstance(rendering, Gate | Level) and rendering.shuts:
            sizes = tuple(units.shape[1:])
            where = f", {sizes[1]} × {sizes[2]} positions" if len(sizes) == 3 else ""
            numbered.append((number, f"{sizes[0]} channels{where}"))
    return numbered


def _template(context: Context, model: DRMM, label: int) -> Tensor:
    """The mean reconstruction of images of a class (true or else predicted), or else of its samples."""
    evaluation = context.evaluation
    if evaluation is not None:
        group = evaluation.predicted if context.source.clusters or not evaluation.known.any() else evaluation.truth
        mine = np.flatnonzero(group == label)[:_PER_TEMPLATE]
        if len(mine):
            return model.reconstruct(context.inputs(mine), label).mean(0)
    generator = torch.Generator().manual_seed(context.seed)
    with suppress(InputError):
        return model.picture(model.sample_latents(_PER_TEMPLATE, label, generator)).mean(0)
    return torch.zeros(context.source.recipe.image_shape)  # nothing of it was seen
