"""Sprites: many small pictures in one PNG or JPEG, as data for a page, instead of thousands of files."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

__all__ = ["SpriteSheet", "Sprites", "room"]

_SIDE = 64  # larger pictures are shrunk
_SHOWN = 56  # pixels of a page that a picture takes, about
_COLUMNS = 40
_STEPS = 127  # of evidence, each for and against
_FOR, _AGAINST = (226, 67, 61), (47, 111, 235)  # red and blue that nearly everybody can distinguish

_Levels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SpriteSheet:
    """A PNG or JPEG that holds pictures of one size, in rows.

    Attributes:
        name: of the sheet, for the style sheet of the page.
        uri: the file as a data URI.
        grid: columns and rows.
        size: width and height of a picture.
        count: how many pictures there are.
    """

    name: str
    uri: str
    grid: tuple[int, int]
    size: tuple[int, int]
    count: int

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height that a picture has on the page: a multiple of its own, so that pixels stay square."""
        zoom = max(1, round(_SHOWN / max(self.size)))
        return self.size[0] * zoom, self.size[1] * zoom

    def offset(self, index: int) -> tuple[float, float]:
        """Where a picture is, as percentages of CSS's background-position."""
        at = (index % self.grid[0], index // self.grid[0])
        x, y = (100 * i / (n - 1) if n > 1 else 0.0 for i, n in zip(at, self.grid, strict=True))
        return round(x, 4), round(y, 4)


def room(shape: tuple[int, ...], n_bytes: int) -> int:
    """How many pictures (C, H, W) a sheet of at most so many bytes has room for, compressed or not."""
    height, width = _shrunk(shape[1], shape[2])
    return max(1, n_bytes // (min(shape[0], 3) * height * width))


class Sprites:
    """The sprite sheets of one page, in the order in which they were added."""

    def __init__(self) -> None:
        self._sheets: list[SpriteSheet] = []

    @property
    def all(self) -> tuple[SpriteSheet, ...]:
        """All sheets so far."""
        return tuple(self._sheets)

    def pictures(self, images: Tensor) -> SpriteSheet:
        """Grey or colour pictures: uint8, or float in [0, 1], (N, C, H, W); of other channels the first three."""
        levels = images if images.dtype == torch.uint8 else (255 * images.clamp(0, 1)).round().to(torch.uint8)
        return self._shown(levels, "PNG", {"optimize": True})

    def photographs(self, levels: npt.NDArray[np.uint8]) -> SpriteSheet:
        """As `pictures`, of levels (N, C, H, W), in a JPEG: a fifth of the bytes, nearly the same."""
        return self._shown(torch.from_numpy(levels), "JPEG", {"quality": 85})

    def _shown(self, levels: Tensor, form: str, options: dict[str, Any]) -> SpriteSheet:
        shown = levels[:, :3] if levels.shape[1] >= 3 else levels[:, :1]
        tiles: list[_Levels] = [_small(picture.permute(1, 2, 0).numpy()) for picture in shown]
        whole = _tiled(tiles)
        return self._add(Image.fromarray(whole[..., 0] if whole.shape[2] == 1 else whole), tiles, form, options)

    def stretched(self, images: Tensor) -> SpriteSheet:
        """As `pictures`, each as bright as it can be: (N, C, H, W) of any range, black where not positive."""
        largest = images.flatten(1).amax(1).clamp(min=torch.finfo(images.dtype).tiny)
        return self.pictures(images / largest[:, None, None, None])

    def evidence(self, maps: Tensor) -> SpriteSheet:
        """Maps (N, H, W), each by its own largest magnitude: red is for, blue against, 0 is transparent."""
        largest = maps.abs().flatten(1).amax(1).clamp(min=torch.finfo(maps.dtype).tiny)
        steps = (maps / largest[:, None, None] * _STEPS).round() + _STEPS
        tiles = [_small(one[..., None].numpy()) for one in steps.to(torch.uint8)]
        whole = Image.fromarray(_tiled(tiles)[..., 0]).convert("P")
        strength = [abs(i - _STEPS) / _STEPS for i in range(2 * _STEPS + 1)]
        whole.putpalette([level for i in range(len(strength)) for level in (_AGAINST if i < _STEPS else _FOR)])
        opacity = bytes(round(255 * s**0.6) for s in strength)
        return self._add(whole, tiles, "PNG", {"optimize": True, "transparency": opacity})

    def _add(self, whole: Image.Image, tiles: list[_Levels], form: str, options: dict[str, Any]) -> SpriteSheet:
        file = BytesIO()
        whole.save(file, form, **options)
        uri = f"data:image/{form.lower()};base64," + base64.b64encode(file.getvalue()).decode()
        columns = min(_COLUMNS, len(tiles))
        height, width = tiles[0].shape[:2]
        grid = (columns, math.ceil(len(tiles) / columns))
        self._sheets.append(SpriteSheet(f"s{len(self._sheets)}", uri, grid, (width, height), len(tiles)))
        return self._sheets[-1]


def _shrunk(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, _SIDE / max(height, width))
    return max(1, round(scale * height)), max(1, round(scale * width))


def _small(levels: _Levels) -> _Levels:
    """A picture (H, W, C), shrunk if it is large."""
    height, width = _shrunk(*levels.shape[:2])
    if (height, width) == levels.shape[:2]:
        return levels
    image = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX)).reshape(height, width, -1)


def _tiled(tiles: list[_Levels]) -> _Levels:
    """Pictures (H, W, C) side by side, in rows; what is left of the last row is black."""
    columns = min(_COLUMNS, len(tiles))
    height, width, channels = tiles[0].shape
    whole = np.zeros((math.ceil(len(tiles) / columns) * height, columns * width, channels), np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * height, i % columns * width
        whole[top : top + height, left : left + width] = tile
    return whole
