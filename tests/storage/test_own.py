"""A net of one's own becomes a DRMM for other classes, and lies in a folder from which it is made again."""

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lookalikes as nets
from drmm.errors import InputError, LiftError, RunError
from drmm.rendering import Linear
from drmm.storage.models import Recipe, load_model, save_model, start_model
from drmm.storage.own import OwnNet, name_of
from drmm.storage.preprocessing import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COLOUR = "mean=0.485/0.456/0.406,std=0.229/0.224/0.225"
SHAPE, CLASSES = (3, 16, 16), ("a", "b", "c")
IMAGENET = Preprocessing.read(COLOUR)
RESNET = "lookalikes:resnet18"


def prepared(x: torch.Tensor) -> torch.Tensor:
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def recipe(net: str = RESNET, preprocess: str = COLOUR, **options: Any) -> Recipe:
    return Recipe(net=net, preprocess=preprocess, **options).fitted(SHAPE, CLASSES)


@pytest.mark.parametrize(
    ("factory", "channels"),
    [
        (nets.resnet18, 3),
        (nets.Timm, 3),
        (nets.Smooth, 3),
        (nets.Shared, 3),
        (nets.resnet18, 1),
        (nets.grey, 1),
    ],
)
def test_logits_are_the_nets_on_prepared_pictures(factory: Any, channels: int) -> None:
    net, x = nets.lively(factory()), torch.rand(3, channels, 16, 16)
    preprocessing = Preprocessing.read("mean=0.4,std=0.2") if factory is nets.grey else IMAGENET
    model = OwnNet("net", net, preprocessing).model(10, (channels, 16, 16)).eval()
    with torch.no_grad():
        theirs = net((x - 0.4) / 0.2) if factory is nets.grey else net(prepared(x.expand(-1, 3, -1, -1)))
        torch.testing.assert_close(model(x), theirs, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(model(x), net(x.expand(-1, 1 if factory is nets.grey else 3, -1, -1))), "control"
        latents = model.infer(x)
        drawn = model.levels.render(model.templates.weight[latents.label], latents.switches)
    assert drawn.shape == x.shape


def test_a_head_of_another_size_is_replaced_and_one_of_the_same_kept() -> None:
    net = nets.lively(nets.resnet18())
    own = OwnNet("net", net, IMAGENET)
    torch.testing.assert_close(own.model(10, SHAPE).templates.weight, net.fc.weight)
    fresh = own.model(3, SHAPE).templates
    assert fresh.weight.shape == (3, 8)
    assert fresh.weight.abs().max() < 0.4 < net.fc.weight.abs().max(), "of a fresh linear layer's size"
    assert net.fc.out_features == 10


def test_a_head_without_bias_and_no_head_at_all() -> None:
    bare = nets.lively(nets.Timm(num_classes=0))
    unbiased = nets.resnet18()
    unbiased.fc = nn.Linear(8, 10, bias=False)
    x = torch.rand(2, *SHAPE)
    for net, classes in ((bare, 8), (unbiased.eval(), 10)):
        model = OwnNet("net", net, IMAGENET).model(classes, SHAPE).eval()
        assert isinstance(model.templates, Linear)
        with torch.no_grad():
            torch.testing.assert_close(model(x), net(prepared(x)), rtol=1e-5, atol=1e-5)
    assert OwnNet("net", bare, IMAGENET).model(3, SHAPE).templates.weight.shape == (3, 8)


def test_the_net_that_was_given_stays_as_it_was() -> None:
    net = nets.lively(nets.resnet18()).double()
    before = copy.deepcopy(net.state_dict())
    model = OwnNet("net", net, IMAGENET).model(3, SHAPE)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    torch.testing.assert_close(dict(net.state_dict()), dict(before), rtol=0, atol=0)
    recipe("lookalikes:INSTANCE").build(0).train()(torch.rand(4, *SHAPE)).sum().backward()
    assert all(p.grad is None for p in nets.INSTANCE.parameters())
    assert bool((nets.INSTANCE.bn1.running_mean == 0).all())


def test_features_do_not_depend_on_the_batch() -> None:
    model = OwnNet("net", nets.lively(nets.resnet18()).train(), IMAGENET).model(3, SHAPE).eval()
    x = torch.rand(4, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-5, atol=1e-5)


def test_what_has_no_rendering_is_said() -> None:
    told: list[str] = []
    OwnNet("net", nets.Smooth, IMAGENET).model(3, SHAPE, tell=told.append)
    assert any("no exact rendering" in line and "silu" in line for line in told)
    told.clear()
    OwnNet("net", nets.resnet18, IMAGENET).model(3, SHAPE, tell=told.append)
    assert told == ["weights: as net has them", "class templates: fresh ones, 3 on 8 features"]


@pytest.mark.parametrize(
    ("net", "says"),
    [
        ("nowhere_at_all:factory", "No module named 'nowhere_at_all'"),
        ("lookalikes.py:resnet18", "No module named 'lookalikes.py'"),
        ("lookalikes:resnet", "lookalikes has no 'resnet'"),
        ("lookalikes", "a net is named package.module:factory"),
        (":resnet18", "a net is named package.module:factory"),
        ("lookalikes:", "a net is named package.module:factory"),
        ("lookalikes:NUMBER", "is a int, which makes no net"),
        ("lookalikes:nothing", "returns None: it has to return an nn.Module"),
        ("lookalikes:raising", r"fails \(OSError: no such file\)"),
        ("lookalikes:leaving", r"fails \(SystemExit: 3\)"),
        ("lookalikes:Block", r"fails \(TypeError: .*\): it is called without arguments"),
        ("lookalikes:lively", "it is called without arguments"),
    ],
)
def test_what_makes_no_net_is_one_line(net: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        start_model(recipe(net))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["1 / 0", "import nothing_like_it", "raise SystemExit(1)", "def f(:"])
def test_a_module_that_cannot_be_imported_is_one_line(content: str, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "broken_net.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="for the net broken_net:f") as raised:
        recipe("broken_net:f")
    assert "\n" not in str(raised.value)
    sys.modules.pop("broken_net", None)


def test_the_working_directory_counts(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "net_of_this_folder.py").write_text("from lookalikes import resnet18 as factory\n")
    with pytest.raises(InputError, match="start in the folder where it lies"):
        recipe("net_of_this_folder:factory")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert start_model(recipe("net_of_this_folder:factory")).n_classes == 3
    assert sys.path == before
    sys.modules.pop("net_of_this_folder")


@pytest.mark.parametrize(
    ("shape", "preprocess", "says"),
    [
        ((4, 16, 16), COLOUR, "of 3 channels, and pictures have 4"),
        ((3, 16, 16), "mean=0/0,std=1/1", "of 2 channels, and pictures have 3"),
        ((2, 16, 16), "mean=0,std=1", "a picture of 2x16x16 does not fit the net"),
        ((1, 16, 16), "mean=0/0,std=1/1", "of 2 channels"),
    ],
)
def test_pictures_that_do_not_fit_are_one_line(shape: Any, preprocess: str, says: str) -> None:
    asked = replace(recipe(preprocess=preprocess), image_shape=shape)
    with pytest.raises(InputError, match=says):
        start_model(asked)


def test_a_net_that_cannot_be_lifted_says_which_operation() -> None:
    class Batchwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3, track_running_stats=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x).mean((2, 3))

    with pytest.raises(LiftError, match="norm"):
        OwnNet("net", Batchwise, IMAGENET).model(3, SHAPE)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"preprocess": ""}, "is not guessed: say preprocess"),
        ({"preprocess": "", "weights": "net.pth"}, "is not guessed: say preprocess"),
        ({"weights": "nowhere.pth"}, "no file nowhere.pth"),
        ({"preset": "conv_small"}, "leave out preset"),
        ({"constraint": "hard"}, "leave out preset, constraint"),
        ({"width": 4}, "leave out preset"),
        ({"channels": (4, 4)}, "leave out preset"),
        ({"net": "", "preprocess": COLOUR}, "preprocess is for a net of your own"),
        ({"net": "", "preprocess": "", "weights": "net.pth"}, r"a file of weights \(net.pth\) is for a net"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        recipe(**options)


# --- in a folder -------------------------------------------------------------------------------------------------


def test_a_model_is_made_again_by_its_factory_with_its_own_weights(tmp_path: Path) -> None:
    save_file(nets.lively(nets.resnet18()).state_dict(), tmp_path / "net.safetensors")
    asked = recipe(weights=str(tmp_path / "net.safetensors"))
    model = start_model(asked, 0).eval()
    save_model(model, asked, tmp_path / "run")
    (tmp_path / "net.safetensors").unlink()
    again, known = load_model(tmp_path / "run")
    x = torch.rand(2, *SHAPE)
    assert known == asked
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    config = json.loads((tmp_path / "run" / "model.json").read_text())
    assert config["net"] == RESNET
    assert len(config["weights_digest"]) == 64
    assert config["preprocess"] == str(IMAGENET)


def test_a_layer_that_is_used_twice_is_saved_and_read_again(tmp_path: Path) -> None:
    asked = recipe("lookalikes:Shared")
    model = start_model(asked, 0).eval()
    save_model(model, asked, tmp_path)
    x = torch.rand(2, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path)[0](x), model(x), rtol=0, atol=0)


