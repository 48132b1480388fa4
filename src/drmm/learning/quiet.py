"""What libraries tell their own developers, unheard."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["ignoring", "quiet"]

# What the loop tells its own developers, as regular expressions.
_CHATTER = (
    ".*does not have many workers",
    ".*exists and is not empty",
    ".*GPU available but not used",
    ".*has `__len__` defined",
    ".*LeafSpec.* is deprecated",
    "Grad strides do not match bucket view strides",
    "The dirpath has changed from",
    ".*module\\(s\\) in eval mode at the start of training",
    "You defined a `validation_step` but have no",
)

_TALKATIVE = (
    "pytorch_lightning",
    "lightning_fabric",
    "lightning.pytorch",
    "lightning.fabric",
    "torch._dynamo",
    "torch._inductor",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what the loop says to its developers: worker counts, device lists, tips."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with ignoring(_CHATTER):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def ignoring(messages: Sequence[str]) -> Iterator[None]:
    """Hide some warnings, by regular expressions."""
    with warnings.catch_warnings():
        for message in messages:
            warnings.filterwarnings("ignore", message)
        yield
