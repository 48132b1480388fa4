"""Decoded pictures in a file."""

import os

import numpy as np
import pytest
import torch

from drmm.data.store import keep_pixels, kept_pixels, taken
from drmm.errors import RunError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 5), dtype=np.uint8)
ABOUT = {"content": "abc", "shape": "pad", "images": [7, 3, 4, 5]}


def test_what_is_kept_is_found_again(tmp_path):
    assert kept_pixels(tmp_path / "pixels", ABOUT) is None
    kept = keep_pixels(tmp_path / "pixels", ABOUT, iter(IMAGES))
    found = kept_pixels(tmp_path / "pixels", ABOUT)
    assert isinstance(found, np.memmap)
    assert np.array_equal(kept, IMAGES)
    assert np.array_equal(found, IMAGES)
    assert torch.from_numpy(found[2:]).shape == (5, 3, 4, 5)


@pytest.mark.parametrize("other", [{"content": "abd"}, {"shape": "crop"}, {"images": [7, 3, 5, 4]}])
def test_what_is_of_other_pictures_is_not_found(tmp_path, other):
    keep_pixels(tmp_path, ABOUT, iter(IMAGES))
    assert kept_pixels(tmp_path, ABOUT | other) is None
    assert kept_pixels(tmp_path, ABOUT) is not None, "control"


def test_what_is_cut_damaged_or_of_fewer_images_is_not_found(tmp_path):
    keep_pixels(tmp_path, ABOUT, iter(IMAGES))
    os.truncate(tmp_path / "pixels.bin", 100)
    assert kept_pixels(tmp_path, ABOUT) is None
    assert len(keep_pixels(tmp_path / "few", ABOUT, iter(IMAGES[:5]))) == 5
    assert kept_pixels(tmp_path / "few", ABOUT) is None
    keep_pixels(tmp_path / "damaged", ABOUT, iter(IMAGES))
    (tmp_path / "damaged" / "pixels.json").write_text("no JSON")
    assert kept_pixels(tmp_path / "damaged", ABOUT) is None


def test_others_are_not_written_over(tmp_path):
    keep_pixels(tmp_path, ABOUT, iter(IMAGES))
    others = keep_pixels(tmp_path, ABOUT | {"content": "new"}, iter(IMAGES[::-1]))
    assert np.array_equal(others, IMAGES[::-1])
    assert not isinstance(others, np.memmap)
    assert np.array_equal(kept_pixels(tmp_path, ABOUT), IMAGES)
    assert not isinstance(keep_pixels(None, ABOUT, iter(IMAGES)), np.memmap)


def test_a_stop_while_it_is_written_leaves_nothing_to_find(tmp_path):
    def stopped():
        yield IMAGES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_pixels(tmp_path, ABOUT, stopped())
    assert kept_pixels(tmp_path, ABOUT) is None
    assert list(tmp_path.iterdir()) == []
    keep_pixels(tmp_path, ABOUT, iter(IMAGES))
    assert kept_pixels(tmp_path, ABOUT) is not None, "control"


def test_nothing_that_is_done_to_the_array_reaches_the_file(tmp_path):
    keep_pixels(tmp_path, ABOUT, iter(IMAGES))[...] = 0
    assert np.array_equal(kept_pixels(tmp_path, ABOUT), IMAGES)


def test_rows_of_a_mapped_array_are_mapped_too(tmp_path):
    kept = keep_pixels(tmp_path, ABOUT, iter(IMAGES))
    rows = np.array([0, 2, 6])
    some = taken(kept[1:], rows[:2])
    assert isinstance(some, np.memmap)
    assert np.array_equal(some, IMAGES[[1, 3]])
    assert np.array_equal(taken(IMAGES, rows), IMAGES[rows])
    assert np.shares_memory(taken(kept, np.arange(7)), kept)
    assert taken(kept, rows[:0]).shape == (0, 3, 4, 5)
    assert {file.name for file in tmp_path.iterdir()} == {"pixels.bin", "pixels.json"}


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        keep_pixels(tmp_path / "file", ABOUT, iter(IMAGES))
