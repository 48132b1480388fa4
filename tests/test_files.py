"""Files: whole or not at all, with the modes that the user's system says."""

import os
import stat
from pathlib import Path

import pytest

from drmm.files import new_folder, replacing, write_bytes


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_files_and_folders_have_the_modes_of_the_umask(tmp_path, umask):
    write_bytes(tmp_path / "runs" / "a.json", b"{}")
    with new_folder(tmp_path / "made") as folder:
        write_bytes(folder / "b.json", b"{}")
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert mode(tmp_path / "runs" / "a.json") == mode(tmp_path / "made" / "b.json") == mode(plain)
    assert mode(plain) == 0o666 & ~umask
    assert mode(tmp_path / "made") == mode(tmp_path / "runs") == 0o777 & ~umask


@pytest.mark.parametrize("own", [0o600, 0o644, 0o640, 0o755, 0o444])
def test_what_is_replaced_keeps_its_mode(tmp_path, own):
    path, folder = tmp_path / "a", tmp_path / "folder"
    path.write_bytes(b"old")
    folder.mkdir()
    path.chmod(own)
    folder.chmod(own | 0o700)
    write_bytes(path, b"new")
    with new_folder(folder) as temporary:
        (temporary / "b").touch()
    assert (path.read_bytes(), mode(path)) == (b"new", own)
    assert (mode(folder), [file.name for file in folder.iterdir()]) == (own | 0o700, ["b"])


def test_nothing_is_left_of_what_fails(tmp_path):
    write_bytes(tmp_path / "a", b"old")

    def fail(opened):
        with opened as temporary:
            (temporary / "b" if temporary.is_dir() else temporary).write_bytes(b"half")
            raise KeyboardInterrupt

    for opened in (replacing(tmp_path / "a"), new_folder(tmp_path / "c")):
        with pytest.raises(KeyboardInterrupt):
            fail(opened)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"
