"""What goes wrong unforeseen: one line for people, and a file with the details for those who can mend it."""

from __future__ import annotations

import platform
import shlex
import sys
import traceback
from importlib.metadata import version
from tempfile import NamedTemporaryFile

from drmm import __version__

__all__ = ["in_one_line"]

_PACKAGES = ("torch", "pytorch-lightning", "numpy", "typer", "rich")
_NO_MEMORY = ("allocate memory", "out of memory", "not enough memory")  # torch's errors have no class of their own


def in_one_line(error: Exception) -> tuple[str, int]:
    """What happened, what to do, and where the details are: the command, the versions, the traceback.

    Returns:
        The line, and the exit code: 2 for what its reader can mend, else 1.
    """
    code = 2
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        text = "there is not enough memory: use fewer or smaller images, a smaller model or smaller batches"
    elif isinstance(error, OSError) and error.strerror is not None:
        text = f"{error.filename or 'the system'}: {error.strerror}"
    else:
        text, code = f"this should not have happened ({type(error).__name__}: {error}): please report it", 1
    try:
        with NamedTemporaryFile(
            "w", prefix="drmm-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(_details(error))
    except OSError:
        return f"{text}; DRMM_DEBUG=1 shows the details", code
    return f"{text}; the details are in {file.name}", code


def _details(error: Exception) -> str:
    """Nothing of the environment, which may hold secrets."""
    versions = [f"{name} {version(name)}" for name in _PACKAGES]
    system = f"drmm {__version__}, Python {platform.python_version()} on {platform.platform()}"
    command = shlex.join(["drmm", *sys.argv[1:]])
    return "\n".join([command, system, ", ".join(versions), "", *traceback.format_exception(error)])
