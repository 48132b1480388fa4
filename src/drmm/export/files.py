"""The file of a model: made, compared with the model, and written only where both answer alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from drmm import __version__
from drmm.data.decoding import MODES
from drmm.errors import InputError
from drmm.export.answering import Answering
from drmm.export.formats import INPUT, OPSET, onnx_answer, onnx_bytes, torch_answer, torch_bytes
from drmm.export.integers import quantised
from drmm.export.parity import check
from drmm.files import check_absent, write_bytes
from drmm.runs.run import Run
from drmm.trust.decisions import UNFAMILIAR

__all__ = ["ENDINGS", "check_to", "export"]

ENDINGS = (".onnx", ".pt2")
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export(
    run: Run, to: Path, *, extras: Sequence[str] = (), integers: Tensor | None = None, force: bool = False
) -> list[str]:
    """Write a run's model into one file, if the file answers as the model does.

    Args:
        run: opened.
        to: ends in .onnx, or in .pt2, for `torch.export.load`.
        extras: answers besides label, probability and familiarity, of `drmm.export.EXTRAS`.
        integers: pictures, uint8 (N, C, H, W), to measure 8-bit integers on; None keeps floats.
        force: replace the file if it is there.

    Returns:
        What was written, and how alike both are, in lines.

    Raises:
        InputError: if the ending is another one, a package is missing, the model has no such answer or cannot be
            carried, or the file would answer otherwise.
        RunError: if the run has no model, or the file is there or cannot be written.
    """
    check_to(to, force=force)
    answering = Answering(run.model, run.assessment, extras, quick=integers is not None).eval()
    shape, facts, is_onnx = run.recipe.image_shape, _about(run, answering), _is_onnx(to)
    content = (onnx_bytes if is_onnx else torch_bytes)(answering, shape, facts)
    answer = (onnx_answer if is_onnx else torch_answer)(content)
    said = [check(answer, run.model, run.assessment, extras, shape)]
    if integers is not None:
        content, figures = quantised(content, integers)
        said.append(figures)
    write_bytes(to, content)
    opset = f", ONNX opset {OPSET}" if is_onnx else ""
    return [f"{to} written: {len(content) / 2**20:.1f} MB{opset}", *said]


def check_to(to: Path, *, force: bool = False) -> None:
    """Refuse, before any work, a file that cannot be written; errors as of `export`."""
    if to.suffix.lower() not in ENDINGS:
        raise InputError(f"{to} is no file of a model: let it end in {' or '.join(ENDINGS)}")
    check_absent(to, to.suffix, force=force, option="--to")
    missing = [name for name in _PACKAGES if _is_onnx(to) and find_spec(name) is None]
    if missing:
        raise InputError(f"{to.name} needs {', '.join(missing)}: pip install 'drmm[onnx]', or let it end in .pt2")


def _is_onnx(to: Path) -> bool:
    return to.suffix.lower() == ENDINGS[0]


def _about(run: Run, answering: Answering) -> dict[str, str]:
    """What a stranger needs to know of the file, by name."""
    channels, height, width = run.recipe.image_shape
    mode, shape = MODES[channels], run.asked.shape
    return {
        "drmm": __version__,
        "architecture": run.recipe.architecture,
        "classes": json.dumps(run.recipe.classes),
        "mode": mode,
        "size": json.dumps([width, height]),
        "shape": shape,
        "input": f"{INPUT}: levels, uint8 (batch, {channels}, {height}, {width}); of a picture that Pillow opens, "
        f"turned upright, converted to {mode} and resized to {width}x{height} by BILINEAR ({shape})",
        "calibrated": json.dumps(answering.is_calibrated),
        "unfamiliar_below": str(UNFAMILIAR),
    }