def test_a_factory_that_is_gone_is_one_line(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "net_that_goes.py").write_text("from lookalikes import resnet18 as factory\n")
    monkeypatch.chdir(tmp_path)
    asked = recipe("net_that_goes:factory")
    save_model(start_model(asked, 0), asked, tmp_path / "run")
    load_model(tmp_path / "run")
    (tmp_path / "net_that_goes.py").unlink()
    sys.modules.pop("net_that_goes")
    with pytest.raises(RunError, match=r"net_that_goes.*install it, or start in") as raised:
        load_model(tmp_path / "run")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("factory = lambda: lookalikes.ResNet(width=8)", "another architecture.*put back the code"),
        ("factory = lambda: lookalikes.Block(3, 8)", "another architecture|cannot be made"),
        ("factory = Leaky", "another net than .* makes now, with the same weights"),
    ],
)
def test_a_factory_that_makes_another_net_now_is_refused(
    line: str, says: str, tmp_path: Path, monkeypatch: Any
) -> None:
    leaky = (
        "class Leaky(lookalikes.ResNet):\n    def forward(self, x):\n        return super().forward(x.flip(1))\n"
    )
    (tmp_path / "net_that_changes.py").write_text(f"import lookalikes\n{leaky}factory = lookalikes.ResNet\n")
    monkeypatch.chdir(tmp_path)
    asked = recipe("net_that_changes:factory")
    save_model(start_model(asked, 0), asked, tmp_path / "run")
    load_model(tmp_path / "run")  # control
    sys.modules.pop("net_that_changes")
    (tmp_path / "net_that_changes.py").write_text(f"import lookalikes\n{leaky}{line}\n# changed\n")
    with pytest.raises(RunError, match=says):
        load_model(tmp_path / "run")
    sys.modules.pop("net_that_changes")


def test_a_net_without_a_name_is_given_again(tmp_path: Path) -> None:
    net = nets.lively(nets.resnet18())
    asked = recipe(name_of(net))
    assert asked.net == "<ResNet>"
    model = start_model(asked, 0, net=net).eval()
    save_model(model, asked, tmp_path)
    with pytest.raises(RunError, match="has no name to be found by: give it again, as net"):
        load_model(tmp_path)
    x = torch.rand(2, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path, net=nets.resnet18)[0](x), model(x), rtol=0, atol=0)


def test_names() -> None:
    assert name_of("a.b:c") == "a.b:c"
    assert name_of(nets.resnet18) == RESNET
    assert name_of(nets.ResNet) == "lookalikes:ResNet"
    assert name_of(lambda: nets.ResNet(3)) == "<<lambda>>"
    assert name_of(nets.INSTANCE) == "<ResNet>"
