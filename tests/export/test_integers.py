"""8-bit integers are kept where they say the same and are faster here."""

import numpy as np
import onnx
import pytest
from known import SHAPE, assessed, preset

from drmm.errors import InputError
from drmm.export import Answering, integers
from drmm.export.formats import onnx_answer, onnx_bytes
from drmm.export.parity import noise

PICTURES = noise(480, SHAPE, seed=7)


@pytest.fixture(scope="module")
def content() -> bytes:
    model = preset()
    return onnx_bytes(Answering(model, assessed(model), quick=True).eval(), SHAPE, {"classes": "abc"})


def test_they_are_kept_and_so_is_the_metadata(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integers, "_ALIKE", 0.9)
    monkeypatch.setattr(integers, "ratio", lambda *_: 2.0)
    smaller, said = integers.quantised(content, PICTURES)
    proto = onnx.load_from_string(smaller)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in proto.graph.node}
    assert "classes" in {one.key for one in proto.metadata_props}
    assert "224 labels" in said
    assert "2.00 times as fast" in said
    floats, found = (onnx_answer(one)(PICTURES)["probability"].numpy() for one in (content, smaller))
    assert 0 < np.abs(floats - found).max() < 0.2, "control: they are other numbers"


@pytest.mark.parametrize(("alike", "speed"), [(1.1, 2.0), (0.0, 0.9)])
def test_they_are_refused_with_the_figures(
    content: bytes, alike: float, speed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integers, "_ALIKE", alike)
    monkeypatch.setattr(integers, "ratio", lambda *_: speed)
    with pytest.raises(
        InputError, match=r"% of 224 labels are the same.* times as fast here; .* leave --int8 out"
    ):
        integers.quantised(content, PICTURES)


def test_too_few_pictures_show_nothing(content: bytes) -> None:
    with pytest.raises(InputError, match=r"needs 456 pictures .* there are 30: name a folder"):
        integers.quantised(content, PICTURES[:30])
