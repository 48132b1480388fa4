"""What is seen of a folder's pictures, part by part, in random order: where they lie, and which are the same."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.pipeline import Pipeline
from torch import nn

from drmm.data.decoding import decode_picture
from drmm.data.duplicates import SIDE, blank, groups_of, made_small, near_pairs
from drmm.data.index import Entry
from drmm.data.sizes import working_size
from drmm.errors import InputError
from drmm.labelling.asking import chance, geometry
from drmm.labelling.pool import Known
from drmm.learning.features import features_of
from drmm.learning.initialisation import initialise
from drmm.learning.recipes import ON_NETS, read_recipe
from drmm.model.deep import DRMM
from drmm.rendering import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Flatten, Level, Linear, Sequential
from drmm.runs.choice import PHOTOGRAPHS, recipe_of
from drmm.storage.models import Recipe, start_model

__all__ = ["Seen", "untaught"]

_FIRST = 500  # pictures that are looked at before anything is said; then twice as many, and so on
_MOST = 20_000  # at once
_SIDE = 32  # pixels at the most, where nothing was learned from other pictures
_TEMPLATES, _KERNEL, _PLACES = 64, 7, 4  # of a dictionary; features are averages over 4 x 4 places


class Seen:
    """The pictures of a folder that were looked at, more and more of them.

    Args:
        files: they, in the order in which they are numbered.
        known: what is known of them.

    Attributes:
        digests: of the files; "" of what cannot be read.
        copies: the first picture that has the same content, (N,).
        number: of each picture that was seen, (M,); of copies the first one.
        points: where they lie (`drmm.labelling.asking.geometry`), (M, 50) at most.
        groups: of all N pictures, (N,): those that are the same picture share one; of what was not seen, copies.
    """

    def __init__(self, files: Sequence[PurePosixPath], known: Known) -> None:
        self.files, self.digests, self._found = files, known.digests, known.found
        if not known.entries:
            raise InputError(f"no picture in {known.found.root} can be read")
        self._levels: nn.Module | None = None
        self._geometry: Pipeline | None = None
        self._shape = _shape_of(known.entries.values())
        if recipe_of(known.entries.values())[0] == PHOTOGRAPHS:
            tables = read_recipe(ON_NETS).tables
            self._shape = (3, *tables["data"]["size"])
            self._levels = start_model(Recipe(**tables["model"]).fitted(self._shape, ("a", "b")), 0).levels
        first = np.unique(self.digests, return_index=True, return_inverse=True)
        self.copies = first[1][first[2]]
        there = [i for i in np.unique(self.copies).tolist() if self.digests[i]]
        self._waiting = sorted(there, key=lambda i: chance(self.digests[i]))
        self._small = np.zeros((0, SIDE, SIDE), np.uint8)
        self.number = np.zeros(0, np.int64)
        self.points = np.zeros((0, 0), np.float32)
        self.groups = self.copies

    @property
    def is_done(self) -> bool:
        """Whether all have been seen."""
        return not self._waiting

    def look(self, first: Collection[str] = ()) -> None:
        """See some more: as many as so far.

        Args:
            first: digests of those that are wanted most.
        """
        wanted = set(first)
        self._waiting.sort(key=lambda i: self.digests[i] not in wanted)
        n = min(max(_FIRST, len(self.number)), _MOST)
        part, self._waiting = self._waiting[:n], self._waiting[n:]
        by_file = {self.files[i]: i for i in part}
        decoded = self._found.decoded(list(by_file), **self._form)
        read = [(by_file[member], picture.levels) for member, picture in decoded]
        if not read:
            return
        number, levels = zip(*read, strict=True)
        images = np.stack(levels)
        if self._levels is None:
            self._levels = untaught(torch.from_numpy(images))
        features = _features(self._levels, images)
        self._geometry = self._geometry or geometry(features)
        points = self._geometry.transform(features)
        self.points = np.concatenate([self.points, points]) if len(self.number) else points
        self._small = np.concatenate([self._small, made_small(images, grey=True)[:, 0]])
        self.number = np.concatenate([self.number, np.array(number, np.int64)])
        self.groups = self._grouped()

    def point_of(self, content: bytes) -> npt.NDArray[np.float32]:
        """Where a picture from elsewhere lies, (1, 50) at most, once some have been looked at.

        Raises:
            RunError: if it cannot be read.
            InputError: if its levels are of an unknown range, or none has been looked at yet.
        """
        if self._levels is None or self._geometry is None:
            raise InputError("no picture of the folder has been looked at yet: try again in a moment")
        images = np.array(decode_picture(content, "picture", **self._form).levels)[None]
        return np.asarray(self._geometry.transform(_features(self._levels, images)))

    @property
    def _form(self) -> dict[str, Any]:
        """How pictures are decoded."""
        channels, *size = self._shape
        return {"channels": channels, "size": tuple(size)}

    def _grouped(self) -> npt.NDArray[np.int64]:
        compared = np.flatnonzero(~blank(self._small))
        alike = self.number[compared[near_pairs(self._small[compared])]]
        return groups_of(len(self.files), np.stack([np.arange(len(self.files)), self.copies], 1), alike)


def untaught(x: torch.Tensor) -> nn.Module:
    """Features that nothing was learned for: how much of each of some patches of pictures is where, (N, 1,024).

    Templates are patches (Coates and Ng, 2011), as the initialisation "data" cuts them out.

    Args:
        x: some of the pictures, (N, C, H, W).
    """
    channels, height, width = x.shape[1:]
    kernel = min(_KERNEL, height, width)
    dictionary = Conv2d(channels, _TEMPLATES, kernel, padding=kernel // 2, bias=False)
    levels = Sequential(
        Level(dictionary, BatchNorm2d(_TEMPLATES)),
        AdaptiveAvgPool2d((min(_PLACES, height), min(_PLACES, width))),
        Flatten(),
    )
    top = Linear(_TEMPLATES * min(_PLACES, height) * min(_PLACES, width), 2)
    return initialise(DRMM(levels, top, image_shape=(channels, height, width)), "data", x=x).levels


def _features(levels: nn.Module, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return features_of(levels, torch.from_numpy(images), progress=False).numpy()


def _shape_of(entries: Collection[Entry]) -> tuple[int, int, int]:
    """(C, H, W) at which pictures are looked at, where no net says."""
    height, width = working_size([(entry.height, entry.width) for entry in entries])
    return max(entry.channels for entry in entries), min(height, _SIDE), min(width, _SIDE)
