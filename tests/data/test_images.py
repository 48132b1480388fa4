"""The pixel boundary: every layout and type that passes, every error that says what to do."""

import os
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from drmm.data import listing
from drmm.data.images import as_images, image_batches, load_image_files, pixels, reduced
from drmm.errors import InputError, RunError


def levels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- layouts ---


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        ((5, 8, 9), {}, (5, 1, 8, 9)),
        ((5, 1, 8, 9), {}, (5, 1, 8, 9)),
        ((5, 8, 9, 1), {}, (5, 1, 8, 9)),
        ((5, 8, 9, 3), {}, (5, 3, 8, 9)),
        ((5, 3, 8, 9), {}, (5, 3, 8, 9)),
        ((5, 3, 4, 4), {}, (5, 3, 4, 4)),  # only channels first makes the images square
        ((5, 4, 4, 3), {}, (5, 3, 4, 4)),
        ((5, 3, 9, 4), {"channels": 3}, (5, 3, 9, 4)),
        ((5, 3, 9, 4), {"channels": 4}, (5, 4, 3, 9)),
        ((5, 3, 9, 3), {"channels": 3}, (5, 3, 9, 3)),  # both fit: channels first
        ((5, 3, 9, 4), {"image_shape": (3, 9)}, (5, 4, 3, 9)),
        ((5, 7, 8, 9), {"channels": 7}, (5, 7, 8, 9)),  # multispectral, if asked for
        ((5, 72), {"image_shape": (8, 9)}, (5, 1, 8, 9)),
        ((5, 216), {"image_shape": (8, 9, 3)}, (5, 3, 8, 9)),
        ((5, 216), {"image_shape": [3, 8, 9]}, (5, 3, 8, 9)),
        ((5, 8, 9), {"image_shape": (1, 8, 9)}, (5, 1, 8, 9)),
        ((5, 1, 8, 9), {"image_shape": (8, 9)}, (5, 1, 8, 9)),
        ((5, 3, 8, 9), {"image_shape": (8, 9, 3)}, (5, 3, 8, 9)),
    ],
)
def test_layouts(shape, options, expected):
    images = as_images(levels(*shape), **options)
    assert images.shape == expected
    assert images.dtype == torch.float32
    assert images.is_contiguous()


def test_channels_last_is_moved_not_reinterpreted():
    X = levels(4, 8, 9, 3)
    assert torch.equal(as_images(X), torch.from_numpy(X).permute(0, 3, 1, 2) / 255)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((), {}, r"not a batch"),
        ((4,), {}, r"not a batch"),
        ((2, 2, 2, 2, 2), {}, r"a single image is X\[None\]"),
        ((5, 784), {}, r"pass image_shape=\(28, 28\)"),
        ((5, 783), {}, r"pass image_shape=\(H, W\)"),
        ((5, 783), {"image_shape": (28, 28)}, r"783 values, but image_shape=\(28, 28\) needs 784"),
        ((5, 784), {"image_shape": (784,)}, "image_shape must be"),
        ((5, 784), {"image_shape": (28, 0)}, "image_shape must be"),
        ((32, 32, 3), {}, r"looks like one picture.*X\[None\]"),
        ((5, 7, 8, 9), {}, "no first or last axis of size 1 to 4"),
        ((5, 3, 8, 9), {"channels": 1}, "no first or last axis of size channels=1"),
        ((5, 3, 8, 9), {"image_shape": (7, 9)}, r"beside image_shape=\(7, 9\)"),
        ((5, 3, 9, 4), {}, r"pass image_shape=\(H, W\)"),
        ((5, 8, 9), {"channels": 3}, "is grey .* channels=3"),
        ((5, 8, 9), {"image_shape": (9, 8)}, r"does not hold images of image_shape=\(9, 8\)"),
        ((5, 3, 8, 9), {"image_shape": (1, 8, 9)}, "does not hold images"),
        ((0, 8, 9), {}, r"found 0 sample\(s\)"),
        ((3, 0), {}, r"0 feature\(s\) \(shape=\(3, 0\)\) while a minimum of 1 is required."),
    ],
)
def test_shapes_that_cannot_be_images(shape, options, message):
    with pytest.raises(InputError, match=message) as raised:
        as_images(levels(*shape), **options)
    assert "\n" not in str(raised.value)


