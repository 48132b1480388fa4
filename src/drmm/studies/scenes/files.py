"""Scenes on disk: pictures in class folders, masks under the same names, and a table of latents.

OUT/images/train/<class>/000012.png     what `drmm fit OUT/images` reads
OUT/masks/train/<class>/000012.png      black and white: where the object is seen
OUT/latents.csv                         a row a picture; also latents.parquet where pyarrow is installed
OUT/overview.png                        some of the scenes, and what each latent does to them
OUT/scenes.json                         how all of it was made
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from drmm import __version__
from drmm.data.decoding import decode_picture
from drmm.errors import InputError, RunError
from drmm.files import check_new, new_folder, read_csv, read_json, write_csv, write_json
from drmm.progress import track
from drmm.studies.scenes.latents import NAMES, Latents
from drmm.studies.scenes.objects import pyvista
from drmm.studies.scenes.renderer import Renderer, check_size
from drmm.studies.scenes.sheet import draw_overview
from drmm.studies.scenes.textures import TEXTURES

__all__ = ["Scenes", "load", "write"]

_CHUNK = 250  # scenes between two steps of the progress bar
_FAST = 1  # zlib's level: a tenth larger files than at its usual 6, in half the time
_REMEDY = "write the scenes again"


@dataclass(frozen=True, eq=False)
class Scenes:
    """Pictures and all that is known about them.

    Attributes:
        images: levels 0..255, uint8 (N, 3, H, W).
        masks: where the object is seen, bool (N, H, W).
        latents: N scenes.
        is_test: which are in the test set, bool (N,).
    """

    images: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]
    latents: Latents
    is_test: npt.NDArray[np.bool_]


def write(
    folder: str | Path,
    latents: Latents,
    *,
    size: int = 64,
    test_share: float = 0.2,
    about: Mapping[str, object] | None = None,
) -> list[str]:
    """Draw scenes into a new folder, which is there whole or not at all.

    The same scenes give the same bytes, on one computer with the same versions of VTK, NumPy and Pillow.

    Args:
        folder: a new one.
        latents: N scenes; the last ones are the test set.
        size: side of the pictures in pixels.
        test_share: of the scenes, in [0, 1).
        about: what else to note in `scenes.json`: the seed, say.

    Returns:
        Names of the tables of latents: the CSV file, and Parquet if pyarrow is installed.

    Raises:
        InputError: if the size or the share is out of range, a class has no training picture, or PyVista is not
            installed.
        RunError: if the folder holds something already or cannot be written, or nothing can be drawn here.
    """
    folder = Path(folder)
    check_new(folder, "choose another folder, or remove it")
    check_size(size)
    is_test = _split(latents, test_share)
    files = [_file(latents, i, test=bool(test)) for i, test in enumerate(is_test)]
    with Renderer(size) as renderer, new_folder(folder) as new:
        _write_pictures(new, files, latents, renderer)
        draw_overview(latents, renderer).save(new / "overview.png", optimize=True)
        tables = _write_tables(new, files, latents)
        write_json(new / "scenes.json", _facts(latents, size, about or {}))
    return tables


def load(folder: str | Path) -> Scenes:
    """Read what `write` wrote. PyVista is not needed.

    Raises:
        RunError: if a file is missing or damaged; the message names it.
    """
    folder = Path(folder)
    facts = read_json(folder / "scenes.json")
    rows = read_csv(folder / "latents.csv", _REMEDY)
    try:
        files = [row["file"] for row in rows]
        latents = _latents(rows, tuple(facts["classes"]))
        size, written = int(facts["size"]), int(facts["images"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder} does not hold scenes ({error}): {_REMEDY}") from error
    if len(files) != written:
        raise RunError(f"{folder / 'latents.csv'} has {len(files)} rows for {written} images: {_REMEDY}")
    images = np.empty((len(files), 3, size, size), np.uint8)
    masks = np.empty((len(files), size, size), np.bool_)
    for i, file in enumerate(track(files, f"Reading {folder.name}")):
        images[i] = _picture(folder / "images" / file, 3, size)
        masks[i] = _picture(folder / "masks" / file, 1, size)[0] > 0
    is_test = np.array([file.startswith("test/") for file in files], np.bool_)
    return Scenes(images, masks, latents, is_test)


def _split(latents: Latents, test_share: float) -> npt.NDArray[np.bool_]:
    if not 0 <= test_share < 1:
        raise InputError(f"the test share must be in [0, 1): got {test_share}")
    is_test = np.arange(len(latents)) >= round(len(latents) * (1 - test_share))
    missing = set(range(len(latents.classes))) - set(latents.label[~is_test].tolist())
    if missing:
        names = ", ".join(latents.classes[label] for label in sorted(missing))
        raise InputError(
            f"{len(latents)} images leave none to train on for {names}: ask for more, or fewer classes"
        )
    return is_test


def _file(latents: Latents, i: int, *, test: bool) -> str:
    """A scene's path below `images/` and `masks/`."""
    return f"{'test' if test else 'train'}/{latents.classes[latents.label[i]]}/{i:06d}.png"


