"""CIFAR-10 in its official binary version: the one that needs no unpickling.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009;
format: https://www.cs.toronto.edu/~kriz/cifar.html
"""

__all__ = ["CIFAR10_CLASSES", "TEST_FILE", "TRAIN_FILES", "read_cifar10"]

import tarfile
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from drmm.data.base import Dataset
from drmm.errors import RunError

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
TRAIN_FILES = tuple(f"data_batch_{batch}.bin" for batch in range(1, 6))
TEST_FILE = "test_batch.bin"

_IMAGE_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the red, green and blue planes


def read_cifar10(source: Path) -> Dataset:
    """Read the six batches.

    Args:
        source: `cifar-10-binary.tar.gz`, or a folder that holds `data_batch_1.bin` to `_5` and
            `test_batch.bin`.

    Returns:
        The data set, images in the order of the files.

    Raises:
        RunError: A batch is missing, truncated or not in this format.
    """
    contents = _from_folder(source) if source.is_dir() else _from_tar(source)
    missing = [file for file in (*TRAIN_FILES, TEST_FILE) if file not in contents]
    if missing:
        raise _broken(source, f"it lacks {missing[0]} (of the binary version; the Python one is pickled)")
    batches = [_batch(contents[file], source / file) for file in TRAIN_FILES]
    x_test, y_test = _batch(contents[TEST_FILE], source / TEST_FILE)
    x_train, y_train = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return Dataset("cifar10", x_train, y_train, x_test, y_test, CIFAR10_CLASSES)


def _batch(content: bytes, name: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    if not content or len(content) % _RECORD:
        raise _broken(name, f"its {len(content)} bytes are not whole records of {_RECORD}")
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CIFAR10_CLASSES):
        raise _broken(name, f"it holds the label {labels.max()}, above 9")
    return records[:, 1:].reshape(-1, *_IMAGE_SHAPE).copy(), labels


def _from_folder(folder: Path) -> dict[str, bytes]:
    try:
        return {file.name: file.read_bytes() for file in folder.glob("*.bin")}
    except OSError as error:
        raise _broken(folder, str(error)) from error


def _from_tar(archive: Path) -> dict[str, bytes]:
    """The batches by name, read in memory: no path out of the archive ever touches the disk."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.name.endswith(".bin") else None
                if stream is not None:
                    contents[PurePosixPath(member.name).name] = stream.read()
            while tar.fileobj is not None and tar.fileobj.read(1 << 20):
                pass  # gzip checks its checksum only at its end, beyond the last member
    except Exception as error:  # tar, gzip, zlib and end-of-file errors share no base class
        raise _broken(archive, f"not a complete tar archive ({type(error).__name__})") from error
    return contents


def _broken(path: Path, reason: str) -> RunError:
    return RunError(f"cannot read {path}: {reason}; download the file again or replace it")
