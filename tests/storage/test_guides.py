"""The guides of docs/own-net.md, run on look-alikes of the packages that they name."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import lookalikes as nets
from drmm.storage.models import Recipe, start_model

PAGE = (Path(__file__).parents[2] / "docs" / "own-net.md").read_text(encoding="utf-8")
SECTIONS = {text.partition("\n")[0]: text for text in re.split(r"^## ", PAGE, flags=re.MULTILINE)}
GUIDES = {
    name: block[1] for name, text in SECTIONS.items() if (block := re.search(r"```py\n(.*?)```", text, re.DOTALL))
}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def torchvision() -> tuple[SimpleNamespace, torch.nn.Module]:
    models = SimpleNamespace(resnet18=lambda *, weights: nets.ResNet(1000))
    return SimpleNamespace(models=models), nets.lively(nets.ResNet(1000))


def timm() -> tuple[SimpleNamespace, torch.nn.Module]:
    return SimpleNamespace(create_model=lambda name, pretrained: nets.Timm(1000)), nets.lively(nets.Timm(1000))


def transformers() -> tuple[SimpleNamespace, torch.nn.Module]:
    config = SimpleNamespace(from_pretrained=lambda folder: {"num_labels": 1000})
    model = SimpleNamespace(from_config=lambda config: nets.HuggingFace(**config))
    whole = nets.lively(nets.HuggingFace(1000))
    return SimpleNamespace(AutoConfig=config, AutoModelForImageClassification=model), whole


PACKAGES = {"torchvision": torchvision, "timm": timm, "Hugging Face": transformers}


def test_there_is_a_guide_for_each() -> None:
    assert GUIDES.keys() == PACKAGES.keys()


@pytest.mark.parametrize("name", PACKAGES)
def test_the_guide_works(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, whole = PACKAGES[name]()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, PACKAGES[name].__name__, package)
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    Path("my_nets.py").write_text(GUIDES[name])
    Path("snapshot").mkdir()
    timms = {"pretrained_cfg": {"input_size": [3, 16, 16], "mean": MEAN, "std": STD}}
    theirs = {"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": 16}}
    Path("snapshot/config.json").write_text(json.dumps(timms))
    Path("snapshot/preprocessor_config.json").write_text(json.dumps(theirs))
    save_file(whole.state_dict(), "snapshot/model.safetensors")
    torch.save(whole.state_dict(), "resnet18-f37072fd.pth")
    command = SECTIONS[name].partition("```sh\n")[2].partition("```")[0]
    asked = dict(re.findall(r"--(net|weights|preprocess) (\S+)", command))
    recipe = Recipe(**asked).fitted((3, 16, 16), ("a", "b", "c"))
    told: list[str] = []
    model = start_model(recipe, 0, tell=told.append).eval()
    monkeypatch.delitem(sys.modules, "my_nets")
    assert re.match(r"weights: (\d+) of the net's \1 tensors", told[0])
    x = torch.rand(2, 3, 16, 16)
    prepared = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        logits = getattr(whole(prepared), "logits", whole(prepared))
        whole_model = start_model(recipe.fitted((3, 16, 16), tuple(map(str, range(1000)))), 0).eval()
        torch.testing.assert_close(
            whole_model(x) / logits.abs().max(), logits / logits.abs().max(), rtol=0, atol=1e-5
        )
    assert model.n_classes == 3
