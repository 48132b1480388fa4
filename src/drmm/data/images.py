"""The boundary through which all of a user's pixels pass: checked once, then float32 NCHW in [0, 1]."""

__all__ = [
    "as_images",
    "black_white_of",
    "image_batches",
    "load_image_files",
    "nchw",
    "numbers",
    "pixels",
    "reduced",
]

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from PIL import Image
from torch.nn import functional

from drmm.data.base import Skipped, summary
from drmm.data.decoding import ARRAY_SUFFIXES, Shape, decode_picture, drawn_levels, filling, quiet, read_array
from drmm.data.listing import check_losses, listed
from drmm.errors import InputError
from drmm.progress import track

_REDUCED, _AT_ONCE = 32, 64  # pixels of a side; images that are reduced in a step

Pixels = npt.NDArray[Any]

_CHANNELS = (1, 2, 3, 4)  # grey, grey + alpha, RGB, RGBA
_TOLERANCE = 1e-4  # of the pixel range: float16 rounding and resizing overshoot no further
_MANY = 10  # images; fewer may well be black
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's own RGB to grey


def as_images(
    X: object,
    *,
    image_shape: Sequence[int] | None = None,
    channels: int | None = None,
    pixel_range: tuple[float, float] = (0.0, 1.0),
) -> torch.Tensor:
    """Check images of any common layout and type, and return them as the models want them.

    Black and white are 0 and 1 for bool, 0 and 255 for uint8, and `pixel_range` for all else. Integers
    other than uint8 need no `pixel_range`: without one uint16 runs to 65535, other types to 255.

    Args:
        X: A NumPy array, tensor, DataFrame or nested list: (N, H, W), (N, C, H, W), (N, H, W, C), or
            flattened (N, D) together with `image_shape`.
        image_shape: One image's (H, W), (C, H, W) or (H, W, C). Unflattens 2-D X, checks any other.
        channels: C, where it would be ambiguous; if both axes have this size, channels come first.
            Without it C may be 1 to 4.
        pixel_range: The two values of X that mean black and white. They become 0 and 1.

    Returns:
        Float32 tensor (N, C, H, W) in [0, 1] on the CPU. It never shares memory with X.

    Raises:
        InputError: The shape, type or values of X cannot be images; the message says what to pass.
        TypeError: X is a sparse matrix.

    Warns:
        UserWarning: Ten or more images are all but black, as if scaled twice.
    """
    black_white = _checked_range(pixel_range)
    pixels = nchw(numbers(X), image_shape, channels)
    return torch.from_numpy(_scaled(pixels, black_white))


def _checked_range(pixel_range: tuple[float, float]) -> tuple[float, float]:
    try:
        black, white = (float(value) for value in pixel_range)
    except (TypeError, ValueError):
        raise InputError(f"pixel_range must be two numbers, such as (0, 255): got {pixel_range!r}") from None
    if not (math.isfinite(black) and math.isfinite(white) and black < white):
        raise InputError(f"pixel_range must be finite and rising, such as (0, 255): got {pixel_range!r}")
    return black, white


def numbers(X: object) -> Pixels:
    """X as a non-empty array of bool, integer or real type."""
    if scipy.sparse.issparse(X) or (isinstance(X, torch.Tensor) and X.layout is not torch.strided):
        raise TypeError("sparse X was passed, but images are dense: use X.toarray() (X.to_dense() in torch)")
    if isinstance(X, torch.Tensor):
        has_numpy_type = not X.is_floating_point() or X.dtype in {torch.float32, torch.float64}
        pixels = (X if has_numpy_type else X.float()).numpy(force=True)
    else:
        pixels = _array(X)
    if pixels.dtype.kind == "c":
        raise InputError("Complex data not supported: pass real pixels, such as abs(X)")
    if pixels.dtype.kind not in "buif":
        how = "convert it first, as in X.astype(float); drmm.data.images.load_image_files reads files"
        raise InputError(f"X has dtype {pixels.dtype}, not numbers: {how}")
    if pixels.ndim and not len(pixels):
        raise InputError(f"found 0 sample(s) (shape={pixels.shape}): X must hold at least one image")
    if pixels.size == 0:
        raise InputError(f"0 feature(s) (shape={pixels.shape}) while a minimum of 1 is required.")
    return pixels


