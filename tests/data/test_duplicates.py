"""Pictures that are the same: what a hash and the levels find, and what they leave apart."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from drmm.data import duplicates
from drmm.data.duplicates import groups_of, near_pairs, perceptual_hash


def scenes(n, seed=0, side=96):
    """Smooth pictures in colour, no two alike."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (n, 6, 6, 3)).astype(np.uint8)
    return [Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in coarse]


def grey(pictures):
    return np.stack([np.asarray(one.convert("L").resize((32, 32), Image.Resampling.BILINEAR)) for one in pictures])


def compressed(picture, quality):
    file = BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file)


SAME = {
    "copied": lambda picture: picture.copy(),
    "compressed": lambda picture: compressed(picture, 20),
    "smaller": lambda picture: picture.resize((40, 40)),
    "larger": lambda picture: picture.resize((300, 300)),
    "stretched": lambda picture: picture.resize((90, 40)),
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.1),
    "flatter": lambda picture: ImageEnhance.Contrast(picture).enhance(0.7),
    "grey": lambda picture: picture.convert("L"),
    "of few colours": lambda picture: picture.convert("P"),
    "softened": lambda picture: picture.filter(ImageFilter.GaussianBlur(1)),
}


@pytest.mark.parametrize("change", SAME)
def test_the_same_picture_is_found(change):
    originals = scenes(30)
    levels = grey([*originals, *map(SAME[change], originals)])
    groups = groups_of(60, near_pairs(levels))
    assert (groups[:30] == groups[30:]).mean() > 0.9
    assert len(np.unique(groups)) >= 30, "control: no two originals are one"


OTHER = {
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned": lambda picture: picture.rotate(90),
    "inverted": lambda picture: Image.eval(picture, lambda level: 255 - level),
    "half": lambda picture: picture.crop((0, 0, 48, 96)),
}


@pytest.mark.parametrize("change", OTHER)
def test_another_picture_is_not(change):
    originals = scenes(30, seed=1)
    assert not len(near_pairs(grey([*originals, *map(OTHER[change], originals)])))


def test_near_hashes_are_those_that_comparing_all_finds():
    generator = np.random.default_rng(2)
    hashes = generator.integers(0, 2**63, 200, dtype=np.uint64)
    flips = [
        sum(1 << int(b) for b in generator.choice(64, k, replace=False)) for k in range(12) for _ in range(10)
    ]
    hashes = np.unique(np.concatenate([hashes, hashes[:120] ^ np.array(flips, np.uint64)]))
    every = {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= 7
    }
    assert 60 <= len(every) < 120, "control: some are near, some are not"
    assert set(map(tuple, duplicates._near(hashes).tolist())) == every


def test_parts_do_not_change_what_is_found(monkeypatch):
    originals = scenes(20, seed=3)
    levels = grey([*originals, *map(SAME["compressed"], originals)])
    whole = near_pairs(levels)
    monkeypatch.setattr(duplicates, "_CHUNK", 7)
    monkeypatch.setattr(duplicates, "_PAIRS", 5)
    assert near_pairs(levels).tolist() == whole.tolist()
    assert len(whole) >= 18


def test_many_pictures_of_one_hash_are_compared_with_one():
    levels = grey(scenes(1, seed=4) * 500)
    assert len(near_pairs(levels)) == 499
    assert len(np.unique(groups_of(500, near_pairs(levels)))) == 1


def test_nothing_is_near_nothing():
    assert perceptual_hash(np.zeros((0, 32, 32), np.uint8)).shape == (0,)
    assert near_pairs(grey(scenes(1))).shape == (0, 2)
    assert groups_of(3).tolist() == [0, 1, 2]
