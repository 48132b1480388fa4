"""A model as a folder: `model.json` says how to build it, `model.safetensors` holds its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from drmm import __version__
from drmm.errors import InputError, RunError
from drmm.files import read_json, read_tensors, tensor_bytes, write_bytes, write_json
from drmm.model.deep import DRMM
from drmm.model.presets import Constraint, Shape, build, resolve
from drmm.model.pretrained import load_published
from drmm.model.randomness import seeded
from drmm.records import DERIVED, Record, from_table

__all__ = ["MODEL_FILES", "Recipe", "load_model", "misfit", "model_bytes", "save_model", "start_model"]

_CONFIG, _WEIGHTS = MODEL_FILES = ("model.json", "model.safetensors")


@dataclass(frozen=True)
class Recipe(Record):
    """How a model is built, and what its inputs and outputs mean.

    Attributes:
        preset: name of the architecture: "conv_small" (images from 8×8), "conv_large" (from 12×12, slow on a CPU)
            or "dense"; "auto" takes conv_small for images of 8×8 or more, and dense otherwise.
        image_shape: (C, H, W).
        classes: names of the classes, in the order of the logits.
        constraint: "soft" (a penalty on negative templates), "hard" (none exist: inference is provably exact) or
            "weight_norm" (soft, with templates as amplitude times direction).
        width: templates of the first level; none is the preset's own.
        depth: levels, from the pixels up; none is the preset's own.
        channels: templates of each level, pixels first, where they are not the preset's own: in a pruned model.
        weights: what the net starts from: "published" takes those that come by pip for "efficientnet_lite0"; ""
            draws them from the seed.
    """

    preset: str = "auto"
    image_shape: Shape = field(default=(0, 0, 0), metadata=DERIVED)
    classes: tuple[str, ...] = field(default=(), metadata=DERIVED)
    constraint: Constraint = "soft"
    width: int | None = None
    depth: int | None = None
    channels: tuple[int, ...] | None = field(default=None, metadata=DERIVED)
    weights: Literal["", "published"] = ""

    def fitted(self, image_shape: Shape, classes: Sequence[str]) -> Recipe:
        """The recipe for images of a shape and for classes; "auto" becomes a preset.

        Raises:
            InputError: if the preset is unknown.
        """
        preset = resolve(self.preset, image_shape)
        return replace(self, preset=preset, image_shape=image_shape, classes=tuple(classes))

    def build(self, seed: int | None = None) -> DRMM:
        """A model with fresh weights, drawn from the seed or else from torch's own randomness."""
        if seed is not None:
            with seeded(seed):
                return self.build()
        return build(
            self.preset,
            len(self.classes),
            self.image_shape,
            constraint=self.constraint,
            width=self.width,
            depth=self.depth,
            channels=self.channels,
        )


def start_model(recipe: Recipe, seed: int | None = None) -> DRMM:
    """A model to be trained: its fresh weights from the seed, or those that it is to start from.

    Raises:
        InputError: if no weights are published for the preset, or they are not installed.
        RunError: if they are damaged.
    """
    model = recipe.build(seed)
    return load_published(model, recipe.preset) if recipe.weights == "published" else model


def save_model(model: DRMM, recipe: Recipe, folder: str | Path) -> None:
    """Write a model into a folder, which is made if needed; each file appears whole or not at all.

    Raises:
        RunError: if the files cannot be written (a full disk, no permission).
    """
    folder = Path(folder)
    write_bytes(folder / _WEIGHTS, model_bytes(model))
    write_json(folder / _CONFIG, {"drmm": __version__, **asdict(recipe)})


def model_bytes(model: DRMM) -> bytes:
    """The file of a model's weights."""
    return tensor_bytes(model.state_dict(), metadata={"format": "pt", "drmm": __version__})


def load_model(folder: str | Path) -> tuple[DRMM, Recipe]:
    """Read a model, in evaluation mode, and its recipe. Nothing is unpickled.

    Raises:
        RunError: if a file is missing or damaged, or the weights belong to another architecture.
    """
    folder = Path(folder)
    config = read_json(folder / _CONFIG)
    writer = config.pop("drmm", "of an unknown version")
    if unknown := sorted(config.keys() - {one.name for one in fields(Recipe)}):
        raise RunError(f"{folder / _CONFIG} says {unknown[0]!r}, as drmm {writer} does: update drmm to read it")
    try:
        recipe = from_table(Recipe, config)
        model = recipe.build()
    except (InputError, TypeError, ValueError, LookupError, RuntimeError) as error:
        raise RunError(f"{folder / _CONFIG} does not describe a model ({error}): train it again") from error
    _load_weights(model, read_tensors(folder / _WEIGHTS), folder / _WEIGHTS)
    return model.eval(), recipe


def _load_weights(model: DRMM, weights: Mapping[str, Tensor], source: Path) -> None:
    """Copy weights into a model.

    Raises:
        RunError: if they belong to another architecture; the model is left as it was.
    """
    odd = misfit(model.state_dict(), weights)
    if odd is not None:
        raise RunError(f"{source} is from another architecture ({odd} does not fit): use the run's own model.json")
    model.load_state_dict(dict(weights))


def misfit(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str | None:
    """The first name that only one of two states has, or whose tensors differ in shape; None where they fit."""
    odd = sorted(mine.keys() ^ theirs.keys()) or [
        name for name, tensor in mine.items() if tensor.shape != theirs[name].shape
    ]
    return odd[0] if odd else None