def _array(X: object) -> Pixels:
    if isinstance(X, list | tuple) and any(getattr(picture, "mode", "") in {"P", "PA"} for picture in X):
        raise InputError("X holds numbers of a palette's colours: convert each, as in picture.convert('RGB')")
    if np.ma.is_masked(X):
        raise InputError("X has masked pixels: fill them first, as in X.filled(0)")
    try:
        pixels = np.asarray(X)
        return np.asarray(list(pixels)) if pixels.dtype == object and pixels.ndim == 1 else pixels  # of a Series
    except ValueError:
        raise InputError("the images of X differ in size or channels: make them alike first") from None


# --- layout ----------------------------------------------------------------------------------------------


def nchw(pixels: Pixels, image_shape: Sequence[int] | None, channels: int | None) -> Pixels:
    """A view of `pixels` (a copy where NumPy needs one) as (N, C, H, W)."""
    shape = None if image_shape is None else _checked_shape(image_shape)
    if pixels.ndim == 2:
        pixels = _unflattened(pixels, shape)
    if pixels.ndim not in {3, 4}:
        raise InputError(
            f"X of shape {pixels.shape} is not a batch of images: pass (N, H, W), (N, C, H, W) or "
            "(N, H, W, C); a single image is X[None]"
        )
    sizes = pixels.shape[1:]
    if len(sizes) == 2:
        _reject_single_picture(pixels.shape)
    axis = _channel_axis(sizes, channels, shape)
    images = pixels[:, None] if axis is None else np.moveaxis(pixels, 1 + axis, 1)
    if channels not in {None, images.shape[1]}:
        raise InputError(f"X of shape {pixels.shape} is grey (one channel), but channels={channels}")
    if shape is not None and not _agrees(images.shape[1:], shape, channels):
        raise InputError(f"X of shape {pixels.shape} does not hold images of image_shape={shape}")
    return images


