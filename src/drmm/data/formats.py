"""Which files are pictures: by what is in them, and by their suffix where Pillow needs help or fails."""

__all__ = ["TOO_LARGE_TEXTS", "is_picture", "is_raw", "open_picture"]

import re
from collections.abc import Callable
from importlib import import_module
from io import BytesIO
from pathlib import PurePath
from typing import IO, NamedTuple

from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as Tag


class _Foreign(NamedTuple):
    """A kind of picture that Pillow does not read by itself: its suffixes, how it begins, and what helps."""

    name: str
    suffixes: frozenset[str]
    start: re.Pattern[bytes]
    remedy: str
    plugin: str = ""  # a module that teaches Pillow to read it

    def __str__(self) -> str:
        return f"{self.name}: {self.remedy}"


def _foreign(name: str, suffixes: str, start: bytes, remedy: str, plugin: str = "") -> _Foreign:
    return _Foreign(name, frozenset(suffixes.split()), re.compile(start, re.DOTALL), remedy, plugin)


_RAW = _foreign(
    "camera raw",
    ".3fr .arw .cr2 .cr3 .crw .dng .erf .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f",
    rb".{4}ftypcrx|FUJIFILM|(II\*\0|MM\0\*).{4}CR",
    "develop it into PNG or JPEG",
)
_AS_PNG = "export it as PNG"
_FOREIGN = (  # the first that fits
    _foreign(
        "HEIC",
        ".heic .heif .hif",
        rb".{4}ftyp(he|mif1|msf1)",
        "pip install pillow-heif",
        "pillow_heif.HeifImagePlugin",
    ),
    _foreign("AVIF", ".avif .avifs", rb".{4}ftypavi", "pip install --upgrade pillow"),
    _foreign(
        "JPEG XL",
        ".jxl",
        rb"\xff\x0a|\0\0\0\x0cJXL ",
        "pip install pillow-jxl-plugin",
        "pillow_jxl",
    ),
    _RAW,
    _foreign(
        "video",
        ".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .webm .wmv",
        rb".{4}ftyp|RIFF.{4}AVI |\x1aE\xdf\xa3|\0\0\x01[\xb3\xba]",
        "take frames from it, as ffmpeg does",
    ),
    _foreign(
        "vector graphics",
        ".ai .emf .eps .ps .svg .svgz .wmf",
        rb"%!PS|\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?<svg",
        _AS_PNG,
    ),
    _foreign("XCF", ".xcf", b"gimp xcf", _AS_PNG),
    _foreign("OpenEXR", ".exr", rb"\x76\x2f\x31\x01", _AS_PNG),
    _foreign("Radiance", "", rb"#\?RADIANCE", _AS_PNG),
    _foreign("JPEG XR", ".hdp .jxr .wdp", b"II\xbc", _AS_PNG),
    _foreign("DICOM", ".dcm .dicom", b".{128}DICM", _AS_PNG),
    _foreign("TIFF of an unusual kind", "", rb"II[*+]\0|MM\0[*+]", "save it as grey or RGB of 8 or 16 bits"),
)
TOO_LARGE_TEXTS = "MAX_TEXT"  # in the error that Pillow raises of them
# What Pillow knows by name only, or runs a program for: Ghostscript, for EPS.
_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def is_picture(path: PurePath, opener: Callable[[], IO[bytes]]) -> bool:
    """Whether a file is a picture, or means to be one: its suffix says so, or what is in it.

    Args:
        path: its name.
        opener: opens it; only what has another suffix is looked into.
    """
    suffix = path.suffix.lower().strip()
    if Image.registered_extensions().get(suffix) in Image.OPEN.keys() - _NOT_READ or _by_suffix(suffix):
        return True
    try:
        with opener() as file:
            if _by_content(file.read(1024)):
                return True
            file.seek(0)
            Image.open(file, formats=_formats("")).close()
    except (UnidentifiedImageError, ValueError) as error:
        return TOO_LARGE_TEXTS in str(error)
    except Exception:  # noqa: BLE001  # Pillow's readers raise whatever they like on pictures that they cannot read
        return True
    return True


def open_picture(content: bytes, suffix: str) -> Image.Image:
    """Open a picture by its content; the suffix decides where formats have no mark to know them by.

    Raises:
        UnidentifiedImageError: if it is no picture.
        ValueError: if it is of a kind that is not read; with what helps.
    """
    try:
        return Image.open(BytesIO(content), formats=_formats(suffix))
    except UnidentifiedImageError:
        kind = _by_content(content[:1024]) or _by_suffix(suffix)
        if kind is None:
            raise
        if not _learned(kind.plugin):
            raise ValueError(str(kind)) from None
    return Image.open(BytesIO(content), formats=_formats(suffix))


def is_raw(picture: Image.Image, suffix: str) -> str:
    """What helps, if an opened picture is but the preview in a camera's raw file; else nothing."""
    previews = picture.format == "TIFF" and (
        suffix in _RAW.suffixes or Tag.DNGVersion in getattr(picture, "tag_v2", ())
    )
    return str(_RAW) if previews else ""


def _formats(suffix: str) -> list[str]:
    """What Pillow may try: what has a mark at its start, and what else the suffix says."""
    named = Image.registered_extensions().get(suffix)  # this loads all of Pillow's readers
    return [
        kind for kind, (_, accept) in Image.OPEN.items() if kind not in _NOT_READ and (accept or kind == named)
    ]


def _by_suffix(suffix: str) -> _Foreign | None:
    return next((kind for kind in _FOREIGN if suffix in kind.suffixes), None)


def _by_content(head: bytes) -> _Foreign | None:
    return next((kind for kind in _FOREIGN if kind.start.match(head)), None)


def _learned(plugin: str) -> bool:
    """Whether Pillow reads a kind from now on."""
    try:
        return bool(plugin and import_module(plugin))
    except ImportError:
        return False
