"""The share of sorted pictures that is to be right: cheap to import, for the command line's defaults."""

from __future__ import annotations

from drmm.errors import InputError

__all__ = ["PROMISE", "check_promise"]

PROMISE = 0.98
"""Of what is sorted, so much is to be right, where nobody asks for another share."""


def check_promise(promise: float) -> None:
    """Refuse what nobody can promise.

    Raises:
        InputError: if it is not a share between 0 and 1.
    """
    if not 0 < promise < 1:
        raise InputError(f"a promise is the share of sorted pictures that is right, as in 0.98, not {promise:g}")
