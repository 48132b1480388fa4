"""At which size pictures are learned from."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from drmm.data.decoding import decode_picture
from drmm.data.sizes import working_size


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([(28, 28)] * 3, (28, 28)),
        ([(20, 30)], (20, 30)),
        ([(64, 64)] * 2, (64, 64)),
        ([(96, 96)] * 2, (64, 64)),
        ([(3000, 4000)] * 24, (64, 64)),
        ([(48, 64)] * 2, (48, 64)),
        ([(32, 32), (32, 33)], (32, 32)),
        ([(40, 90), (30, 50), (500, 600)], (40, 40)),
        ([(3, 9), (5, 2)], (8, 8)),
        ([(1, 1)], (1, 1)),
        ([(32, 32)] * 9 + [(4000, 3000)], (32, 32)),
    ],
)
def test_the_rule(sizes, chosen):
    assert working_size(sizes) == chosen


def test_what_fills_the_size():
    """A white square in a wide grey picture."""
    levels = np.full((40, 80), 100, np.uint8)
    levels[:, 20:60] = 255
    Image.fromarray(levels).save(file := BytesIO(), "PNG")

    def filled(shape):
        return decode_picture(file.getvalue(), "x", size=(20, 20), shape=shape).levels[0]

    assert filled("crop").min() > 200
    assert filled("pad")[0].max() == 0
    assert filled("pad")[10, 0] == 100
    assert filled("stretch")[0, 0] == 100
    assert filled("stretch")[0, 10] == 255


@pytest.mark.parametrize("shape", ["stretch", "pad", "crop"])
def test_a_large_jpeg_is_reduced_while_it_is_decoded(tmp_path, monkeypatch, shape):
    rows, columns = np.mgrid[0:1200, 0:900]
    photo = Image.fromarray(np.uint8(127 + 60 * np.sin(rows / 90) + 60 * np.cos(columns / 70))).convert("RGB")
    photo.save(tmp_path / "x.jpg", quality=95)
    photo.save(tmp_path / "x.png")
    drafts = []
    real = JpegImagePlugin.JpegImageFile.draft
    monkeypatch.setattr(
        JpegImagePlugin.JpegImageFile, "draft", lambda *given: drafts.append(real(*given)) or drafts[-1]
    )
    reduced, whole = (
        decode_picture(tmp_path / name, name, size=(32, 48), shape=shape) for name in ("x.jpg", "x.png")
    )
    assert all(drafts)
    assert len(drafts) == 1
    assert reduced.size == whole.size == (1200, 900)
    assert np.abs(reduced.levels.astype(int) - whole.levels).mean() < 4
