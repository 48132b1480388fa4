"""One setting of the C library that halves the time of a training step on some CPUs."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["tune_allocator"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 32 * 2**20  # glibc takes no larger threshold on 64-bit machines


def tune_allocator() -> bool:
    """Let glibc keep the memory of freed tensors of up to 32 MiB instead of handing it back to the kernel.

    By default every tensor of more than a few megabytes is mapped, filled with zeros page by page, and unmapped
    again: up to half of the time of a step. The price is that the process stays as large as it ever was. Call it
    once, before training; nothing happens on other systems.

    Returns:
        Whether the setting was made.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
