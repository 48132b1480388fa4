"""`--net`, `--weights` and `--preprocess`: a net of one's own is learned on, sorted with, and opened again."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Answer, read_csv, refused
from PIL import Image
from safetensors.torch import save_file

import lookalikes as nets
from drmm.runs.run import Run

Drmm = Callable[..., Answer]
PREPROCESS = "size=16,mean=0.485/0.456/0.406,std=0.229/0.224/0.225"
QUICK = ["--set", "objective.kl=0", "--set", "trust.folds=2"]


@pytest.fixture(autouse=True)
def _at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a module that is importable from nowhere else."""
    monkeypatch.setattr("drmm.data.caches.cache_dir", lambda: tmp_path / "cache")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work" / "my_net.py").write_text("from lookalikes import *\n")
    yield
    sys.modules.pop("my_net", None)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve of each class and as many unlabelled, of another size than the net's."""
    rng = np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0), ("unlabelled", 0)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            photo = rng.integers(0, 80, (20, 20, 3)).astype(np.uint8)
            photo[..., channel] += 150
            Image.fromarray(photo).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file(nets.lively(nets.ResNet(num_classes=1000)).state_dict(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def own(weights: Path | None = None, net: str = "my_net:resnet18", preprocess: str = PREPROCESS) -> list[Any]:
    return ["--net", net, "--preprocess", preprocess, *(["--weights", weights] if weights else []), *QUICK]


@pytest.mark.filterwarnings("ignore:.* resized to 16x16")
def test_fit_says_what_it_loaded_and_the_run_is_used_like_others(
    run_drmm: Drmm, photos: Path, weights: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, out, err = run_drmm("fit", photos, "--out", run, *own(weights))
    assert code == 0, err
    assert "the model: my_net:resnet18 for colour images of 16x16 pixels" in out
    assert "50 of the net's 52 tensors are from" in out
    assert "of another shape: fc.weight (1000x8 for 10x8)" in out
    assert "class templates: fresh ones, 2 on 8 features" in out
    plan = json.loads((run / "run.json").read_text())
    assert plan["training"]["learning"] == "head"
    assert plan["data"]["size"] == [16, 16]
    assert plan["model"]["net"] == "my_net:resnet18"
    assert len(plan["model"]["weights_digest"]) == 64
    stem = nets.lively(nets.ResNet(1000)).conv1.weight
    torch.testing.assert_close(Run.open(run).model.levels.conv1.weight, stem, rtol=0, atol=0)
    weights.unlink()  # the run has its own
    for words in (
        ("predict", run, photos, "--out", tmp_path / "a.csv"),
        ("explain", run, photos / "red" / "0.png", "--out", tmp_path / "a.png"),
        ("report", run, "--out", tmp_path / "a.html"),
        ("sort", photos, "--into", tmp_path / "sorted", "--run", run),
        ("check", photos, "--run", run, "--out", tmp_path / "check.html"),
        ("sample", run, "--out", tmp_path / "samples.png"),
    ):
        code, _, err = run_drmm(*words)
        assert code == 0, err
    right = [
        row["label"] in {"unlabelled", Path(row["image"]).parent.name} for row in read_csv(tmp_path / "a.csv")
    ]
    assert np.mean(right[:24]) > 0.6
    refused(run_drmm("prune", run, "--out", tmp_path / "smaller"), "my_net:resnet18 makes the whole net")


def test_sort_trains_on_the_net_and_goes_on(run_drmm: Drmm, photos: Path, weights: Path, tmp_path: Path) -> None:
    words = ("sort", photos, "--into", tmp_path / "sorted")
    code, out, err = run_drmm(*words, *own(weights))
    assert code == 0, err
    assert "50 of the net's 52 tensors" in out
    (photos / "blue" / "0.png").rename(photos / "blue" / "new.png")
    Image.new("RGB", (20, 20), (0, 0, 200)).save(photos / "blue" / "another.png")
    code, out, err = run_drmm(*words, *own(weights))
    assert code == 0, err
    assert "which was trained before" in out
    Image.new("RGB", (20, 20), (0, 9, 200)).save(photos / "blue" / "third.png")
    refused(run_drmm(*words, *own(weights, net="my_net:Timm")), "another model.net")
    refused(run_drmm(*words, *own(weights, preprocess="size=16,mean=0,std=1")), "another model.preprocess")
    save_file(nets.lively(nets.ResNet(1000), seed=2).state_dict(), weights)
    refused(run_drmm(*words, *own(weights)), "another model.weights_digest")
    code, _, err = run_drmm(*words)
    assert code == 0, err


def test_without_weights_the_nets_own_are_taken_and_that_is_said(
    run_drmm: Drmm, photos: Path, tmp_path: Path
) -> None:
    code, out, err = run_drmm("fit", photos, "--out", tmp_path / "run", *own(net="my_net:INSTANCE"))
    assert code == 0, err
    assert "weights: as my_net:INSTANCE has them" in out
    learned = Run.open(tmp_path / "run").model.levels.conv1.weight
    torch.testing.assert_close(learned, nets.INSTANCE.conv1.weight, rtol=0, atol=0)


def test_a_size_of_its_own_goes_before_that_of_the_preprocessing(
    run_drmm: Drmm, photos: Path, tmp_path: Path
) -> None:
    for name, more in (("a", ["--size", "12"]), ("b", ["--recipe", "photos-quick"])):
        code, out, err = run_drmm("fit", photos, "--out", tmp_path / name, *own(), *more)
        assert code == 0, err
        assert f"colour images of {'12x12' if name == 'a' else '16x16'} pixels" in out


def test_a_snapshot_of_hugging_face(run_drmm: Drmm, photos: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    save_file(nets.lively(nets.HuggingFace()).state_dict(), snapshot / "model.safetensors")
    config = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"shortest_edge": 16}}
    (snapshot / "preprocessor_config.json").write_text(json.dumps(config))
    words = own(snapshot / "model.safetensors", "my_net:hugging_face", str(snapshot / "preprocessor_config.json"))
    code, out, err = run_drmm("fit", photos, "--out", tmp_path / "run", *words)
    assert code == 0, err
    assert "13 of the net's 13 tensors" in out
    (snapshot / "preprocessor_config.json").unlink()
    assert Run.open(tmp_path / "run").recipe.preprocess == "size=16x16,mean=0.5/0.5/0.5,std=0.25/0.25/0.25"


def test_grey_pictures_go_into_three_channels(run_drmm: Drmm, photos: Path, weights: Path, tmp_path: Path) -> None:
    for file in photos.rglob("*.png"):
        Image.open(file).convert("L").save(file)
    code, out, err = run_drmm("fit", photos, "--out", tmp_path / "run", *own(weights))
    assert code == 0, err
    assert "grey images" in out
    assert run_drmm("report", tmp_path / "run", "--out", tmp_path / "a.html")[0] == 0


def test_a_net_that_draws_by_its_slopes_is_reported_on(run_drmm: Drmm, photos: Path, tmp_path: Path) -> None:
    code, out, err = run_drmm("fit", photos, "--out", tmp_path / "run", *own(net="my_net:Smooth"))
    assert code == 0, err
    assert "no exact rendering, draws" in out
    assert run_drmm("card", tmp_path / "run")[0] == 0
    assert (
        r"Its net is code, my\_net:Smooth, and not in these files" in (tmp_path / "run" / "README.md").read_text()
    )
    code, _, err = run_drmm("report", tmp_path / "run", "--out", tmp_path / "a.html")
    assert code == 0, err
    for more in ((), ("--patches", "3")):
        answer = run_drmm("sample", tmp_path / "run", "--out", tmp_path / "samples.png", *more)
        refused(answer, "nothing else can be drawn")


def test_a_stopped_run_knows_its_net(run_drmm: Drmm, photos: Path, weights: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_drmm("fit", photos, "--out", run, *own(weights))[0] == 0
    for name in ("results.json", "model.json", "model.safetensors"):
        (run / name).unlink()
    code, out, err = run_drmm("fit", "--out", run, "--resume")
    assert code == 0, err
    assert "50 of the net's 52 tensors" in out
    for name in ("results.json", "model.json", "model.safetensors"):
        (run / name).unlink()
    save_file(nets.lively(nets.ResNet(1000), seed=2).state_dict(), weights)
    refused(run_drmm("fit", "--out", run, "--resume"), "holds other weights than before")
    refused(run_drmm("fit", "--out", run, "--resume", "--weights", weights), "another model.weights_digest")
    weights.unlink()
    refused(run_drmm("fit", "--out", run, "--resume"), "cannot read", "net.safetensors")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--weights", "net.safetensors"], "for a net of your own: name net too"),
        (["--preprocess", PREPROCESS], "for a net of your own: name net too"),
        (["--net", "my_net:resnet18"], "is not guessed: say preprocess"),
        (["--net", "my_net:resnet18", "--weights", "my_net.py"], "is not guessed: say preprocess"),
        (["--net", "my_net:resnet18", "--preprocess", PREPROCESS, "--weights", "none.pth"], "no file"),
        (["--net", "my_net:resnet18", "--preprocess", PREPROCESS, "--weights", "my_net.py"], "more than tensors"),
        (["--net", "my_net:resnet18", "--preprocess", "none.json"], "cannot read none.json"),
        (["--net", "elsewhere:resnet18", "--preprocess", PREPROCESS], "No module named 'elsewhere'"),
        (["--net", "my_net:raising", "--preprocess", PREPROCESS], "no such file"),
        (["--net", "my_net:grey", "--preprocess", PREPROCESS], "does not fit the net"),
        (["--net", "my_net:Body", "--preprocess", PREPROCESS, "--preset", "conv_small"], "leave out preset"),
        (["--net", "my_net:Body", "--preprocess", PREPROCESS, "--width", "4"], "leave out preset"),
        (["--net", "my_net:Body", "--preprocess", PREPROCESS, "--set", "select.width=4,8"], "leave out preset"),
        (["--net", "my_net:Body", "--preprocess", PREPROCESS, "--labels-per-class", "0"], "no image has a label"),
        (["--net", "", "--preprocess", PREPROCESS], "--net is empty"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    words: list[str], says: str, run_drmm: Drmm, photos: Path, tmp_path: Path
) -> None:
    refused(run_drmm("fit", photos, "--out", tmp_path / "run", *words), says)
    assert not (tmp_path / "run").exists()
