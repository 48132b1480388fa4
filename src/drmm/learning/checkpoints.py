"""The state of a training, on disk: what is resumed."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from drmm.errors import RunError
from drmm.files import write_bytes
from drmm.storage.models import misfit

__all__ = ["AtomicCheckpoints", "check_checkpoint", "checkpoint_of", "seconds_of"]


def checkpoint_of(folder: Path) -> Path | None:
    """The newest training state in a run's folder, if there is one."""
    path = folder / "checkpoints" / "last.ckpt"
    return path if path.is_file() else None


def seconds_of(folder: Path) -> float:
    """For how long the training in a folder has run, over all its sessions; 0 where there is no checkpoint.

    Raises:
        RunError: if the checkpoint is damaged.
    """
    path = checkpoint_of(folder)
    return 0.0 if path is None else float(_read_checkpoint(path).get("seconds", 0.0))


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, UnpicklingError, EOFError, ValueError, LookupError, AttributeError, OSError) as error:
        raise RunError(f"{path} is damaged: remove the run's folder and train again") from error


def check_checkpoint(path: Path, learner: nn.Module) -> None:
    """Refuse a state that is damaged, or of another architecture.

    Raises:
        RunError: then.
    """
    state = _read_checkpoint(path).get("state_dict")
    if not isinstance(state, dict):
        raise RunError(f"{path} is damaged: remove the run's folder and train again")
    if misfit(learner.state_dict(), state) is not None:
        raise RunError(f"{path} is from another architecture: train into a new folder")


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole whenever the process dies."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside, then move. Through memory: torch's own writer hides what the disk says."""
        del storage_options
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(Path(path), content.getvalue())
