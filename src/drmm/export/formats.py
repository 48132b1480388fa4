"""What is in a file of a model: a program of ONNX or of torch, for any number of pictures, and what it answers."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor

from drmm.errors import InputError
from drmm.export.answering import Answering
from drmm.export.blame import blamed
from drmm.model.presets import Shape

__all__ = ["INPUT", "OPSET", "Answer", "onnx_answer", "onnx_bytes", "quiet", "torch_answer", "torch_bytes"]

Answer = Callable[[Tensor], Mapping[str, Tensor]]
"""What a file says of pictures, uint8 (N, C, H, W)."""

INPUT = "pictures"
OPSET = 18
"""Of ONNX: the oldest that torch writes."""


def onnx_bytes(answering: Answering, shape: Shape, about: Mapping[str, str]) -> bytes:
    """A file of ONNX.

    Args:
        answering: in evaluation mode.
        shape: of one picture, (C, H, W).
        about: metadata, by name.

    Raises:
        InputError: if the model cannot be carried.
    """
    with quiet(), blamed(answering.model):
        program: Any = torch.onnx.export(
            _traced(answering, shape),
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(answering(_blank(1, shape))),
            external_data=False,
            verbose=False,
        )
        proto = program.model_proto
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del proto.graph.value_info[:]  # of what is between them, by another name of the batch
    for key, text in about.items():
        proto.metadata_props.add(key=key, value=text)
    content: bytes = proto.SerializeToString()
    return content


def onnx_answer(content: bytes, threads: int = 0) -> Answer:
    """What ONNX Runtime answers.

    Args:
        content: of the file.
        threads: of a session; 0 is as many as it likes.

    Raises:
        InputError: if it cannot run the file.
    """
    import onnxruntime  # noqa: PLC0415  (an extra)

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of its own kinds
        raise InputError(f"ONNX Runtime cannot run the file ({error}), which is not written: use .pt2") from error
    names = [output.name for output in session.get_outputs()]

    def answer(pictures: Tensor) -> Mapping[str, Tensor]:
        found = session.run(None, {INPUT: pictures.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

    return answer


def torch_bytes(answering: Answering, shape: Shape, about: Mapping[str, str]) -> bytes:
    """A file for `torch.export.load`; arguments and errors as of `onnx_bytes`."""
    file = io.BytesIO()
    with quiet(), blamed(answering.model):
        torch.export.save(_traced(answering, shape), file, extra_files={"drmm.json": json.dumps(about)})
    return file.getvalue()


def torch_answer(content: bytes) -> Answer:
    """What torch answers by a file."""
    with quiet():
        program: Answer = torch.export.load(io.BytesIO(content)).module()
    return torch.no_grad()(program)


@torch.no_grad()
def _traced(answering: Answering, shape: Shape) -> torch.export.ExportedProgram:
    """The program; two pictures are traced, as of one no number but one would be made."""
    sizes = {INPUT: {0: torch.export.Dim("batch")}}
    return torch.export.export(answering, (_blank(2, shape),), dynamic_shapes=sizes, strict=False)


def _blank(number: int, shape: Shape) -> Tensor:
    return torch.zeros(number, *shape, dtype=torch.uint8)


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, nothing is told of what exporters do without, and what they fail at is told by an error alone."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
