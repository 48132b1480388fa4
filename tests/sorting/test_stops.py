"""Stopped at any moment and started again, sorting and taking back end in the same state, and nothing is lost."""

import errno
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from folders import chosen, fill, pictures, tree

from drmm.sorting import apply
from drmm.sorting.apply import sort_files
from drmm.sorting.undo import undo

CHANGES = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "shutil.copyfile"}


class Killed(BaseException):
    """The process is dead: nothing that it still tries has an effect."""


class _Kill:
    """Raises at one of the calls that change the disk, and at all after it, as nothing follows a real kill."""

    def __init__(self) -> None:
        self.left: float = float("inf")
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if self.left < float("inf") and (event in CHANGES or writes):
            self.left -= 1
            if self.left < 0:
                raise Killed


KILL = _Kill()


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # slow, and of no use unless the machine stops


@contextmanager
def killed_after(changes: int) -> Iterator[None]:
    KILL.left = changes
    try:
        yield
    finally:
        KILL.left = float("inf")


def stopped_everywhere(start: Path, work: Path, action: Callable[[], object], end: dict[str, object]) -> int:
    """Stop an action at each of its changes, look whether all is there still, start it again, and look at the end.

    Args:
        start: a folder, of which each try gets a copy.
        work: that copy.
        action: what is done to it.
        end: the copy's `tree` in the end.

    Returns:
        How many moments there were.
    """
    for moment in count():
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(start, work, symlinks=True)
        whole = everything(work)
        try:
            with killed_after(moment):
                action()
        except Killed:
            assert everything(work) == whole
            action()
            assert tree(work) == end
        else:
            return moment
    raise AssertionError


