"""Picture and array files: what is read comes out as it looks, and all else is refused by name."""

import struct
import sys
import zlib
from io import BytesIO
from pathlib import PurePath

import numpy as np
import pytest
from PIL import Image, ImageOps, features
from PIL.ExifTags import Base as Tag

from drmm.data import formats
from drmm.data.decoding import UnreadableError, decode_picture, read_array
from drmm.data.formats import is_picture
from drmm.errors import InputError, RunError


def picture(*shape, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tif", ".webp", ".ppm"])
def test_truncated_pictures_never_pass_half_read(tmp_path, suffix):
    file = tmp_path / f"x{suffix}"
    picture(24, 24, 3).save(file)
    whole = file.read_bytes()
    assert decode_picture(file, "x")[0].shape == (3, 24, 24)
    for end in (0, 5, len(whole) // 4, len(whole) // 2):
        file.write_bytes(whole[:end])
        with pytest.raises(RunError, match=r"cannot read picture x \(.*\): repair, replace or remove it"):
            decode_picture(file, "x")


@pytest.mark.parametrize(("mode", "planes"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)])
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
def test_any_mode_gives_any_number_of_channels(tmp_path, mode, planes, channels):
    picture(8, 9, 3).convert(mode).save(tmp_path / "x.png")
    levels, size, *_ = decode_picture(tmp_path / "x.png", "x", channels=channels)
    assert levels.shape == (channels or planes, 8, 9)
    assert size == (8, 9)


def test_transparency_is_shown_on_white(tmp_path):
    Image.new("RGBA", (9, 8), (0, 0, 0, 0)).save(tmp_path / "x.png")
    for channels in (1, 3):
        assert decode_picture(tmp_path / "x.png", "x", channels=channels)[0].min() == 255
    assert decode_picture(tmp_path / "x.png", "x", channels=4)[0].max() == 0


def test_palette_with_transparency(tmp_path):
    picture(8, 9, 3).convert("P").save(tmp_path / "x.png", transparency=bytes(range(256)))
    assert decode_picture(tmp_path / "x.png", "x")[0].shape == (3, 8, 9)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 72).reshape(8, 9).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    assert np.array_equal(decode_picture(tmp_path / "x.png", "x")[0][0], ramp >> 8)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(8, 9, 3).save(tmp_path / "x.jpg", exif=exif)
    levels, size, *_ = decode_picture(tmp_path / "x.jpg", "x")
    assert levels.shape == (3, 9, 8)
    assert size == (9, 8)


def test_five_channels_are_refused(tmp_path):
    with pytest.raises(InputError, match="pictures have 1 to 4 channels, not 5"):
        decode_picture(tmp_path / "x.png", "x", channels=5)


def test_arrays_never_unpickle(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object))
    np.savez(tmp_path / "x.npz", np.array([{}], dtype=object))
    np.save(tmp_path / "cut.npy", np.arange(100))
    whole = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-1])
    for name in ("x.npy", "x.npz", "cut.npy", "absent.npy"):
        with pytest.raises(RunError, match=f"cannot read .*{name}"):
            read_array(tmp_path / name)
    np.savez(tmp_path / "two.npz", a=[1], b=[2])
    with pytest.raises(InputError, match="holds a, b: name the array to read 'images'"):
        read_array(tmp_path / "two.npz")


# --- grey levels ---


def tiff(tags, data, order="<"):
    """A TIFF of 9 x 8 pixels in one strip, with tags that Pillow does not write."""
    fixed = {Tag.ImageWidth: 9, Tag.ImageLength: 8, Tag.RowsPerStrip: 8, Tag.StripByteCounts: len(data)}
    tags = {tag: value if isinstance(value, tuple) else (value,) for tag, value in (fixed | tags).items()}
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    long = b"".join(struct.pack(f"{order}{len(v)}H", *v) for _, v in sorted(tags.items()) if len(v) > 2)
    tags[Tag.StripOffsets] = (start + len(long),)
    entries = b""
    for tag, values in sorted(tags.items()):
        if len(values) > 2:
            packed, start = struct.pack(f"{order}I", start), start + 2 * len(values)
        else:
            packed = struct.pack(f"{order}{len(values)}H", *values).ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, 3, len(values)) + packed
    magic = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8)
    return magic + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + long + data


def grey(bits, meaning=1, kind=1):
    return {Tag.BitsPerSample: bits, Tag.PhotometricInterpretation: meaning, Tag.SampleFormat: kind}


