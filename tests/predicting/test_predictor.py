"""Columns in, columns out: the answers of `drmm predict`, whatever a picture comes as and whatever is beside."""

import pickle
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import drmm
from drmm.cli.apply import predict
from drmm.data.tables import read_table
from drmm.errors import InputError, RunError
from drmm.model import moment
from drmm.predicting import rows as module
from drmm.predicting.predictor import Predictor
from drmm.runs.run import Run


@pytest.fixture(scope="session")
def predictor(run: Path) -> Predictor:
    return drmm.Predictor(run)


def levels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def content(picture: np.ndarray, kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(picture).save(file, kind)
    return file.getvalue()


def same(first: dict, second: dict) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.filterwarnings("ignore:.* files resized")
def test_the_answers_are_those_of_drmm_predict(run, predictor, pictures, tmp_path) -> None:
    assert predict(run, [pictures], tmp_path / "out.parquet") == 9
    said = read_table(tmp_path / "out.parquet")
    files = sorted(pictures.iterdir())
    for given in (
        [levels(file) for file in files],
        np.array([levels(file) for file in files], object),
        [file.read_bytes() for file in files],
        files,
    ):
        found = predictor({"image": given})
        assert list(found) == [*list(said[0])[1:], "reason"]
        assert all(found[name].tolist() == [row[name] for row in said] for name in found if name != "reason")
        assert set(found["reason"]) == {""}
    assert len(set(found["log_joint"])) == 9, "control"


@pytest.mark.parametrize(
    "given",
    [
        lambda x, path: content(x),
        lambda x, path: memoryview(content(x)),
        lambda x, path: np.frombuffer(content(x), np.uint8),
        lambda x, path: {"bytes": content(x), "path": "gone.png"},
        lambda x, path: {"bytes": None, "path": str(path)},
        lambda x, path: path,
        lambda x, path: Image.fromarray(x),
        lambda x, path: Image.open(path),
        lambda x, path: np.moveaxis(x, 2, 0),
        lambda x, path: np.asfortranarray(x),
        lambda x, path: np.concatenate([x, np.full((12, 12, 1), 255, np.uint8)], 2),
        lambda x, path: bytearray(content(x)),
    ],
)
def test_whatever_a_picture_comes_as(given, predictor, pictures) -> None:
    x = levels(pictures / "03.png")
    assert same(predictor({"image": [given(x, pictures / "03.png")]}), predictor({"image": x[None]}))
    assert not same(predictor({"image": 255 - x[None]}), predictor({"image": x[None]})), "control"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (b"", "it is empty"),
        (b"no picture", "no complete picture is in it"),
        (None, "there is none"),
        ({"bytes": None, "path": None}, "there is none"),
        ("nowhere.png", "No such file"),
        (".", "no ordinary file"),
        ("/dev/zero", "no ordinary file"),
        ("x" * 300, "File name too long"),
        ("a\0b", "null"),
        (torch.ones(3, 8, 8, requires_grad=True), "requires grad"),
        (np.zeros((8, 8)), "float64 of shape (8, 8) is no picture"),
        (np.zeros((0, 3), np.uint8), "is no picture"),
        (np.zeros((5, 40, 50), np.uint8), "shape (5, 40, 50) are no picture"),
        (float("nan"), "is no picture"),
        ([[1, 2], [3]], "inhomogeneous"),
        (object(), "is no picture"),
        (Image.fromarray(np.zeros((8, 8), np.float32)), "floats with no set black and white"),
    ],
)
def test_a_broken_picture_is_a_row_with_a_reason(given, reason, predictor, pictures) -> None:
    x = levels(pictures / "00.png")
    found = predictor({"image": [x, given, x], "id": [1, 2, 3]})
    assert reason in found["reason"][1]
    assert "\n" not in found["reason"][1]
    assert (found["label"][1], found["decision"][1], found["certified"][1]) == ("", "", False)
    assert np.isnan(found["confidence"][1])
    assert np.isnan(found["log_joint"][1])
    assert found["id"] == [1, 2, 3]
    alone = predictor({"image": [x]})
    for row in (0, 2):  # the control
        assert {name: column[row] for name, column in found.items() if name != "id"} == {
            name: column[0] for name, column in alone.items()
        }


def test_a_cut_picture_and_one_of_a_file_with_junk_behind_it(predictor, pictures) -> None:
    whole = (pictures / "00.png").read_bytes()
    found = predictor({"image": [whole[:60], whole + b"junk"]})
    assert found["reason"][0]
    assert not found["reason"][1]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_a_row_is_the_same_whatever_its_neighbours(size, run, pictures, monkeypatch) -> None:
    predictor = Predictor(run, all_classes=True)
    files = sorted(pictures.iterdir())
    whole = predictor({"image": [*files, b"broken", *files[::-1]]})
    parts = [predictor({"image": files[start : start + size]}) for start in range(0, len(files), size)]
    for name, column in whole.items():
        assert column[:9].tolist() == np.concatenate([part[name] for part in parts]).tolist(), name
        assert column[:9].tolist() == column[10:][::-1].tolist(), name
    seen = []
    infer = predictor._rows._model.infer
    monkeypatch.setattr(predictor._rows._model, "infer", lambda x: seen.append(len(x)) or infer(x))
    predictor({"image": files[:1]})
    monkeypatch.setattr(module, "_in_company", lambda x, _: x)
    predictor({"image": files[:1]})
    assert seen == [2, 1], "control: products with one vector alone are rounded otherwise"


