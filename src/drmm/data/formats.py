"""Which files are pictures: by what is in them, and by their suffix where Pillow needs help or fails."""

__all__ = ["HOLDERS", "PNG_START", "is_picture", "is_raw", "open_picture"]

import re
import warnings
from collections.abc import Callable
from importlib import import_module
from io import BytesIO
from pathlib import PurePath
from typing import IO, NamedTuple

from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as Tag


class _Foreign(NamedTuple):
    """A kind of picture that Pillow does not read by itself."""

    name: str
    suffixes: str
    start: bytes  # of its content, as a pattern
    remedy: str
    plugin: str = ""  # a module that teaches Pillow to read it

    def __str__(self) -> str:
        return f"{self.name}: {self.remedy}"


_AS_PNG = "export it as PNG"
_RAW = _Foreign(
    "camera raw",
    ".3fr .arw .cr2 .cr3 .crw .dng .erf .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f",
    rb".{4}ftypcrx|FUJIFILM|(II\*\0|MM\0\*).{4}CR",
    "develop it into PNG or JPEG",
)
_HEIC = _Foreign(
    "HEIC",
    ".heic .heif .hif",
    rb".{4}ftyp(he|mif1|msf1)",
    "pip install pillow-heif",
    "pillow_heif.HeifImagePlugin",
)
_JXL_START = rb"\xff\x0a|\0\0\0\x0cJXL "
_VIDEO = ".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .webm .wmv"
_VIDEO_START = rb".{4}ftyp|RIFF.{4}AVI |\x1aE\xdf\xa3|\0\0\x01[\xb3\xba]"
_SVG_START = rb"%!PS|\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?<svg"
_FOREIGN = (  # the first that fits
    _HEIC,
    _RAW,
    _Foreign("AVIF", ".avif .avifs", rb".{4}ftypavi", "pip install --upgrade pillow"),
    _Foreign("JPEG XL", ".jxl", _JXL_START, "pip install pillow-jxl-plugin", "pillow_jxl"),
    _Foreign("video", _VIDEO, _VIDEO_START, "take frames from it, as ffmpeg does"),
    _Foreign("vector graphics", ".ai .emf .eps .ps .svg .svgz .wmf", _SVG_START, _AS_PNG),
    _Foreign("XCF", ".xcf", b"gimp xcf", _AS_PNG),
    _Foreign("OpenEXR", ".exr", rb"\x76\x2f\x31\x01", _AS_PNG),
    _Foreign("Radiance", "", rb"#\?RADIANCE", _AS_PNG),
    _Foreign("JPEG XR", ".hdp .jxr .wdp", b"II\xbc", _AS_PNG),
    _Foreign("DICOM", ".dcm .dicom", b".{128}DICM", _AS_PNG),
    _Foreign("TIFF of an unusual kind", "", rb"II[*+]\0|MM\0[*+]", "save it as grey or RGB of 8 or 16 bits"),
)
PNG_START = b"\x89PNG"
HOLDERS = {".arrow", ".feather", ".parquet", ".pq", ".tar"}
"""Suffixes of files that hold pictures, of which the first bytes, a name in a tar, may look like one."""
_HEAD = 1024  # bytes that tell the kind of a file
# What Pillow knows by name only, or runs a program for: Ghostscript, for EPS.
_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def is_picture(path: PurePath, opener: Callable[[], IO[bytes]]) -> bool:
    """Whether a file is a picture, or means to be one: its suffix says so, or what is in it.

    Args:
        path: its name.
        opener: opens it; only what has another suffix is looked into.
    """
    suffix = path.suffix.lower().strip()
    if suffix in HOLDERS:
        return False
    if Image.registered_extensions().get(suffix) in Image.OPEN.keys() - _NOT_READ or _by_suffix(suffix):
        return True
    try:
        with opener() as file, warnings.catch_warnings(action="ignore"):
            head = file.read(_HEAD)
            if _by_content(head) or head.startswith(PNG_START):
                return True
            file.seek(0)
            Image.open(file, formats=_formats("")).close()
    except (UnidentifiedImageError, ValueError):
        return False
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
        kind = _by_content(content[:_HEAD]) or _by_suffix(suffix)
        if kind is None:
            raise
        if not _learned(kind.plugin):
            raise ValueError(str(kind)) from None
    return Image.open(BytesIO(content), formats=_formats(suffix))


def is_raw(picture: Image.Image, suffix: str) -> str:
    """What helps, if an opened picture is but the preview in a camera's raw file; else nothing."""
    previews = picture.format == "TIFF" and (
        suffix in _RAW.suffixes.split() or Tag.DNGVersion in getattr(picture, "tag_v2", ())
    )
    return str(_RAW) if previews else ""


def _formats(suffix: str) -> list[str]:
    """What Pillow may try: what has a mark at its start, and what else the suffix says."""
    named = Image.registered_extensions().get(suffix)  # this loads all of Pillow's readers
    return [
        kind for kind, (_, accept) in Image.OPEN.items() if kind not in _NOT_READ and (accept or kind == named)
    ]


def _by_suffix(suffix: str) -> _Foreign | None:
    return next((kind for kind in _FOREIGN if suffix in kind.suffixes.split()), None)


def _by_content(head: bytes) -> _Foreign | None:
    return next((kind for kind in _FOREIGN if re.match(kind.start, head, re.DOTALL)), None)


def _learned(plugin: str) -> bool:
    """Whether Pillow reads a kind from now on."""
    try:
        return bool(plugin and import_module(plugin))
    except ImportError:
        return False
