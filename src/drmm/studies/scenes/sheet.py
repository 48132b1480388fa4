"""A picture of the scenes: a column a class, a row for each latent that is changed."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from drmm.explain.plots import Row, sheet
from drmm.studies.scenes.latents import Latents
from drmm.studies.scenes.renderer import Renderer

__all__ = ["draw_overview"]


def draw_overview(latents: Latents, renderer: Renderer) -> Image.Image:
    """The first scene of every class, and the same again with one latent changed at a time.

    Args:
        latents: N scenes, some of every class.
        renderer: draws them.
    """
    first = [int(np.flatnonzero(latents.label == label)[0]) for label in np.unique(latents.label)]
    scenes = latents[first]
    images, masks = renderer.render(scenes)
    rows = [Row("a scene", _unit(images)), Row("its mask", torch.from_numpy(masks[:, None].astype(np.float32)))]
    for caption, changed in _variants(scenes).items():
        rows.append(Row(caption, _unit(renderer.render(changed)[0])))
    full = BytesIO()
    titles = [scenes.classes[label].replace("_", "\n") for label in scenes.label]
    sheet(rows, titles).savefig(full, dpi=150, format="png")
    return Image.open(full).convert("RGB").reduce(2)  # a third of the bytes, and lines stay smooth


def _variants(scenes: Latents) -> dict[str, Latents]:
    def put(**values: float) -> Latents:
        same: dict[str, Any] = {name: np.full(len(scenes), float(value)) for name, value in values.items()}
        return replace(scenes, **same)

    others = scenes[np.roll(np.arange(len(scenes)), 1)]
    return {
        "azimuth + 90°": replace(scenes, azimuth=scenes.azimuth + 90),
        "elevation 80°": put(elevation=80),
        "roll 45°": put(roll=45),
        "light from the left": put(light_azimuth=-80, light_elevation=10),
        "scale 0.3": put(scale=0.3),
        "x 0.2, y 0.2": put(x=0.2, y=0.2),
        "thickness 0.2": put(thickness=0.2),
        "half occluded": put(occlusion=0.5),
        "contrast 0.2": put(contrast=0.2),
        "other background": scenes.on_background_of(others),
        "other object": others.on_background_of(scenes),
    }


def _unit(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images.astype(np.float32) / 255)
