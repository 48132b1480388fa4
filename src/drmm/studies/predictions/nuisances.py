"""How much does a net know about nuisances? Linear decoding of every latent of a scene, level by level.

Slide "How much information about nuisance variables is there in a net trained for classification?". Features are
brought to the same few numbers at every level, so that levels can be compared, and a ridge regression reads each
latent from them; its penalty is chosen on the scenes that it learns from. The theory holds nuisances in the
switches ĝ: these are decoded alone as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from drmm.data.images import pixels
from drmm.errors import InputError
from drmm.explain import as_drmm
from drmm.explain.passes import activations, level_names
from drmm.model.deep import DRMM
from drmm.rendering import Switches
from drmm.studies.scenes import Latents

__all__ = ["Codes", "Stage", "Targets", "decode", "encode", "scene_targets", "stages"]

Floats = npt.NDArray[np.float64]

_GRID = 8  # features are averaged to so many by so many places before they are projected
_DECODED = ("azimuth", "elevation", "roll", "scale", "x", "y", "light_azimuth", "light_elevation", "hue")
_TURNS = {"azimuth": 360, "roll": 360, "hue": 1}  # what is a whole turn, of latents that go round
_BATCH = 100  # pictures that are encoded at a time
_PENALTIES = np.logspace(-1, 5, 13)  # of the ridge, in units of standardised codes


@dataclass(frozen=True)
class Stage:
    """Levels of a net that belong together: what has weights, and the choices that follow it.

    Attributes:
        name: of its first level in `model.levels`.
        first: number of its first level, counted from 1 at the pixels.
        last: number of its last level: its features are those of the stage.
    """

    name: str
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Codes:
    """What N pictures look like at each stage, in at most `size` numbers.

    Attributes:
        features: I^(ℓ) by name, "pixels" and "logits" among them, each (N, at most size).
        switches: ĝ^(ℓ) alone of the stages that choose, by name: units that are on, and positions that pools took.
    """

    features: Mapping[str, Floats]
    switches: Mapping[str, Floats]


@dataclass(frozen=True, eq=False)
class Targets:
    """What is to be decoded about N scenes.

    Attributes:
        numbers: by name, (N, k): what is predicted as numbers, angles as sine and cosine.
        kinds: by name, int64 (N,): what is one of several kinds.
    """

    numbers: Mapping[str, Floats]
    kinds: Mapping[str, npt.NDArray[np.int64]]

    def __post_init__(self) -> None:
        """Refuse targets that do not belong together.

        Raises:
            InputError: if there is none, or their lengths differ.
        """
        lengths = {len(values) for values in (*self.numbers.values(), *self.kinds.values())}
        if len(lengths) != 1:
            raise InputError(f"targets need one entry a scene each: got lengths {sorted(lengths)}")

    def __len__(self) -> int:
        return len(next(iter((*self.numbers.values(), *self.kinds.values()))))


def scene_targets(latents: Latents) -> Targets:
    """The latents of scenes that vary, and the class; what goes round (angles, the hue) as sine and cosine."""
    varying = {name: getattr(latents, name) for name in _DECODED if np.ptp(getattr(latents, name)) > 0}
    numbers = {
        name: _circle(2 * math.pi * values / _TURNS[name]) if name in _TURNS else values[:, None]
        for name, values in varying.items()
    }
    return Targets(numbers, {"background": latents.texture, "class": latents.label})


def stages(model: DRMM, switches: Sequence[Switches]) -> list[Stage]:
    """Cut a net where weights follow on choices; what comes after the last choice is a stage of its own.

    A convolution, its batch norm, its gate and its pool are one stage, and so is a residual block.

    Args:
        model: a model.
        switches: of its levels, from `drmm.explain.passes.activations`.
    """
    names = level_names(model)
    weighted = [any(True for _ in level.parameters()) for level in model.levels.renderings]
    chooses = [any(True for _ in choice.leaves()) for choice in switches]
    ends = [-1]  # numbers of the last level of each stage
    latest = -1
    for i in range(len(names)):
        if weighted[i] and latest > ends[-1]:
            ends.append(latest)
        latest = i if chooses[i] else latest
    ends += sorted({latest, len(names) - 1} - set(ends))
    return [Stage(names[before + 1], before + 2, end + 1) for before, end in itertools.pairwise(ends)]


def encode(model: nn.Module, x: Tensor, *, size: int = 512, seed: int = 0) -> Codes:
    """Features and switches of many pictures at every stage, each in at most `size` numbers.

    Maps are averaged to at most 8 by 8 places; what is more than `size` numbers then is projected at random, the
    same way for the same seed.

    Args:
        model: a `DRMM` or a convnet that can be lifted.
        x: images (N, C, H, W), floats or uint8 levels.
        size: numbers a stage, at most.
        seed: of the projections.

    Raises:
        InputError: if the size is not positive.
    """
    if size < 1:
        raise InputError(f"a code needs at least one number, got {size}")
    drmm = as_drmm(model)
    sketch = _Sketch(size, seed)
    features: dict[str, list[Floats]] = {}
    switches: dict[str, list[Floats]] = {}
    for batch in x.split(_BATCH):
        passed = activations(drmm, pixels(batch))
        parts = stages(drmm, passed.switches)
        seen = {"pixels": passed.features[0]}
        seen |= {stage.name: passed.features[stage.last] for stage in parts} | {"logits": passed.logits}
        for name, values in seen.items():
            features.setdefault(name, []).append(sketch([values]))
        for stage in parts:
            maps = [one for part in passed.switches[stage.first - 1 : stage.last] for one in _choices(part)]
            if maps:
                switches.setdefault(stage.name, []).append(sketch(maps))
    return Codes(
        {name: np.concatenate(values) for name, values in features.items()},
        {name: np.concatenate(values) for name, values in switches.items()},
    )


def decode(codes: Floats, targets: Targets, test_codes: Floats, test_targets: Targets) -> dict[str, Floats]:
    """Skill of a linear decoder on other scenes: 0 is chance, 1 is perfect.

    For numbers it is R²: a scene counts 1 less its squared error by the variance among test scenes. For kinds it
    is Cohen's κ: the share of right answers, with chance taken off. Either way the skill is a mean over scenes, so
    that an interval comes from single scenes.

    Args:
        codes: of the scenes to learn from, (N, D).
        targets: what is to be decoded about them.
        test_codes: of other scenes, (M, D).
        test_targets: what is known about these.

    Returns:
        Skill by scene (M,), by name of the target.

    Raises:
        InputError: if codes and targets do not fit.
    """
    if len(codes) != len(targets) or len(test_codes) != len(test_targets):
        raise InputError(
            f"codes and targets need a scene in each row: got {len(codes)} and {len(targets)}, "
            f"{len(test_codes)} and {len(test_targets)}"
        )
    columns = [*targets.numbers.values(), *(_one_hot(kinds) for kinds in targets.kinds.values())]
    scaler = StandardScaler().fit(codes)
    decoder = RidgeCV(_PENALTIES, alpha_per_target=True).fit(scaler.transform(codes), np.hstack(columns))
    ends = np.cumsum([column.shape[1] for column in columns])[:-1]
    parts = np.split(decoder.predict(scaler.transform(test_codes)).reshape(len(test_codes), -1), ends, axis=1)
    n = len(targets.numbers)
    skill = {
        name: _explained(part, test_targets.numbers[name])
        for name, part in zip(targets.numbers, parts[:n], strict=True)
    }
    return skill | {
        name: _agreement(part.argmax(1), test_targets.kinds[name])
        for name, part in zip(targets.kinds, parts[n:], strict=True)
    }


def _circle(angle: Floats) -> Floats:
    return np.stack([np.sin(angle), np.cos(angle)], 1)


def _explained(predicted: Floats, known: Floats) -> Floats:
    """R² by scene, (M,)."""
    error = np.square(predicted - known).sum(1)
    return np.asarray(1 - error / np.square(known - known.mean(0)).sum(1).mean())


def _agreement(predicted: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> Floats:
    """Cohen's κ by scene, (M,)."""
    count = int(max(predicted.max(), known.max())) + 1
    shares = [np.bincount(kinds, minlength=count) / len(kinds) for kinds in (predicted, known)]
    chance = float(shares[0] @ shares[1])
    return np.asarray(((predicted == known) - chance) / max(1 - chance, 1e-12))


