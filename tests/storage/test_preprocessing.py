"""A preprocessing is read as people, timm and Hugging Face write it; what it cannot be is refused."""

import json
from pathlib import Path

import pytest

from drmm.errors import InputError, RunError
from drmm.storage.preprocessing import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = Preprocessing(MEAN, STD, (224, 224))


@pytest.mark.parametrize(
    "asked",
    [
        "size=224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225",
        "size=224,mean=0.485,0.456,0.406,std=0.229,0.224,0.225",
        " std=0.229 0.224 0.225 , size = 224x224, mean=.485;.456;.406",
        {"size": 224, "mean": MEAN, "std": list(STD)},
        {"size": (224, 224), "mean": MEAN, "std": STD},
        {"input_size": (3, 224, 224), "mean": MEAN, "std": STD, "interpolation": "bicubic", "crop_pct": 0.95},
        {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 224, 224], "mean": MEAN, "std": STD}},
        {"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": 224}, "crop_pct": 0.875},
        {"image_mean": MEAN, "image_std": STD, "size": {"height": 224, "width": 224}, "resample": 3},
        {"image_mean": MEAN, "image_std": STD, "size": 256, "crop_size": {"height": 224, "width": 224}},
        {"image_mean": MEAN, "image_std": STD, "size": 224, "crop_size": 160, "do_center_crop": False},
        {
            "image_mean": MEAN,
            "image_std": STD,
            "size": 224,
            "do_rescale": True,
            "rescale_factor": 0.00392156862745098,
        },
    ],
)
def test_it_is_read_as_others_write_it(asked: object, tmp_path: Path) -> None:
    assert Preprocessing.read(asked) == IMAGENET
    assert Preprocessing.read(str(IMAGENET)) == IMAGENET
    if isinstance(asked, dict):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(asked))
        assert Preprocessing.read(str(tmp_path / "preprocessor_config.json")) == IMAGENET


def test_one_number_is_for_all_channels_and_a_size_may_be_left_out() -> None:
    read = Preprocessing.read("mean=0.5,std=1")
    assert (read.mean, read.std, read.size, read.channels) == ((0.5,), (1.0,), None, None)
    assert Preprocessing.read("size=96x128,mean=0,std=1").size == (96, 128)
    assert Preprocessing.read({"image_mean": MEAN, "do_normalize": False}).std == (1.0,)
    assert IMAGENET.channels == Preprocessing.read("mean=0.5,std=0.1/0.2/0.3").channels == 3


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("mean=123.675/116.28/103.53,std=58.4/57.1/57.4", "divide them by 255"),
        ("mean=0,std=0", "std above 0"),
        ("mean=-0.5,std=1", "mean lies in"),
        ("mean=nan,std=1", "not 'nan'"),
        ("mean=,std=1", "not ''"),
        ("mean=a,std=1", "not 'a'"),
        ("mean=0.5", "says no std"),
        ("size=224", "says no mean"),
        ("mean=0/0,std=1/1/1", "of 2 and 3 channels"),
        ("mean=0,mean=1,std=1", "write it once each"),
        ("means=0,std=1", "no preprocessing 'means'"),
        ("size=1,mean=0,std=1", "too small"),
        ("size=32.5,mean=0,std=1", "HxW"),
        ("size=1x2x3,mean=0,std=1", "HxW"),
        ({"mean": 0.5, "std": None}, "says no std"),
        ({"mean": 0.5, "std": 1, "size": {"longest_edge": 224}}, "size of a preprocessing"),
        ({"image_mean": MEAN, "image_std": STD, "do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"image_mean": MEAN, "image_std": STD, "do_rescale": False}, "do_rescale"),
        ({"image_mean": MEAN, "image_std": STD, "rescale_factor": 1 / 127.5}, "do_rescale"),
        ({"image_processor_type": "X"}, "says no mean"),
        (224, "text such as"),
    ],
)
def test_what_it_cannot_be_is_one_line(asked: object, says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        Preprocessing.read(asked)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    for name, says in (("none.json", "cannot read"), ("broken.json", "damaged")):
        with pytest.raises(RunError, match=says):
            Preprocessing.read(str(tmp_path / name))
