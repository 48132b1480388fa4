"""Which recipe a folder gets: by the colour of its pictures, their labels, and what is installed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drmm.learning.recipes import DEFAULT, names, read_recipe
from drmm.model.pretrained import PUBLISHED, Wheel
from drmm.runs.choice import PHOTOGRAPHS, recipe_for


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are there, or look so."""
    monkeypatch.setattr(Wheel, "is_installed", True)


def photographs(folder: Path, colours: str, suffix: str = "jpg") -> Path:
    """A class folder of pictures: c in colour, g grey in three channels, l grey in one."""
    generator = np.random.default_rng(0)
    for i, kind in enumerate(colours):
        levels = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        picture = Image.fromarray(levels).resize((40, 30))
        if kind != "c":
            picture = picture.convert("L").convert("RGB" if kind == "g" else "L")
        file = folder / "ab"[i % 2] / f"{i}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
    return folder


def test_pictures_in_colour_get_the_recipe_of_photographs_and_grey_ones_the_default(tmp_path):
    assert PHOTOGRAPHS in names()
    for colours, expected in {"cccg": PHOTOGRAPHS, "ccgl": DEFAULT, "gggc": DEFAULT, "llll": DEFAULT}.items():
        for suffix in ("jpg", "png"):
            folder = photographs(tmp_path / f"{colours}-{suffix}", colours, suffix)
            assert recipe_for(str(folder), has_table=False)[0] == expected, (colours, suffix)


def test_why_is_said_of_photographs_alone(tmp_path):
    recipe, why = recipe_for(str(photographs(tmp_path / "colour", "cccl")), has_table=False)
    how = (
        f"learning by --recipe {recipe}, from what a net knows of photographs; --recipe photos-quick takes minutes"
    )
    assert why == f"3 of 4 pictures are in colour: {how}"
    assert recipe_for(str(photographs(tmp_path / "grey", "gggl")), has_table=False)[1] == ""


def test_without_the_weights_it_is_the_default_and_says_what_to_install(tmp_path, monkeypatch):
    folder = str(photographs(tmp_path / "colour", "cccc"))
    assert recipe_for(folder, has_table=False)[0] == PHOTOGRAPHS
    monkeypatch.setattr(Wheel, "is_installed", False)
    recipe, why = recipe_for(folder, has_table=False)
    assert recipe == DEFAULT
    assert "pip install 'drmm[photos]'" in why


def test_pictures_without_a_label_have_nothing_to_learn_class_templates_from(tmp_path):
    folder = photographs(tmp_path / "some", "cccc")
    for file in [*folder.rglob("*.jpg")]:
        file.rename(folder / file.name)
    assert recipe_for(str(folder), has_table=False) == (DEFAULT, "")
    assert recipe_for(str(folder), has_table=True)[0] == PHOTOGRAPHS


def test_what_is_no_folder_of_pictures_gets_the_default(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("no archive")
    for source in (
        "digits",
        "cifar10",
        str(tmp_path / "empty"),
        str(tmp_path / "gone"),
        str(tmp_path / "note.txt"),
    ):
        assert recipe_for(source, has_table=False) == (DEFAULT, ""), source


def test_the_recipe_starts_from_weights_that_are_published():
    model = read_recipe(PHOTOGRAPHS).tables["model"]
    assert model["weights"] == "published"
    assert model["preset"] in PUBLISHED