def bands(bits, *extra, meaning=2):
    n = {1: 1, 2: 3}[meaning] + len(extra)
    some = {Tag.BitsPerSample: (bits,) * n, Tag.PhotometricInterpretation: meaning, Tag.SamplesPerPixel: n}
    return some | ({Tag.ExtraSamples: extra} if extra else {})


def of(value, dtype, *channels):
    return np.full((8, 9, *channels), value, dtype).tobytes()


def pgm(white, value):
    return f"P5 9 8 {white}\n".encode() + of(value, ">u2" if white > 255 else "u1")


def saved(image, kind="PNG", **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


TWELVE = bytes([0xBB, 0x8B, 0xB8]) * 40  # 3000 in 12 bits, again and again

LEVELS = [
    ("white is one, 16 bits", tiff(grey(16), of(60000, "<u2")), 60000 / 65535),
    ("white is one, 16 bits, big-endian", tiff(grey(16), of(60000, ">u2"), ">"), 60000 / 65535),
    ("white is zero, 16 bits", tiff(grey(16, 0), of(60000, "<u2")), 5535 / 65535),
    ("white is zero, 8 bits", tiff(grey(8, 0), of(55, "u1")), 200 / 255),
    ("white is zero, 4 bits", tiff(grey(4, 0), bytes([0x33]) * 40), 12 / 15),
    ("white is zero, 2 bits", tiff(grey(2, 0), bytes([0b01010101]) * 24), 2 / 3),
    ("white is zero, 1 bit", tiff(grey(1, 0), bytes(16)), 1),
    ("12 bits", tiff(grey(12), TWELVE), 3000 / 4095),
    ("12 dark bits", tiff(grey(12), bytes(120)), 0),
    ("16 bits of PNG", saved(Image.fromarray(np.full((8, 9), 30000, np.uint16))), 30000 / 65535),
    ("16 bits of JPEG 2000", saved(Image.fromarray(np.full((8, 9), 30000, np.uint16)), "JPEG2000"), 30000 / 65535),
    ("16 bits of PGM", pgm(65535, 30000), 30000 / 65535),
    ("12 bits of PGM", pgm(4095, 3000), 3000 / 4095),
    ("4 bits of PGM", pgm(15, 7), 7 / 15),
    ("16 bits a colour", tiff(bands(16), of(60000, "<u2", 3)), 60000 / 65535),
]


@pytest.mark.parametrize(("content", "share"), [row[1:] for row in LEVELS], ids=[row[0] for row in LEVELS])
def test_grey_keeps_its_meaning(content, share):
    levels = decode_picture(content, "x.tif").levels[0, 0]
    assert np.abs(levels / 255 - share).max() < 1.5 / 255


MEANINGLESS = [
    (
        "32-bit integers",
        saved(Image.fromarray(np.full((8, 9), 200, np.int32)), "TIFF"),
        "holds integers with no set",
    ),
    ("32 unsigned bits", tiff(grey(32), of(200, "<u4")), "holds integers with no set black and white"),
    ("signed, 16 bits", tiff(grey(16, kind=2), of(3000, "<i2")), "holds integers with no set black and white"),
    ("signed, 8 bits", tiff(grey(8, kind=2), of(100, "i1")), "holds integers with no set black and white"),
    ("floats", saved(Image.fromarray(np.full((8, 9), 0.5, np.float32)), "TIFF"), "holds floats with no set black"),
    ("floats of PFM", b"Pf\n9 8\n-1.0\n" + of(np.nan, "<f4"), "holds floats with no set black and white"),
    ("12 bits in 16", tiff(grey(16), of(4095, "<u2")), "uses the lowest 12 of its 16 bits"),
    ("12 bits in 16, white is zero", tiff(grey(16, 0), of(4095, "<u2")), "uses the lowest 12 of its 16 bits"),
    ("8 bits in 16", saved(Image.fromarray(np.full((8, 9), 255, np.uint16))), "uses the lowest 12 of its 16 bits"),
    ("12 bits in 16 a colour", tiff(bands(16), of(4095, "<u2", 3)), "uses the lowest 12 of its 16 bits"),
    ("near infrared", tiff(bands(8, 0), of(9, "u1", 4)), r"has 4 bands, not R\+G\+B alone"),
    ("five bands", tiff(bands(8, 0, 0), of(9, "u1", 5)), r"has 5 bands, not R\+G\+B alone"),
    ("grey and another", tiff(bands(8, 0, meaning=1), of(9, "u1", 2)), "has 2 bands, not L alone"),
]


@pytest.mark.parametrize(
    ("content", "says"), [row[1:] for row in MEANINGLESS], ids=[row[0] for row in MEANINGLESS]
)
def test_numbers_without_a_meaning_are_refused_by_name(content, says):
    with Image.open(BytesIO(content)) as control:
        control.load()  # Pillow itself reads them
    with pytest.raises(InputError, match=f"^x.tif {says}"):
        decode_picture(content, "x.tif")


@pytest.mark.parametrize(
    "content",
    [
        tiff(bands(8, 0, 0, 0, 0, meaning=1), of(9, "u1", 5)),
        tiff(grey(16, kind=3), of(0.5, "<f2")),
        tiff(grey(12, 0), TWELVE),
    ],
    ids=["hyperspectral", "half floats", "white is zero, 12 bits"],
)
def test_what_pillow_does_not_read_is_refused_by_name(content):
    with pytest.raises(UnreadableError, match="TIFF of an unusual kind: save it as grey or RGB of 8 or 16 bits"):
        decode_picture(content, "x.tif")


def test_transparent_grey_is_shown_on_white():
    for image, clear in (
        (Image.new("1", (9, 8), 1), 1),
        (Image.new("L", (9, 8), 70), 70),
        (Image.fromarray(np.full((8, 9), 30000, np.uint16)), 30000),
    ):
        assert decode_picture(saved(image, transparency=clear), "x").levels.min() == 255
        assert decode_picture(saved(image, transparency=clear - 1), "x").levels.max() < 255 or image.mode == "1"
    palette = Image.new("P", (9, 8), 5)
    palette.putpalette([17 * (i // 3) for i in range(48)])
    assert decode_picture(saved(palette, bits=4), "x").levels[:, 0, 0].tolist() == [85] * 3
    assert decode_picture(saved(palette, bits=4, transparency=5), "x").levels.min() == 255


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr"])
def test_other_colours_are_read_as_red_green_and_blue(mode):
    middle = {"CMYK": (0, 0, 0, 127), "LAB": (137, 128, 128), "YCbCr": (128, 128, 128)}[mode]
    content = saved(Image.new(mode, (9, 8), middle), "TIFF" if mode == "LAB" else "JPEG")
    levels = decode_picture(content, "x").levels
    assert levels.shape == (3, 8, 9)
    assert np.abs(levels.astype(int) - 128).max() <= 2


# --- what does not stop a picture ---


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


LARGE = zlib.compress(bytes(3_000_000))


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"note\0\0" + LARGE),
        chunk(b"iTXt", b"note\0\1\0\0\0" + LARGE),
        chunk(b"iCCP", b"profile\0\0" + LARGE),
        chunk(b"iCCP", b"profile\0\0junk"),
        chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(1_000_000))) * 70,
        chunk(b"eXIf", b"junk"),
    ],
    ids=["zTXt", "iTXt", "profile", "broken profile", "many", "EXIF"],
)
@pytest.mark.parametrize("place", [33, -12], ids=["before", "after"])
def test_texts_and_profiles_stop_no_picture(extra, place):
    plain = saved(Image.new("RGB", (9, 8), (1, 2, 3)))
    levels = decode_picture(plain[:place] + extra + plain[place:], "x").levels
    assert np.array_equal(levels, decode_picture(plain, "x").levels)


