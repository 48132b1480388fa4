"""CIFAR-10's binary batches, packed and unpacked."""

import io
import tarfile

import numpy as np
import pytest

from drmm.data import read_cifar10
from drmm.errors import RunError

FILES = [f"data_batch_{batch}.bin" for batch in range(1, 6)] + ["test_batch.bin"]


def batch(seed, n=3):
    records = np.random.default_rng(seed).integers(0, 256, (n, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    return records


@pytest.fixture
def folder(tmp_path):
    for seed, file in enumerate(FILES):
        (tmp_path / file).write_bytes(batch(seed).tobytes())
    return tmp_path


@pytest.fixture
def archive(folder):
    path = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for file in FILES:
            tar.add(folder / file, f"cifar-10-batches-bin/{file}")
        tar.addfile(tarfile.TarInfo("cifar-10-batches-bin/readme.html"), io.BytesIO())
    return path


def test_folder_and_archive_agree(folder, archive):
    for source in (folder, archive):
        data = read_cifar10(source)
        assert data.name == "cifar10"
        assert data.classes[0] == "airplane"
        assert data.x_train.shape == (15, 3, 32, 32)
        assert data.x_test.shape == (3, 3, 32, 32)
        assert np.array_equal(data.x_train[4].ravel(), batch(1)[1, 1:])
        assert data.y_test.tolist() == batch(5)[:, 0].tolist()
        assert data.y_train.dtype == np.int64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are not whole records"),
        (batch(0).tobytes()[:-1], "9218 bytes are not whole records of 3073"),
        (np.full(3073, 10, np.uint8).tobytes(), "holds the label 10"),
    ],
)
def test_broken_batch_is_named(folder, content, message):
    (folder / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(RunError, match=f"data_batch_3.bin: .*{message}"):
        read_cifar10(folder)


def test_missing_batch(folder):
    (folder / "test_batch.bin").unlink()
    with pytest.raises(RunError, match=r"lacks test_batch.bin"):
        read_cifar10(folder)


def test_truncated_archive(archive):
    whole = archive.read_bytes()
    for end in range(0, len(whole), len(whole) // 40):
        archive.write_bytes(whole[:end])
        with pytest.raises(RunError, match=r"cannot read .*cifar-10-binary.tar.gz"):
            read_cifar10(archive)