def _one_hot(kinds: npt.NDArray[np.int64]) -> Floats:
    return np.asarray(np.eye(int(kinds.max()) + 1)[kinds])


def _choices(switches: Switches) -> Iterator[Tensor]:
    """Every choice as numbers, (N, ...): on or off, sign, and for positions one map each."""
    for leaf in switches.leaves():
        for _, choice in leaf.choices():
            if choice.dtype == torch.bool or leaf.window is None:
                yield choice.float()
            else:
                for position in range(leaf.window.positions):
                    yield (choice == position).float()


@final
class _Sketch:
    """Maps averaged over places, then projected, (N, at most size)."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._projections: dict[int, Tensor] = {}

    def __call__(self, maps: Sequence[Tensor]) -> Floats:
        pooled = torch.cat([_pooled(one).flatten(1) for one in maps], 1).double()
        length = pooled.shape[1]
        if length > self.size:
            if length not in self._projections:
                generator = torch.Generator().manual_seed(self.seed)
                drawn = torch.randn(length, self.size, generator=generator, dtype=torch.float64)
                self._projections[length] = drawn / math.sqrt(self.size)
            pooled = pooled @ self._projections[length]
        return np.asarray(pooled.numpy())


def _pooled(features: Tensor) -> Tensor:
    if features.ndim != 4 or max(features.shape[2:]) <= _GRID:
        return features
    height, width = (min(_GRID, side) for side in features.shape[2:])
    return F.adaptive_avg_pool2d(features, (height, width))
