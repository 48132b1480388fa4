"""Every file of a folder or zip archive: a picture, or skipped with a reason."""

__all__ = ["File", "Listing", "check_losses", "is_hidden", "listed", "nfc"]

import os
import stat
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any, NamedTuple

from drmm.data.base import Skipped
from drmm.data.decoding import Picture, UnreadableError, decode_picture
from drmm.data.formats import is_picture
from drmm.data.parallel import ahead
from drmm.errors import RunError
from drmm.files import JOURNAL, RUN

_OF_SYSTEMS = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini"}


class File(NamedTuple):
    """What a path leads to.

    Attributes:
        real: where it is, so that two paths to one file are known.
        bytes: how many it has.
        changed: when, in ns since 1970; within an archive, the checksum.
    """

    real: str
    bytes: int = 0
    changed: int = 0


@dataclass(frozen=True)
class Listing:
    """What a folder or archive holds; what turns out not to be readable moves to `skipped`.

    Attributes:
        root: the folder or archive.
        pictures: by relative path what is a picture, or means to be, in the order of their names.
        folders: relative paths of the folders, but for those that systems hide.
        skipped: everything else.
        opener: opens a file by its relative path.
        top: of an archive, the folder in it that everything lies in.
    """

    root: Path
    pictures: dict[PurePosixPath, File]
    folders: list[PurePosixPath]
    skipped: list[Skipped]
    opener: Callable[[PurePosixPath], IO[bytes]]
    top: PurePosixPath = field(default_factory=PurePosixPath)

    @property
    def is_sorted(self) -> bool:
        """Whether it was made by `drmm sort`."""
        return any(PurePosixPath(one.file).is_relative_to(self.top / JOURNAL) for one in self.skipped)

    def skip(self, member: PurePosixPath, reason: str, *, is_loss: bool = False) -> None:
        """Do not count a picture, for a reason."""
        del self.pictures[member]
        self.skipped.append(Skipped(str(member), reason, is_loss))

    def read_once(self, kept: Callable[[list[PurePosixPath]], PurePosixPath] = itemgetter(0)) -> None:
        """Count a file that links lead to once.

        Args:
            kept: by which of the several paths to it; the first by default.
        """
        paths: dict[str, list[PurePosixPath]] = {}
        for member, file in self.pictures.items():
            paths.setdefault(file.real, []).append(member)
        for same in paths.values():
            one = kept(same) if len(same) > 1 else same[0]
            for member in same:
                if member != one:
                    self.skip(member, f"read already (as {one})")

    def decoded(self, members: Sequence[PurePosixPath], **options: Any) -> Iterator[tuple[PurePosixPath, Picture]]:
        """Some of the pictures in order, decoded ahead by threads; what cannot be read is skipped as a loss.

        Args:
            members: which.
            options: as of `drmm.data.decoding.decode_picture`.
        """

        def decode(member: PurePosixPath) -> Picture | UnreadableError:
            try:
                return decode_picture(self.read(member), f"{self.root / member}", **options)
            except UnreadableError as error:
                return error

        for member, picture in zip(members, ahead(decode, members), strict=True):
            if isinstance(picture, UnreadableError):
                self.skip(member, picture.reason, is_loss=True)
            else:
                yield member, picture

    def read(self, member: PurePosixPath) -> bytes:
        """The bytes of a file.

        Raises:
            UnreadableError: if there are none to be had.
        """
        name = f"{self.root / member}"
        try:
            with self.opener(member) as file:
                return file.read()
        except OSError as error:
            raise UnreadableError(name, error.strerror or str(error)) from error
        except Exception as error:  # zipfile adds zlib.error, RuntimeError, NotImplementedError to its own
            raise UnreadableError(name, f"does not unpack ({error})") from error


def check_losses(skipped: Sequence[Skipped], n_read: int, root: PurePath) -> None:
    """Warn of pictures that could not be read.

    Args:
        skipped: all that was skipped.
        n_read: how many could be read.
        root: what the names of files are relative to.

    Raises:
        RunError: if more than half could not.
    """
    lost = [one for one in skipped if one.is_loss]
    if not lost:
        return
    first = f"{root / lost[0].file} ({lost[0].reason})"
    others = f"{len(lost) - 1} other{'s' * (len(lost) > 2)}"
    more = f", nor {others} of {n_read + len(lost)}" if len(lost) > 1 else ""
    if len(lost) > n_read:
        raise RunError(f"cannot read picture {first}{more}: repair, replace or remove it")
    warnings.warn(f"cannot read picture {first}{more}: skipped", UserWarning, stacklevel=3)


def nfc(name: str) -> str:
    """A name as it is compared: letters with accents have two spellings that look alike."""
    return unicodedata.normalize("NFC", name)


