"""What holds pictures, cut anywhere: all of it, in order, once."""

import shutil
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from holders import table_of, write_arrow, write_parquet, write_pictures, write_tar
from pyarrow import parquet

from drmm.data.decoding import UnreadableError
from drmm.errors import InputError, RunError
from drmm.predicting import sources
from drmm.predicting.rows import Rows
from drmm.predicting.sources import Source
from drmm.runs.run import Run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = write_pictures(tmp_path_factory.mktemp("photos"), 11)
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def halves(photos: dict[str, bytes]) -> list[dict[str, bytes]]:
    items = list(photos.items())
    return [dict(items[:4]), dict(items[4:])]


def folder(tmp_path, photos):
    for name, content in photos.items():
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
    (tmp_path / "set" / "notes.txt").write_text("no picture")
    return [tmp_path / "set"], [f"{tmp_path}/set/{name}" for name in photos]


def a_list(tmp_path, photos):
    folder(tmp_path, photos)
    names = [f"set/{name}" for name in photos]
    (tmp_path / "list.txt").write_bytes("\ufeff".encode() + "\r\n\n".join(names).encode())
    return [tmp_path / "list.txt"], names


def tars(tmp_path, photos):
    paths = [write_tar(tmp_path / "tars" / f"{i}.tar", half) for i, half in enumerate(halves(photos))]
    return paths, [f"{path}/{name}" for path, half in zip(paths, halves(photos), strict=True) for name in half]


def folder_of_tars(tmp_path, photos):
    return [tmp_path / "tars"], tars(tmp_path, photos)[1]


def pattern_of_tars(tmp_path, photos):
    return [tmp_path / "tars" / "?.tar"], tars(tmp_path, photos)[1]


def data_set(tmp_path, photos):
    first, last = halves(photos)
    paths = [tmp_path / "set" / "train" / f"{i}.parquet" for i in range(2)]
    write_parquet(paths[0], first, as_struct=False)
    write_parquet(paths[1], last, column="img")
    (tmp_path / "set" / "README.md").write_text("about")
    return [tmp_path / "set"], [f"{paths[0]}[{i}]" for i in range(4)] + [f"{paths[1]}[{i}]" for i in range(7)]


def saved_to_disk(tmp_path, photos):
    first, last = halves(photos)
    paths = [tmp_path / "set" / f"data-0000{i}-of-00002.arrow" for i in range(2)]
    write_arrow(paths[0], first)
    write_arrow(paths[1], last, is_stream=False)
    write_arrow(tmp_path / "set" / "cache-0123.arrow", photos)
    return [tmp_path / "set"], [f"{paths[0]}[{i}]" for i in range(4)] + [f"{paths[1]}[{i}]" for i in range(7)]


def all_kinds(tmp_path, photos):
    kinds = [a_list(tmp_path / "a", photos), tars(tmp_path / "b", photos), data_set(tmp_path / "c", photos)]
    return [path for paths, _ in kinds for path in paths], [name for _, names in kinds for name in names]


def read(paths, n=1):
    source = Source.of(paths)
    return [pair for number in range(1, n + 1) for pair in source.shard(number, n).read()]


def bytes_of(picture):
    return picture["bytes"] if isinstance(picture, dict) else getattr(picture, "read_bytes", lambda: picture)()


@pytest.mark.parametrize(
    "make",
    [folder, a_list, tars, folder_of_tars, pattern_of_tars, data_set, saved_to_disk, all_kinds],
)
def test_shards_are_all_of_a_source_in_order(make, photos, tmp_path) -> None:
    for made in "abc":
        (tmp_path / made).mkdir()
    paths, names = make(tmp_path, photos)
    whole = read(paths)
    assert [name for name, _ in whole] == names
    times = len(names) // len(photos)
    assert [bytes_of(picture) for _, picture in whole] == list(photos.values()) * times
    for n in (2, 3, 7, 40):
        assert read(paths, n) == whole
        sizes = [len(list(Source.of(paths).shard(number, n).read())) for number in range(1, n + 1)]
        assert times > 1 or max(sizes) <= len(whole) / n + 2, "places of different kinds are of different length"


