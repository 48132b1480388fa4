"""Where the files of the public sets are: on the user's disk, or else at their official mirrors."""

__all__ = ["MIRRORS", "Cache", "Mirror", "cache_dir", "default_data_dir"]

import os
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pooch

from drmm.errors import RunError
from drmm.files import expanded
from drmm.progress import DownloadBar

_RETRIES = 2  # after a failure, a second and then two seconds later


@dataclass(frozen=True)
class Mirror:
    """Where the files of a set are published.

    Attributes:
        url: Their folder, with a slash at the end.
        md5: Checksums in hexadecimal, by file.
    """

    url: str
    md5: Mapping[str, str]


# MNIST uncompressed, for those who hold re-gzipped copies: train images 6bbc9ace898e44ae57da46a324031adb,
# train labels a25bea736e30d166cdddb491f175f624, test images 2646ac647ad5339dbf082846283269ea,
# test labels 27ae3e4e09519cfbb04c629615203637.
MIRRORS: dict[str, Mirror] = {
    "mnist": Mirror(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion-mnist": Mirror(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "svhn": Mirror(
        "http://ufldl.stanford.edu/housenumbers/",
        {
            "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
            "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
        },
    ),
    "cifar10": Mirror(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
    ),
}


def default_data_dir() -> Path:
    """The folder `$DRMM_DATA`, or else the operating system's cache folder for drmm."""
    chosen = os.environ.get("DRMM_DATA")
    return expanded(chosen) if chosen else cache_dir()


def cache_dir() -> Path:
    """The operating system's cache folder for drmm."""
    return Path(pooch.os_cache("drmm"))


@dataclass(frozen=True)
class Cache:
    """The files of one public set in the data folder.

    Attributes:
        name: Name of the set.
        root: The data folder: files are looked for in `root/name`, then in `root`.
        download: Whether to download what is missing, into `root/name`.
    """

    name: str
    root: Path
    download: bool

    @property
    def folders(self) -> tuple[Path, Path]:
        """Folders to look in, the set's own first."""
        return self.root / self.name, self.root

    def get(self, file: str, *also: str) -> Path:
        """Find a file, or download it.

        Args:
            file: Its official name.
            *also: Other names under which the same content is known.

        Returns:
            Path of the file.

        Raises:
            RunError: It is not there and cannot or may not be downloaded.
        """
        for folder in self.folders:
            for candidate in (file, *also):
                if (folder / candidate).is_file():
                    return folder / candidate
        if not self.download:
            searched = " or ".join(map(str, self.folders))
            raise RunError(f"no {file} in {searched}: put it there (see --data-dir) or download it")
        return _downloaded(MIRRORS[self.name], file, self.folders[0])


def _downloaded(mirror: Mirror, file: str, folder: Path) -> Path:
    """Pooch writes to a temporary file and moves it once its checksum is right: no partial file remains."""
    created = [one for one in (folder, *folder.parents) if not one.exists()]
    registry = {name: f"md5:{md5}" for name, md5 in mirror.md5.items()}
    files = pooch.create(folder, mirror.url, registry=registry, retry_if_failed=_RETRIES)
    try:
        with closing(DownloadBar(file)) as bar:
            return Path(files.fetch(file, downloader=pooch.HTTPDownloader(progressbar=bar)))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
        for one in created:
            with suppress(OSError):
                one.rmdir()
        reason = "wrong checksum" if isinstance(error, ValueError) else type(error).__name__
        raise RunError(
            f"cannot download {mirror.url}{file} ({reason}): put {file} into a folder and name it by --data-dir "
            f"(data_dir=), or into {folder}"
        ) from error
