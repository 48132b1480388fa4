"""A file of ONNX answers as PyTorch does, for any number of pictures."""

from collections.abc import Mapping
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from known import SHAPE, assessed, preset
from torch import Tensor

from drmm.data.images import pixels
from drmm.errors import InputError
from drmm.explain import active_paths
from drmm.export import EXTRAS, Answering
from drmm.export.formats import onnx_answer, onnx_bytes
from drmm.export.parity import check, noise


@pytest.fixture(scope="module")
def exported() -> SimpleNamespace:
    """A hard net, whose inference is certified, with all of its answers in one file."""
    model = preset(constraint="hard")
    known = assessed(model)
    content = onnx_bytes(Answering(model, known, list(EXTRAS)).eval(), SHAPE, {"classes": "abc"})
    return SimpleNamespace(model=model, known=known, content=content, answer=onnx_answer(content))


@pytest.mark.parametrize("number", [1, 7, 64])
def test_it_answers_as_pytorch_does(exported: SimpleNamespace, number: int) -> None:
    pictures = noise(number, SHAPE, seed=100 + number)
    found: Mapping[str, Tensor] = exported.answer(pictures)
    model, x = exported.model, pixels(pictures)
    with torch.no_grad():
        latents = model.infer(x)
        answers = exported.known.answers(model, x, latents)
    assert np.array_equal(found["label"], answers.probability.argmax(1))
    assert found["probability"].numpy() == pytest.approx(answers.probability, abs=1e-5)
    assert found["familiarity"].numpy() == pytest.approx(answers.familiarity, abs=0.01)
    for name, mine in (("score", latents.score), ("gap", latents.gap)):
        assert bool(((found[name] - mine).abs() <= 1e-5 * (1 + latents.score.abs())).all()), name
    assert bool(found["certified"].all()), "as theory says of non-negative templates"
    with torch.no_grad():
        torch.testing.assert_close(found["reconstruction"], model.reconstruct(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["evidence"], active_paths(model, x), rtol=1e-4, atol=1e-5)


def test_control_the_calibration_matters(exported: SimpleNamespace) -> None:
    pictures = noise(64, SHAPE, seed=3)
    with torch.no_grad():
        own = exported.model(pixels(pictures)).softmax(1)
    assert float((exported.answer(pictures)["probability"] - own).abs().max()) > 0.05


def test_it_is_one_file_for_any_number_of_pictures(exported: SimpleNamespace) -> None:
    proto = onnx.load_from_string(exported.content)
    assert [one.version for one in proto.opset_import if not one.domain] == [18]
    assert not any(one.external_data for one in proto.graph.initializer)
    assert {one.key: one.value for one in proto.metadata_props} == {"classes": "abc"}
    [pictures] = proto.graph.input
    sizes = [one.dim_param or one.dim_value for one in pictures.type.tensor_type.shape.dim]
    assert (pictures.name, sizes) == ("pictures", ["batch", *SHAPE])
    operations = [node.op_type for node in proto.graph.node]
    assert "BatchNormalization" not in operations
    assert operations.count("ConvTranspose") == 2, "it draws once, whatever is made of that"
    assert [one.name for one in proto.graph.output][:3] == ["label", "probability", "familiarity"]


def test_a_file_that_answers_otherwise_is_refused(exported: SimpleNamespace) -> None:
    check(exported.answer, exported.model, exported.known, list(EXTRAS), SHAPE)
    with pytest.raises(InputError, match=r"would answer otherwise than PyTorch \(.* is not written"):
        check(exported.answer, preset(), exported.known, list(EXTRAS), SHAPE)
    for name in ("label", "probability", "familiarity", "gap", "certified", "reconstruction", "evidence"):

        def wrong(pictures: Tensor, name: str = name) -> Mapping[str, Tensor]:
            found = dict(exported.answer(pictures))
            found[name] = ~found[name] if name == "certified" else found[name] + 1
            return found

        with pytest.raises(InputError, match=f"{name} by"):
            check(wrong, exported.model, exported.known, list(EXTRAS), SHAPE)

    def broken(pictures: Tensor) -> Mapping[str, Tensor]:
        found = dict(exported.answer(pictures))
        return {**found, "probability": found["probability"].where(found["probability"] < 0.4, torch.nan)}

    with pytest.raises(InputError, match="probability by nan"):
        check(broken, exported.model, exported.known, list(EXTRAS), SHAPE)


@pytest.mark.parametrize(("ranks", "passes"), [(1, True), (9, False)])
def test_familiarity_may_be_off_by_a_rank_where_there_are_few(
    exported: SimpleNamespace, ranks: int, *, passes: bool
) -> None:
    """Among 24 pictures each is a share of 0.04."""

    def nudged(pictures: Tensor) -> Mapping[str, Tensor]:
        found = exported.answer(pictures)
        return {**found, "familiarity": found["familiarity"] + ranks / 25}

    with nullcontext() if passes else pytest.raises(InputError, match="familiarity by"):
        check(nudged, exported.model, exported.known, list(EXTRAS), SHAPE)
