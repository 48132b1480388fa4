"""A model as a folder: `model.json` says how to build it, `model.safetensors` holds its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from drmm import __version__
from drmm.errors import InputError, RunError
from drmm.files import expanded, read_json, read_tensors, tensor_bytes, write_bytes, write_json
from drmm.model.deep import DRMM, evaluation
from drmm.model.presets import Constraint, Shape, build, resolve
from drmm.model.pretrained import load_published
from drmm.model.randomness import seeded
from drmm.records import DERIVED, Record, from_table
from drmm.storage.own import OwnNet, found
from drmm.storage.preprocessing import EXAMPLE, Preprocessing
from drmm.storage.weights import sha256_of

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
        weights: what the net starts from: "published" takes those that come by pip for "efficientnet_lite0"; a
            file of tensors is for a net of your own; "" takes those that this has, or draws them from the seed.
        net: a net of your own in place of a preset: package.module:factory, which is called without arguments.
        preprocess: what that was trained on: size=224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225, say, of
            pictures in [0, 1]; or a JSON file of Hugging Face or timm.
        weights_digest: SHA-256 of the file of weights.
    """

    preset: str = "auto"
    image_shape: Shape = field(default=(0, 0, 0), metadata=DERIVED)
    classes: tuple[str, ...] = field(default=(), metadata=DERIVED)
    constraint: Constraint = "soft"
    width: int | None = None
    depth: int | None = None
    channels: tuple[int, ...] | None = field(default=None, metadata=DERIVED)
    weights: str = ""
    net: str = ""
    preprocess: str = ""
    weights_digest: str = field(default="", metadata=DERIVED)

    @property
    def architecture(self) -> str:
        """Name of the preset, or of the net."""
        return self.net or self.preset

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the pictures that a net of one's own was trained on, where that is said."""
        return Preprocessing.read(self.preprocess).size if self.net and self.preprocess else None

    def check(self) -> None:
        """Refuse what does not go together, before any work.

        Raises:
            InputError: if it does not, or there is no such net, preprocessing or file.
            RunError: if a file of the preprocessing cannot be read.
        """
        if not self.net:
            if self.preprocess or self.weights not in {"", "published"}:
                what = "preprocess" if self.preprocess else f"a file of weights ({self.weights})"
                raise InputError(f"{what} is for a net of your own: name net too, or leave it out")
            return
        self._check_form()
        if not self.preprocess:
            raise InputError(
                f"what the net of {self.net} was trained on is not guessed: say preprocess, as in {EXAMPLE}; "
                "mean=0,std=1 where it takes pictures in [0, 1] as they are"
            )
        Preprocessing.read(self.preprocess)
        if not self.net.startswith("<"):
            found(self.net)
        if self.weights and not self.weights_digest and not expanded(self.weights).is_file():
            raise InputError(f"no file {self.weights} to take weights from: name one, or leave weights out")

    def _check_form(self) -> None:
        if self.preset != "auto" or self.constraint != "soft" or self.width or self.depth or self.channels:
            raise InputError(
                "a net of your own is as it is made: leave out preset, constraint, width, depth and channels"
            )

    def fitted(self, image_shape: Shape, classes: Sequence[str]) -> Recipe:
        """The recipe for images of a shape and for classes; "auto" becomes a preset, a file gets a digest.

        Raises:
            InputError: if what it says does not go together.
            RunError: if the weights cannot be read.
        """
        self.check()
        fitted = replace(self, image_shape=image_shape, classes=tuple(classes))
        if not self.net:
            return replace(fitted, preset=resolve(self.preset, image_shape))
        if self.weights and not self.weights_digest:
            file = expanded(self.weights).resolve()
            fitted = replace(fitted, weights=str(file), weights_digest=sha256_of(file))
        return replace(fitted, preprocess=str(Preprocessing.read(self.preprocess)))

    def build(self, seed: int | None = None, net: object = None) -> DRMM:
        """A model with fresh weights, drawn from the seed or else from torch's own randomness.

        Args:
            seed: of the weights.
            net: of one's own, where the recipe cannot name it: a module, or what makes one.

        Raises:
            InputError: if there is no such preset or net, or the images do not fit it.
            LiftError: if the net has no rendering.
        """
        if seed is not None:
            with seeded(seed):
                return self.build(net=net)
        if self.net:
            return self.own(net).model(len(self.classes), self.image_shape)
        return build(
            self.preset,
            len(self.classes),
            self.image_shape,
            constraint=self.constraint,
            width=self.width,
            depth=self.depth,
            channels=self.channels,
        )

    def own(self, net: object = None) -> OwnNet:
        """The net of one's own; arguments and errors as of `build`."""
        self._check_form()
        if net is None and self.net.startswith("<"):
            raise InputError(f"the net {self.net} has no name to be found by: give it again, as net")
        return OwnNet(self.net, net, Preprocessing.read(self.preprocess))


