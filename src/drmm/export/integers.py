"""A file whose sums are of 8-bit integers, kept only where it says the same and is faster here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.export.formats import INPUT, Answer, onnx_answer, quiet
from drmm.studies.timing import ratio, take_turns

__all__ = ["quantised", "with_integers"]

_MEASURED, _LEAST, _MOST = 256, 200, 2000  # pictures that ranges are of; on which labels are compared
_ALIKE = 0.995  # share of labels
_AT_ONCE = 32
_ROUNDS, _PATIENCE = 21, 30.0
# What ONNX Runtime has 8-bit kernels for, and a net is made of.
_OPERATIONS = ["Conv", "Gemm", "MatMul", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip", "Add"]


def quantised(content: bytes, pictures: Tensor) -> tuple[bytes, str]:
    """The same file in 8-bit integers, by ONNX Runtime's static quantisation, and how alike both are, in words.

    Args:
        content: of a file that answers with label and probability alone.
        pictures: uint8 (N, C, H, W): the ranges are of some, and labels are compared on others.

    Raises:
        InputError: if there are too few pictures, labels differ, or it is no faster.
    """
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    measured, held_out = pictures[order[:_MEASURED]], pictures[order[_MEASURED : _MEASURED + _MOST]]
    if len(held_out) < _LEAST:
        raise InputError(
            f"--int8 needs {_MEASURED + _LEAST} pictures to measure ranges and compare labels on, and there are "
            f"{len(pictures)}: name a folder with more by --calibrate-on"
        )
    smaller = with_integers(content, measured)
    answers = {"floats": onnx_answer(content), "integers": onnx_answer(smaller)}
    floats, integers = (_answers(answer, held_out) for answer in answers.values())
    same = float((floats["label"] == integers["label"]).double().mean())
    apart = float((floats["probability"] - integers["probability"]).abs().max())
    batch = held_out[:_AT_ONCE]
    times = take_turns({name: partial(answer, batch) for name, answer in answers.items()}, _ROUNDS, _PATIENCE)
    speed = ratio(times["floats"], times["integers"])
    figures = (
        f"with 8-bit integers {100 * same:.2f} % of {len(held_out)} labels are the same, probabilities differ by "
        f"{apart:.2f} at the most, and it is {speed:.2f} times as fast here"
    )
    if same < _ALIKE or speed <= 1:
        raise InputError(f"{figures}; {100 * _ALIKE:g} % and more than 1 are needed: leave --int8 out")
    return smaller, figures


def with_integers(content: bytes, pictures: Tensor) -> bytes:
    """The same file in 8-bit integers, whatever it says: ranges are of the pictures, uint8 (N, C, H, W)."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static  # noqa: PLC0415
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Batch by batch."""

        def __init__(self) -> None:
            self._batches = iter(pictures.split(_AT_ONCE))

        def get_next(self) -> dict[str, Any] | None:
            """The next batch by the name of the input; None after the last."""
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch.numpy()}

    with TemporaryDirectory() as name, quiet():
        given, prepared, made = (Path(name) / file for file in ("given.onnx", "prepared.onnx", "made.onnx"))
        given.write_bytes(content)
        quant_pre_process(given, prepared, skip_symbolic_shape=True)  # which fuses what can be one operation
        quantize_static(
            prepared, made, Reader(), QuantFormat.QDQ, op_types_to_quantize=_OPERATIONS, per_channel=True
        )
        return made.read_bytes()


def _answers(answer: Answer, pictures: Tensor) -> Mapping[str, Tensor]:
    parts = [answer(part) for part in pictures.split(_AT_ONCE)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