def _checked_shape(image_shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(int(size) for size in np.ravel(image_shape))
    if len(shape) not in {2, 3} or min(shape) < 1:
        raise InputError(f"image_shape must be (H, W), (H, W, C) or (C, H, W): got {image_shape}")
    return shape


def _unflattened(pixels: Pixels, shape: tuple[int, ...] | None) -> Pixels:
    width = pixels.shape[1]
    if shape is not None and pixels.shape in {shape, shape[1:]} and width != math.prod(shape):
        raise InputError(f"X of shape {pixels.shape} is a single image: pass X[None]")
    if shape is None:
        side = math.isqrt(width)
        example = (side, side) if side * side == width else ("H", "W")
        hint = f"image_shape=({example[0]}, {example[1]})"
        raise InputError(f"X of shape {pixels.shape} is flat: pass {hint}, or X as (N, H, W)")
    if math.prod(shape) != width:
        raise InputError(f"rows of X have {width} values, but image_shape={shape} needs {math.prod(shape)}")
    return pixels.reshape(len(pixels), *shape)


def _reject_single_picture(shape: tuple[int, ...]) -> None:
    """One (H, W, C) picture would otherwise pass silently as H narrow grey ones."""
    _, height, width = shape
    if width in {1, 3, 4} and height > 4:
        raise InputError(
            f"X of shape {shape} looks like one picture (H, W, C): pass X[None]; "
            "if it really holds narrow grey images, pass X[:, None]"
        )


def _channel_axis(
    sizes: tuple[int, ...], channels: int | None, shape: tuple[int, ...] | None = None
) -> int | None:
    """Which axis of one image's `sizes` counts channels: 0, 2, or None for a grey (H, W)."""
    if len(sizes) == 2:
        return None
    wanted = _CHANNELS if channels is None else (channels,)
    axes = [axis for axis in (0, 2) if sizes[axis] in wanted][: None if max(sizes) > 1 else 1]
    if shape is not None and len(shape) == 2:
        axes = [axis for axis in axes if _plane(sizes, axis) == shape]
    if len(axes) == 2 and channels is None:
        # Tiny images, (3, 4, 4) say: only one reading gives square ones. Anything else is a guess.
        axes = [axis for axis in axes if len(set(_plane(sizes, axis))) == 1] or axes
        if len(axes) == 2:
            raise InputError(f"images of shape {sizes} may have channels first or last: pass image_shape=(H, W)")
    if not axes:
        what = "of size 1 to 4" if channels is None else f"of size channels={channels}"
        where = "" if shape is None else f" beside image_shape={shape}"
        raise InputError(f"images of shape {sizes} have no first or last axis {what}{where} for channels")
    return axes[0]


def _plane(sizes: tuple[int, ...], channel_axis: int) -> tuple[int, ...]:
    return tuple(size for axis, size in enumerate(sizes) if axis != channel_axis)


def _agrees(chw: tuple[int, ...], shape: tuple[int, ...], channels: int | None) -> bool:
    if len(shape) == 2:
        return chw[1:] == shape
    axis = _channel_axis(shape, channels)
    return axis is not None and chw == (shape[axis], *_plane(shape, axis))


# --- values ----------------------------------------------------------------------------------------------


def _scaled(pixels: Pixels, pixel_range: tuple[float, float]) -> npt.NDArray[np.float32]:
    """Map black to 0 and white to 1, in one new C-ordered array: the only copy of the pixels made here."""
    black, white = black_white_of(pixels.dtype, pixel_range)
    least, most = float(pixels.min()), float(pixels.max())
    if not (math.isfinite(least) and math.isfinite(most)):  # NaN propagates through min and max
        finite = np.isfinite(pixels).all(axis=(1, 2, 3))
        raise InputError(f"image {int(np.argmin(finite))} of X contains NaN or inf: repair or drop it")
    slack = _TOLERANCE * (white - black)
    if least < black - slack or most > white + slack:
        raise InputError(_advice(least, most, (black, white), is_float=pixels.dtype.kind == "f"))
    if len(pixels) >= _MANY:
        _warn_if_faint(most, white, pixel_range)
    scaled = np.empty(pixels.shape, np.float32)
    if black == 0:
        scaled[...] = pixels
    else:
        np.subtract(pixels, black, out=scaled, casting="same_kind")
    scaled /= np.float32(white - black)
    if black != 0 or least < black or most > white:  # a subtraction may round past either end
        np.clip(scaled, 0, 1, out=scaled)
    return scaled


def black_white_of(dtype: np.dtype[Any], pixel_range: tuple[float, float]) -> tuple[float, float]:
    """The values of black and white in images of a type, as `as_images` takes them."""
    if dtype.kind == "b":
        return 0.0, 1.0
    if dtype == np.uint8:
        return 0.0, 255.0
    if dtype.kind == "f" or pixel_range != (0.0, 1.0):
        return pixel_range
    return 0.0, 65535.0 if dtype == np.uint16 else 255.0


def _advice(least: float, most: float, expected: tuple[float, float], *, is_float: bool) -> str:
    fact = f"pixels run from {least:.6g} to {most:.6g}, outside {expected[0]:g} to {expected[1]:g}"
    own_range = f"pixel_range=({least:.6g}, {most:.6g})"
    if is_float and least >= 0 and 1.5 < most <= 255:
        # Many float sets stop well short of 255: scikit-learn's digits end at 16.
        other = f" (or {own_range} if that is their full range)" if most < 128 else ""
        return f"{fact}: these look like 0-255 levels in float: pass uint8 or pixel_range=(0, 255){other}"
    if is_float and least < 0:
        return f"{fact}: these look standardised: pass {own_range}, for all images alike"
    return f"{fact}: pass {own_range}, or the values that mean black and white"


def _warn_if_faint(most: float, white: float, pixel_range: tuple[float, float]) -> None:
    """Images scaled twice are the silent killer: nothing fails, nothing is learnt."""
    faint = 255.0 if white == 65535 else 1.0
    if 1 < pixel_range[1] < white:  # uint8 is read as levels of 255, whatever range was given
        faint = max(faint, pixel_range[1])
    if white >= 255 and most <= faint:
        seen = "0 or 1" if faint == 1 else f"0 to {faint:g}"
        message = f"all pixels are {seen} of {white:g}, almost black: convert X with X.astype(float)"
        warnings.warn(f"{message} and pass the matching pixel_range", UserWarning, stacklevel=4)


# --- files -----------------------------------------------------------------------------------------------


def load_image_files(
    paths: str | Path | Iterable[str | Path],
    shape: tuple[int, int, int],
    *,
    pixel_range: tuple[float, float] = (0.0, 1.0),
) -> tuple[torch.Tensor, list[str], list[Skipped]]:
    """Read picture files, whole folders and NumPy files as images of one shape; arguments as of `image_batches`.

    Returns:
        Float32 tensor (N, C, H, W) in [0, 1]; N names; and the files that were not read, with reasons.
    """
    skipped: list[Skipped] = []
    batches = list(track(image_batches(paths, shape, skipped, pixel_range=pixel_range), "Reading images"))
    return torch.cat([images for _, images in batches]), [name for names, _ in batches for name in names], skipped


def image_batches(
    paths: str | Path | Iterable[str | Path],
    shape: tuple[int, int, int],
    skipped: list[Skipped],
    *,
    at_once: int = 100,
    fill: Shape = "stretch",
    pixel_range: tuple[float, float] = (0.0, 1.0),
) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Read picture files, whole folders and NumPy files part by part, as images of one shape, a few ahead.

    Args:
        paths: Pictures, folders or zip archives (searched through, in sorted order), `.npy` or `.npz` files.
        shape: (C, H, W) that the images get: grey and colour are converted, other sizes resized.
        skipped: Is given the files that were not read, with reasons.
        at_once: Images in a part.
        fill: How pictures of another aspect ratio fill the shape.
        pixel_range: Black and white in the NumPy files, as in `as_images`.

    Yields:
        Names (paths; rows of arrays as `path[row]`), and a float32 tensor (N, C, H, W) in [0, 1].

    Raises:
        InputError: Nothing to read, an array that cannot be images, or a picture without a set black and white.
        RunError: A file is missing, an array cannot be read, or in the end more than half of the pictures could
            not; the message names the first.

    Warns:
        UserWarning: In the end, that some pictures cannot be read, and were skipped; had another size, and were
            resized; or have several frames, of which the first counts.
    """
    sources = [paths] if isinstance(paths, str | Path) else paths
    n_files, resized, longer = 0, _Some(), _Some()
    names: list[str] = []
    images: list[torch.Tensor] = []
    for file in _files(map(Path, sources), shape, fill, pixel_range, skipped):
        n_files += 1
        resized.count(f"{file.names[0]} ({file.size[0]}x{file.size[1]})", when=file.size != shape[1:])
        longer.count(file.names[0], when=file.has_more)
        for start in range(0, len(file.names), at_once):
            names += file.names[start : start + at_once]
            images.append(file.images[start : start + at_once])
            if len(names) >= at_once:
                whole = torch.cat(images)
                yield names[:at_once], whole[:at_once]
                names, images = names[at_once:], [whole[at_once:]]
    if names:
        yield names, torch.cat(images)
    check_losses(skipped, n_files, PurePath())
    if not n_files:
        found = f" ({summary(skipped)})" if skipped else ""
        raise InputError(f"no images found{found}: pass pictures, or folders of them")
    resized.warn(f"{resized.n} of {n_files} files resized to {shape[1]}x{shape[2]}")
    longer.warn(f"the first frame counts of {longer.n} files with several")


@dataclass
class _Some:
    """How many files are so, and the first of them."""

    n: int = 0
    first: str = ""

    def count(self, name: str, *, when: bool) -> None:
        if when:
            self.n, self.first = self.n + 1, self.first or name

    def warn(self, message: str) -> None:
        if self.n:
            warnings.warn(f"{message}: {self.first}" + (", ..." if self.n > 1 else ""), UserWarning, stacklevel=3)


class _File(NamedTuple):
    """What one file holds: images (N, C, H, W) by name, the (H, W) that they had, and whether frames follow."""

    names: list[str]
    images: torch.Tensor
    size: tuple[int, int]
    has_more: bool = False


def _files(
    paths: Iterable[Path],
    shape: tuple[int, int, int],
    fill: Shape,
    pixel_range: tuple[float, float],
    skipped: list[Skipped],
) -> Iterator[_File]:
    """Each file that can be read; the others are added to `skipped`."""
    for path in paths:
        if path.suffix.lower() in ARRAY_SUFFIXES and path.is_file():
            yield _from_array(path, shape, fill, pixel_range)
            continue
        with quiet(), listed(path) as found:
            found.read_once()
            how: dict[str, Any] = {"channels": shape[0], "size": shape[1:], "shape": fill}
            for member, picture in found.decoded(list(found.pictures), **how):
                images = as_images(picture.levels[None], channels=shape[0])
                yield _File([f"{found.root / member}"], images, picture.size, picture.has_more)
        skipped += [replace(one, file=f"{found.root / one.file}") for one in found.skipped]


def _from_array(file: Path, shape: tuple[int, int, int], fill: Shape, pixel_range: tuple[float, float]) -> _File:
    pixels = read_array(file)
    flat = shape if pixels.ndim == 2 else None
    try:
        images = as_images(pixels, image_shape=flat, pixel_range=pixel_range)
    except InputError as error:
        fact = str(error).partition(": ")[0]  # what follows is advice to who calls `as_images`
        for word, ours in (" of X", ""), ("X ", "its array "), ("image_shape=", "the shape "):
            fact = fact.replace(word, ours)
        advice = "save uint8 levels 0..255, or floats 0..1, as (N, H, W) or (N, H, W, C)"
        raise InputError(f"{file}: {fact}: {advice}") from None
    names, size = [f"{file}[{row}]" for row in range(len(images))], (images.shape[2], images.shape[3])
    fits = images.shape[1:] == shape
    if images.shape[1] != shape[0]:
        images = _recoloured(images, shape[0], file)
    if not fits and pixels.dtype == np.uint8:  # they are levels, as of a picture
        how: dict[str, Any] = {"channels": shape[0], "size": shape[1:], "shape": fill}
        drawn = zip(nchw(pixels, flat, None), names, strict=True)
        levels = [decode_picture(drawn_levels(one), name, **how).levels for one, name in drawn]
        images = as_images(np.stack(levels), channels=shape[0])
    elif size != shape[1:]:
        images = _filled(images, shape[1:], fill)
    return _File(names, images, size)


def _filled(images: torch.Tensor, size: tuple[int, int], fill: Shape) -> torch.Tensor:
    """As pictures are resized, but for the rounding to levels."""
    planes = [np.asarray(filling(Image.fromarray(plane), size, fill)) for plane in images.flatten(0, 1).numpy()]
    return torch.from_numpy(np.stack(planes).reshape(*images.shape[:2], *size))


def _recoloured(images: torch.Tensor, channels: int, file: Path) -> torch.Tensor:
    if (images.shape[1], channels) == (1, 3):
        return images.expand(-1, 3, -1, -1)
    if (images.shape[1], channels) == (3, 1):
        return torch.einsum("nchw,c->nhw", images, images.new_tensor(_LUMA))[:, None]
    raise InputError(f"{file} holds {images.shape[1]}-channel images, not {channels}-channel ones: convert it")


def pixels(x: torch.Tensor) -> torch.Tensor:
    """Images as the models see them: uint8 levels as floats in [0, 1], floats as they are."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def reduced(x: torch.Tensor) -> torch.Tensor:
    """Images (N, C, H, W) as floats in [0, 1], by means over areas where they have sides of more than 32 pixels.

    Statistics of pixels need no more, and take a hundred times the memory where pictures are large.
    """
    height, width = x.shape[2:]
    sides = min(height, _REDUCED), min(width, _REDUCED)
    if sides == (height, width):
        return pixels(x)
    return torch.cat([functional.adaptive_avg_pool2d(pixels(part), sides) for part in x.split(_AT_ONCE)])
