"""Users' own folders of pictures, and the pictures themselves."""

import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from drmm.data import load, load_folder, load_folder_splits
from drmm.data.decoding import decode_picture, read_array
from drmm.errors import InputError, RunError


def picture(*shape, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def fill(root, spec):
    """Write pictures: `spec` maps a relative path to the shape of one."""
    for seed, (path, shape) in enumerate(spec.items()):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        picture(*shape, seed=seed).save(root / path)
    return root


GREY = {"cat/1.png": (8, 9), "cat/deep/2.png": (8, 9), "dog/1.png": (8, 9), "unlabelled/x.png": (8, 9)}


def test_classes_are_folders_and_unlabelled_is_minus_one(tmp_path):
    x, y, classes = load_folder(fill(tmp_path, GREY))
    assert x.shape == (4, 1, 8, 9)
    assert x.dtype == np.uint8
    assert y.tolist() == [0, 0, 1, -1]
    assert classes == ("cat", "dog")
    assert np.array_equal(x[2, 0], np.asarray(picture(8, 9, seed=2)))


def test_one_colour_picture_makes_all_colour(tmp_path):
    x, _, _ = load_folder(fill(tmp_path, GREY | {"dog/2.png": (8, 9, 3)}))
    assert x.shape == (5, 3, 8, 9)
    assert np.array_equal(x[0, 0], x[0, 2])


def test_sizes_must_agree_unless_one_is_given(tmp_path):
    fill(tmp_path, GREY | {"dog/2.png": (16, 18)})
    with pytest.raises(InputError, match=r"dog/2.png is 16x18, cat/1.png is 8x9: pass size=\(H, W\)"):
        load_folder(tmp_path)
    assert load_folder(tmp_path, size=(4, 6))[0].shape == (5, 1, 4, 6)
    assert load(tmp_path, size=(4, 6)).x_train.shape == (5, 1, 4, 6)


def test_splits(tmp_path):
    root = fill(tmp_path / "pets", {f"train/{path}": shape for path, shape in GREY.items()})
    fill(root, {"test/dog/9.png": (8, 9)})
    data = load_folder_splits(root)
    assert data.name == "pets"
    assert data.y_train.tolist() == [0, 0, 1, -1]
    assert data.y_test.tolist() == [1]
    assert data.x_test.shape == (1, 1, 8, 9)
    fill(root, {"test/cow/9.png": (8, 9)})
    with pytest.raises(InputError, match="test class cow has no training folder"):
        load_folder_splits(root)
    fill(root, {"unlabelled/9.png": (8, 9)})
    with pytest.raises(InputError, match="holds unlabelled/ beside train/: move it"):
        load_folder_splits(root)


def test_without_splits_there_is_no_test_set(tmp_path):
    data = load(str(fill(tmp_path, GREY)))
    assert data.x_train.shape == (4, 1, 8, 9)
    assert data.x_test.shape == (0, 1, 8, 9)
    assert data.y_test.shape == (0,)


@pytest.mark.parametrize("base", [".", ".."])
def test_zip_is_read_like_the_folder_wrapped_or_not(tmp_path, base):
    root = fill(tmp_path / "pets", GREY)
    (root / "__MACOSX" / "cat").mkdir(parents=True)
    (root / "__MACOSX" / "cat" / "._1.png").write_bytes(b"resource fork")
    inside = "pets" if base == ".." else "."
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", root / base, inside)
    for one, other in zip(load_folder(archive), load_folder(root), strict=True):
        assert np.array_equal(one, other)
    assert load(archive).name == "zipped"


def test_broken_zip_and_member_are_named(tmp_path):
    archive = tmp_path / "pets.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("cat/1.png", b"not a picture")
        zipped.writestr("dog/1.png", b"not a picture")
    with pytest.raises(RunError, match=r"cannot read picture .*pets.zip/cat/1.png"):
        load_folder(archive)
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"not a picture", b"not the crc32", 1))
    with pytest.raises(RunError, match=r"pets.zip: cat/1.png does not unpack \(BadZipFile\)"):
        load_folder(archive)
    archive.write_bytes(content[:-5])
    with pytest.raises(RunError, match="not a folder or complete zip"):
        load_folder(archive)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "holds no pictures"),
        ({"loose.png": (8, 9)}, r"picture loose.png is in no class folder"),
        ({"unlabeled/1.png": (8, 9)}, "rename folder unlabeled/ to unlabelled/"),
        ({"_Unlabelled/1.png": (8, 9)}, "rename folder _Unlabelled/"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, spec, message):
    with pytest.raises(InputError, match=message):
        load_folder(fill(tmp_path, spec))