@contextmanager
def listed(path: Path) -> Iterator[Listing]:
    """What a folder or zip archive holds, or one file alone.

    Raises:
        RunError: if there is nothing, or it is a broken archive.
    """
    if path.is_dir():
        yield _listing(path, _walk(path), partial(_opened, path))
    elif not path.is_file():
        raise RunError(f"no file or folder {path}: check the path")
    elif path.suffix.lower() != ".zip":
        member = PurePosixPath(path.name)
        yield Listing(path.parent, {member: File(str(path))}, [], [], lambda _: path.open("rb"))
    else:
        try:
            archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise RunError(f"cannot read {path}: not a folder or complete zip archive ({error})") from error
        with archive:
            infos = {PurePosixPath(one.filename.replace("\\", "/").lstrip("/")): one for one in archive.infolist()}
            found = (
                _Found(member, File(one.filename, one.file_size, one.CRC), is_folder=one.filename.endswith("/"))
                for member, one in infos.items()
            )
            yield _unwrapped(_listing(path, found, lambda member: archive.open(infos[member])))


class _Found(NamedTuple):
    """A file or folder, and what it leads to; or why it is skipped."""

    path: PurePosixPath
    file: File
    is_folder: bool = False
    reason: str = ""
    is_loss: bool = False


def _listing(root: Path, found: Iterable[_Found], opener: Callable[[PurePosixPath], IO[bytes]]) -> Listing:
    listing = Listing(root, {}, [], [], opener)
    ordered = sorted(found, key=lambda one: nfc(str(one.path)).replace("/", "\0"))  # part by part
    own = RUN if any(one.path.parts[:1] == (JOURNAL,) for one in ordered) else None
    for one in ordered:
        reason = one.reason
        if any(map(is_hidden, one.path.parts)):
            reason = "hidden"
        elif own in one.path.parts[:1]:
            reason = "made by drmm sort"
        elif one.is_folder:
            listing.folders.append(one.path)
        elif not reason and is_picture(one.path, partial(opener, one.path)):
            listing.pictures[one.path] = one.file
        elif not reason:
            reason = f"not a picture ({one.path.suffix.lower() or 'no suffix'})"
        if reason:
            is_loss = one.is_loss and reason == one.reason
            listing.skipped.append(Skipped(f"{one.path}{'/' * one.is_folder}", reason, is_loss))
    return listing


def _opened(root: Path, member: PurePosixPath) -> IO[bytes]:
    return (root / member).open("rb")  # by a function that another process knows, too


def is_hidden(name: str) -> bool:
    """Whether a system hides a file or folder of that name."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def _unwrapped(listing: Listing) -> Listing:
    """Zipping a folder often wraps it: my-set.zip holds my-set/cat/1.png."""
    tops = {member.parts[0] for member in listing.pictures}
    if len(tops) != 1 or any(len(member.parts) < 3 for member in listing.pictures):
        return listing
    top = tops.pop()
    return replace(
        listing,
        pictures={member.relative_to(top): file for member, file in listing.pictures.items()},
        folders=[folder.relative_to(top) for folder in listing.folders if folder.parts[0] == top],
        opener=lambda member: listing.opener(top / member),
        top=PurePosixPath(top),
    )


@dataclass(frozen=True)
class _Folder:
    """One that is to be searched.

    Attributes:
        path: relative to the root.
        real: where it is.
        above: where those were from which links led here.
    """

    path: PurePosixPath
    real: Path
    above: tuple[Path, ...] = ()

    def is_within(self, real: Path) -> bool:
        """Whether a link to there would lead back."""
        return any(folder.is_relative_to(real) for folder in (self.real, *self.above))


def _walk(root: Path) -> Iterator[_Found]:
    """Every file and folder; links are followed, but never in a circle."""
    pending = [_Folder(PurePosixPath(), root.resolve())]
    seen = set()  # folders by class and part: links among many folders would make paths without number
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(root / folder.path) as entries:
                found = [(_found(entry, folder), entry.is_symlink()) for entry in entries]
        except OSError as error:
            reason = f"cannot be opened ({error.strerror})"
            yield _Found(folder.path, File(""), is_folder=True, reason=reason, is_loss=True)
            continue
        for one, is_link in found:
            reason = ""
            if one.is_folder and not is_hidden(one.path.name):
                part, real = one.path.parts[:2], Path(one.file.real)
                if is_link and (folder.is_within(real) or (part, real) in seen):
                    reason = "a link to a folder that is read already"
                else:
                    seen.add((part, real))
                    pending.append(
                        _Folder(one.path, real, (*folder.above, folder.real) if is_link else folder.above)
                    )
            yield one._replace(reason=reason) if reason else one


def _found(entry: os.DirEntry[str], folder: _Folder) -> _Found:
    """A file or folder as the system has it."""
    path, is_link = folder.path / entry.name, entry.is_symlink()
    try:
        facts = entry.stat()
    except OSError:
        reason = "a broken link" if is_link else "no file that can be read"
        return _Found(path, File(""), reason=reason, is_loss=True)
    real = os.path.realpath(entry.path) if is_link else f"{folder.real}{os.sep}{entry.name}"
    is_folder = stat.S_ISDIR(facts.st_mode)
    reason = "" if is_folder or stat.S_ISREG(facts.st_mode) else "no file that can be read"
    return _Found(path, File(real, facts.st_size, facts.st_mtime_ns), is_folder, reason)