def test_the_pictures_of_a_tar(tmp_path, photos) -> None:
    first = photos["00.png"]
    path = write_tar(
        tmp_path / "BM.tar",
        {
            "BMW.png": first,
            "0.cls": b"3",
            "a/._b.png": b"x",
            ".c.png": first,
            f"{'d/' * 90}é.png": first,
            "e": first,
        },
    )
    with tarfile.open(path, "a") as archive:
        for name, kind in (("f.png", tarfile.LNKTYPE), ("g.png", tarfile.SYMTYPE), ("h", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "BMW.png"
            archive.addfile(info)
    found = dict(read([tmp_path], 5))
    assert [name.removeprefix(f"{path}/") for name in found] == [
        "BMW.png", f"{'d/' * 90}é.png", "e", "f.png", "g.png",
    ]  # fmt: skip
    assert isinstance(found[f"{path}/f.png"], UnreadableError), "it is a row, as no picture is lost in silence"
    write_tar(tmp_path / "gnu.tar", {f"{'x' * 150}.png": first}, tarfile.GNU_FORMAT)
    assert len(read([tmp_path / "gnu.tar"], 9)) == 1


@pytest.mark.parametrize(
    "spoil", ["cut", "cut in a header", "no end", "two in one", "empty", "text", "compressed"]
)
def test_a_damaged_tar_is_one_line(spoil, tmp_path, photos) -> None:
    path = write_tar(tmp_path / "a.tar", photos)
    assert len(read([path])) == 11, "control"
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    end = last.offset + 512 + -(-last.size // 512) * 512
    path.write_bytes(
        {
            "cut": whole[: last.offset + 600],
            "cut in a header": whole[: last.offset + 100],
            "no end": whole[:end],
            "two in one": whole + whole,
            "empty": b"",
            "text": b"no tar at all",
            "compressed": b"\x1f\x8b" + whole[2:],
        }[spoil]
    )
    with pytest.raises(RunError, match=r"a\.tar .*copy it again") as told:
        read([path], 3)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_damaged_data_set_is_one_line(name, share, tmp_path, photos) -> None:
    path = tmp_path / name
    if path.suffix == ".parquet":
        write_parquet(path, photos)
    else:
        write_arrow(path, photos, is_stream=path.suffix == ".arrow")
    assert len(read([path])) == 11, "control"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises((RunError, InputError), match=rf"{name}.*copy it again|no images found") as told:
        read([path], 2)
    assert "\n" not in str(told.value)


def test_the_column_of_pictures(tmp_path, photos) -> None:
    several = table_of(photos, "left").append_column("right", pa.array(list(photos.values())))
    parquet.write_table(several, tmp_path / "several.parquet")
    with pytest.raises(
        InputError, match=r"several columns of bytes \(left, right\): call that of the pictures image"
    ):
        read([tmp_path / "several.parquet"])
    parquet.write_table(several.rename_columns(["image", "n", "mask"]), tmp_path / "several.parquet")
    assert [bytes_of(picture) for _, picture in read([tmp_path / "several.parquet"])] == list(photos.values())
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "none.parquet")
    with pytest.raises(InputError, match=r"none\.parquet has no column of bytes"):
        read([tmp_path / "none.parquet"])
    parquet.write_table(pa.table({"image": pa.array([None, b"x"])}), tmp_path / "null.parquet")
    assert [picture for _, picture in read([tmp_path / "null.parquet"])] == [None, b"x"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.npy", b"", "cannot be read from any place"),
        ("a.zip", b"", "cannot be read from any place"),
        ("a.tar.gz", b"", "cannot be read from any place"),
        ("a.csv", b"file,label", "is no source of pictures: name a folder"),
        ("a.txt", b"\0\1\2", "is no list of paths"),
        ("a.txt", b"\n\n", "no images found: name a folder"),
        ("empty/a.txt", b"x.png", r"no images found \(1 skipped: 1 x not a picture \(.txt\)\)"),
        ("other.txt", b"", r"no file or folder .*a\.txt: check the path"),
    ],
)
def test_what_is_no_source(name, content, says, tmp_path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    given = {"empty/a.txt": path.parent, "other.txt": tmp_path / "a.txt"}.get(name, path)
    with pytest.raises((InputError, RunError), match=says):
        Source.of([given])


def test_a_list_is_read_once_to_know_it(tmp_path, photos, monkeypatch) -> None:
    paths, names = a_list(tmp_path, photos)
    lines, read_through = sources._lines, []
    monkeypatch.setattr(sources, "_lines", lambda path: read_through.append(path) or lines(path))
    source = Source.of(paths)
    assert len(read_through) == 1
    assert source.shard(1, 1).n == len(names)
    assert len(list(source.shard(1, 1).read())) == len(names)
    assert len(read_through) == 2, "control"


def test_patterns_and_pictures(tmp_path, photos) -> None:
    folder(tmp_path, photos)
    with pytest.raises(RunError, match="no file or folder"):
        Source.of([tmp_path / "*.tar"])
    odd = shutil.copy(tmp_path / "set" / "00.png", tmp_path / "[1].png")
    for given in (odd, tmp_path / "set" / "00.png"):
        assert [name for name, _ in read([Path(given)])] == [str(given)]
    assert len(read([tmp_path / "set" / "0*.png"])) == 10


def test_a_missing_file_of_a_list_stays_a_row(tmp_path, photos) -> None:
    [path], names = a_list(tmp_path, photos)
    (tmp_path / names[3]).unlink()
    assert [name for name, _ in read([path], 3)] == names


def test_pictures_beside_what_holds_others_are_refused(tmp_path, photos) -> None:
    [path], names = folder(tmp_path, photos)
    write_tar(path / "sub" / "more.tar", photos)
    with pytest.raises(
        InputError, match=r"holds pictures and .*more\.tar: name what you mean, as in '.*/\*\.png'"
    ):
        Source.of([path])
    assert [name for name, _ in read([path / "*.png"])] == names
    assert len(read([path / "sub"])) == 11
    source = Source.of([path], but=path / "sub")
    assert [name for name, _ in source.shard(1, 1).read()] == names
    assert {one.reason for one in source.skipped} == {"not a picture (.tar)", "not a picture (.txt)"}


@pytest.mark.parametrize("make", [folder, a_list, tars, data_set])
def test_what_changes_is_seen(make, tmp_path, photos) -> None:
    paths, _ = make(tmp_path, photos)
    first, last = (Source.of(paths).shard(number, 2) for number in (1, 2))
    before = [first.digest, last.digest]
    assert [Source.of(paths).shard(number, 2).digest for number in (1, 2)] == before, "control"
    piece, *ends = first._spans[0]
    file = next(iter(piece.files(*ends)))
    file.write_bytes(file.read_bytes() + bytes(512))
    assert first.digest != before[0]
    assert last.digest == before[1], "another shard does not read that file"


def test_what_is_added_or_called_otherwise_is_seen(tmp_path, photos) -> None:
    paths, _ = folder(tmp_path, photos)
    before = Source.of(paths).digest
    (paths[0] / "more.txt").write_text("no picture")
    assert Source.of(paths).digest == before, "control"
    (paths[0] / "00.png").rename(paths[0] / "0.png")
    assert Source.of(paths).digest != before
    paths, _ = tars(tmp_path, photos)
    before = Source.of(paths).digest
    write_tar(paths[1], photos)
    assert Source.of(paths).digest != before


def test_little_is_read_ahead(run) -> None:
    drawn = []

    def endless():
        while True:
            drawn.append(None)
            yield "x", np.zeros((12, 12, 3), np.uint8)

    decoded = Rows(Run.open(run)).decoded(endless())
    for _ in range(3):
        next(decoded)
    assert len(drawn) < 1000
    decoded.close()


def test_a_tar_keeps_nothing_that_was_read(tmp_path, photos, monkeypatch) -> None:
    path = write_tar(tmp_path / "a.tar", photos)
    kept = []
    first = tarfile.TarFile.next
    monkeypatch.setattr(tarfile.TarFile, "next", lambda self: (kept.append(len(self.members)), first(self))[1])
    read([path])
    assert max(kept) <= 1
    kept.clear()
    with tarfile.open(fileobj=BytesIO(path.read_bytes())) as archive:
        list(archive)
    assert max(kept) > 5, "control"
