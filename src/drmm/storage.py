"""Files that outlive the process: written whole or not at all, read without unpickling.

A model is a folder with `model.json` (how to build it) and `model.safetensors` (its weights).
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from drmm._version import __version__
from drmm.errors import RunError
from drmm.model import DRMM
from drmm.presets import Constraint, Shape, build

__all__ = [
    "Recipe",
    "check_new",
    "load_model",
    "misfit",
    "model_bytes",
    "new_folder",
    "read_json",
    "read_tensors",
    "save_model",
    "tensor_bytes",
    "write_bytes",
    "write_csv",
    "write_json",
]

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


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Named tensors as safetensors, which need no unpickling and do not break between versions."""
    return save({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, metadata)


def read_tensors(path: Path, remedy: str = "copy it again or train again") -> dict[str, Tensor]:
    """Read what `tensor_bytes` made.

    Args:
        path: the file.
        remedy: what to do if it is damaged.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except SafetensorError as error:
        raise RunError(f"{path} is damaged ({error}): {remedy}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): copy it again or train again") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged (no JSON object): copy it again or train again")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all.

    Raises:
        RunError: if it cannot be written.
    """
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table, whole or not at all.

    Raises:
        RunError: if it cannot be written.
    """
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    write_bytes(path, file.getvalue().encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, and make the folders above it.

    Raises:
        RunError: if it cannot be written; a file that was there before stays as it was.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it if the block succeeds and removed if it fails.

    Raises:
        RunError: if the file cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(f"cannot write {path}: {error.strerror or error}; free space or choose another place")


def check_new(folder: Path, remedy: str = "choose another --out") -> None:
    """Refuse a folder that holds something already.

    Raises:
        RunError: if it does, or is a file; with what to do.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} exists: {remedy}")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place if the block succeeds and is removed if it fails.

    Raises:
        RunError: if `folder` holds something already, or cannot be written.
    """
    check_new(folder)
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        yield temporary
        temporary.chmod(0o755)
        if folder.exists():  # an empty one
            folder.rmdir()
        temporary.replace(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
