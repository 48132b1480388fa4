"""SVHN's MATLAB files."""

import numpy as np
import pytest
import scipy.io

from drmm.data import read_svhn
from drmm.errors import RunError

X = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 6), dtype=np.uint8)
Y = np.uint8([[1], [10], [9], [10], [2], [3]])


def test_layout_and_label_ten(tmp_path):
    file = tmp_path / "train_32x32.mat"
    scipy.io.savemat(file, {"X": X, "y": Y}, do_compression=True)
    x, y = read_svhn(file)
    assert x.shape == (6, 3, 32, 32)
    assert x.flags.c_contiguous
    assert np.array_equal(x[4, 2], X[:, :, 2, 4])
    assert y.tolist() == [1, 0, 9, 0, 2, 3]
    assert y.dtype == np.int64


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"X": X}, "lacks X or y"),
        ({"X": X.astype(float), "y": Y}, "X is float64"),
        ({"X": X[:, :, :2], "y": Y}, r"of shape \(32, 32, 2, 6\)"),
        ({"X": X, "y": Y[:5]}, "not 6 labels"),
        ({"X": X, "y": Y - 1}, "from 1 to 10"),
        ({"X": X, "y": np.array(list("abcdef"))}, "from 1 to 10"),
    ],
)
def test_other_contents(tmp_path, variables, message):
    scipy.io.savemat(tmp_path / "x.mat", variables)
    with pytest.raises(RunError, match=message):
        read_svhn(tmp_path / "x.mat")


def test_truncated_or_foreign(tmp_path):
    file = tmp_path / "test_32x32.mat"
    scipy.io.savemat(file, {"X": X, "y": Y}, do_compression=True)
    whole = file.read_bytes()
    for content in (b"", b"<html>", whole[:100], *(whole[:end] for end in range(128, len(whole), 997))):
        file.write_bytes(content)
        with pytest.raises(RunError, match=r"cannot read .*test_32x32.mat"):
            read_svhn(file)