# --- types ---


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, min_side=5, max_side=9)))
@settings(deadline=None)
def test_every_type_gives_the_same_image(X):
    expected = torch.from_numpy(X)[:, None].float() / 255
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # drawn images may be dark
        for dtype in (np.int8, np.int16, np.int64, np.uint32, ">i4"):
            if X.max() <= np.iinfo(dtype).max:
                assert torch.equal(as_images(X.astype(dtype)), expected)
        for dtype in (np.float16, np.float32, np.float64, ">f8"):
            torch.testing.assert_close(as_images(X.astype(dtype), pixel_range=(0, 255)), expected)
        torch.testing.assert_close(as_images(X / 255), expected)
        torch.testing.assert_close(as_images(X.astype(np.uint16) * 257), expected)
        assert torch.equal(as_images(X.tolist()), expected)
        assert torch.equal(as_images(torch.from_numpy(X)), expected)


def test_tensors_of_types_numpy_lacks_or_with_gradients():
    x = torch.rand(3, 1, 8, 9)
    assert torch.equal(as_images(x.clone().requires_grad_()), x)
    assert torch.equal(as_images(x.bfloat16()), x.bfloat16().float())


def test_bool_is_black_and_white():
    X = levels(3, 8, 9) > 127
    assert torch.equal(as_images(X), torch.from_numpy(X)[:, None].float())


def test_data_frame_needs_its_image_shape():
    frame = pd.DataFrame(levels(3, 72))
    assert as_images(frame, image_shape=(8, 9)).shape == (3, 1, 8, 9)
    with pytest.raises(InputError, match="pass image_shape"):
        as_images(frame)


def test_result_never_shares_memory():
    x = torch.rand(3, 1, 8, 9)
    as_images(x).zero_()
    assert x.max() > 0
    X = x.numpy()
    X.flags.writeable = False
    assert torch.equal(as_images(X[:, :, ::-1]), x.flip(2))


@pytest.mark.parametrize("dtype", [object, str, "S4", "M8[s]"])
def test_types_that_are_not_numbers(dtype):
    with pytest.raises(InputError, match=r"not numbers: convert it first"):
        as_images(levels(3, 8, 9).astype(dtype))


def test_complex_and_ragged_and_sparse():
    with pytest.raises(InputError, match="Complex data not supported"):
        as_images(torch.rand(3, 8, 9).to(torch.complex64).conj())
    with pytest.raises(InputError, match="differ in size"):
        as_images([levels(8, 9), levels(9, 8)])
    for sparse in (scipy.sparse.csr_array(np.eye(9)), torch.eye(9).to_sparse()):
        with pytest.raises(TypeError, match="sparse"):
            as_images(sparse, image_shape=(3, 3))


# --- values ---


@given(st.floats(-100, 100), st.floats(0.01, 100), st.sampled_from([np.float32, np.float64]))
@settings(deadline=None)
def test_pixel_range_is_mapped_linearly(ratio, width, dtype):
    black = ratio * width
    unit = np.random.default_rng(0).random((2, 8, 9))
    unit[0, 0, :2] = 0, 1
    images = as_images((black + width * unit).astype(dtype), pixel_range=(black, black + width))
    np.testing.assert_allclose(images[:, 0], unit, atol=1e-4)
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("pixel_range", [(0,), (1, 0), (0, 0), (0, np.inf), (np.nan, 1), "ab", None])
def test_pixel_range_that_is_none(pixel_range):
    with pytest.raises(InputError, match="pixel_range must be"):
        as_images(levels(3, 8, 9), pixel_range=pixel_range)


