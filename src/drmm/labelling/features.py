"""What is seen of a folder's pictures, part by part, in random order: where they lie, and which are the same."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import torch
from sklearn.pipeline import Pipeline
from torch import nn

from drmm.data.duplicates import SIDE, blank, groups_of, made_small, near_pairs
from drmm.data.index import Entry, indexed
from drmm.data.listing import listed
from drmm.data.sizes import working_size
from drmm.errors import InputError
from drmm.labelling.asking import chance, geometry
from drmm.learning.features import features_of
from drmm.learning.initialisation import initialise
from drmm.learning.recipes import ON_NETS, read_recipe
from drmm.model.deep import DRMM
from drmm.rendering import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Flatten, Level, Linear, Sequential
from drmm.runs.choice import PHOTOGRAPHS, recipe_for
from drmm.storage.models import Recipe, start_model

__all__ = ["Seen", "untaught"]

_FIRST = 500  # pictures that are looked at before anything is said; then twice as many, and so on
_MOST = 20_000  # at once
_SIDE = 32  # pixels at the most, where nothing was learned from other pictures
_TEMPLATES, _KERNEL, _PLACES = 64, 7, 4  # of a dictionary; features are averages over 4 x 4 places


class Seen:
    """The pictures of a folder that were looked at, more and more of them.

    Args:
        folder: which.
        files: the pictures, in the order in which they are numbered.

    Attributes:
        digests: of the files; "" of what cannot be read.
        copies: the first picture that has the same content, (N,).
        number: of each picture that was seen, (M,); of copies the first one.
        points: where they lie (`drmm.labelling.asking.geometry`), (M, 50) at most.
        groups: of all N pictures, (N,): those that are the same picture share one; of what was not seen, copies.
    """

    def __init__(self, folder: Path, files: Sequence[PurePosixPath]) -> None:
        with listed(folder) as found:
            self._found, entries = found, indexed(found)
        self.files = files
        self.digests = [entries[file].digest if file in entries else "" for file in files]
        known = [entries[file] for file in files if file in entries]
        if not known:
            raise InputError(f"no picture in {folder} can be read")
        self._levels: nn.Module | None = None
        self._geometry: Pipeline | None = None
        self._shape = _shape_of(known)
        if recipe_for(str(folder), has_table=True)[0] == PHOTOGRAPHS:
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
        channels, *size = self._shape
        by_file = {self.files[i]: i for i in part}
        read = [
            (by_file[member], picture.levels)
            for member, picture in self._found.decoded(list(by_file), channels=channels, size=tuple(size))
        ]
        if not read:
            return
        number, levels = zip(*read, strict=True)
        images = np.stack(levels)
        if self._levels is None:
            self._levels = untaught(torch.from_numpy(images))
        features = features_of(self._levels, torch.from_numpy(images), progress=False).numpy()
        self._geometry = self._geometry or geometry(features)
        points = self._geometry.transform(features)
        self.points = np.concatenate([self.points, points]) if len(self.number) else points
        self._small = np.concatenate([self._small, made_small(images, grey=True)[:, 0]])
        self.number = np.concatenate([self.number, np.array(number, np.int64)])
        self.groups = self._grouped()

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


def _shape_of(entries: Sequence[Entry]) -> tuple[int, int, int]:
    """(C, H, W) at which pictures are looked at, where no net says."""
    height, width = working_size([(entry.height, entry.width) for entry in entries])
    return max(entry.channels for entry in entries), min(height, _SIDE), min(width, _SIDE)