@pytest.fixture(params=["a disk", "two disks", "no hard links"])
def _disks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that fail as they do on such disks; `_Kill` counts those that succeed."""
    link, rename = os.link, os.rename

    def between(call: Callable[..., None]) -> Callable[..., None]:
        def called(a: Path, b: Path) -> None:
            if ("photos" in Path(a).parts) != ("photos" in Path(b).parts):
                raise OSError(errno.EXDEV, "two disks")
            call(a, b)

        return called

    def unknown(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    if request.param == "two disks":
        monkeypatch.setattr(os, "link", between(link))
        monkeypatch.setattr(os, "rename", between(rename))
    elif request.param == "no hard links":
        monkeypatch.setattr(os, "link", unknown)


def start(folder: Path) -> Path:
    photos = fill(folder / "photos", 4)
    outside = folder / "outside.png"
    outside.write_bytes(b"elsewhere")
    (photos / "a" / "link.png").symlink_to("../../outside.png")
    return folder


def everything(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in folder.rglob("*.png")}


@pytest.mark.parametrize("how", ["copy", "link", "move"])
@pytest.mark.usefixtures("_disks")
def test_sorting_ends_in_the_same_state(how: str, tmp_path: Path) -> None:
    folder, work = start(tmp_path / "start"), tmp_path / "work"

    def sort() -> None:
        sort_files(chosen(work / "photos"), work / "sorted", how)

    shutil.copytree(folder, work, symlinks=True)
    sort()
    assert len(pictures(work / "sorted")) == 5
    assert stopped_everywhere(folder, work, sort, tree(work)) > 25


@pytest.mark.parametrize("how", ["copy", "link", "move"])
@pytest.mark.usefixtures("_disks")
def test_taking_back_ends_where_it_began(how: str, tmp_path: Path) -> None:
    folder, work, sorted_one = start(tmp_path / "start"), tmp_path / "work", tmp_path / "sorted one"
    shutil.copytree(folder, work, symlinks=True)
    sort_files(chosen(work / "photos"), work / "sorted", how)
    work.rename(sorted_one)

    def take_back() -> None:
        if (work / "sorted").exists():
            undo(work / "sorted")

    assert stopped_everywhere(sorted_one, work, take_back, tree(folder)) > 10


@pytest.mark.parametrize("how", ["copy", "move"])
def test_so_do_new_pictures_later(how: str, tmp_path: Path) -> None:
    folder, work, later = start(tmp_path / "start"), tmp_path / "work", tmp_path / "later"
    before = everything(folder)
    shutil.copytree(folder, work, symlinks=True)
    sort_files(chosen(work / "photos"), work / "sorted", "move")
    for name in ("a/0.png", "c/0.png"):
        (work / "photos" / name).parent.mkdir(exist_ok=True)
        (work / "photos" / name).write_bytes(f"new {name}".encode())
    work.rename(later)
    ends = []
    for action in (
        lambda: sort_files(chosen(work / "photos"), work / "sorted", how),
        lambda: undo(work / "sorted") if (work / "sorted").exists() else None,
    ):
        shutil.copytree(later, work, symlinks=True)
        action()
        ends.append(tree(work))
        assert stopped_everywhere(later, work, action, ends[-1]) > 10
        shutil.rmtree(later)
        work.rename(later)
    # The new one is where the old one was, which therefore stays among the sorted ones.
    assert everything(later) == before | {b"new a/0.png", b"new c/0.png"}
    assert ends[0] != ends[1], "control"


def test_control_the_state_between_is_another_one(tmp_path: Path) -> None:
    folder = start(tmp_path / "start")
    before = tree(folder)
    with pytest.raises(Killed), killed_after(12):
        sort_files(chosen(folder / "photos"), folder / "sorted", "move")
    between = tree(folder)
    sort_files(chosen(folder / "photos"), folder / "sorted", "move")
    assert len({str(before), str(between), str(tree(folder))}) == 3


def test_control_a_move_that_removes_first_loses_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, work = start(tmp_path / "start"), tmp_path / "work"

    def careless(source: Path, target: Path, *_: object) -> bool:
        content, stat = source.read_bytes(), source.stat()
        source.unlink()
        target.write_bytes(content)
        target.chmod(stat.st_mode)
        os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        return True

    def sort() -> None:
        sort_files(chosen(work / "photos"), work / "sorted", "move")

    shutil.copytree(folder, work, symlinks=True)
    sort()
    end = tree(work)
    monkeypatch.setattr(apply, "move", careless)
    with pytest.raises(AssertionError, match="Extra items in the right set"):
        stopped_everywhere(folder, work, sort, end)


MOVES = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from folders import chosen
from drmm.sorting.apply import sort_files

assert "torch" not in sys.modules and "matplotlib" not in sys.modules
work = Path(sys.argv[2])
for line in sys.stdin:
    child = os.fork()
    if not child:
        sort_files(chosen(work / "photos"), work / "sorted", "move")
        os._exit(0)
    ended = time.monotonic() + float(line)
    while time.monotonic() < ended and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG):
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)  # nobody else has its number before it is waited for
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a light child is a fork")
def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    """SIGKILL at 200 random moments of moving 300 files; each time it is started again where it was."""
    draw = random.Random(0)
    work = tmp_path / "work"
    fill(work / "photos", 300)
    whole = everything(work)
    command = [sys.executable, "-W", "error", "-c", MOVES, str(Path(__file__).parent), str(work)]
    kills, landed = 200, 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forks:
        assert forks.stdin is not None
        assert forks.stdout is not None
        for kill in range(kills + 1):
            print(draw.uniform(0, 0.06) if kill < kills else 600, file=forks.stdin, flush=True)
            status = int(forks.stdout.readline())
            landed += os.WIFSIGNALED(status)
            if status == 0 and kill < kills:  # it was done: move all back by hand for the next
                assert everything(work) == whole
                undo(work / "sorted")
        forks.stdin.close()
    assert landed > kills / 4
    assert everything(work) == whole
    assert len(pictures(work / "sorted")) == 300
    assert pictures(work / "photos") == {}
