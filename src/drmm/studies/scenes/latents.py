"""What a scene is made of: its class and every nuisance, known because they are drawn before the picture is.

Drawn from the raw stream of PCG64, the one sequence NumPy promises never to change. A scene's draw depends on the
seed and the scene's number only: the first ten of 100 scenes are the ten of 10, and the same seed under another
condition gives the same scenes but for what the condition changes, so that errors can be compared pair by pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from drmm.errors import InputError
from drmm.studies.scenes.objects import CLASSES
from drmm.studies.scenes.textures import TEXTURES

__all__ = ["CONDITIONS", "Condition", "Latents", "Ranges", "sample"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Range = tuple[float, float]
Condition = Literal["plain", "small", "thin", "occluded", "low_contrast", "odd_viewpoint"]

_SCENE_DRAW = 3  # a stream of its own beside those of drmm.data.splits: one seed may serve for all


@dataclass(frozen=True, eq=False)
class Latents:
    """N scenes, an entry each in every array (N,).

    The object is seen from afar (parallel projection), so that position and scale act on the picture exactly.

    Attributes:
        classes: names that `label` counts through.
        label: index into `classes`, int64.
        azimuth: degrees that the object is turned about its upright axis, counterclockwise seen from above; at 0
            it faces right.
        elevation: degrees by which the viewer looks down on it.
        roll: degrees that the picture of it is turned, counterclockwise.
        scale: diameter of the sphere around it, as a share of the picture's side.
        thickness: factor on the two shorter of its own three axes, in (0, 1].
        x: of the sphere's centre, as a share of the picture's side, to the right of the middle.
        y: likewise, below the middle.
        hue: of the object's colour, in [0, 1].
        light_azimuth: degrees that the light comes from the right; 0 is the viewer's own direction.
        light_elevation: degrees that it comes from above.
        texture: kind of background, index into `drmm.studies.scenes.TEXTURES`, int64.
        texture_seed: of the background, at least 0, int64.
        occlusion: share of the object that a grey card hides, in [0, 1).
        occluder_angle: side of the object that the card covers, in degrees counterclockwise from the right.
        contrast: factor on the object's difference from the background, in [0, 1].
    """

    classes: tuple[str, ...]
    label: Integers
    azimuth: Floats
    elevation: Floats
    roll: Floats
    scale: Floats
    thickness: Floats
    x: Floats
    y: Floats
    hue: Floats
    light_azimuth: Floats
    light_elevation: Floats
    texture: Integers
    texture_seed: Integers
    occlusion: Floats
    occluder_angle: Floats
    contrast: Floats

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            InputError: for unequal lengths, an unknown class or a value out of its range.
        """
        check_classes(self.classes)
        arrays = self.arrays()
        for name, values in arrays.items():
            if values.shape != (len(self.label),):
                raise InputError(f"latents must be (N,): {name} is {values.shape}, label {self.label.shape}")
            low, high = _LIMITS.get(name, (-np.inf, np.inf))
            if not np.all((values >= low) & (values <= high) & np.isfinite(values)):
                raise InputError(f"{name} must be finite and within {low} to {high}")
        if len(self) and int(self.label.max()) >= len(self.classes):
            raise InputError(f"label {self.label.max()} names none of the {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: slice | npt.NDArray[Any] | Sequence[int]) -> Latents:
        """Some of the scenes."""
        chosen = index if isinstance(index, slice) else np.asarray(index)
        some: dict[str, Any] = {name: values[chosen] for name, values in self.arrays().items()}
        return replace(self, **some)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Every latent (N,) by name."""
        return {name: getattr(self, name) for name in NAMES}

    def on_background_of(self, other: Latents) -> Latents:
        """The same objects on the other scenes' backgrounds.

        `a` and `a.on_background_of(b)` differ in the background, `a` and `b.on_background_of(a)` in the object.

        Raises:
            InputError: if there are not as many scenes.
        """
        return replace(self, texture=other.texture, texture_seed=other.texture_seed)


NAMES = tuple(field.name for field in fields(Latents) if field.name != "classes")

_TINY = 1e-6
_LIMITS: Mapping[str, Range] = MappingProxyType(
    {
        "label": (0, np.inf),
        "scale": (_TINY, np.inf),
        "thickness": (_TINY, 1),
        "hue": (0, 1),
        "texture": (0, len(TEXTURES) - 1),
        "texture_seed": (0, np.inf),
        "occlusion": (0, 1 - _TINY),
        "contrast": (0, 1),
    }
)


@dataclass(frozen=True)
class Ranges:
    """Between which values each latent is drawn, uniformly; `Latents` has the units.

    The defaults keep the object whole and within the picture.
    """

    azimuth: Range = (0, 360)
    elevation: Range = (0, 40)
    roll: Range = (0, 0)
    scale: Range = (0.6, 0.8)
    thickness: Range = (1, 1)
    x: Range = (-0.1, 0.1)
    y: Range = (-0.1, 0.1)
    hue: Range = (0, 1)
    light_azimuth: Range = (-60, 60)
    light_elevation: Range = (10, 60)
    occlusion: Range = (0, 0)
    occluder_angle: Range = (0, 360)
    contrast: Range = (1, 1)


# The slides' "kryptonite": what is hard for convnets, one cause at a time.
CONDITIONS: Mapping[Condition, Ranges] = MappingProxyType(
    {
        "plain": Ranges(),
        "small": Ranges(scale=(0.2, 0.3)),
        "thin": Ranges(thickness=(0.15, 0.3)),
        "occluded": Ranges(occlusion=(0.4, 0.6)),
        "low_contrast": Ranges(contrast=(0.15, 0.3)),
        "odd_viewpoint": Ranges(elevation=(60, 90), roll=(0, 360)),
    }
)


def sample(
    n: int,
    *,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    ranges: Ranges = CONDITIONS["plain"],
    textures: Sequence[str] = TEXTURES,
) -> Latents:
    """Draw scenes: classes in turn, so that they are equally frequent, and all else independently.

    Args:
        n: how many.
        seed: at least 0.
        classes: names out of `drmm.studies.scenes.CLASSES`.
        ranges: of the latents; `CONDITIONS` has the "kryptonite" ones.
        textures: kinds of background, out of `drmm.studies.scenes.TEXTURES`.

    Raises:
        InputError: if n or the seed is negative, or a class or texture is unknown.
    """
    if n < 0 or seed < 0:
        raise InputError(f"the number of scenes and the seed must not be negative: got {n} and {seed}")
    check_classes(classes)
    unknown = sorted(set(textures) - set(TEXTURES))
    if unknown or not textures:
        raise InputError(f"no texture {', '.join(unknown)}: choose from {', '.join(TEXTURES)}")
    names = [field.name for field in fields(Ranges)]
    raw = np.random.PCG64([seed, _SCENE_DRAW]).random_raw(n * (len(names) + 2)).reshape(n, -1)
    uniform = (raw >> np.uint64(11)) * 2.0**-53  # [0, 1)
    spans = {name: getattr(ranges, name) for name in names}
    kinds = np.array([TEXTURES.index(texture) for texture in textures], np.int64)
    return Latents(
        classes=tuple(classes),
        label=np.arange(n, dtype=np.int64) % len(classes),
        texture=kinds[(uniform[:, -1] * len(kinds)).astype(np.int64)],
        texture_seed=(raw[:, -2] >> np.uint64(32)).astype(np.int64),
        **{name: low + (high - low) * uniform[:, i] for i, (name, (low, high)) in enumerate(spans.items())},
    )


def check_classes(classes: Sequence[str]) -> None:
    """Refuse names that are no classes, twice the same, or none at all.

    Raises:
        InputError: with the names that there are.
    """
    unknown = sorted(set(classes) - set(CLASSES))
    if unknown:
        raise InputError(f"no class {', '.join(unknown)}: choose from {', '.join(CLASSES)}")
    if not classes or len(set(classes)) < len(classes):
        raise InputError(f"name each class once, and at least one: {', '.join(CLASSES)}")
