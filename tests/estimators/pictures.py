"""Small pictures to learn from."""

from typing import Any

import numpy as np
import torch


def thirds(n: int = 60, channels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Three classes of bright thirds, uint8."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    x = rng.integers(0, 60, (n, 12, 12) if channels is None else (n, 12, 12, channels)).astype(np.uint8)
    for i in range(n):
        x[i, 4 * y[i] : 4 * y[i] + 4] += 160
    return x, y


def hidden(y: np.ndarray, labelled: int = 12) -> np.ndarray:
    return np.where(np.arange(len(y)) < labelled, y, -1)


def in_layout(x: np.ndarray, layout: str) -> tuple[np.ndarray, Any, dict[str, Any]]:
    """Images (N, H, W) or (N, H, W, 3) in a layout and type: as an array, as they are given, and options."""
    options: dict[str, Any] = {}
    if layout == "NHWC1":
        x = x[..., None]
    elif layout == "NCHW1":
        x = x[:, None]
    elif layout == "NCHW3":
        x = x.transpose(0, 3, 1, 2)
    elif layout == "ND":
        x, options["image_shape"] = x.reshape(len(x), -1), x.shape[1:]
    elif layout == "float":
        x = x / 255
    elif layout == "float255":
        x, options["pixel_range"] = x.astype(float), (0, 255)
    return x, torch.from_numpy(x) if layout == "tensor" else x, options
