import io
import time
from pathlib import Path

import numpy as np
import pytest
from picture_folders import pictures
from PIL import Image

from drmm.data import caches
from drmm.errors import InputError, RunError
from drmm.labelling import pool as module
from drmm.labelling.pool import Pool


def test_pictures_are_numbered_by_name_and_known_by_content(tmp_path):
    folder = pictures(tmp_path / "pictures", 3)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "notes.txt").write_text("no picture")
    (folder / "twice.png").symlink_to(folder / "000.png")
    pool = Pool(folder)
    assert list(map(str, pool.files)) == ["000.png", "001.png", "002.png", "broken.png"]
    early = pool.digest(1)
    assert (pool.digests[1], pool.digests[3]) == (early, "")
    assert {one.file for one in pool.skipped} == {"broken.png", "notes.txt", "twice.png"}
    assert pool.path(2) == folder / "002.png"
    for number in (-1, 4):
        with pytest.raises(InputError, match="they go from 0 to 3"):
            pool.path(number)
    with pytest.raises(RunError, match="no complete picture"):
        pool.thumbnail(3)


def test_a_picture_is_small_upright_and_not_enlarged(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    levels = np.zeros((300, 600, 3), np.uint8)
    levels[:, :300] = (255, 0, 0)  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(levels).save(folder / "a.jpg", exif=exif, quality=95)
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(folder / "b.png")
    Image.fromarray(np.zeros((1, 900), np.uint8)).save(folder / "c.png")
    pool = Pool(folder)
    with Image.open(io.BytesIO(pool.thumbnail(0))) as shown:
        assert (shown.format, shown.size) == ("JPEG", (128, 256))
        red, _, _ = shown.getpixel((64, 10))
        assert red > 200, "what was left is on top"
    with Image.open(io.BytesIO(pool.picture(0, 400))) as shown:
        assert shown.size == (200, 400)
    assert [Image.open(io.BytesIO(pool.thumbnail(i))).size for i in (1, 2)] == [(7, 5), (256, 1)]


def test_a_thumbnail_is_made_once_for_what_is_in_the_file(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "pictures", 2)
    pool = Pool(folder)
    first = pool.thumbnail(0)
    monkeypatch.setattr(module, "decode_picture", lambda *_, **__: pytest.fail("decoded again"))
    assert Pool(folder).thumbnail(0) == first
    monkeypatch.undo()
    assert pool.digests
    (folder / "000.png").write_bytes((folder / "001.png").read_bytes())
    changed = Pool(folder)
    assert changed.thumbnail(0) != first, "control: another content, another thumbnail"


def test_a_cache_that_cannot_be_kept_is_done_without(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "pictures", 1)
    monkeypatch.setattr(caches, "cache_dir", lambda: folder / "000.png" / "below a file")
    assert Pool(folder).thumbnail(0)


def test_it_is_there_before_its_pictures_have_been_looked_at(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "pictures", 3)
    real = module.indexed
    monkeypatch.setattr(module, "indexed", lambda found: time.sleep(1) or real(found))
    pool = Pool(folder)
    assert not pool.is_ready
    assert pool.thumbnail(2)
    early = pool.digest(2)
    assert not pool.is_ready, "control: it was still looking"
    assert pool.digests[2] == early


def test_what_is_no_folder_of_pictures_is_refused_in_a_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        Pool(tmp_path / "empty")
    for nothing in (tmp_path / "gone", Path(__file__)):
        with pytest.raises(RunError, match="is no folder"):
            Pool(nothing)