def files(*paths):
    return dict.fromkeys(paths, (8, 9))


SPLIT = files("train/cat/1.png", "train/dog/1.png", "test/cat/2.png")


def test_a_class_may_be_called_train_or_test(tmp_path):
    spec = files("bus/1.png", "train/1.png", "train/2.png", "test/1.png", "unlabelled/1.png")
    fill(tmp_path, spec)
    data = load_folder_splits(tmp_path)
    assert data.classes == ("bus", "test", "train")
    assert data.y_train.tolist() == [0, 1, 2, 2, -1]
    assert len(data.x_test) == 0
    assert load_folder(tmp_path)[2] == data.classes


def test_control_a_class_called_train_within_a_split(tmp_path):
    data = load_folder_splits(fill(tmp_path, SPLIT | files("train/train/1.png", "test/train/1.png")))
    assert data.classes == ("cat", "dog", "train")
    assert data.y_test.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            files("train/1.png", "test/1.png"),
            "test/ and train/ may be parts or classes: move pictures to train/<cl",
        ),
        (files("train/1.png", "test/1.png", "unlabelled/1.png"), "test/ and train/ may be parts or classes"),
        (
            SPLIT | files("bus/1.png"),
            "holds bus/ beside train/: move it into train/ or test/, or, if train is a cl",
        ),
        (files("bus/1.png", "train/ice/1.png"), "or, if train is a class, put its pictures into train/ itself"),
        (
            files("bus/1.png", "test/cat/1.png"),
            "test/ holds folders: rename it, parts are called train/ and test/",
        ),
        (files("Train/cat/1.png", "Test/cat/1.png"), "Test/ holds folders: rename it"),
        (files("training/cat/1.png", "testing/cat/1.png"), "testing/ holds folders: rename it"),
        (files("val/1.png", "validation/1.png"), "val/ and validation/ may be parts or classes"),
        (SPLIT | files("val/cat/1.png"), "val/ holds folders: rename it"),
        (SPLIT | files("train/3.png"), "train/ holds pictures beside folders: move them into train/<class>/"),
        (SPLIT | files("loose.png"), "picture loose.png is in no class folder"),
    ],
)
def test_what_may_be_a_part_or_a_class_is_never_guessed(tmp_path, spec, message):
    with pytest.raises(InputError, match=message):
        load_folder_splits(fill(tmp_path, spec))


def test_parts_are_no_classes(tmp_path):
    with pytest.raises(InputError, match="is split into train/ and test/: read it with load_folder_splits"):
        load_folder(fill(tmp_path, SPLIT))
    assert load_folder(tmp_path / "train")[2] == ("cat", "dog")


# --- pictures ---


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
    levels, size = decode_picture(tmp_path / "x.png", "x", channels=channels)
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


def test_pixels_beyond_sixteen_bits_are_refused(tmp_path):
    for pixels in (np.full((8, 9), 0.5, np.float32), np.full((8, 9), 1 << 20, np.int32)):
        Image.fromarray(pixels).save(tmp_path / "x.tif")
        with pytest.raises(RunError, match=r"floats|16 bits"):
            decode_picture(tmp_path / "x.tif", "x")


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(8, 9, 3).save(tmp_path / "x.jpg", exif=exif)
    levels, size = decode_picture(tmp_path / "x.jpg", "x")
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
