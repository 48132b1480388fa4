"""A model as a folder: `model.json` says how to build it, `model.safetensors` holds its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from drmm._version import __version__
from drmm.errors import RunError
from drmm.files import read_json, read_tensors, tensor_bytes, write_bytes, write_json
from drmm.model.deep import DRMM
from drmm.model.presets import Constraint, Shape, build

__all__ = ["Recipe", "load_model", "load_weights", "misfit", "model_bytes", "save_model"]

_CONFIG, _WEIGHTS = "model.json", "model.safetensors"


@dataclass(frozen=True)
class Recipe:
    """How a model was built, and what its inputs and outputs mean.

    Attributes:
        preset: name of the architecture.
        image_shape: (C, H, W).
        classes: names of the classes, in the order of the logits.
        constraint: "soft", "hard" or "weight_norm".
        width: of the preset; None is its own default.
        depth: likewise.
        channels: templates of each level, pixels first, where they are not the preset's own: in a pruned model.
    """

    preset: str
    image_shape: Shape
    classes: tuple[str, ...]
    constraint: Constraint = "soft"
    width: int | None = None
    depth: int | None = None
    channels: tuple[int, ...] | None = None

    def build(self, seed: int | None = None) -> DRMM:
        """A model with fresh weights, drawn from the seed or else from torch's own randomness."""
        if seed is not None:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
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
    try:
        recipe = Recipe(
            preset=config["preset"],
            image_shape=tuple(config["image_shape"]),
            classes=tuple(config["classes"]),
            constraint=config["constraint"],
            width=config["width"],
            depth=config.get("depth"),  # models written before there was a choice have none
            channels=None if config.get("channels") is None else tuple(config["channels"]),  # likewise
        )
        model = recipe.build()
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder / _CONFIG} does not describe a model ({error}): train it again") from error
    load_weights(model, read_tensors(folder / _WEIGHTS), folder / _WEIGHTS)
    return model.eval(), recipe


def load_weights(model: DRMM, weights: Mapping[str, Tensor], source: Path) -> None:
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
