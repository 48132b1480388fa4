"""What can be carried in a file of torch's, and what is refused by name."""

import pytest
import torch
from known import SHAPE, Residual, assessed, lifted, preset
from torch import Tensor, nn

from drmm.errors import InputError
from drmm.export import EXTRAS, Answering
from drmm.export.formats import onnx_answer, onnx_bytes, torch_answer, torch_bytes
from drmm.export.parity import check
from drmm.model.deep import DRMM
from drmm.rendering import Affine, Clip, Conv2d, Flatten, Linear, Sequential


@pytest.mark.parametrize(
    ("model", "extras"),
    [
        (preset(), ["evidence"]),
        (preset("dense"), list(EXTRAS)),
        (preset(constraint="weight_norm"), []),
    ],
    ids=["signed", "dense", "weight_norm"],
)
def test_every_kind_of_net_is_carried(model: DRMM, extras: list[str]) -> None:
    known = assessed(model)
    content = torch_bytes(Answering(model, known, extras).eval(), SHAPE, {})
    assert "every label" in check(torch_answer(content), model, known, extras, SHAPE)


def test_onnx_knows_what_a_lifted_net_draws_with() -> None:
    model, extras = lifted(Residual()), ["reconstruction", "evidence"]
    known = assessed(model)
    check(onnx_answer(onnx_bytes(Answering(model, known, extras).eval(), SHAPE, {})), model, known, extras, SHAPE)


def test_a_run_that_knows_nothing_of_its_trust_has_its_own_probabilities() -> None:
    model = preset("dense")
    answer = torch_answer(torch_bytes(Answering(model, None).eval(), SHAPE, {}))
    check(answer, model, None, (), SHAPE)
    assert list(answer(torch.zeros(3, *SHAPE, dtype=torch.uint8))) == ["label", "probability"]


def watchful(x: Tensor) -> Tensor:
    return x if float(x.sum()) >= 0 else x.clone()


def of(*levels: nn.Module) -> DRMM:
    body = Sequential(Conv2d(1, 2, 3), *levels, Flatten())
    return DRMM(body, Linear(72, 3), image_shape=SHAPE).eval()


@pytest.mark.parametrize("write", [torch_bytes, onnx_bytes])
def test_what_looks_at_values_is_named(write) -> None:
    answering = Answering(of(Affine(watchful)), None, ["evidence"]).eval()
    with pytest.raises(
        InputError, match=r"^Affine\(watchful\) \(levels\.1\) cannot be carried in a file"
    ) as caught:
        write(answering, SHAPE, {})
    assert "\n" not in str(caught.value)


def test_a_net_without_a_bound_has_no_certificate() -> None:
    model = of(Clip(0, 6))
    with pytest.raises(InputError, match=r"no certificate .no bound for Clip"):
        Answering(model, None, ["certificate"])
    Answering(model, None, ["evidence"])  # the control


def test_answers_that_there_are_not() -> None:
    with pytest.raises(InputError, match="no answer 'certificat': did you mean 'certificate'"):
        Answering(preset(), None, ["certificat"])