def test_nobody_looks_whether_its_weights_have_changed(run, predictor, pictures, monkeypatch) -> None:
    """Of one picture that takes longer than the net itself."""
    looks = []
    monkeypatch.setattr(moment, "_checksum", lambda _: looks.append(1) or torch.zeros(()))
    predictor({"image": [levels(pictures / "00.png")]})
    assert not looks
    assert Run.open(run).model.infer(torch.zeros(1, 3, 12, 12)).gap.shape == (1,)
    assert looks, "control"


def test_it_is_pickled_as_its_folder(run, pictures, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(run.parent)
    predictor = Predictor(run.name, image="png", prefix="says_", promise=0.9, all_classes=True)
    pickled = pickle.dumps(predictor)
    assert len(pickled) < 1000
    monkeypatch.chdir(tmp_path)
    batch = {"png": [levels(pictures / "00.png")]}
    again = pickle.loads(pickled)(batch)
    assert same(again, predictor(batch))
    assert {"says_label", "says_p(red)", "says_reason"} <= set(again)


def test_a_pickle_is_of_one_model(run, tmp_path) -> None:
    """What remembers answers by it, as Hugging Face's data sets do, would have those of the former model."""
    folder = shutil.copytree(run, tmp_path / "run")
    before = pickle.dumps(Predictor(folder))
    assert pickle.dumps(Predictor(folder)) == before, "control"
    changed = {name: tensor + 1 for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(changed, folder / "model.safetensors")
    assert pickle.dumps(Predictor(folder)) != before
    with pytest.raises(
        RunError, match=r"run holds another model than when the Predictor was pickled: make it anew"
    ):
        pickle.loads(before)


def test_a_run_without_a_model_is_one_line(run, tmp_path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    Predictor(folder)  # the control
    (folder / "model.json").unlink()
    with pytest.raises(RunError, match="has not finished"):
        Predictor(folder)
    with pytest.raises(RunError, match="holds no model"):
        Predictor(tmp_path)
    with pytest.raises(InputError, match=r"as in 0\.98"):
        Predictor(run, promise=98)


def test_names_of_columns(predictor, run, pictures) -> None:
    x = levels(pictures / "00.png")[None]
    kept = np.array([7])
    assert predictor({"image": x, "key": kept})["key"] is kept
    with pytest.raises(InputError, match=r"no column 'image' \(img, key\): name that of pictures, image="):
        predictor({"img": x, "key": kept})
    for name in ("label", "reason"):
        with pytest.raises(InputError, match=f"a column '{name}' already: .* as prefix='drmm_' does"):
            predictor({"image": x, name: kept})
    found = Predictor(run, image="img", prefix="drmm_")({"img": x, "label": kept})
    assert found["label"] is kept
    assert found["drmm_label"].tolist() == predictor({"image": x})["label"].tolist()
    with pytest.raises(InputError, match="a dictionary of columns, not a Table"):
        predictor(pa.table({"image": [b""]}))


def test_columns_have_the_same_types_in_every_batch(predictor, pictures) -> None:
    """Engines take them from the first one, which may be empty."""
    good = pa.table(predictor({"image": [levels(pictures / "00.png")]}))
    assert {str(kind) for kind in good.schema.types} == {"string", "double", "bool"}
    for images in ([], np.zeros((0, 12, 12, 3), np.uint8), [b"broken"]):
        found = pa.table(predictor({"image": images}))
        assert found.schema == good.schema
        assert len(found) == len(images)


def test_texts_of_bytes_end_in_zeros(predictor) -> None:
    black = np.zeros((2, 12, 12, 3), np.uint8)
    given = np.array([content(one, "BMP") for one in black])
    assert given.dtype.kind == "S"
    assert predictor({"image": list(given)})["reason"][0], "control: NumPy took the zeros away"
    assert same(predictor({"image": given}), predictor({"image": black}))


def test_black_pictures_are_no_warning(predictor) -> None:
    assert set(predictor({"image": np.zeros((12, 12, 12, 3), np.uint8)})["reason"]) == {""}


def test_a_picture_that_was_given_is_as_it_was(predictor, tmp_path) -> None:
    Image.fromarray(np.full((300, 200, 3), 90, np.uint8)).save(tmp_path / "large.jpg")
    with Image.open(tmp_path / "large.jpg") as image:
        assert predictor({"image": [image]})["reason"][0] == ""
        assert image.size == (200, 300)
