"""The posteriors of the images, which EM keeps between its steps, in memory and on disk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from drmm.errors import RunError
from drmm.files import tensor_bytes, write_bytes
from drmm.model.deep import Latents
from drmm.rendering import Switches
from drmm.rendering.convolution import as_channels_last

__all__ = ["PosteriorCache", "PosteriorStore"]

_NEGLIGIBLE = 1e-8  # responsibilities below this are not worth a rendering in the M-step


@dataclass(frozen=True, slots=True)
class PosteriorCache:
    """The E-step's answer: which classes, how bright, and the hard switches that they share.

    Attributes:
        responsibilities: q(c | I, ĝ), (N, C); one-hot in hard EM.
        amplitude: α of each class's rendering, (N, C); 0 where the class has no responsibility.
        switches: ĝ.
        objective: log p(I, c, ĝ) under a flat prior over switches, (N,), in nats; in soft EM log Σ_c p(I, c, ĝ).
    """

    responsibilities: Tensor
    amplitude: Tensor
    switches: Switches
    objective: Tensor

    def better_of(self, other: PosteriorCache) -> PosteriorCache:
        """For each image whichever explains it better; these in a tie."""
        mine = self.objective >= other.objective
        return PosteriorCache(
            torch.where(mine[:, None], self.responsibilities, other.responsibilities),
            torch.where(mine[:, None], self.amplitude, other.amplitude),
            self.switches.where(mine, other.switches),
            torch.where(mine, self.objective, other.objective),
        )

    def configurations(self, x: Tensor) -> tuple[Tensor, Latents, Tensor]:
        """Every pair of an image and a class that is responsible for it.

        Args:
            x: the images (N, C, H, W).

        Returns:
            Their images, latents and responsibilities, M ≥ N of each.
        """
        n_classes = self.responsibilities.shape[1]
        image, label = (self.responsibilities > _NEGLIGIBLE).nonzero(as_tuple=True)
        weight = self.responsibilities[image, label]
        switches = self.switches
        if len(image) > len(x):  # soft: as often as there are classes
            x, switches = x[image], switches.select(image)
        return x, Latents.without_score(label, self.amplitude[image, label], switches, n_classes), weight


class PosteriorStore:
    """The posteriors of all images, chunk by chunk on disk: memory does not grow with the images.

    Every E-step writes a new generation. The last one stays until the next E-step begins, when the state that goes
    with the new one has been saved: a process that dies leaves the state it started from.

    Args:
        folder: made if needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.generation = 0

    def write(self, chunk: int, posterior: PosteriorCache) -> None:
        """Remember a chunk for the next generation, a bit for each bit of choice.

        Raises:
            RunError: if it cannot be written.
        """
        packed = {"responsibilities": posterior.responsibilities, "amplitude": posterior.amplitude}
        for i, leaf in enumerate(posterior.switches.leaves()):
            for name, choice in leaf.choices():
                packed |= {
                    f"{name}{i}.{bit}": plane for bit, plane in enumerate(_planes(choice, _bits(leaf, name)))
                }
        write_bytes(self._path(self.generation + 1, chunk), tensor_bytes(packed))

    def advance(self) -> None:
        """The next generation is complete."""
        self.generation += 1

    def tidy(self) -> None:
        """Remove the files of all other generations than the last."""
        for path in self._folder.glob("*-*.safetensors"):
            if not path.name.startswith(f"{self.generation}-"):
                path.unlink(missing_ok=True)

    def read(self, chunk: int, like: Switches) -> PosteriorCache:
        """The posterior of a chunk after the last E-step.

        Args:
            chunk: counted from 0.
            like: switches of any image at the current parameters, for the structure and the frozen scales.

        Raises:
            RunError: if the file is missing or damaged.
        """
        path = self._path(self.generation, chunk)
        try:
            packed = load(path.read_bytes())
            responsibilities = packed["responsibilities"]
            number = itertools.count()
            switches = like.map_leaves(lambda leaf: _unpacked(leaf, next(number), packed, len(responsibilities)))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise RunError(
                f"{path} is missing or damaged ({error}): remove the run's folder, train again"
            ) from error
        unknown = torch.full_like(responsibilities[:, 0], torch.nan)
        return PosteriorCache(responsibilities, packed["amplitude"], switches, unknown)

    def _path(self, generation: int, chunk: int) -> Path:
        return self._folder / f"{generation}-{chunk}.safetensors"


def _bits(leaf: Switches, name: str) -> int:
    if name != "t" or leaf.window is None:
        return 1
    return max(1, (leaf.window.positions - 1).bit_length())


def _planes(choice: Tensor, bits: int) -> Iterator[Tensor]:
    """The binary digits of each choice, eight to a byte."""
    values = choice.contiguous().numpy()
    for bit in range(bits):
        plane = values if values.dtype == np.bool_ else (values >> bit) & 1
        yield torch.from_numpy(np.packbits(plane.reshape(len(plane), -1).astype(np.bool_), axis=1))


def _unpacked(leaf: Switches, number: int, packed: Mapping[str, Tensor], n: int) -> Switches:
    choices: dict[str, Any] = {}
    for name, like in leaf.choices():
        unit = like.shape[1:]
        bits = _bits(leaf, name)
        planes = [
            torch.from_numpy(np.unpackbits(packed[f"{name}{number}.{bit}"].numpy(), axis=1, count=unit.numel()))
            for bit in range(bits)
        ]
        value = sum((plane.to(torch.int32) << bit for bit, plane in enumerate(planes[1:], 1)), planes[0])
        whole = torch.as_tensor(value).to(like.dtype).reshape(n, *unit)
        choices[name] = as_channels_last(whole) if whole.ndim == 4 else whole
    return replace(leaf, **choices)
