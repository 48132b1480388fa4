"""Procedural backgrounds: a pattern that mixes two colours, all of it decided by a seed, at any resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

__all__ = ["TEXTURES", "backgrounds"]

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
Pattern = Callable[[Floats, Floats, Numbers], Floats]

_OCTAVES = (4, 8, 16)  # cells across the picture
_NUMBERS = 10 + sum((cells + 1) ** 2 for cells in _OCTAVES)  # six for the colours, four for the pattern, its noise


def backgrounds(texture: npt.NDArray[np.int64], seed: npt.NDArray[np.int64], size: int) -> Floats:
    """Draw backgrounds (N, 3, size, size) with values in [0, 1].

    Args:
        texture: kinds (N,), indices into `TEXTURES`.
        seed: (N,), at least 0: decides both colours, and where and how large the pattern is.
        size: side in pixels; the same pattern is drawn finer on more pixels.
    """
    images = np.empty((len(texture), 3, size, size), np.float32)
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    u: Floats = np.tile(centres, (size, 1))
    v: Floats = u.T
    for image, kind, own in zip(images, texture, seed, strict=True):
        raw = np.random.PCG64(int(own)).random_raw(_NUMBERS)
        numbers: Numbers = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
        first, second = (0.1 + 0.8 * numbers[:6]).astype(np.float32).reshape(2, 3, 1, 1)
        image[:] = first + (second - first) * _PATTERNS[TEXTURES[kind]](u, v, numbers[6:])
    return images


def _plain(u: Floats, _v: Floats, _numbers: Numbers) -> Floats:
    return np.zeros_like(u)


def _gradient(u: Floats, v: Floats, numbers: Numbers) -> Floats:
    """From 0 to 1 across the picture, in any direction."""
    along = _along(u - 0.5, v - 0.5, 2 * math.pi * numbers[0])
    return _clipped(0.5 + along / math.sqrt(2))


def _stripes(u: Floats, v: Floats, numbers: Numbers) -> Floats:
    """3 to 8 stripes, in any direction."""
    phase = 2 * math.pi * numbers[2]
    return _soft(np.sin(2 * math.pi * (3 + 5 * numbers[1]) * _along(u, v, math.pi * numbers[0]) + phase))


def _checker(u: Floats, v: Floats, numbers: Numbers) -> Floats:
    """A board of 3 to 8 pairs of fields a side, turned by up to a right angle."""
    angle, rate = numbers[0] * math.pi / 2, 2 * math.pi * (3 + 5 * numbers[1])
    across = np.sin(rate * _along(u, v, angle) + 2 * math.pi * numbers[2])
    down = np.sin(rate * _along(u, v, angle + math.pi / 2) + 2 * math.pi * numbers[3])
    return _soft(across * down)


def _noise(u: Floats, _v: Floats, numbers: Numbers) -> Floats:
    """Value noise: random heights on ever finer lattices, smooth in between; each octave has half the weight."""
    total, start = np.zeros_like(u), 4
    for octave, cells in enumerate(_OCTAVES):
        heights = numbers[start : start + (cells + 1) ** 2].astype(np.float32).reshape(cells + 1, cells + 1)
        weights = _between(len(u), cells)
        total += 0.5**octave * (weights @ heights @ weights.T)
        start += heights.size
    return _clipped((total - total.min()) / (total.max() - total.min()))


def _along(u: Floats, v: Floats, angle: float) -> Floats:
    return np.asarray(math.cos(angle) * u + math.sin(angle) * v, np.float32)


def _clipped(level: Floats) -> Floats:
    return np.asarray(np.clip(level, 0, 1), np.float32)


def _soft(wave: Floats) -> Floats:
    """Two levels with a soft edge, which does not flicker between pixels as a hard one would."""
    return _clipped(0.5 + 2 * wave)


@cache
def _between(size: int, cells: int) -> Floats:
    """Weights (size, cells + 1) that interpolate smoothly between the points of a lattice."""
    position = (np.arange(size) + 0.5) / size * cells
    left = np.minimum(position.astype(int), cells - 1)
    part = position - left
    part = part * part * (3 - 2 * part)
    weights = np.zeros((size, cells + 1), np.float32)
    weights[np.arange(size), left] = 1 - part
    weights[np.arange(size), left + 1] = part
    return weights


_PATTERNS: Mapping[str, Pattern] = MappingProxyType(
    {
        "plain": _plain,
        "gradient": _gradient,
        "stripes": _stripes,
        "checker": _checker,
        "noise": _noise,
    }
)
TEXTURES = tuple(_PATTERNS)
