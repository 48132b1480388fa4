"""One picture or array file, decoded safely: nothing is unpickled, and a broken file is named."""

__all__ = ["ARRAY_SUFFIXES", "PICTURE_SUFFIXES", "decode_picture", "is_picture", "read_array"]

from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from drmm.errors import InputError, RunError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
ARRAY_SUFFIXES = (".npy", ".npz")

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_GREY_MODES = {"1", "L", "LA", "La"}


def is_picture(path: PurePath) -> bool:
    """Whether a relative path names a picture; hidden files and macOS's `__MACOSX` copies do not count."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in PICTURE_SUFFIXES and not hidden


def decode_picture(
    source: Path | BinaryIO, name: str, *, channels: int | None = None, size: tuple[int, int] | None = None
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Decode one picture, turned upright by its EXIF tag.

    Args:
        source: The file or an open stream.
        name: What to call it in an error.
        channels: 1 to 4 (grey, grey + alpha, RGB, RGBA) to convert to; by default 1 for grey, else 3.
            Without an alpha channel, transparent parts are shown on white, as viewers do.
        size: (H, W) to resize to, with antialiasing; the aspect ratio is not kept.

    Returns:
        Levels (C, H, W) in 0..255, and the (H, W) that the picture had.

    Raises:
        InputError: `channels` is not 1 to 4.
        RunError: The file is missing, corrupt, truncated or of an unknown kind.
    """
    if channels not in {None, *_MODES}:
        raise InputError(f"pictures have 1 to 4 channels, not {channels}: pass such images as a .npy file")
    try:
        with Image.open(source) as opened:
            picture = _converted(ImageOps.exif_transpose(opened), channels)
            original = (picture.height, picture.width)
            if size is not None and original != size:
                picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            levels = np.asarray(picture, dtype=np.uint8)
    except Exception as error:  # Pillow's decoders raise whatever they like on broken files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"cannot read picture {name} ({reason}): repair, replace or remove it") from error
    planes = levels[None] if levels.ndim == 2 else np.moveaxis(levels, 2, 0)
    return np.ascontiguousarray(planes), original


def _converted(picture: Image.Image, channels: int | None) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("pixels are 32-bit floats; save them as .npy")
    if picture.mode.startswith("I"):
        picture = _from_16_bits(picture)
    mode = _MODES[channels or (1 if picture.mode in _GREY_MODES else 3)]
    has_alpha = "transparency" in picture.info or "A" in picture.getbands()
    if has_alpha:
        picture = picture.convert("RGBA")
    if has_alpha and "A" not in mode:
        # Dropping alpha would uncover whatever colour lies under it: often black strokes on black.
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert(mode)


def _from_16_bits(picture: Image.Image) -> Image.Image:
    """Pillow clips 16-bit grey to 255 on conversion, which whitens the picture; this scales it."""
    levels = np.asarray(picture).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError("grey levels exceed 16 bits")
    return Image.fromarray((levels >> 8).astype(np.uint8))


def read_array(file: Path) -> npt.NDArray[Any]:
    """Read the array of a `.npy` file, or of a `.npz` file: its only one, or the one called `images`.

    Args:
        file: Path of the file.

    Returns:
        The array, of any shape and numeric type.

    Raises:
        InputError: A `.npz` file with several arrays, none called `images`.
        RunError: The file is corrupt, truncated, or holds Python objects, which are never unpickled.
    """
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = loaded.files
            name = names[0] if len(names) == 1 else "images"
            if name in names:
                return np.asarray(loaded[name])
    except Exception as error:  # zip, zlib, header and end-of-file errors share no base class
        raise RunError(f"cannot read {file}: not a .npy or .npz file of numbers; save it again") from error
    raise InputError(f"{file} holds {', '.join(names) or 'no array'}: name the array to read 'images'")
