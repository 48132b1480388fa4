"""Pictures that are the same picture: copies, and what resizing or another compression makes of them."""

__all__ = ["SIDE", "alike", "blank", "copies", "groups_of", "made_small", "near_pairs", "perceptual_hash"]

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch.nn import functional

from drmm.data.base import digest

SIDE = 32
"""Height and width of the pictures that are compared."""

_BLANK = 2.0  # standard deviation of the levels, of 255
_LOW, _BANDS = 8, 4
_BAND_BITS = _LOW * _LOW // _BANDS
_MOST_DIFFERENT = 7  # bits: then one of four bands differs in one at most
_ALIKE = 0.985  # correlation of two pictures' levels, of 16 x 16 pixels: strong compression spoils finer ones
_CHUNK = 20_000  # pictures, or pairs of them, at once
_AT_ONCE = 500  # pictures at full size
_PAIRS = 5_000_000  # pairs of hashes at once
_ONES = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)

Grey = npt.NDArray[np.uint8]
Pairs = npt.NDArray[np.int64]


def alike(*images: npt.NDArray[np.uint8]) -> Pairs:
    """The group of each picture, (N,): those that are nearly the same share one, so that no split divides them.

    Args:
        images: levels (N, C, H, W), in one array or several of N in all; none is copied whole.
    """
    grey = np.concatenate([made_small(some, grey=True)[:, 0] for some in images])
    compared = np.flatnonzero(~blank(grey))
    return groups_of(len(grey), compared[near_pairs(grey[compared])])


def copies(images: npt.NDArray[Any]) -> Pairs:
    """The group of each image, (N,): those of the same numbers share one."""
    digests = [digest(np.ascontiguousarray(image).data) for image in images]
    return np.asarray(np.unique(np.array(digests, object), return_inverse=True)[1], np.int64)


def made_small(images: npt.NDArray[np.uint8], *, grey: bool = False) -> npt.NDArray[np.uint8]:
    """Pictures of the size at which they are compared, uint8 (N, C, 32, 32).

    Args:
        images: levels (N, C, H, W).
        grey: the mean of the channels instead of all.
    """
    small = np.zeros((len(images), 1 if grey else images.shape[1], SIDE, SIDE), np.uint8)
    for start in range(0, len(images), _AT_ONCE):
        levels = torch.from_numpy(np.array(images[start : start + _AT_ONCE])).float()
        levels = levels.mean(1, keepdim=True) if grey else levels
        resized = functional.interpolate(levels, (SIDE, SIDE), mode="bilinear", antialias=True)
        small[start : start + _AT_ONCE] = resized.round()
    return small


def blank(grey: Grey) -> npt.NDArray[np.bool_]:
    """Pictures on which there is nothing, (N,), of levels (N, H, W)."""
    return np.asarray(grey.std((1, 2), dtype=np.float32) < _BLANK)


def perceptual_hash(grey: Grey) -> npt.NDArray[np.uint64]:
    """64 bits of each picture that resizing, compression and brightness hardly change.

    They say which of the 8 x 8 lowest frequencies of its cosine transform lie above their median (pHash; Zauner,
    2010).

    Args:
        grey: levels (N, 32, 32).

    Returns:
        Hashes (N,).
    """
    bits = [np.zeros((0, _LOW * _LOW), bool)]
    for part in np.split(grey, range(_CHUNK, len(grey), _CHUNK)) if len(grey) else ():
        waves = dctn(part.astype(np.float32), axes=(1, 2))[:, :_LOW, :_LOW].reshape(len(part), -1)
        bits.append(waves > np.median(waves[:, 1:], axis=1, keepdims=True))  # the first is the brightness
    return np.packbits(np.concatenate(bits), axis=1).view(">u8")[:, 0].astype(np.uint64)


def near_pairs(grey: Grey) -> Pairs:
    """Pictures that are nearly the same: their hashes are near, and their levels correlate.

    Blank pictures have nothing to compare: leave them out.

    Args:
        grey: levels (N, 32, 32).

    Returns:
        Indices (P, 2), of pictures that are connected so if not every pair of them.
    """
    hashes, first, group = np.unique(perceptual_hash(grey), return_index=True, return_inverse=True)
    same = np.stack([first[group], np.arange(len(grey))], 1)
    pairs = np.concatenate([same[same[:, 0] != same[:, 1]], first[_near(hashes)]])
    alike = [_correlation(grey, part) >= _ALIKE for part in np.split(pairs, range(_CHUNK, len(pairs), _CHUNK))]
    return pairs[np.concatenate(alike)]


def groups_of(n: int, *pairs: Pairs) -> Pairs:
    """The group of each of n pictures, (n,): those that pairs connect, and each other one alone."""
    left, right = np.concatenate([np.zeros((0, 2), np.int64), *pairs]).T
    graph = coo_matrix((np.ones(len(left), bool), (left, right)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _near(hashes: npt.NDArray[np.uint64]) -> Pairs:
    """Pairs of distinct hashes that differ in few bits (multi-index hashing; Norouzi et al., 2012)."""
    found = [np.zeros((0, 2), np.int64)]
    flips = [0, *(1 << bit for bit in range(_BAND_BITS))]
    for band in range(_BANDS):
        keys = (hashes >> np.uint64(band * _BAND_BITS)).astype(np.uint16)
        order = np.argsort(keys, kind="stable")
        in_order = keys[order]
        for flip in flips:
            start, end = (np.searchsorted(in_order, keys ^ np.uint16(flip), side) for side in ("left", "right"))
            found += _close(hashes, order, start, end)
    return np.unique(np.concatenate(found), axis=0)


def _close(hashes: npt.NDArray[np.uint64], order: Pairs, start: Pairs, end: Pairs) -> list[Pairs]:
    """Of each hash and the others at so many places of an order, the pairs that differ in few bits, once each."""
    found = []
    bounds = np.concatenate([[0], np.cumsum(end - start)])
    cuts = np.unique(np.searchsorted(bounds, range(0, int(bounds[-1]) + _PAIRS, _PAIRS)))
    for first, last in pairwise(cuts.clip(max=len(hashes)).tolist()):
        counts = (end - start)[first:last]
        left = np.repeat(np.arange(first, last), counts)
        within = np.arange(len(left)) - np.repeat(bounds[first:last] - bounds[first], counts)
        right = order[np.repeat(start[first:last], counts) + within]
        different = _ONES[(hashes[left] ^ hashes[right]).view(np.uint16)].reshape(-1, 4).sum(1)
        keep = (left < right) & (different <= _MOST_DIFFERENT)
        found.append(np.stack([left[keep], right[keep]], 1))
    return found


def _correlation(grey: Grey, pairs: Pairs) -> npt.NDArray[np.float32]:
    """Of the levels of each pair of pictures, (P,)."""
    left, right = (_standard(grey[pairs[:, side]]) for side in (0, 1))
    return np.asarray((left * right).sum((1, 2)))


def _standard(grey: Grey) -> npt.NDArray[np.float32]:
    """At half the size, with mean 0 and norm 1; a blank picture is 0 everywhere."""
    levels = grey.reshape(-1, SIDE // 2, 2, SIDE // 2, 2).mean((2, 4), dtype=np.float32)
    levels -= levels.mean((1, 2), keepdims=True)
    return np.asarray(levels / np.sqrt(np.square(levels).sum((1, 2), keepdims=True)).clip(1e-3))