def test_overshoot_within_tolerance_is_clipped():
    X = np.full((2, 8, 9), 0.5)
    X[0, 0, :2] = -5e-5, 1 + 5e-5
    images = as_images(X)
    assert (images.min(), images.max()) == (0, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layout", [(6, 8, 9), (6, 8, 9, 3)])
def test_first_image_with_nan_or_inf_is_named(value, layout):
    X = np.full(layout, 0.5, np.float32)
    X[4:, 2, 3] = value
    with pytest.raises(InputError, match="image 4 of X contains NaN or inf"):
        as_images(X)


@pytest.mark.parametrize(
    ("low", "high", "options", "message"),
    [
        (0.0, 255.0, {}, r"run from 0 to 255.*0-255 levels in float: pass uint8 or pixel_range=\(0, 255\)$"),
        (0.0, 16.0, {}, r"pixel_range=\(0, 255\) \(or pixel_range=\(0, 16\) if"),
        (-0.424, 2.82, {}, r"look standardised: pass pixel_range=\(-0.424, 2.82\)"),
        (0.0, 4095.0, {}, r"pass pixel_range=\(0, 4095\)"),
        (0.0, 300.0, {"pixel_range": (0, 255)}, r"outside 0 to 255: pass pixel_range=\(0, 300\)"),
        (0, 300, {}, r"outside 0 to 255: pass pixel_range=\(0, 300\)"),
        (-128, 127, {}, r"outside 0 to 255: pass pixel_range=\(-128, 127\)"),
    ],
)
def test_values_outside_the_range_say_which_to_pass(low, high, options, message):
    X = np.linspace(low, high, 144).reshape(2, 8, 9)
    X = X.astype(np.int64) if isinstance(low, int) else X
    with pytest.raises(InputError, match=message):
        as_images(X, **options)


def test_suggested_range_works():
    X = np.random.default_rng(0).normal(size=(4, 8, 9)) / 3
    with pytest.raises(InputError) as raised:
        as_images(X)
    low, high = str(raised.value).split("pixel_range=(")[1].split(")")[0].split(", ")
    assert as_images(X, pixel_range=(float(low), float(high))).shape == (4, 1, 8, 9)


def test_integers_follow_a_given_range_but_uint8_does_not():
    X = levels(12, 8, 9) % 17
    assert as_images(X.astype(np.int64), pixel_range=(0, 16)).max() == 1
    assert as_images(X.astype(np.uint16), pixel_range=(0, 16)).max() == 1
    with pytest.warns(UserWarning, match="all pixels are 0 to 16 of 255"):
        assert as_images(X, pixel_range=(0, 16)).max() < 0.1


@pytest.mark.parametrize(
    ("dtype", "options", "message"),
    [
        (np.uint8, {}, "all pixels are 0 or 1 of 255"),
        (np.int64, {}, "all pixels are 0 or 1 of 255"),
        (float, {"pixel_range": (0, 255)}, "all pixels are 0 or 1 of 255"),
        (np.uint16, {}, "all pixels are 0 to 255 of 65535"),
    ],
)
def test_images_scaled_twice_are_warned_of(dtype, options, message):
    X = (levels(12, 8, 9) > 127).astype(dtype)
    with pytest.warns(UserWarning, match=message) as caught:
        as_images(X, **options)
    assert caught[0].filename == __file__
    as_images(X[:9], **options)  # a few images may be black: no warning


# --- files ---


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    Image.fromarray(levels(8, 9)).save(tmp_path / "z.png")
    Image.fromarray(levels(8, 9, 3)).save(tmp_path / "b" / "c" / "a.PNG")
    (tmp_path / "b" / "notes.txt").write_text("not a picture")
    (tmp_path / "b" / "._z.png").write_bytes(b"a macOS resource fork")
    return tmp_path


def test_folder_is_read_recursively_in_sorted_order(folder):
    images, names, _ = load_image_files(folder, (1, 8, 9))
    assert names == [str(folder / "b/c/a.PNG"), str(folder / "z.png")]
    assert torch.equal(images[1, 0], torch.from_numpy(levels(8, 9)) / 255)
    images, *_ = load_image_files([folder / "z.png", str(folder / "b/c/a.PNG")], (3, 8, 9))
    assert torch.equal(images[0], (torch.from_numpy(levels(8, 9)) / 255).expand(3, -1, -1))
    assert torch.equal(images[1], torch.from_numpy(levels(8, 9, 3)).permute(2, 0, 1) / 255)


def test_other_sizes_are_resized_with_one_warning(folder):
    np.save(folder / "x.npy", levels(2, 1, 16, 18))
    with pytest.warns(UserWarning, match=r"3 of 3 files resized to 4x6: .*a.PNG \(8x9\), ...") as caught:
        images, names, _ = load_image_files([folder, folder / "x.npy"], (1, 4, 6))
    assert len(caught) == 1
    assert images.shape == (4, 1, 4, 6)
    assert len(names) == 4


def test_resizing_is_antialiased(tmp_path):
    Image.fromarray(np.indices((32, 32)).sum(0).astype(np.uint8) % 2 * 255).save(tmp_path / "check.png")
    np.save(tmp_path / "check.npy", np.indices((1, 32, 32)).sum(0).astype(np.uint8) % 2 * 255)
    with pytest.warns(UserWarning, match="resized"):
        images, *_ = load_image_files([tmp_path / "check.png", tmp_path / "check.npy"], (1, 8, 8))
    assert (images[:, :, 1:-1, 1:-1] - 0.5).abs().max() < 0.1


@pytest.mark.filterwarnings("ignore:.* resized to")
@pytest.mark.parametrize("fill", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_become_images_as_picture_files_do(fill, channels, tmp_path):
    drawn = levels(20, 34, 3)
    Image.fromarray(drawn).save(tmp_path / "picture.png")
    np.save(tmp_path / "levels.npy", drawn[None])
    np.save(tmp_path / "floats.npy", drawn[None] / 255)
    [(_, images)] = image_batches(
        [tmp_path / name for name in ("picture.png", "levels.npy", "floats.npy")], (channels, 8, 9), [], fill=fill
    )
    assert torch.equal(images[1], images[0])
    torch.testing.assert_close(images[2], images[0], atol=2 / 255, rtol=0)  # rounded to levels after each side
    others = {"stretch": "pad", "pad": "crop", "crop": "stretch"}
    [(_, other)] = image_batches(tmp_path / "levels.npy", (channels, 8, 9), [], fill=others[fill])
    assert (other[0] - images[0]).abs().max() > 0.1, "control"


def test_numpy_files(tmp_path):
    np.save(tmp_path / "flat.npy", levels(2, 72) / 255)
    np.savez(tmp_path / "one.npz", anything=levels(1, 8, 9, 3))
    np.savez(tmp_path / "two.npz", images=levels(1, 8, 9), labels=[3])
    files = [tmp_path / name for name in ("flat.npy", "one.npz", "two.npz")]
    images, names, _ = load_image_files(files, (1, 8, 9))
    assert images.shape == (4, 1, 8, 9)
    assert names == [f"{files[0]}[0]", f"{files[0]}[1]", f"{files[1]}[0]", f"{files[2]}[0]"]
    grey = np.array(Image.fromarray(levels(8, 9, 3)).convert("L"))
    assert torch.equal(images[2, 0], torch.from_numpy(grey) / 255), "as of a picture file"
    np.save(tmp_path / "floats.npy", levels(1, 8, 9, 3) / 255)
    grey = torch.tensor(levels(8, 9, 3) / 255 @ [0.299, 0.587, 0.114], dtype=torch.float32)
    torch.testing.assert_close(load_image_files(tmp_path / "floats.npy", (1, 8, 9))[0][0, 0], grey)
    np.save(tmp_path / "wide.npy", levels(2, 8, 9).astype(float))
    assert load_image_files(tmp_path / "wide.npy", (3, 8, 9), pixel_range=(0, 255))[0].shape == (2, 3, 8, 9)
    with pytest.raises(InputError, match=r"wide.npy: pixels run from 0 to 249, outside 0 to 1: save uint8 levels"):
        load_image_files(tmp_path / "wide.npy", (3, 8, 9))
    np.save(tmp_path / "rgba.npy", levels(2, 8, 9, 4))
    with pytest.raises(InputError, match=r"rgba.npy holds 4-channel images, not 1-channel ones"):
        load_image_files(tmp_path / "rgba.npy", (1, 8, 9))


def test_nothing_to_read(tmp_path):
    for paths in (tmp_path, []):
        with pytest.raises(InputError, match="no images found: pass pictures, or folders of them"):
            load_image_files(paths, (1, 8, 9))
    with pytest.raises(RunError, match=r"no file or folder .*absent.png"):
        load_image_files(tmp_path / "absent.png", (1, 8, 9))


def test_a_picture_that_cannot_be_read_is_skipped_and_said(folder):
    picture = folder / "z.png"
    picture.write_bytes(picture.read_bytes()[:-30])
    with pytest.warns(UserWarning, match=r"cannot read picture .*z.png \(.*truncated.*\): skipped"):
        _, names, skipped = load_image_files(folder, (1, 8, 9))
    assert names == [str(folder / "b/c/a.PNG")]
    assert [one.file for one in skipped if one.is_loss] == [str(picture)]
    with pytest.raises(RunError, match=r"cannot read picture .*z.png \(.*truncated.*\): repair, replace or rem"):
        load_image_files(picture, (1, 8, 9))


def test_images_come_in_parts_of_one_size(folder):
    np.save(folder / "x.npy", levels(7, 1, 8, 9))
    skipped = []
    parts = list(image_batches([folder, folder / "x.npy"], (1, 8, 9), skipped, at_once=4))
    assert [len(names) for names, _ in parts] == [4, 4, 1]
    assert [len(images) for _, images in parts] == [4, 4, 1]
    images, names, _ = load_image_files([folder, folder / "x.npy"], (1, 8, 9))
    assert torch.equal(torch.cat([images for _, images in parts]), images)
    assert [name for names, _ in parts for name in names] == names
    assert names[2:] == [f"{folder / 'x.npy'}[{row}]" for row in range(7)]
    assert {one.reason for one in skipped} == {"hidden", "not a picture (.txt)", "not a picture (.npy)"}


def test_few_pictures_are_decoded_ahead(tmp_path, monkeypatch):
    for i in range(300):
        Image.fromarray(levels(4, 4)).save(tmp_path / f"{i}.png")
    decoded = []
    decode = listing.decode_picture
    monkeypatch.setattr(
        listing, "decode_picture", lambda *given, **how: decoded.append(1) or decode(*given, **how)
    )
    parts = image_batches(tmp_path, (1, 4, 4), [], at_once=10)
    next(parts)
    assert 10 <= len(decoded) < 10 + 8 * (2 + (os.cpu_count() or 1))
    assert sum(len(names) for names, _ in parts) == 290
    assert len(decoded) == 300, "control"


def test_pictures_fill_the_shape_as_those_did_that_were_learned_from(tmp_path):
    Image.fromarray(levels(8, 16)).save(tmp_path / "x.png")
    with pytest.warns(UserWarning, match="resized"):
        stretched, padded = (
            next(iter(list(image_batches(tmp_path, (1, 8, 8), [], fill=fill))))[1] for fill in ("stretch", "pad")
        )
    assert padded[0, 0, 0].max() == 0
    assert stretched[0, 0, 0].max() > 0, "control"


def test_large_images_are_reduced_by_means_and_small_ones_are_as_they_are():
    torch.manual_seed(0)
    small = torch.randint(256, (3, 1, 32, 20), dtype=torch.uint8)
    assert torch.equal(reduced(small), pixels(small))
    large = torch.randint(256, (70, 3, 64, 24), dtype=torch.uint8)
    by_hand = pixels(large).reshape(70, 3, 32, 2, 24).mean(3)
    torch.testing.assert_close(reduced(large), by_hand)
    assert reduced(torch.rand(2, 3, 100, 333)).shape == (2, 3, 32, 32)
