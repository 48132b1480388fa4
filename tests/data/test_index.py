"""What is remembered of folders, and what that must never hide."""

import os
import shutil
import sqlite3

import numpy as np
import pytest
from PIL import Image

from drmm.data import index, load
from drmm.data.decoding import Picture
from drmm.data.index import indexed
from drmm.data.listing import listed
from drmm.errors import RunError

LONG_AGO = 1_600_000_000  # seconds since 1970: what changed just now may change again unnoticed


def picture(seed=0, shape=(40, 30)):
    rows = np.linspace(0, 255, shape[0] * shape[1]).reshape(shape)
    noise = np.random.default_rng(seed).normal(0, 40, shape)
    return Image.fromarray(np.clip(rows + noise, 0, 255).astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(tmp_path / "set" / name)
        os.utime(tmp_path / "set" / name, (LONG_AGO, LONG_AGO))
    return tmp_path / "set"


@pytest.fixture
def opened(monkeypatch):
    """Names of the pictures that are decoded from now on."""
    names = []
    decode = index.decode_picture
    monkeypatch.setattr(
        index, "decode_picture", lambda *given, **how: names.append(given[1]) or decode(*given, **how)
    )
    return names


def look(path):
    with listed(path) as found:
        return {str(member): entry for member, entry in indexed(found).items()}, found.skipped


def test_what_is_known_of_a_picture(folder):
    picture(shape=(40, 30)).convert("RGB").save(folder / "cat" / "3.jpg", exif=turned(6))
    entries, _ = look(folder)
    one, turned_one = entries["cat/1.png"], entries["cat/3.jpg"]
    assert (one.kind, one.height, one.width, one.channels, one.has_more) == ("PNG", 40, 30, 1, False)
    assert (turned_one.kind, turned_one.height, turned_one.width, turned_one.channels) == ("JPEG", 30, 40, 3)
    assert one.bytes == (folder / "cat/1.png").stat().st_size
    assert len({entry.digest for entry in entries.values()}) == 5


def turned(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def test_a_large_jpeg_is_reduced_and_keeps_its_size(folder):
    photo = picture(shape=(800, 600)).convert("RGB")
    for orientation in (1, 6):
        photo.save(folder / "cat" / f"{orientation}.jpg", exif=turned(orientation))
    entries, _ = look(folder)
    assert [(entries[f"cat/{i}.jpg"].height, entries[f"cat/{i}.jpg"].width) for i in (1, 6)] == [
        (800, 600),
        (600, 800),
    ]


def test_only_what_has_changed_is_opened(folder, opened):
    first, _ = look(folder)
    assert len(opened) == 4
    assert look(folder)[0] == first
    assert len(opened) == 4
    picture(9).save(folder / "cat" / "1.png")
    picture(8).save(folder / "cat" / "3.png")
    (folder / "dog" / "1.png").unlink()
    second, _ = look(folder)
    assert opened[4:] == ["cat/1.png", "cat/3.png"]
    assert second.keys() == {"cat/1.png", "cat/2.png", "cat/3.png", "dog/2.png"}
    assert second["cat/1.png"].digest != first["cat/1.png"].digest
    assert second["cat/2.png"] == first["cat/2.png"]


def test_a_file_that_changed_a_moment_ago_is_opened_again(folder, opened):
    """Two changes within one tick of the clock leave the same time."""
    file = folder / "cat" / "1.png"
    os.utime(file)
    before = file.stat()
    first, _ = look(folder)
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert look(folder)[0]["cat/1.png"].digest != first["cat/1.png"].digest
    assert opened.count("cat/1.png") == 2
    assert opened.count("cat/2.png") == 1, "control: one that did so long ago is not"


def test_what_could_not_be_read_is_tried_again(folder, monkeypatch):
    broken = folder / "cat" / "3.png"
    broken.write_bytes((folder / "cat" / "1.png").read_bytes()[:300])
    (folder / "dog" / "float.tif").write_bytes(b"")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(folder / "dog" / "float.tif")
    for file in (broken, folder / "dog" / "float.tif"):
        os.utime(file, (LONG_AGO, LONG_AGO))
    entries, skipped = look(folder)
    assert len(entries) == 4
    reasons = {one.file: one.reason for one in skipped}
    assert reasons["dog/float.tif"].startswith("holds floats with no set black and white")
    assert all(one.is_loss for one in skipped)
    with pytest.warns(UserWarning, match=r"cannot read picture .*, nor 1 other of 6: skipped"):
        assert len(load(folder).x_train) == 4
    monkeypatch.setattr(index, "decode_picture", lambda content, _, size: index_picture(size))
    assert look(folder)[1] == [], "a decoder that was installed since reads it"


def index_picture(size):
    return Picture(np.zeros((1, *size), np.uint8), (8, 8), has_more=False, kind="PNG")


def test_more_than_half_unreadable_stops_in_one_line(folder):
    for name in ("cat/1.png", "dog/1.png", "dog/2.png"):
        (folder / name).write_bytes(b"text")
    with pytest.raises(RunError, match=r"cannot read picture .*cat/1.png .*, nor 2 others of 4: repair"):
        load(folder)


def test_pictures_that_look_alike_have_hashes_alike(folder):
    photo = picture(1, (200, 150))
    photo.save(folder / "cat" / "1.png")
    photo.resize((75, 100)).convert("RGB").save(folder / "cat" / "2.png")
    photo.point(lambda level: level * 0.8).save(folder / "cat" / "3.jpg", quality=60)
    Image.new("L", (30, 30), 7).save(folder / "dog" / "1.png")
    Image.new("RGB", (50, 60), (9, 200, 9)).save(folder / "dog" / "2.png")
    picture(2, (200, 150)).transpose(Image.Transpose.ROTATE_180).save(folder / "dog" / "3.png")
    hashes = {name: int(entry.phash, 16) for name, entry in look(folder)[0].items()}

    def apart(one, other):
        return (hashes[one] ^ hashes[other]).bit_count()

    assert apart("cat/1.png", "cat/2.png") <= 6
    assert apart("cat/1.png", "cat/3.jpg") <= 6
    assert apart("dog/1.png", "dog/2.png") == 0, "blank ones are alike, whatever their colour"
    assert apart("cat/1.png", "dog/3.png") >= 16, "control"


def test_nothing_is_written_into_the_folder(folder):
    before = sorted(folder.rglob("*"))
    look(folder)
    assert sorted(folder.rglob("*")) == before


def test_an_index_that_is_damaged_or_cannot_be_kept_stops_nothing(folder, tmp_path, monkeypatch, opened):
    cache = tmp_path / "cache"
    monkeypatch.setattr("drmm.data.caches.cache_dir", lambda: cache)
    first, _ = look(folder)
    [file] = cache.rglob("*.sqlite")
    file.write_bytes(b"no database at all, though as long as one has to be" * 100)
    assert look(folder)[0] == first
    assert len(opened) == 8
    assert look(folder)[0] == first
    assert len(opened) == 8, "it was made anew"
    monkeypatch.setattr("drmm.data.caches.cache_dir", lambda: folder / "cat" / "1.png")
    assert look(folder)[0] == first
    assert len(opened) == 12


def test_another_process_at_work_stops_nothing(folder, tmp_path, monkeypatch, opened):
    monkeypatch.setattr("drmm.data.caches.cache_dir", lambda: tmp_path / "cache")
    look(folder)
    [file] = (tmp_path / "cache").rglob("*.sqlite")
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path: connect(path, timeout=0.01))
    other = connect(file)
    other.execute("BEGIN EXCLUSIVE")
    assert len(look(folder)[0]) == 4
    other.close()
    assert len(opened) == 8
    assert len(look(folder)[0]) == 4
    assert len(opened) == 8, "control"


def test_an_archive_is_remembered_by_its_checksums(folder, opened):
    archive = shutil.make_archive(str(folder.parent / "zipped"), "zip", folder)
    first, _ = look(folder.parent / "zipped.zip")
    assert len(opened) == 4
    picture(9).save(folder / "cat" / "1.png")
    shutil.make_archive(archive.removesuffix(".zip"), "zip", folder)
    second, _ = look(folder.parent / "zipped.zip")
    assert opened[4:] == ["cat/1.png"]
    assert second["dog/1.png"] == first["dog/1.png"]
