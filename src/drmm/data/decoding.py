"""One picture or array file, decoded safely: nothing is unpickled, and a broken file is named."""

__all__ = ["ARRAY_SUFFIXES", "Picture", "Shape", "UnreadableError", "decode_picture", "quiet", "read_array"]

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base as Tag

from drmm.data.formats import PNG_START, is_raw, open_picture
from drmm.errors import InputError, RunError

ARRAY_SUFFIXES = (".npy", ".npz")

Shape = Literal["stretch", "pad", "crop"]
"""How a picture of another aspect ratio fills a size: distorted, with black beside it, or cut."""

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""What Pillow calls pictures of so many channels."""
_GREY_MODES = {"1", "L", "LA", "La"}
_ALPHA = {"A", "a"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_BITS = {"PNG", "PPM", "JPEG2000"}  # formats that say how white their deep greys end; so does TIFF
_TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}


class Picture(NamedTuple):
    """What is in a picture file.

    Attributes:
        levels: 0..255, uint8 (C, H, W).
        size: the (H, W) that it had.
        has_more: whether other frames or pages follow, which do not count.
        kind: its format, as Pillow calls it.
    """

    levels: npt.NDArray[np.uint8]
    size: tuple[int, int]
    has_more: bool
    kind: str


class UnreadableError(RunError):
    """A picture that cannot be read.

    Args:
        name: what it is called.
        reason: why.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"cannot read picture {name} ({reason}): repair, replace or remove it")
        self.reason = reason


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, nothing is told of what Pillow does without, such as a broken EXIF block.

    Filters of warnings belong to the process: who decodes in threads is quiet around all of them, and in a thread
    that is not the main one nothing is done.
    """
    is_main = threading.current_thread() is threading.main_thread()
    with warnings.catch_warnings() if is_main else nullcontext():
        if is_main:
            warnings.filterwarnings("ignore", module="PIL|pillow")
        yield


def decode_picture(
    source: Path | bytes | Image.Image,
    name: str,
    *,
    channels: int | None = None,
    size: tuple[int, int] | None = None,
    shape: Shape | Literal["within"] = "stretch",
) -> Picture:
    """Decode one picture, turned upright by its EXIF tag.

    It is known by its content, whatever its suffix says. Grey of more than 8 bits runs from the black to the white
    that its format states.

    Args:
        source: The file, its bytes, or what Pillow has made of it.
        name: What to call it in an error; its suffix helps where formats have no mark to know them by.
        channels: 1 to 4 (grey, grey + alpha, RGB, RGBA) to convert to; by default 1 for grey, else 3.
            Without an alpha channel, transparent parts are shown on white, as viewers do.
        size: (H, W) to resize to, with antialiasing. A large JPEG is reduced while it is decoded.
        shape: How to fill that size where the aspect ratio is another; "within" keeps the ratio, and enlarges
            nothing.

    Returns:
        Its first frame.

    Raises:
        InputError: `channels` is not 1 to 4, or what its numbers mean is not known: floats, signed or 32-bit
            integers, 16 bits of which only the lowest 12 are used, more bands than colours.
        UnreadableError: The file is missing, corrupt, truncated or of an unknown kind.
    """
    if channels not in {None, *MODES}:
        raise InputError(f"pictures have 1 to 4 channels, not {channels}: pass such images as a .npy file")
    try:
        content = source.read_bytes() if isinstance(source, Path) else source
        with quiet():
            if isinstance(content, Image.Image):
                content.load()  # before it could be reduced, which is for pictures of our own
                return _seen(content, name, channels, size, shape)
            return _with_any_texts(content, name, channels, size, shape)
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they like on broken files
        raise UnreadableError(name, _reason(error)) from error


def _with_any_texts(content: bytes, *how: Any) -> Picture:
    try:
        return _decoded(content, *how)
    except ValueError:  # of Pillow, for large texts among others
        if not content.startswith(PNG_START):
            raise
        return _decoded(_without_texts(content), *how)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no complete picture is in it"  # Pillow's own words name an address in memory
    message = getattr(error, "strerror", None) or str(error)
    return str(message).splitlines()[0] if message else type(error).__name__


def _decoded(content: bytes, name: str, channels: int | None, size: tuple[int, int] | None, shape: str) -> Picture:
    if not content:
        raise ValueError("it is empty")
    suffix = PurePath(name).suffix.lower().strip()
    with open_picture(content, suffix) as opened:
        if advice := is_raw(opened, suffix):
            raise ValueError(advice)
        return _seen(opened, name, channels, size, shape)


def _seen(
    opened: Image.Image, name: str, channels: int | None, size: tuple[int, int] | None, shape: str
) -> Picture:
    """What a picture that is open shows."""
    _check_meaning(opened, name)
    has_more = opened.format != "PSD" and getattr(opened, "is_animated", False)  # PSD's frames are layers
    is_deep = ";16" in f"{opened.mode}{(getattr(opened, 'tile', None) or [])[:1]}"
    tags, full = getattr(opened, "tag_v2", {}), opened.size
    reduced = size is not None and opened.draft(None, (2 * max(size), 2 * max(size)))
    opened.load()
    picture = _from_16_bits(opened, tags) if opened.mode.startswith("I") else opened
    if is_deep and tags.get(Tag.BitsPerSample, (16,))[0] == 16:
        _check_depth(picture, tags, name)
    upright = _upright(opened, picture)
    picture = _converted(upright, channels)
    original = (picture.height, picture.width)
    if reduced:
        original = full if upright.size != opened.size else full[::-1]
    if size is not None:
        picture = filling(picture, size, shape)
    levels = np.asarray(picture, dtype=np.uint8)
    planes = levels[None] if levels.ndim == 2 else np.moveaxis(levels, 2, 0)
    return Picture(np.ascontiguousarray(planes), original, has_more, opened.format or "")


def filling(picture: Image.Image, size: tuple[int, int], shape: str) -> Image.Image:
    """A picture at a size (H, W), as of `decode_picture`."""
    asked = (size[1], size[0])
    if picture.size == asked:
        return picture
    if shape == "within":
        picture.thumbnail(asked, Image.Resampling.BILINEAR)
        return picture
    if shape == "pad":
        return ImageOps.pad(picture, asked, Image.Resampling.BILINEAR)
    if shape == "crop":
        return ImageOps.fit(picture, asked, Image.Resampling.BILINEAR)
    return picture.resize(asked, Image.Resampling.BILINEAR)


def drawn_levels(levels: npt.NDArray[np.uint8]) -> Image.Image:
    """Levels (H, W), (H, W, C) or (C, H, W) as a picture.

    Raises:
        InputError: if they have another shape.
    """
    last = np.moveaxis(levels, 0, 2) if levels.ndim == 3 and levels.shape[2] > 4 else levels
    if last.ndim not in {2, 3} or (last.ndim == 3 and last.shape[2] > 4):
        raise InputError(f"levels of shape {levels.shape} are no picture: give (H, W) or (H, W, C)")
    return Image.fromarray(np.ascontiguousarray(last.squeeze(2) if last.shape[2:] == (1,) else last))


def _without_texts(png: bytes) -> bytes:
    """A PNG without its comments and colour profile: Pillow refuses large ones, and they mean nothing here."""
    kept, start = [png[:8]], 8
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        if png[start + 4 : start + 8] not in _TEXTS:
            kept.append(png[start:end])
        start = end
    return b"".join(kept)


def _check_meaning(opened: Image.Image, name: str) -> None:
    """Refuse numbers of which no format says how they look."""
    tags, bands = getattr(opened, "tag_v2", {}), [band for band in opened.getbands() if band != "X"]
    if tags.get(Tag.SamplesPerPixel, 1) > len(bands):
        colours = "+".join(bands)
        raise InputError(
            f"{name} has {tags[Tag.SamplesPerPixel]} bands, not {colours} alone: save it as grey or RGB"
        )
    kinds = set(tags.get(Tag.SampleFormat, ()))
    has_white = opened.format in _SIXTEEN_BITS or (opened.format == "TIFF" and opened.mode.startswith("I;"))
    if opened.mode == "F" or (opened.mode.startswith("I") and not has_white) or kinds & {2, 3}:
        what = "floats" if opened.mode == "F" else "integers"
        raise InputError(f"{name} holds {what} with no set black and white: save it with 8 or 16 unsigned bits")


def _from_16_bits(picture: Image.Image, tags: Any) -> Image.Image:
    """Pillow clips deep grey to 255 on conversion, which whitens the picture; this scales it."""
    bits = tags.get(Tag.BitsPerSample, (16,))[0]
    levels = np.asarray(picture).astype(np.int64)
    if tags.get(Tag.PhotometricInterpretation) == 0:  # white is zero, which Pillow minds up to 8 bits
        levels = (1 << bits) - 1 - levels
    grey = Image.fromarray((levels >> (bits - 8)).astype(np.uint8))
    if (transparent := picture.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return grey


def _check_depth(picture: Image.Image, tags: Any, name: str) -> None:
    """Refuse 12 bits or fewer kept in 16: by the white of 16, all would be black, or white where white is zero."""
    levels = np.asarray(picture.convert("RGB"))
    if levels.max() < 16 or (tags.get(Tag.PhotometricInterpretation) == 0 and levels.min() >= 240):
        raise InputError(
            f"{name} uses the lowest 12 of its 16 bits, and could not be seen: scale it to 16, or save it with 8"
        )


def _upright(opened: Image.Image, picture: Image.Image) -> Image.Image:
    """Turned as the EXIF tag says; one that is broken says nothing."""
    turn = None
    with suppress(Exception):  # Pillow's parser, likewise
        turn = _TURNS.get(opened.getexif().get(Tag.Orientation, 1))
    return picture if turn is None else picture.transpose(turn)


def _converted(picture: Image.Image, channels: int | None) -> Image.Image:
    mode = MODES[channels or (1 if picture.mode in _GREY_MODES else 3)]
    has_alpha = "transparency" in picture.info or not _ALPHA.isdisjoint(picture.getbands())
    if has_alpha:
        picture = picture.convert("RGBA")
    if has_alpha and "A" not in mode:
        # Dropping alpha would uncover whatever colour lies under it: often black strokes on black.
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert(mode)


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
