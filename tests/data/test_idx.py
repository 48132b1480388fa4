"""IDX files: what is written comes back, and what is broken never does."""

import gzip
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drmm.data import read_idx, read_idx_pair
from drmm.errors import RunError

ARRAYS = hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=5))


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def file():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "x-idx3-ubyte.gz"


@given(array=ARRAYS, zipped=st.booleans())
def test_round_trip(file, array, zipped):
    file.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    back = read_idx(file)
    assert back.dtype == np.uint8
    assert back.shape == array.shape
    assert np.array_equal(back, array)
    assert back.flags.writeable


@pytest.mark.parametrize("zipped", [True, False])
def test_truncation_at_any_byte_is_an_error(file, zipped):
    array = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    content = gzip.compress(idx(array)) if zipped else idx(array)
    for end in range(len(content)):
        file.write_bytes(content[:end])
        with pytest.raises(RunError, match=r"cannot read .*x-idx3-ubyte.gz: .*; download the file again"):
            read_idx(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not start like an IDX file"),
        (b"<html>not found</html>", "does not start like"),
        (struct.pack(">HBBI", 0, 8, 9, 1), "does not start like"),
        (struct.pack(">HBBI", 0, 0x0D, 1, 1) + b"1234", "type 0x0D, not unsigned bytes"),
        (idx(np.zeros(3, np.uint8)) + b"!", "declares 3 bytes but holds 4"),
        (struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3), "but holds 0"),
        (gzip.compress(idx(np.zeros(9, np.uint8)), mtime=0)[:-8] + b"wrongsum", "CRC"),
    ],
)
def test_broken_files_say_why(file, content, message):
    file.write_bytes(content)
    with pytest.raises(RunError, match=message):
        read_idx(file)


def test_pair(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    x = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    images.write_bytes(idx(x))
    labels.write_bytes(idx(np.uint8([7, 200])))
    got, y = read_idx_pair(images, labels)
    assert np.array_equal(got[:, 0], x)
    assert y.tolist() == [7, 200]
    assert y.dtype == np.int64
    with pytest.raises(RunError, match=r"not grey images"):
        read_idx_pair(labels, labels)
    labels.write_bytes(idx(np.uint8([7])))
    with pytest.raises(RunError, match=r"labels: it holds labels of shape \(1,\) for 2 images"):
        read_idx_pair(images, labels)
    with pytest.raises(RunError, match="absent"):
        read_idx_pair(tmp_path / "absent", labels)