def start_model(
    recipe: Recipe,
    seed: int | None = None,
    *,
    net: object = None,
    tell: Callable[[str], object] = lambda _: None,
) -> DRMM:
    """A model to be trained: its fresh weights from the seed, or those that it is to start from.

    Args:
        recipe: of the model.
        seed: of what is fresh.
        net: as of `Recipe.build`.
        tell: is told what was loaded into a net of one's own.

    Raises:
        InputError: if no weights are published for the preset, or they are not installed; or those of a net of
            one's own are not all there.
        LiftError: if the net has no rendering.
        RunError: if the weights are damaged.
    """
    if recipe.net:
        weights = Path(recipe.weights) if recipe.weights else None
        with nullcontext() if seed is None else seeded(seed):
            own, classes = recipe.own(net), len(recipe.classes)
            return own.model(classes, recipe.image_shape, weights=weights, digest=recipe.weights_digest, tell=tell)
    model = recipe.build(seed)
    return load_published(model, recipe.preset) if recipe.weights == "published" else model


def save_model(model: DRMM, recipe: Recipe, folder: str | Path) -> None:
    """Write a model into a folder, which is made if needed; each file appears whole or not at all.

    Raises:
        RunError: if the files cannot be written (a full disk, no permission).
    """
    folder = Path(folder)
    write_bytes(folder / _WEIGHTS, model_bytes(model))
    probe = {"probe": _probe(model).tolist()} if recipe.net else {}
    write_json(folder / _CONFIG, {"drmm": __version__, **asdict(recipe), **probe})


def model_bytes(model: DRMM) -> bytes:
    """The file of a model's weights."""
    return tensor_bytes(model.state_dict(), metadata={"format": "pt", "drmm": __version__})


def load_model(folder: str | Path, *, net: object = None) -> tuple[DRMM, Recipe]:
    """Read a model, in evaluation mode, and its recipe. Nothing is unpickled.

    A net of one's own is made again by its factory, which is imported for that, and gets the folder's weights.

    Args:
        folder: with the model.
        net: of one's own, where it has no name to be found by: a module, or what makes one.

    Raises:
        RunError: if a file is missing or damaged, the weights belong to another architecture, or the net of one's
            own is gone or has changed.
    """
    folder = Path(folder)
    config = read_json(folder / _CONFIG)
    writer = config.pop("drmm", "of an unknown version")
    probe = config.pop("probe", None)
    if unknown := sorted(config.keys() - {one.name for one in fields(Recipe)}):
        raise RunError(f"{folder / _CONFIG} says {unknown[0]!r}, as drmm {writer} does: update drmm to read it")
    try:
        recipe = from_table(Recipe, config)
        model = recipe.build(net=net)
    except (InputError, TypeError, ValueError, LookupError, RuntimeError) as error:
        if config.get("net"):
            raise RunError(f"{folder} holds weights for {config['net']}, which cannot be made: {error}") from error
        raise RunError(f"{folder / _CONFIG} does not describe a model ({error}): train it again") from error
    _load_weights(model, read_tensors(folder / _WEIGHTS), folder / _WEIGHTS, recipe)
    if probe is not None and not torch.allclose(_probe(model), torch.tensor(probe), rtol=1e-3, atol=1e-3):
        raise RunError(f"{folder} is of another net than {recipe.net} makes now, with the same weights: {_FORMER}")
    return model.eval(), recipe


_FORMER = "put back the code that it was learned with, or train anew"


@torch.no_grad()
def _probe(model: DRMM) -> Tensor:
    """Logits (C,) of a picture that is always the same, by which a net is known again; relative to the largest."""
    picture = torch.rand(1, *(model.image_shape or ()), generator=torch.Generator().manual_seed(0))
    with evaluation(model):
        logits: Tensor = model(picture)[0]
    return logits / logits.abs().max().clamp(min=1e-12)


def _load_weights(model: DRMM, weights: Mapping[str, Tensor], source: Path, recipe: Recipe) -> None:
    """Copy weights into a model.

    Raises:
        RunError: if they belong to another architecture; the model is left as it was.
    """
    odd = misfit(model.state_dict(), weights)
    if odd is not None:
        remedy = _FORMER if recipe.net else "use the run's own model.json"
        raise RunError(f"{source} is from another architecture ({odd} does not fit): {remedy}")
    model.load_state_dict(dict(weights))


def misfit(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str | None:
    """The first name that only one of two states has, or whose tensors differ in shape; None where they fit."""
    odd = sorted(mine.keys() ^ theirs.keys()) or [
        name for name, tensor in mine.items() if tensor.shape != theirs[name].shape
    ]
    return odd[0] if odd else None
