"""Weights are matched by name and shape below whatever prefix, and half of them are never taken in silence."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lookalikes as nets
from drmm.errors import InputError, RunError
from drmm.storage.own import OwnNet
from drmm.storage.preprocessing import Preprocessing
from drmm.storage.weights import load_weights

PLAIN = Preprocessing((0.5,), (0.25,))
SHAPE = (3, 16, 16)


def saved(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "net.pth")
    return folder / "net.pth"


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def logits_of(net: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net.eval()((pictures - 0.5) / 0.25)


RESNET = nets.lively(nets.resnet18()).state_dict()
CHECKPOINTS = {
    "as it is": RESNET,
    "DataParallel": under("module.", RESNET),
    "compiled": under("_orig_mod.", RESNET),
    "a training loop's": {"epoch": 3, "model": RESNET, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "model_state_dict": {"model_state_dict": under("module.", RESNET)},
    "Lightning": {"state_dict": under("model.", RESNET), "hyper_parameters": {"lr": 0.1}, "callbacks": {}},
    "another attribute": {"state_dict": {**under("net.", RESNET), "loss.weight": torch.ones(7)}},
    "timm with EMA": {"state_dict": {n: 0 * t for n, t in RESNET.items()}, "state_dict_ema": RESNET},
    "EMA beside": {"model": under("module.", {n: 0 * t for n, t in RESNET.items()}), "model_ema": RESNET},
    "AveragedModel": {"n_averaged": torch.tensor(3), **under("module.", RESNET)},
    "half precision": {n: t.half() if t.is_floating_point() else t for n, t in RESNET.items()},
    "without counters": {n: t for n, t in RESNET.items() if not n.endswith("num_batches_tracked")},
    "an encoder without a head": under("backbone.", {n: t for n, t in RESNET.items() if not n.startswith("fc")}),
    "self-supervised": {**under("encoder.", RESNET), "projector.0.weight": torch.ones(4, 8)},
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints_of_all_kinds_are_the_net(kind: str, tmp_path: Path) -> None:
    net, pictures = nets.resnet18(), torch.rand(3, *SHAPE)
    before = logits_of(nets.resnet18(), pictures)
    loaded = load_weights(net, saved(CHECKPOINTS[kind], tmp_path))
    if "without a head" in kind:
        assert loaded.missing == ("fc.weight", "fc.bias")
        net.fc.load_state_dict({"weight": RESNET["fc.weight"], "bias": RESNET["fc.bias"]})
    expected = nets.resnet18()
    expected.load_state_dict(RESNET)
    exact = {"rtol": 2e-2, "atol": 2e-2} if "half" in kind else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(logits_of(net, pictures), logits_of(expected, pictures), **exact)
    assert not torch.allclose(before, logits_of(expected, pictures), atol=0.1), "control"


def test_safetensors_and_the_older_format_of_torch(tmp_path: Path) -> None:
    for name in ("a.safetensors", "pytorch_model.bin", "without_a_suffix"):
        if name.endswith("bin"):
            torch.save(RESNET, tmp_path / name, _use_new_zipfile_serialization=False)
        else:
            save_file(RESNET, tmp_path / name)
        net = nets.resnet18()
        assert len(load_weights(net, tmp_path / name).found) == len([n for n in RESNET if "num_batches" not in n])
        torch.testing.assert_close(
            net.state_dict()["layer2.1.bn2.running_var"], RESNET["layer2.1.bn2.running_var"]
        )


def test_hugging_face_prefixes_both_ways(tmp_path: Path) -> None:
    whole = nets.lively(nets.HuggingFace())
    file = saved(whole.state_dict(), tmp_path)
    bare, wrapped = nets.Body(), nets.hugging_face()
    of_bare, of_wrapped = load_weights(bare, file), load_weights(wrapped, file)
    assert of_bare.prefix == "resnet."
    assert not of_bare.missing
    assert not of_wrapped.missing
    torch.testing.assert_close(bare.encoder[0].weight, whole.resnet.encoder[0].weight)
    torch.testing.assert_close(wrapped.net.classifier[1].weight, whole.classifier[1].weight)
    of_body = load_weights(nets.hugging_face(), saved(bare.state_dict(), tmp_path))
    assert of_body.missing == ("net.classifier.1.weight", "net.classifier.1.bias")


def test_the_account_says_what_was_taken_and_what_was_not(tmp_path: Path) -> None:
    state = {**nets.lively(nets.ResNet(num_classes=1000)).state_dict(), "aux.weight": torch.ones(2)}
    told: list[str] = []
    own = OwnNet("resnet", nets.resnet18, PLAIN)
    own.model(3, SHAPE, weights=saved({"state_dict": under("module.", state)}, tmp_path), tell=told.append)
    [weights, templates] = told
    for words in (
        "50 of the net's 52 tensors",
        "(state_dict.module.*)",
        "of another shape: fc.weight (1000x8 for 10x8)",
        "not used: state_dict.module.aux.weight",
    ):
        assert words in weights
    assert templates == "class templates: fresh ones, 3 on 8 features"


def lacking(name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in RESNET.items() if not key.startswith(name)}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lacking("layer2.1"), "lacks 10 of the 50 tensors"),
        (lacking("bn1.running_mean"), r"lacks 1 of the 50 .* bn1\.running_mean"),
        (nets.ResNet(width=8).state_dict(), r"lacks 50 of the 50 .*conv1\.weight \(8x3x7x7 for 4x3x7x7\)"),
        (nets.resnet34().state_dict(), r"a deeper net, which has layer1\.2"),
        (nets.Timm().state_dict(), "no tensor in .* has a name and a shape of the net"),
        ({"student": RESNET, "teacher": RESNET}, r"several nets \(student\.\*, teacher\.\*\)"),
        ({**RESNET, "conv1.weight": RESNET["conv1.weight"] * float("nan")}, "not finite"),
    ],
)
def test_weights_of_another_net_are_refused(content: Any, says: str, tmp_path: Path) -> None:
    own = OwnNet("resnet", nets.resnet18, PLAIN)
    with pytest.raises(InputError, match=says) as raised:
        own.model(3, SHAPE, weights=saved(content, tmp_path))
    assert "\n" not in str(raised.value)
    own.model(3, SHAPE, weights=saved(RESNET, tmp_path))  # control


def test_a_net_may_be_cut_off(tmp_path: Path) -> None:
    deep = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3))
    cut = nn.Sequential(*deep[:3], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    told: list[str] = []
    OwnNet("cut", cut, PLAIN).model(2, SHAPE, weights=saved(deep.state_dict(), tmp_path), tell=told.append)
    assert "not used: 4.weight, 4.bias" in told[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (nets.resnet18(), "holds more than tensors"),
        ({"state_dict": RESNET, "args": Namespace(lr=1)}, "holds more than tensors"),
        ({"epoch": 3}, "no named tensors"),
        (torch.ones(3), "no named tensors"),
        (b"no torch", "damaged"),
        (b"", "damaged"),
    ],
)
def test_what_is_no_file_of_tensors_is_one_line(content: Any, says: str, tmp_path: Path) -> None:
    file = tmp_path / "net.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(RunError, match=says) as raised:
        load_weights(nets.resnet18(), file)
    assert "\n" not in str(raised.value)


def test_a_damaged_safetensors_file_is_one_line(tmp_path: Path) -> None:
    save_file(RESNET, tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match="damaged"):
        load_weights(nets.resnet18(), tmp_path / "a.safetensors")


def test_another_file_than_before_is_refused(tmp_path: Path) -> None:
    file = saved(RESNET, tmp_path)
    with pytest.raises(RunError, match="other weights than before"):
        load_weights(nets.resnet18(), file, digest="0" * 64)
