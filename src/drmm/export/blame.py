"""Which rendering of a model an exporter stumbles over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from drmm.display.text import one_line
from drmm.errors import DrmmError, InputError
from drmm.model.deep import DRMM
from drmm.rendering import Join, Rendering

__all__ = ["blamed"]

_LONGEST = 120  # characters of what an exporter says


@contextmanager
def blamed(model: DRMM) -> Iterator[None]:
    """Within it, what an exporter fails at is one line that names the rendering.

    Raises:
        InputError: if it fails.
    """
    try:
        yield
    except DrmmError:
        raise
    except Exception as error:
        first = error
        while isinstance(first.__cause__, Exception):
            first = first.__cause__
        raise InputError(
            f"{_culprit(model, error)} cannot be carried in a file ({one_line(str(first), _LONGEST)}): ask for "
            "fewer answers, or answer with drmm predict"
        ) from error


def _culprit(model: DRMM, error: BaseException | None) -> str:
    """The innermost rendering whose code ran, if there was one."""
    names = {id(module): name for name, module in model.named_modules()}
    while error is not None:
        selves = [frame.f_locals.get("self") for frame, _ in walk_tb(error.__traceback__)]
        renderings = [one for one in selves if isinstance(one, Rendering | Join) and id(one) in names]
        if renderings:
            return f"{renderings[-1].name} ({names[id(renderings[-1])]})"
        error = error.__cause__
    return "the model"