def _write_pictures(new: Path, files: Sequence[str], latents: Latents, renderer: Renderer) -> None:
    for parent in sorted({Path(kind, file).parent for file in files for kind in ("images", "masks")}):
        (new / parent).mkdir(parents=True)
    for start in track(range(0, len(latents), _CHUNK), "Drawing scenes"):
        images, masks = renderer.render(latents[start : start + _CHUNK])
        for file, image, mask in zip(files[start : start + _CHUNK], images, masks, strict=True):
            (new / "images" / file).write_bytes(_png(Image.fromarray(image.transpose(1, 2, 0))))
            (new / "masks" / file).write_bytes(_png(Image.fromarray(mask)))


def _png(picture: Image.Image) -> bytes:
    content = BytesIO()
    picture.save(content, "PNG", compress_level=_FAST)
    return content.getvalue()


def _write_tables(new: Path, files: Sequence[str], latents: Latents) -> list[str]:
    columns: dict[str, list[object]] = {"file": list(files)}
    for name, values in latents.arrays().items():
        columns[name] = values.tolist()
    columns["label"] = [latents.classes[label] for label in latents.label]
    columns["texture"] = [TEXTURES[kind] for kind in latents.texture]
    write_csv(new / "latents.csv", list(columns), zip(*columns.values(), strict=True))
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        return ["latents.csv"]
    parquet.write_table(arrow.table(columns), new / "latents.parquet")
    return ["latents.csv", "latents.parquet"]


def _latents(rows: Sequence[Mapping[str, str]], classes: tuple[str, ...]) -> Latents:
    words = {"label": classes, "texture": TEXTURES}
    arrays: dict[str, Any] = {}
    for name in NAMES:
        column = [row[name] for row in rows]
        if name in words:
            arrays[name] = np.array([words[name].index(word) for word in column], np.int64)
        else:
            arrays[name] = np.array(column, np.int64 if name == "texture_seed" else np.float64)
    return Latents(classes=classes, **arrays)


def _picture(path: Path, channels: int, size: int) -> npt.NDArray[np.uint8]:
    picture, (height, width), *_ = decode_picture(path, str(path), channels=channels)
    if (height, width) != (size, size):
        raise RunError(f"{path} is {height}x{width}, not {size}x{size}: {_REMEDY}")
    return picture


def _facts(latents: Latents, size: int, about: Mapping[str, object]) -> dict[str, object]:
    pv = pyvista()
    return {
        "drmm": __version__,
        "images": len(latents),
        "size": size,
        "classes": list(latents.classes),
        **about,
        "versions": {
            "pyvista": pv.__version__,
            "vtk": ".".join(map(str, pv.vtk_version_info)),
            "numpy": np.__version__,
        },
    }