def test_control_pillow_refuses_large_texts_and_a_broken_chunk_is_refused_here_too():
    plain = saved(Image.new("RGB", (9, 8), (1, 2, 3)))
    large = plain[:33] + chunk(b"zTXt", b"note\0\0" + LARGE) + plain[33:]
    with pytest.raises(ValueError, match=r"(?i)decompressed data too large"):
        Image.open(BytesIO(large))
    with pytest.raises(UnreadableError):
        decode_picture(large.replace(b"IDAT", b"IDOT"), "x")


@pytest.mark.parametrize("exif", [b"junkjunk", b"II*\0\x08\0\0\0\xff\xff", b"II*\0\xff\xff\xff\xff", b""])
def test_a_broken_exif_block_stops_no_picture(exif):
    plain = saved(Image.new("RGB", (9, 8), (1, 2, 3)), "JPEG")
    block = b"Exif\0\0" + exif
    content = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
    assert np.array_equal(decode_picture(content, "x").levels, decode_picture(plain, "x").levels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_that_of_viewers(orientation):
    exif = Image.Exif()
    exif[Tag.Orientation] = orientation
    content = saved(picture(16, 24), exif=exif)
    with Image.open(BytesIO(content)) as opened:
        assert np.array_equal(decode_picture(content, "x").levels[0], ImageOps.exif_transpose(opened))


# --- formats ---


READ = ["AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP"]
SUFFIXES = {"TGA": "x.tga"}  # it has no mark to know it by


@pytest.mark.parametrize("kind", READ)
def test_what_counts_is_the_content(kind):
    if kind not in Image.SAVE or (kind == "AVIF" and not features.check("avif")):
        pytest.skip(f"this Pillow reads no {kind}")
    content = saved(Image.new("RGB", (16, 16), (200, 30, 30)), kind)
    for name in {SUFFIXES.get(kind, "x.txt"), SUFFIXES.get(kind, "x"), SUFFIXES.get(kind, "x.png")}:
        assert is_picture(PurePath(name), lambda: BytesIO(content)), name
        assert np.abs(decode_picture(content, name).levels[:, 8, 8].astype(int) - (200, 30, 30)).max() < 12


NAMED = [
    ("x.heic", b"", "HEIC: pip install pillow-heif"),
    ("x.jpg", b"\0\0\0\x18ftypheic", "HEIC: pip install pillow-heif"),
    ("x.JXL", b"\xff\x0a", "JPEG XL: pip install pillow-jxl-plugin"),
    ("x.cr3", b"\0\0\0\x18ftypcrx ", "camera raw: develop it"),
    ("x.nef", tiff(grey(8), of(9, "u1")), "camera raw: develop it"),
    ("x.tif", tiff(grey(8) | {Tag.DNGVersion: (1, 4)}, of(9, "u1")), "camera raw: develop it"),
    ("x.mov", b"\0\0\0\x18ftypqt  ", "video: take frames"),
    ("x.avi", b"RIFF\0\0\0\0AVI ", "video: take frames"),
    ("x.svg", b'<?xml version="1.0"?>\n<!-- a note -->\n<svg/>', "vector graphics: export it as PNG"),
    ("x.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 8\n", "vector graphics: export it as PNG"),
    ("x.xcf", b"gimp xcf v011", "XCF: export it as PNG"),
    ("x.exr", b"\x76\x2f\x31\x01", "OpenEXR: export it as PNG"),
]


@pytest.mark.parametrize(
    ("name", "start", "says"), NAMED, ids=[f"{row[2].split(':')[0]} {row[0]}" for row in NAMED]
)
def test_what_is_not_read_is_named_with_what_helps(name, start, says, monkeypatch):
    for plugin in ("pillow_heif", "pillow_heif.HeifImagePlugin", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, plugin, None)  # not installed
    content = start.ljust(200, b"\0")
    assert is_picture(PurePath(name), lambda: BytesIO(content))
    with pytest.raises(UnreadableError, match=rf"cannot read picture {name} \({says}"):
        decode_picture(content, name)


def test_a_plugin_that_is_installed_is_used(monkeypatch):
    content = b"\0\0\0\x18ftypheic" + bytes(100)

    def learn(name):
        assert name == "pillow_heif.HeifImagePlugin"
        monkeypatch.setitem(Image.OPEN, "HEIF", (lambda file, name: Image.new("L", (9, 8), 7), lambda _: True))
        monkeypatch.setattr(Image, "ID", [*Image.ID, "HEIF"])
        return True

    monkeypatch.setattr(formats, "import_module", learn)
    assert decode_picture(content, "x.heic").levels.max() == 7


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.txt", b"words"),
        ("x", b"words"),
        ("x.h", b"#define x 1"),
        ("x.md", b"P5 is an engine"),
        ("x.bin", bytes(99)),
    ],
)
def test_other_files_are_no_pictures(name, content):
    assert not is_picture(PurePath(name), lambda: BytesIO(content))


def test_text_that_is_called_a_picture_is_refused():
    for content, says in ((b"words", "no complete picture is in it"), (b"", "it is empty")):
        assert is_picture(PurePath("x.png"), lambda: BytesIO(b""))
        with pytest.raises(UnreadableError, match=rf"cannot read picture x.png \({says}\)"):
            decode_picture(content, "x.png")


def test_a_bomb_is_refused():
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(UnreadableError, match="exceeds limit of"):
        decode_picture(bomb, "x.png")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "MPO", "WEBP"])
def test_the_first_frame_counts(kind):
    first, second = (Image.new("RGB", (9, 8), (level, 0, 0)) for level in (200, 100))
    options = {"lossless": True} if kind == "WEBP" else {}
    both = decode_picture(saved(first, kind, save_all=True, append_images=[second], **options), "x")
    alone = decode_picture(saved(first, kind, **options), "x")
    assert (both.has_more, alone.has_more) == (True, False)
    assert abs(int(both.levels[0, 0, 0]) - 200) < 3
